// Pairs for the Assembler, as of uip/graph/neighbors.py: each is found once, by vesin in float64, and written in both
// directions, so the reverse of each is known. Any box, also smaller than the cutoff; atoms may lie outside of it.
// Lengths in A; contains nothing of OpenMM or of programs.
#pragma once

#include <optional>
#include <vector>

#include "assembler.h"

namespace uip::openmm {

using Vector = std::array<double, 3>;

/// Finds the pairs of a structure, and of its successors without a new search while atoms move less than a skin.
class NeighborSearch {
 public:
  /// `skin` 0: search every time.
  NeighborSearch(double cutoff, double skin);

  /// Whether the pairs of the last search may lack one within the cutoff. `cell`: none for an open structure. Throws
  /// std::runtime_error for positions that are not finite; atoms are named by their row.
  bool is_due(const std::vector<Vector> &positions, const std::optional<Matrix> &cell) const;
  /// Fills in the pairs within cutoff and skin, both directions.
  void search(const std::vector<Vector> &positions, const std::optional<Matrix> &cell, Pairs &pairs);

  int64_t num_searches() const { return num_searches_; }

 private:
  double cutoff_, skin_;
  int64_t num_searches_ = 0;
  std::vector<Vector> built_positions_;
  std::optional<Matrix> built_cell_;
};

}  // namespace uip::openmm
