// Which edges are bonds, for models with soft nearest neighbours; the engines' form of uip/graph/nearest.py.
// Formulas: uip/ops/soft_rank.py. In float64; edges are sorted by their centres, those of atom i begin at `starts[i]`.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "export.h"

namespace uip {

/// Parameters of the criterion for bonds; as in uip/ops/soft_rank.py.
struct SoftNearest {
  double k = 0.0;       // approximate upper limit of bonds per atom
  int64_t nearest = 0;  // candidates of an atom, including itself
  double cutoff = 0.0;  // A; bonds are shorter
  double sigma = 0.0;   // A; distances that differ by more than 4 sigma are ordered
  double tau = 0.0;
};

/// Numbers of edges or bonds, one row an atom, filled up with -1; at least one column wide.
struct PaddedRows {
  int64_t num_rows = 0, width = 0;
  std::vector<int64_t> items;  // num_rows * width, row by row

  std::span<const int64_t> row(int64_t number) const { return std::span(items).subspan(number * width, width); }
};

/// Where the items of each atom begin, and their number at the end. The centres `centre` ascend.
UIP_EXPORT std::vector<int64_t> row_starts(std::span<const int64_t> centre, int64_t num_atoms);
/// The numbers of each atom's items.
UIP_EXPORT PaddedRows numbers_by_centre(std::span<const int64_t> starts);
/// The edges of each atom to its `soft.nearest - 1` nearest neighbours, nearest first, of equal ones the lower number.
UIP_EXPORT PaddedRows nearest_edges(std::span<const int64_t> starts, std::span<const double> distance,
                                    const SoftNearest &soft);
/// Rank of each edge among those of its centre; infinite for edges that are not among the nearest.
UIP_EXPORT std::vector<double> soft_ranks(std::span<const double> distance, const PaddedRows &nearest,
                                          const SoftNearest &soft);
/// Whether an edge is a bond; to the bit the same for its reverse, for which the ranks change places.
UIP_EXPORT bool is_bond(double rank, double reverse_rank, double distance, const SoftNearest &soft);

}  // namespace uip
