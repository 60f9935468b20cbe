// SPDX-License-Identifier: GPL-2.0-only
// Rows are counted in MPI's int, bytes in 64 bits: a message may have more than 2^31 bytes, but not more rows.
#pragma once

#include <climits>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace uip::lammps {

/// `number` as MPI and LAMMPS count. Throws std::runtime_error if there are too many of `what`.
inline int as_count(int64_t number, const std::string &what) {
  if (number >= 0 && number <= INT_MAX) return static_cast<int>(number);
  throw std::runtime_error("there must be fewer than 2^31 " + what + ", got " + std::to_string(number) +
                           "; use more ranks or a smaller system");
}

inline int64_t total(const std::vector<int> &counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

/// Where each rank's rows begin.
inline std::vector<int64_t> offsets(const std::vector<int> &counts) {
  std::vector<int64_t> result(counts.size(), 0);
  for (size_t p = 1; p < counts.size(); ++p) result[p] = result[p - 1] + counts[p - 1];
  return result;
}

/// The same as MPI wants them. Throws std::runtime_error if rows of all ranks are too many.
inline std::vector<int> int_offsets(const std::vector<int> &counts) {
  as_count(total(counts), "rows on all ranks");
  const auto wide = offsets(counts);
  return {wide.begin(), wide.end()};
}

}  // namespace uip::lammps
