// Loops over centres in parallel, in blocks that do not depend on the number of threads.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace uip {

/// Calls `work(first, last)` for each block of 0 .. `count`.
template <typename Work>
void for_blocks(int64_t count, const Work &work) {
  constexpr int64_t size = 128;
  at::parallel_for(0, (count + size - 1) / size, 4, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) work(block * size, std::min(count, (block + 1) * size));
  });
}

/// From numbers after a zero to where each begins, and their sum at the end.
inline void add_up(std::vector<int64_t> &numbers) { std::partial_sum(numbers.begin(), numbers.end(), numbers.begin()); }

}  // namespace uip
