#include "soft_nearest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "blocks.h"

namespace uip {
namespace {

constexpr double STEP_END = 0.98;  // as in uip/ops/soft_rank.py: beyond it the step is 0 or 1 to all digits

double smooth_step(double x) {
  const double u = 0.25 * x;
  if (u <= -STEP_END) return 0.0;
  if (u >= STEP_END) return 1.0;
  return 1.0 / (1.0 + std::exp(-4.0 * u / (1.0 - u * u)));
}

/// Rows without items, as wide as the longest of those that begin at `starts`, but not wider than `widest`. At least
/// one column: compiled programs need it.
PaddedRows empty_rows(std::span<const int64_t> starts, int64_t widest) {
  PaddedRows rows;
  rows.num_rows = static_cast<int64_t>(starts.size()) - 1;
  rows.width = 1;
  for (int64_t atom = 0; atom < rows.num_rows; ++atom) {
    rows.width = std::max(rows.width, std::min(widest, starts[atom + 1] - starts[atom]));
  }
  rows.items.assign(rows.num_rows * rows.width, -1);
  return rows;
}

}  // namespace

std::vector<int64_t> row_starts(std::span<const int64_t> centre, int64_t num_atoms) {
  std::vector<int64_t> starts(num_atoms + 1, 0);
  for (const int64_t atom : centre) ++starts[atom + 1];
  add_up(starts);
  return starts;
}

PaddedRows numbers_by_centre(std::span<const int64_t> starts) {
  auto rows = empty_rows(starts, std::numeric_limits<int64_t>::max());
  for (int64_t atom = 0; atom < rows.num_rows; ++atom) {
    const auto row = rows.items.begin() + atom * rows.width;
    std::iota(row, row + (starts[atom + 1] - starts[atom]), starts[atom]);
  }
  return rows;
}

PaddedRows nearest_edges(std::span<const int64_t> starts, std::span<const double> distance, const SoftNearest &soft) {
  auto rows = empty_rows(starts, soft.nearest - 1);
  const auto nearer = [&](int64_t e, int64_t f) {
    return distance[e] < distance[f] || (distance[e] == distance[f] && e < f);
  };
  for_blocks(rows.num_rows, [&](int64_t first, int64_t last) {
    std::vector<int64_t> edges;
    for (int64_t atom = first; atom < last; ++atom) {
      edges.resize(starts[atom + 1] - starts[atom]);
      std::iota(edges.begin(), edges.end(), starts[atom]);
      const auto end = edges.begin() + std::min<int64_t>(rows.width, edges.size());
      std::partial_sort(edges.begin(), end, edges.end(), nearer);
      std::copy(edges.begin(), end, rows.items.begin() + atom * rows.width);
    }
  });
  return rows;
}

std::vector<double> soft_ranks(std::span<const double> distance, const PaddedRows &nearest, const SoftNearest &soft) {
  std::vector<double> ranks(distance.size(), std::numeric_limits<double>::infinity());
  const auto rank_of = [&](int64_t edge, std::span<const int64_t> edges) {
    double rank = smooth_step(distance[edge] / soft.sigma);  // the centre itself
    for (const int64_t other : edges) {
      const double ahead = smooth_step((distance[edge] - distance[other]) / soft.sigma);
      if (ahead == 0.0) break;  // and so are all that are farther
      rank += ahead;
    }
    return rank;
  };
  for_blocks(nearest.num_rows, [&](int64_t first, int64_t last) {
    for (int64_t atom = first; atom < last; ++atom) {
      const auto row = nearest.row(atom);
      const auto edges = row.first(std::find(row.begin(), row.end(), -1) - row.begin());
      for (const int64_t edge : edges) ranks[edge] = rank_of(edge, edges);
    }
  });
  return ranks;
}

/// x < 1 means exp(x / tau) < exp(1 / tau), and the left side is the sum over both ranks and the distance.
bool is_bond(double rank, double reverse_rank, double distance, const SoftNearest &soft) {
  const auto part = [&](double term) { return std::exp((term - 1.0) / soft.tau); };
  return part(rank / soft.k) + part(reverse_rank / soft.k) + part(distance / soft.cutoff) < 1.0;
}

}  // namespace uip
