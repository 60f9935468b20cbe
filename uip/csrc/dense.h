// Parts of the layers of tokens: linear maps and the root-mean-square norm, for one tile of tokens.
//
// Weights are constants here: derivatives are with respect to inputs alone.
#pragma once

#include <ATen/core/Tensor.h>

namespace uip {

/// Type of norms, softmax and sums: float64 for float64, otherwise float32.
at::ScalarType wide(at::ScalarType type);

/// y = W x + b in precision `type`, for rows of x.
class Dense {
 public:
  /// `weight` (outputs, inputs), `bias` (outputs).
  Dense(const at::Tensor &weight, const at::Tensor &bias, at::ScalarType type);

  at::Tensor operator()(const at::Tensor &x) const;
  /// Writes y into `out`, of that type.
  void into(at::Tensor out, const at::Tensor &x) const;
  /// dL/dx of dL/dy.
  at::Tensor backward(const at::Tensor &gradient) const;
  /// Only outputs `start` .. `start + count`.
  Dense outputs(int64_t start, int64_t count) const;

 private:
  at::Tensor weight_, bias_;
};

/// x / rms(x), without the learned factors, which the following map contains.
class Normed {
 public:
  /// `x` (rows, H).
  explicit Normed(const at::Tensor &x);

  const at::Tensor &values() const { return values_; }
  /// dL/dx of dL/dvalues.
  at::Tensor backward(const at::Tensor &gradient) const;

 private:
  at::Tensor inverse_, values_;
};

}  // namespace uip
