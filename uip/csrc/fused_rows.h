// The layer of row_layer.h in kernels that take a few rows of tokens at a time through norm, products and attention
// (row_kernels.h).
#pragma once

#include <cstdint>
#include <vector>

#include "row_layer.h"

namespace uip {

/// Whether the kernels compute this layer of tokens x (N, H): on CPUs, with products in float32 or float64. They
/// arrange weights anew in each call, which pays for all rows up to 640 channels, and for atoms alone up to 1024.
bool has_fused_rows(const at::Tensor &x, at::ScalarType type, bool only_atoms);

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

  RowLayerWeights weights_;
  int64_t channels_, heads_;
  std::vector<int64_t> degrees_;
  bool only_atoms_;
};

}  // namespace uip
