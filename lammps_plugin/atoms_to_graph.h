// SPDX-License-Identifier: GPL-2.0-only
// From the arrays of an engine that decomposes space (owned atoms, ghost atoms, a full neighbour list) to the
// inputs of a program (uip/schema.py). Contains tensors and `MpiComm`, nothing of LAMMPS.
//
// For a new neighbour list `rebuild` makes a plan: the rows that this rank uses, the pairs of them that may come
// within the cutoff, and the rank with the opposite direction of each pair. Ghost atoms that are images of an
// owned atom share that atom's row; atoms of other ranks have one row each, for any number of images.
//
// Each step `find_edges` selects the pairs within the cutoffs. A pair is two rows and an integer image; its vector is
//
//     edge_vec = (r_j - r_i) + n0 a + n1 b + n2 c
//
// with the positions of the *owners*: the owner of j computes the same bits with the other sign, so both sides select
// the same edges without a message. If the engine strains the positions of ghosts and owned atoms but not its box, as
// for derivatives with respect to strain, a, b, c are those of the strained box: see `strained_box`. Which edges are
// bonds of soft nearest neighbours depends on the neighbour ranks at both ends, which `inputs` exchanges.
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

namespace uip::lammps {

/// Atoms of this rank as the engine holds them: owned atoms first, then ghosts.
struct Atoms {
  int num_owned, num_all;
  const double *const *positions;  // A
  const int *types, *masks;
  int absent;                // atoms with a mask of these bits are not in the graph
  std::vector<int64_t> ids;  // for messages; empty: atoms have none
};

/// Full neighbour list: all neighbours, owned or ghost, of `num_centres` owned atoms.
struct NeighborLists {
  int num_centres;
  const int *centres, *counts;
  const int *const *neighbors;
  int mask;  // bits of a neighbour that are its index
};

using Matrix = std::array<std::array<double, 3>, 3>;

/// Rows of `cell`: a, b, c in A.
struct Box {
  Matrix cell, inverse;
  std::array<bool, 3> periodic;
};

/// Of the whole system: total charge in e, multiplicity 2S + 1.
struct ChargeAndSpin {
  int charge = 0, spin = 1;
};

/// Owner of an atom, sent by it to the ranks that have images of the atom.
struct Origin {
  static constexpr int size = 5;  // doubles
  double rank, row;               // row -1: not in the graph
  std::array<double, 3> position;
};

class AtomsToGraph {
 public:
  /// `number_of_type[type]`: atomic number, 0: atoms of this type are not in the graph.
  AtomsToGraph(const Metadata &metadata, std::vector<int64_t> number_of_type, at::Device device, MpiComm &comm);

  /// Numbers the owned atoms of the graph; returns the origins of all atoms, those of owned atoms filled in.
  std::vector<Origin> number_owned(const Atoms &atoms);
  /// Makes the plan; `origins` now with those of ghosts. Collective.
  void rebuild(const Atoms &atoms, const NeighborLists &lists, const std::vector<Origin> &origins, const Box &box);
  /// Positions of all rows, as their owners hold them, (R, 3) float64. Collective.
  at::Tensor gather_positions(const double *const *positions);
  /// Whether each ghost is its owner's position plus whole cells. Local.
  bool ghosts_match(const at::Tensor &positions, const double *const *engine_positions, const Box &box) const;
  /// The box whose whole cells separate ghosts from their owners. Collective.
  Box strained_box(const at::Tensor &positions, const double *const *engine_positions, const Box &box) const;
  /// Throws std::runtime_error for positions that are not finite. Local.
  void check_positions(const at::Tensor &positions) const;
  /// Finds the edges of this step. Local. Throws std::runtime_error for pairs that one side lacks.
  void find_edges(const at::Tensor &positions, const Box &box);
  /// Whether atoms of this step are too close for any model, and a message about the first pair; "" if none.
  bool has_overlap() const { return !overlaps_.empty(); }
  std::string overlap_text() const;
  /// node_energy and edge_grad of a repulsion of overlapping atoms, in place of those of a model. Local.
  std::map<std::string, at::Tensor> repulsion() const;
  /// The program's inputs by schema name, after `find_edges` has succeeded on all ranks. Collective.
  std::map<std::string, at::Tensor> inputs(const at::Tensor &positions, const Box &box, const ChargeAndSpin &state);

  /// Bytes of the plan and of the edges of the last step.
  double memory_usage() const;
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

  /// A ghost of the engine that is in the graph.
  struct Ghost {
    int atom, row;
    Image image;
  };

  void find_ghosts(const NeighborLists &lists, const std::vector<Origin> &origins);
  void find_candidates(const Atoms &atoms, const NeighborLists &lists, const std::vector<Origin> &origins,
                       const Box &box);
  void pair_candidates();
  void pair_remote_candidates();
  int row_of(const Owner &owner) const;
  int find(const Candidate &candidate) const;

  void select_edges(const double *positions, const Box &box);
  void check_pair(size_t candidate, double distance) const;
  std::string pair_text(int64_t centre, int64_t neighbor, double distance) const;
  void find_short_bonds();
  void find_soft_bonds();
  void add_bond(size_t candidate);
  PaddedRows bond_slots() const;
  void find_angles();
  at::Tensor reverse_index(Relation relation, const std::vector<int64_t> &numbers, int64_t count);
  static at::Tensor to_tensor(const std::vector<int64_t> &values);
  static at::Tensor rows_to_tensor(const PaddedRows &rows);
  bool wants(const char *input) const;
  at::Tensor on_device(const at::Tensor &host) const;
  at::Tensor real_on_device(const at::Tensor &host) const;

  const Metadata &metadata_;
  std::vector<int64_t> number_of_type_;
  at::Device device_;
  MpiComm &comm_;

  // plan
  std::vector<Ghost> images_;          // each ghost of the engine that is a neighbour, once
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
  std::vector<int64_t> overlaps_;  // edges between atoms that are too close
  std::vector<double> edge_vec_, edge_distance_;
  PaddedRows nearest_edges_;
};

}  // namespace uip::lammps
