// The layer of row_layer.h in kernels that take a few rows of tokens at a time through norm, products and attention
// (row_kernels.h).
#pragma once

#include <cstdint>
#include <vector>

#include "row_layer.h"

namespace uip {

/// Whether the kernels compute this layer: on CPUs, products in float32 or float64.
bool has_fused_rows(const at::Tensor &x, at::ScalarType type);

class FusedRows {
 public:
  /// Arguments as of `RowLayer`.
  FusedRows(const RowLayerWeights &weights, int64_t heads, std::vector<int64_t> degrees, bool only_atoms);

  /// As of `RowLayer`; `kept` is in the order of rows.
  Tokens forward(const Tokens &x, const Bonds &bonds, bool keep) const;
  RowLayerGradient backward(const Tokens &gradient, const Tokens &x, const Bonds &bonds) const;

 private:
  template <typename T>
  class Call;

  int64_t channels_, heads_, width_;
  std::vector<int64_t> degrees_;
  bool only_atoms_;
  at::Tensor qkv_, qkv_bias_, qkv_back_, output_, output_bias_, output_back_;  // as in `RowWeights`
};

}  // namespace uip
