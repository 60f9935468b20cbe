// From pairs of atoms and positions to the inputs of a program (uip/schema.py), and from its gradients to forces and
// virials. The engines' plugins share it; it contains nothing of engines, and messages only through `Comm`.
//
// An engine hands over pairs for each neighbour list, and positions and box each step. The vector of a pair is
//
//     edge_vec = (r_j - r_i) + n0 a + n1 b + n2 c
//
// in float64: the opposite direction has the same bits with the other sign, on whichever rank it is, so both directions
// are edges or neither is, and no message is needed. Sums have a fixed order: results do not depend on threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "buffer.h"
#include "comm.h"
#include "model.h"
#include "pairs.h"

namespace uip {

using Matrix = std::array<std::array<double, 3>, 3>;

constexpr double MIN_DISTANCE = 0.1;  // A, as in uip/graph/structure.py

/// Of the whole system: total charge in e, multiplicity 2S + 1.
struct ChargeAndSpin {
  int charge = 0, spin = 1;
};

class UIP_EXPORT Assembler {
 public:
  /// `metadata` must outlive this object.
  Assembler(const Metadata &metadata, at::Device device);

  /// For a new list: fill in the pairs, then call `start_list`. `atomic_numbers`: (R,) int64 on the host.
  Pairs &pairs() { return pairs_; }
  const Pairs &pairs() const { return pairs_; }
  void start_list(const at::Tensor &atomic_numbers);

  /// Finds the edges of a step and, by distance, bonds and angles. `positions`: (R, 3) float64 on the host, A; rows of
  /// `cell`: a, b, c in A.
  void find_edges(const at::Tensor &positions, const Matrix &cell);
  /// Finds the bonds of models with soft nearest neighbours; `comm` nullptr: one rank. Collective.
  void find_soft_bonds(Comm *comm);
  /// The program's inputs by schema name, valid until the next step.
  std::map<std::string, at::Tensor> inputs(const std::array<bool, 3> &periodic, const ChargeAndSpin &state) const;

  int64_t num_owned() const { return pairs_.num_centres(); }
  int64_t num_rows() const { return num_rows_; }
  int64_t count(Relation relation) const { return relation == Relation::edges ? num_edges() : num_bonds(); }
  int64_t num_edges() const { return edge_starts_.back(); }
  int64_t num_bonds() const { return bond_starts_.back(); }
  int64_t num_angles() const { return angle_starts_.back(); }
  int64_t edge_centre(int64_t edge) const { return edge_index_.data()[edge]; }
  int64_t edge_neighbor(int64_t edge) const { return edge_index_.data()[num_edges() + edge]; }
  std::array<double, 3> edge_vec(int64_t edge) const;
  double distance(int64_t edge) const;
  /// The first edge whose opposite direction is in no list, -1: none.
  int64_t edge_without_partner() const;
  /// Edges shorter than MIN_DISTANCE, ascending.
  std::vector<int64_t> overlaps() const;

  /// The edge or bond of a remote pair, -1: it is none.
  int64_t number(Relation relation, int32_t pair) const;
  /// Sets the row of the opposite of a remote edge or bond, as `Comm::reverse_edges` numbers them.
  void set_reverse(Relation relation, int64_t number, int64_t row);

  /// F_i += g, F_j -= g of all edges; (R, 3) float64, those of ghosts for their owners. `edge_grad`: (E, 3) eV/A.
  at::Tensor forces(const at::Tensor &edge_grad) const;
  /// Sums of -edge_vec (x) g over the edges of each centre, (N, 9) float64, eV, row by row.
  at::Tensor virial_of_centres(const at::Tensor &edge_grad) const;
  /// The same sums over the edges to each neighbour, (R, 9), those of ghosts for their owners.
  at::Tensor virial_of_neighbors(const at::Tensor &edge_grad) const;

  double memory_usage() const;

 private:
  /// Vectors of pairs; loops copy it, which keeps its pointers in registers.
  struct Geometry {
    const Pairs::End *ends = nullptr;
    const double *rows = nullptr;
    const std::array<double, 3> *shifts = nullptr;

    [[gnu::always_inline]] std::array<double, 3> vector(int64_t centre, int64_t pair) const {
      const auto [neighbor, image] = ends[pair];
      const double *i = rows + 3 * centre, *j = rows + 3 * neighbor, *shift = shifts[image].data();
      return {(j[0] - i[0]) + shift[0], (j[1] - i[1]) + shift[1], (j[2] - i[2]) + shift[2]};
    }
  };
  bool wants(const char *input) const;
  void place_images(const Matrix &cell);
  void select_pairs();
  struct Found {
    bool overlap = false, no_partner = false;
  };
  template <typename Real>
  void write_edges(Buffer<Real> &vectors);
  template <typename Real>
  Found write_block(int64_t first, int64_t last, Real *vectors);
  void link_edges();
  void find_bonds();
  void write_bonds(int64_t centre);
  void write_angles(int64_t centre);
  std::map<std::string, at::Tensor> bond_inputs() const;
  at::Tensor shifts() const;
  template <typename Add>
  at::Tensor sum_edges(int64_t width, const Add &add) const;
  int64_t first_centre(int64_t block, int64_t count) const;
  at::Tensor on_device(const at::Tensor &host) const;
  at::Tensor real_on_device(const at::Tensor &host) const;

  const Metadata &metadata_;
  at::Device device_;
  bool is_single_, wants_bonds_;
  double square_cutoff_, square_bond_cutoff_;  // of squares of distances

  // of a list
  Pairs pairs_;
  int64_t num_rows_ = 0;
  at::Tensor atomic_numbers_, graph_index_;

  // of a step
  at::Tensor positions_;
  Geometry geometry_;
  Matrix cell_ = {};
  std::vector<std::array<double, 3>> shifts_;                                        // A, of images
  std::vector<int64_t> edge_starts_ = {0}, bond_starts_ = {0}, angle_starts_ = {0};  // of each centre
  Buffer<int32_t> kept_;                   // pairs that are edges, in the places of each block of centres
  Buffer<int32_t> edge_pair_, pair_edge_;  // pair_edge_: of kept pairs, and of remote ones, -1: no edge
  Buffer<bool> is_bond_;                   // of edges
  Buffer<int32_t> edge_bond_;              // of edges that are bonds
  Buffer<double> distances_;               // for soft nearest neighbours
  Buffer<double> vectors_;
  Buffer<float> single_vectors_;
  Buffer<int64_t> edge_index_, reverse_edge_, bond_index_, reverse_bond_, angle_index_;
  PaddedRows nearest_edges_;
  mutable Buffer<double> block_sums_;
  bool has_overlap_ = false, lacks_partner_ = false;
};

}  // namespace uip
