// x + scale W2 GELU(W1 norm(x)), in tiles of tokens.
#pragma once

#include "dense.h"

namespace uip {

/// Parameters of the layer: norm (H), first (F, H), its bias (F), second (H, F), its bias (H), scale ().
struct FeedForwardWeights {
  at::Tensor norm, first, first_bias, second, second_bias, scale;
};

class FeedForward {
 public:
  /// `type`: of the products.
  FeedForward(const FeedForwardWeights &weights, at::ScalarType type);

  /// (rows, H) to (rows, H). `keep`: keep the argument of GELU, (rows, F), for the derivative, which computes it again
  /// otherwise; then `kept` has no rows.
  struct Result {
    at::Tensor y, kept;
  };
  Result forward(const at::Tensor &x, bool keep) const;
  /// dL/dx of dL/dy.
  at::Tensor backward(const at::Tensor &gradient, const at::Tensor &x, const at::Tensor &kept) const;

 private:
  Dense first_, second_;
  int64_t hidden_;
  at::ScalarType type_;
};

/// Number of tokens of a tile: its intermediates fit the processor's caches.
int64_t tokens_of_tile(const at::Tensor &x);

}  // namespace uip
