// x + scale W2 GELU(W1 norm(x)), in tiles of tokens; keeps nothing but x for its derivative.
#pragma once

#include "dense.h"

namespace uip {

/// Learned numbers of the layer: norm (H), first (F, H), its bias (F), second (H, F), its bias (H), scale ().
struct FeedForwardWeights {
  at::Tensor norm, first, first_bias, second, second_bias, scale;
};

class FeedForward {
 public:
  /// `type`: of the products.
  FeedForward(const FeedForwardWeights &weights, at::ScalarType type);

  /// (rows, H) to (rows, H).
  at::Tensor forward(const at::Tensor &x) const;
  /// dL/dx of dL/dy.
  at::Tensor backward(const at::Tensor &gradient, const at::Tensor &x) const;

 private:
  Dense first_, second_;
};

/// How many tokens are worked on at a time: what they need in between stays near the processor.
int64_t tokens_of_tile(const at::Tensor &x);

}  // namespace uip
