// SPDX-License-Identifier: GPL-2.0-only
// From the arrays of an engine that decomposes space (owned atoms, ghost atoms, a full neighbour list) to the
// inputs of a program (uip/schema.py). Knows tensors and `MpiComm`, not LAMMPS.
//
// When the neighbour list is new, `rebuild` makes a plan: which rows this rank sees, which pairs of them may
// come within the cutoff, and who holds the opposite direction of each pair. Ghost atoms that are images of an
// owned atom become that atom's row; atoms of other ranks get one row each, however many images are near.
//
// Every step, `find_edges` filters the pairs to the cutoffs. A pair is two rows and an integer image, and its vector is
//
//     edge_vec = (r_j - r_i) + n0 a + n1 b + n2 c
//
// with the positions that the *owners* hold: the owner of j computes the same bits with the other sign, both
// sides decide alike, and no message is needed to agree on who has which edge. Which edges are soft nearest neighbours
// depends on the ranks that both ends give each other: these travel, in `inputs`.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "model.h"
#include "mpi_comm.h"

/// Atoms of this rank as the engine holds them: owned atoms first, then ghosts.
struct Atoms {
  int num_owned, num_all;
  const double *const *positions;  // A
  const int *types;
  std::vector<int64_t> ids;  // for messages; empty = atoms have none
};

/// Full neighbour list: all neighbours, owned or ghost, of `num_centres` owned atoms.
struct NeighborLists {
  int num_centres;
  const int *centres, *counts;
  const int *const *neighbors;
  int mask;  // bits of a neighbour that are its index
};

/// Cell vectors a = (xx, 0, 0), b = (xy, yy, 0), c = (xz, yz, zz) in A, and the inverse of that matrix.
struct Box {
  double xx, yy, zz, yz, xz, xy;
  double inverse_xx, inverse_yy, inverse_zz, inverse_yz, inverse_xz, inverse_xy;
  std::array<bool, 3> periodic;
};

/// Of the whole system: total charge in e, multiplicity 2S + 1.
struct ChargeAndSpin {
  int charge = 0, spin = 1;
};

/// Where an atom comes from: what an owner tells the ranks that see its images.
struct Origin {
  static constexpr int size = 5;  // doubles
  double rank, row;               // row -1: no atom of the graph
  std::array<double, 3> position;
};

class AtomsToGraph {
 public:
  /// `number_of_type[type]`: atomic number, 0 = the model does not see atoms of this type.
  AtomsToGraph(const uip::Metadata &metadata, std::vector<int64_t> number_of_type, at::Device device, MpiComm &comm);

  /// Numbers the owned atoms of the graph; returns the origins of all atoms, those of owned atoms filled in.
  std::vector<Origin> number_owned(const Atoms &atoms);
  /// Makes the plan; `origins` now with those of ghosts. Collective.
  void rebuild(const Atoms &atoms, const NeighborLists &lists, const std::vector<Origin> &origins, const Box &box);
  /// Positions of all rows, as their owners hold them, (R, 3) float64. Collective.
  at::Tensor gather_positions(const double *const *positions);
  /// Finds the edges of this step. Local. Throws std::runtime_error if atoms are where none can be.
  void find_edges(const at::Tensor &positions, const Box &box);
  /// The program's inputs by schema name, after `find_edges` has succeeded on all ranks. Collective.
  std::map<std::string, at::Tensor> inputs(const at::Tensor &positions, const Box &box, const ChargeAndSpin &state);

  int64_t num_owned() const { return static_cast<int64_t>(owned_.size()); }
  int64_t num_rows() const { return num_owned() + static_cast<int64_t>(ghosts_.size()); }
  int64_t num_edges() const { return static_cast<int64_t>(edge_centre_.size()); }
  int64_t num_angles() const { return static_cast<int64_t>(first_bond_.size()); }
  /// The engine's index of an owned row.
  int atom_of_row(int64_t row) const { return owned_[row]; }
  int64_t id_of_row(int64_t row) const { return ids_.const_data_ptr<int64_t>()[row]; }
  int64_t edge_centre(int64_t edge) const { return edge_centre_[edge]; }
  int64_t edge_neighbor(int64_t edge) const { return edge_neighbor_[edge]; }
  const double *edge_vec(int64_t edge) const { return &edge_vec_[3 * edge]; }

 private:
  using Image = std::array<int, 3>;
  using Owner = std::pair<int, int>;  // rank, row there

  /// A directed pair that may come within the cutoff before the next rebuild.
  struct Candidate {
    int centre, neighbor;
    Image image;
    auto operator<=>(const Candidate &) const = default;
  };

  void find_ghosts(const NeighborLists &lists, const std::vector<Origin> &origins);
  void find_candidates(const Atoms &atoms, const NeighborLists &lists, const std::vector<Origin> &origins,
                       const Box &box);
  void pair_candidates();
  void pair_remote_candidates();
  int row_of(const Owner &owner) const;
  int find(const Candidate &candidate) const;

  void check_positions(const double *positions) const;
  void select_edges(const double *positions, const Box &box);
  void check_pair(size_t candidate, double distance) const;
  void find_short_bonds();
  void find_soft_bonds();
  void add_bond(size_t candidate);
  uip::PaddedRows bond_slots() const;
  void find_angles();
  at::Tensor reverse_index(uip::Relation relation, const std::vector<int64_t> &numbers, int64_t count);
  static at::Tensor to_tensor(const std::vector<int64_t> &values);
  static at::Tensor rows_to_tensor(const uip::PaddedRows &rows);
  bool wants(const char *input) const;
  at::Tensor on_device(const at::Tensor &host) const;
  at::Tensor real_on_device(const at::Tensor &host) const;

  const uip::Metadata &metadata_;
  std::vector<int64_t> number_of_type_;
  at::Device device_;
  MpiComm &comm_;

  // plan
  std::vector<int> owned_;             // engine's index of each owned row
  std::vector<Owner> ghosts_;          // owner of each ghost row, ascending
  std::vector<Candidate> candidates_;  // ascending
  std::vector<int> partner_;           // candidate with the opposite direction, or one of the two below
  std::vector<int> sent_, received_;   // candidates with remote partners: in this rank's and in the partners' order
  std::vector<int> sent_to_, received_from_;  // and the partners' ranks
  at::Tensor atomic_numbers_, ids_;           // (R,)
  static constexpr int MISSING = -1, REMOTE = -2;

  // this step
  std::vector<int64_t> edge_number_, bond_number_;  // of each candidate; -1 = none
  std::vector<int64_t> edge_centre_, edge_neighbor_, bond_index_, first_bond_, second_bond_;
  std::vector<double> edge_vec_, edge_distance_;
  uip::PaddedRows nearest_edges_;
};
