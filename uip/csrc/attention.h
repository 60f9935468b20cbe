// Attention of queries to one block of keys, with log-sum-exp, so that blocks can be merged and gradients taken
// block by block: arrays of size queries x keys exist for one tile at a time.
//
// Symbols: Q queries, M keys, h heads, H = h d channels.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <vector>

#include "radial.h"

namespace uip {

/// Keys of some atoms, of this rank or another.
struct Keys {
  at::Tensor k, v;       // (M, H)
  at::Tensor positions;  // (M, 3) A; undefined without radial bias
};

/// Result of attention: out (Q, H), lse (Q, h), the logarithm of the softmax's denominator.
struct Attended {
  at::Tensor out, lse;
};

/// Gradients of one block; positions and strain undefined without radial bias.
struct BlockGradient {
  at::Tensor q, k, v;          // (Q, H), (M, H), (M, H)
  at::Tensor query_positions;  // (Q, 3)
  at::Tensor key_positions;    // (M, 3)
  at::Tensor strain;           // (Q, 3, 3): sum over keys of vector (x) gradient
};

class Attention {
 public:
  /// `radial`: of all queries.
  Attention(int64_t heads, std::optional<Radial> radial);

  /// `q` (Q, H) to one block of keys. Q and M may be 0.
  Attended forward(const at::Tensor &q, const Keys &keys) const;
  /// `gradient` of `attended.out`, where `attended` is the result over *all* blocks.
  BlockGradient backward(const at::Tensor &gradient, const at::Tensor &q, const Keys &keys,
                         const Attended &attended) const;

 private:
  bool is_fused(const at::Tensor &q) const;
  Attended forward_tiled(const at::Tensor &q, const Keys &keys) const;
  BlockGradient backward_tiled(const at::Tensor &gradient, const at::Tensor &q, const Keys &keys,
                               const Attended &attended) const;
  int64_t rows_of_tile(int64_t num_keys) const;
  at::Tensor by_head(const at::Tensor &x) const;  // (Q, H) -> (h, Q, d)

  int64_t heads_;
  std::optional<Radial> radial_;
  std::vector<std::array<double, 3>> shifts_;
};

/// Of two disjoint blocks of keys: attention to both.
Attended merge(const Attended &a, const Attended &b);

/// `attended` and one more key for all queries, of value 0 and logit `sink` (h,). `Attention::backward` of the result
/// gives the gradients of the other keys.
Attended with_sink(const Attended &attended, const at::Tensor &sink);

}  // namespace uip
