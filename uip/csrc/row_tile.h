// Attention within the rows of some atoms: the tokens of a row, the atom's own and those of its bonds, attend to each
// other.
//
// Symbols: n atoms, s bonds, M = n + s tokens (atoms first), W slots of a row, Q queries of a row (W, or 1: the atom's
// own), h heads, d channels of a head. Tokens are stored without padding and padded to slots only for the products
// of queries and keys. Logits and softmax are float32 or float64, other products in the type of the heads. With the
// angular encoding, channels c of degree l(c),
//
//     q_a . k_b = sum_c P_l(c)(cos angle between bonds a and b) q_ac k_bc
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace uip {

/// Queries, keys and values by head: (n h, Q, d), (n h, W, d), (n h, W, d).
struct RowHeads {
  at::Tensor q, k, v;
};

/// Gradients of queries (n h, Q, d), of keys and values (2, n h, W, d) or, if Q = W, of all three (3, n h, W, d); and
/// of log_weight (s) and direction (s, 3).
struct RowGradient {
  at::Tensor queries, table;
  at::Tensor log_weight, direction;
};

/// Tokens of a tile of rows, by slot.
class RowTile {
 public:
  /// `bond_slots` (n, K): the bonds of each atom, empty: negative. `log_weight` (s) and `direction` (s, 3) are of those
  /// bonds, the first of which is bond `first_bond`. `degrees`: channels of a head by degree; one: no angles.
  RowTile(const at::Tensor &bond_slots, int64_t first_bond, const at::Tensor &log_weight, const at::Tensor &direction,
          int64_t heads, std::vector<int64_t> degrees);

  /// Tokens (M, p h d) to p tensors (n h, W, d).
  std::vector<at::Tensor> spread(const at::Tensor &x, int64_t parts) const;
  /// Adjoint: p tensors (p, n h, W, d) to tokens (M, p h d).
  at::Tensor collect(const at::Tensor &parts) const;

  /// (n h, Q, d).
  at::Tensor attend(const RowHeads &heads) const;
  RowGradient backward(const at::Tensor &gradient, const RowHeads &heads) const;

 private:
  bool is_angular() const { return degrees_.size() > 1; }
  at::Tensor weights(const RowHeads &heads) const;  // (n h, Q, W)
  at::Tensor angular_logits(const at::Tensor &q, const at::Tensor &k) const;
  at::Tensor angular_backward(const at::Tensor &by_logit, const RowHeads &heads, at::Tensor of_queries,
                              at::Tensor of_keys) const;
  at::Tensor of_bonds(const at::Tensor &by_slot) const;  // (n, W, ...) -> (s, ...)

  int64_t num_atoms_, width_, heads_;
  std::vector<int64_t> degrees_;
  at::Tensor token_;                           // (n, W) token in each slot; an empty slot repeats the atom's own
  at::Tensor slot_;                            // (M) slot, 0 .. n W, of each token
  at::Tensor filled_;                          // (n, W) 1, or 0 where a slot is empty
  at::Tensor bias_;                            // (n, W) ln w; very low where a slot is empty
  at::Tensor directions_;                      // (n, W, 3) zero for an atom's own token
  std::vector<at::Tensor> legendre_, slopes_;  // by degree, (n, W, W): P_l and its derivative
};

}  // namespace uip
