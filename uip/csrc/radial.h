// The radial bias of all-to-all attention (uip/ops/attention.py has the formula) and its gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <vector>

namespace uip {

/// Arguments of the bias of one structure. Tensors in one dtype, on one device.
struct Radial {
  at::Tensor weight;     // (h, 32)
  at::Tensor positions;  // (N, 3) A, of the queries
  at::Tensor cell;       // (3, 3) A, rows a b c; float64 on the host
  at::Tensor pbc;        // (3,) bool, on the host
};

/// A tile of bias: some queries, all keys of a block.
class RadialTile {
 public:
  /// Queries at `from` (Q, 3) A, keys at `to` (M, 3) A; `shifts`: see `candidate_shifts`.
  RadialTile(const Radial &radial, const std::vector<std::array<double, 3>> &shifts, const at::Tensor &from,
             const at::Tensor &to);

  /// (h, Q, M).
  const at::Tensor &bias() const { return bias_; }
  /// dE / d vector of each pair, (Q, M, 3), from dE / d bias (h, Q, M).
  at::Tensor vector_gradient(const at::Tensor &bias_gradient) const;
  /// (Q, M, 3) A, from query to the nearest image of the key.
  const at::Tensor &vectors() const { return vectors_; }

 private:
  at::Tensor weight_, omega_, vectors_, distance_, kernel_, bias_;
};

/// Lattice vectors (A) that can shorten a vector whose fractional coordinates lie in [-1/2, 1/2]; none for an
/// orthogonal cell. t = n C shortens some d = f C iff |t|^2 < max_f 2 |f . C t| = sum_a |(C t)_a|.
std::vector<std::array<double, 3>> candidate_shifts(const at::Tensor &cell, const at::Tensor &pbc);

}  // namespace uip
