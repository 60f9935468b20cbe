// x + scale W_o attention(W_qkv norm(x)) within rows of tokens, a tile of rows at a time, in torch's operations: on
// GPUs, with products in bfloat16, and where layers are wide. Others are computed in kernels (fused_rows.h).
#pragma once

#include <vector>

#include "dense.h"
#include "row_tile.h"

namespace uip {

/// Parameters: norm (H), qkv (3 H, H), its bias (3 H), output (H, H), its bias (H), scale ().
struct RowLayerWeights {
  at::Tensor norm, qkv, qkv_bias, output, output_bias, scale;
};

/// The tokens of each row. Bonds are sorted by their atoms.
struct Bonds {
  at::Tensor log_weight;  // (S) ln w
  at::Tensor direction;   // (S, 3) unit vectors; not read without angular encoding
  at::Tensor slots;       // (N, K) bonds of each atom; empty: negative
};

/// Tokens: atoms' own (N, H) and bonds' (S, H); `kept` (N + S, 3 H), or of no rows, are the intermediates that the
/// derivative reads.
struct Tokens {
  at::Tensor atoms, bonds, kept;
};

/// Gradients of tokens (`kept` unused), ln w and directions.
struct RowLayerGradient {
  Tokens tokens;
  at::Tensor log_weight, direction;
};

class RowLayer {
 public:
  /// `degrees` as of `RowTile`; `only_atoms`: bonds' tokens are read, but not written; `type`: of the products.
  RowLayer(const RowLayerWeights &weights, int64_t heads, std::vector<int64_t> degrees, bool only_atoms,
           at::ScalarType type);

  /// `keep`: keep queries, keys and values for the derivative, which computes them again otherwise.
  Tokens forward(const Tokens &x, const Bonds &bonds, bool keep) const;
  /// `gradient`: of the result of `forward` for `x`; `x.kept`: that of the result.
  RowLayerGradient backward(const Tokens &gradient, const Tokens &x, const Bonds &bonds) const;

 private:
  struct Part;
  std::vector<Part> parts(const Bonds &bonds) const;
  RowTile rows(const Part &part, const Bonds &bonds) const;
  RowHeads by_head(const at::Tensor &normed, const at::Tensor &qkv, const RowTile &rows, int64_t num_atoms) const;
  at::Tensor input_gradient(const RowGradient &gradient, const RowTile &rows, int64_t num_atoms) const;
  at::Tensor own_heads(const at::Tensor &x) const;  // (n, H) -> (n h, 1, d)

  Dense qkv_, output_;
  int64_t heads_, channels_;
  std::vector<int64_t> degrees_;
  bool only_atoms_;
  at::ScalarType type_;
};

}  // namespace uip
