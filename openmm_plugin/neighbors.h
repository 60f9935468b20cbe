// Neighbour lists as in uip/graph/neighbors.py: each pair is found once, by vesin in float64, and written in both
// directions, so the reverse of each edge is known. Any box, also smaller than the cutoff;
// atoms may lie outside of it. Which edges are bonds: by distance, or by uip/csrc/soft_nearest.h. Lengths in A;
// contains nothing of OpenMM or of programs.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "soft_nearest.h"

namespace uip::openmm {

using Vector = std::array<double, 3>;
using Cell = std::array<Vector, 3>;  // rows a, b, c

constexpr double MIN_DISTANCE = 0.1;  // A, as in uip/graph/structure.py

/// The index arrays of schema.h, row by row.
struct Graph {
  std::vector<int64_t> edge_index;    // 2 E: all centres, then all neighbours; sorted by centre
  std::vector<int64_t> shifts;        // E 3
  std::vector<double> edge_vec;       // E 3
  std::vector<int64_t> reverse_edge;  // E
  std::vector<int64_t> bond_index;    // S: the edges that are bonds
  std::vector<int64_t> reverse_bond;  // S
  std::vector<int64_t> angle_index;   // 2 A: all first bonds, then all second bonds; none for soft nearest neighbours
  PaddedRows nearest_edges;           // N M: for soft nearest neighbours
  PaddedRows bond_slots;              // N K

  int64_t num_edges() const { return static_cast<int64_t>(reverse_edge.size()); }
  int64_t num_bonds() const { return static_cast<int64_t>(bond_index.size()); }
  int64_t num_angles() const { return static_cast<int64_t>(angle_index.size() / 2); }
  int64_t centre(int64_t edge) const { return edge_index[edge]; }
  int64_t neighbor(int64_t edge) const { return edge_index[num_edges() + edge]; }
};

/// Builds the graph of a structure, and of its successors without a new search while atoms move less than a skin.
class NeighborList {
 public:
  /// `bond_cutoff` 0: no bonds, no angles. `soft`: makes bonds of edges to soft nearest neighbours. `skin` 0: search
  /// every time.
  NeighborList(double cutoff, double bond_cutoff, std::optional<SoftNearest> soft, double skin);

  /// The graph, valid until the next call. `cell`: none for an open structure. Throws std::runtime_error for
  /// positions that are not finite and atoms closer than MIN_DISTANCE; atoms are named by their row.
  const Graph &build(const std::vector<Vector> &positions, const std::optional<Cell> &cell);

  int64_t num_searches() const { return num_searches_; }

 private:
  /// A directed pair that may come within the cutoff before the next search.
  struct Pair {
    int64_t centre, neighbor;
    std::array<int32_t, 3> shift;
    int64_t reverse;
  };

  bool still_valid(const std::vector<Vector> &positions, const std::optional<Cell> &cell) const;
  void search(const std::vector<Vector> &positions, const std::optional<Cell> &cell);
  void select_edges(const std::vector<Vector> &positions, const std::optional<Cell> &cell);
  std::vector<bool> short_edges(const std::vector<double> &distances) const;
  std::vector<bool> soft_bonds(const std::vector<double> &distances, int64_t num_atoms);
  void select_bonds(const std::vector<bool> &are_bonds);
  void find_angles();

  double cutoff_, bond_cutoff_;
  std::optional<SoftNearest> soft_;
  double skin_;
  int64_t num_searches_ = 0;
  std::vector<Pair> pairs_;  // sorted by centre
  std::vector<Vector> built_positions_;
  std::optional<Cell> built_cell_;
  std::vector<int64_t> edge_of_pair_;  // -1 = beyond the cutoff
  Graph graph_;
};

}  // namespace uip::openmm
