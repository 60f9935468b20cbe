// SPDX-License-Identifier: GPL-2.0-only
// From the arrays of an engine that decomposes space (owned atoms, ghost atoms, a full neighbour list) to the
// inputs of a program: what uip::Assembler leaves to engines. Contains tensors and `MpiComm`, nothing of LAMMPS.
//
// For a new neighbour list `rebuild` makes a plan: the rows that this rank uses, the pairs of them that may come
// within the cutoff, and the rank with the opposite direction of each pair. Ghost atoms that are images of an
// owned atom share that atom's row; atoms of other ranks have one row each, for any number of images.
//
// Vectors of pairs are those of the positions of the *owners*, so that all ranks have the same bits. If the engine
// strains the positions of ghosts and owned atoms but not its box, as for derivatives with respect to strain, the
// Assembler gets the strained box: see `strained_box`. Which edges are bonds of soft nearest neighbours depends on the
// neighbour ranks at both ends, which `inputs` exchanges.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "assembler.h"
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

/// Rows of `cell`: a, b, c in A.
struct Box {
  Matrix cell, inverse;
  std::array<bool, 3> periodic;
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
  void rebuild(const Atoms &atoms, const FullLists &lists, const std::vector<Origin> &origins, const Box &box);
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
  std::map<std::string, at::Tensor> inputs(const Box &box, const ChargeAndSpin &state);

  /// Edges of this step, and sums over them.
  const Assembler &assembler() const { return assembler_; }
  /// Bytes of the plan and of the edges of the last step.
  double memory_usage() const;
  int64_t num_owned() const { return static_cast<int64_t>(owned_.size()); }
  int64_t num_rows() const { return num_owned() + static_cast<int64_t>(ghosts_.size()); }
  /// The engine's index of an owned row.
  int atom_of_row(int64_t row) const { return owned_[row]; }
  int64_t id_of_row(int64_t row) const { return ids_.const_data_ptr<int64_t>()[row]; }

 private:
  using Owner = std::pair<int, int>;  // rank, row there

  /// A ghost of the engine that is in the graph.
  struct Ghost {
    int atom, row;
    Image image;
  };

  void find_ghosts(const Atoms &atoms, const FullLists &lists, const std::vector<Origin> &origins, const Box &box);
  at::Tensor share_rows(const Atoms &atoms);
  std::vector<Place> place_atoms(int num_all);
  void pair_with_ghosts();
  void pair_with_ranks();
  int row_of(const Owner &owner) const;
  int32_t find_opposite(int rank, const int *key) const;

  void check_pairs() const;
  std::string pair_text(int64_t edge) const;
  void cross_ranks(Relation relation);
  static at::Tensor to_tensor(const std::vector<int64_t> &values);
  bool wants(const char *input) const;

  const Metadata &metadata_;
  std::vector<int64_t> number_of_type_;
  MpiComm &comm_;
  Assembler assembler_;

  // plan
  std::vector<Ghost> images_;                 // each ghost of the engine that is a neighbour
  std::vector<int> owned_;                    // engine's index of each owned row
  std::vector<Owner> ghosts_;                 // owner of each ghost row, ascending
  std::vector<int32_t> sent_, received_;      // pairs with remote partners: in this rank's and in the partners' order
  std::vector<int> sent_to_, received_from_;  // and the partners' ranks
  at::Tensor ids_;                            // (R,)

  std::vector<int64_t> overlaps_;  // edges of this step between atoms that are too close
};

}  // namespace uip::lammps
