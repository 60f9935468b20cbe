// Kernels of attention within rows (row_layer.h) for one instruction set, as plain pointers (message_kernels.h).
//
// Letters: N atoms, S bonds, H channels, h heads of d channels. W: H, rounded up to whole panels (64 bytes); if heads
// do not begin at whole panels, at least a panel less one number more than H, since the vectors of the last head reach
// beyond it. What pads matrices is zero.
#pragma once

#include <cstdint>

namespace uip {

/// y = x W_qkv + b and z = c W_o + b. The factors of the norm, of the logits (in queries) and of the result are in
/// them. Matrices (K, n) are "packed" for `forward` and `backward`: `depth_of_part` rows at a time in panels; and plain
/// for the kernels of atoms alone.
template <typename T>
struct RowWeights {
  const T *qkv = nullptr, *qkv_bias = nullptr;          ///< (H, 3 W), (3 W)
  const T *output = nullptr, *output_bias = nullptr;    ///< (H, W), (W)
  const T *qkv_back = nullptr, *output_back = nullptr;  ///< (3 W, W), (H, W): their transposes
};

constexpr int depth_of_part = 128;  ///< a part of 64 columns stays in the first level of cache

/// Rows of tokens: that of atom i has its own token and those of bonds offsets[i] .. offsets[i + 1].
template <typename T>
struct TokenRows {
  int64_t channels, heads, width;        ///< H, h, W
  const int64_t *degrees;                ///< channels of a head by degree
  int num_degrees;                       ///< 1: no angles
  const T *atoms, *bonds;                ///< tokens (N, H), (S, H)
  const T *log_weight, *direction;       ///< (S), (S, 3)
  const int64_t *offsets;                ///< (N + 1)
  const int64_t *tiles;                  ///< tile t has the rows of atoms tiles[t] .. tiles[t + 1]
  int longest, most_tokens, most_atoms;  ///< tokens of a row, of a tile; atoms of a tile
  RowWeights<T> weights;
};

/// `kept` (N + S, 3 H): queries, keys and values, row by row; or null.
template <typename T>
struct RowResults {
  T *atoms, *bonds, *kept;
};

/// Derivatives by the results, and where those by tokens (N, H), (S, H), ln w (S) and directions (S, 3) go.
template <typename T>
struct RowDerivatives {
  const T *of_atoms, *of_bonds, *kept;
  T *atoms, *bonds, *log_weight, *direction;
};

/// For tiles begin .. end. `atoms_...`: bonds' tokens are read, but not written.
template <typename T>
struct RowKernels {
  void (*forward)(const TokenRows<T> &, const RowResults<T> &, int64_t begin, int64_t end);
  void (*backward)(const TokenRows<T> &, const RowDerivatives<T> &, int64_t begin, int64_t end);
  void (*atoms_forward)(const TokenRows<T> &, const RowResults<T> &, int64_t begin, int64_t end);
  void (*atoms_backward)(const TokenRows<T> &, const RowDerivatives<T> &, int64_t begin, int64_t end);
};

#define UIP_DECLARE_ROW_KERNELS(set)           \
  namespace set {                              \
  extern const RowKernels<float> rows_float;   \
  extern const RowKernels<double> rows_double; \
  }
UIP_DECLARE_ROW_KERNELS(kernels_generic)
UIP_DECLARE_ROW_KERNELS(kernels_avx2)
UIP_DECLARE_ROW_KERNELS(kernels_avx512)
#undef UIP_DECLARE_ROW_KERNELS

/// The fastest ones that the processor has (message_dispatch.cpp).
template <typename T>
const RowKernels<T> &row_kernels();

}  // namespace uip
