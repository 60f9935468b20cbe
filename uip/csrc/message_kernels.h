// Kernels of gated messages (gated_message.h) for one instruction set, as plain pointers: the files that are compiled
// for AVX2 and AVX-512 include nothing of libtorch.
//
// Letters: M messages, C channels, K inputs of the first layer (edges: radial functions and a constant, padded; else
// C), W columns of a table. Matrices (K, N) are packed in panels of 64 bytes: element (k, n) at [n / L][k][n % L],
// L = 64 / sizeof(T).
//
// A table (knots, 4, W) holds, of a function of one number x, at x = 0, 1, ..: value, difference to the next value,
// slope, curvature. Between knots it is the polynomial of degree 5 that has the values, slopes and curvatures of both
// ends; differences have rows of their own, since those of rounded values would be the largest error of derivatives.
// Columns: what the first layer is given (2 C), then, of edges, the factor (C), of angles, what the message is added to
// (C).
#pragma once

#include <cstdint>

#include "trained_kernels.h"

namespace uip {

enum class MessageKind : int64_t {
  edges = 0,      ///< to atoms: inputs and factor from the distance, summed by row
  bonds = 1,      ///< to bonds: inputs from angles, factor of the column, summed by row
  angles = 2,     ///< to angles: x + message; one layer
  edge_rows = 3,  ///< as `edges`, not summed
};

inline bool from_distance(MessageKind kind) { return kind == MessageKind::edges || kind == MessageKind::edge_rows; }
inline bool is_hidden(MessageKind kind) { return kind != MessageKind::angles; }

constexpr int table_rows = 4;  // of each knot

inline int64_t table_columns(MessageKind kind, int64_t channels) {
  return (kind == MessageKind::bonds ? 2 : 3) * channels;
}

template <typename T>
struct MessageWeights {
  const T *input = nullptr;       ///< (K, 2 C) panels
  const T *input_back = nullptr;  ///< (2 C, K) panels; of edges (3 C, K), the factor's last
  const T *core = nullptr, *core_bias = nullptr, *gate = nullptr, *gate_bias = nullptr;  ///< (C, C) panels, (C)
  const T *core_back = nullptr, *gate_back = nullptr;                                    ///< (C, C) panels
  const T *core_scale = nullptr, *core_shift = nullptr, *gate_scale = nullptr, *gate_shift = nullptr;  ///< (C)
  const T *frequencies = nullptr;  ///< (K): f_k / pi; of edges
  const T *factor = nullptr;       ///< (K, C) panels; of edges
  const T *table = nullptr;  ///< (knots, 4, W), instead of `input`, `input_back`, `frequencies`, `factor`; or null
  int64_t knots = 0;
};

/// Total of message m: first[row] + second[column] (+ third[slot]) + inputs(x_m) W.
template <typename T>
struct Messages {
  MessageKind kind;
  bool norm;
  int64_t channels, inputs, num_radial;
  const T *x;                          ///< edges: (M) r / cutoff; else (M, C); of tables (M), in knots
  const T *scale;                      ///< (M): what sines are multiplied with; of edges without table
  const T *first, *second, *third;     ///< (., 2 C)
  const T *factor;                     ///< (., C), by column; of bonds
  const int64_t *row, *column, *slot;  ///< (M); slot -1: none
  const int64_t *offsets;              ///< messages of centre i: offsets[i] .. offsets[i + 1]
  T *hidden;                           ///< (M, 2 C): what enters the gate, written by `forward`, read by `backward`
  int64_t kept;                        ///< of the first `kept` messages; that of others is computed again
  MessageWeights<T> weights;
};

/// Where derivatives go; sums start from what is there, but `x` and `scale` are written.
template <typename T>
struct MessageGradients {
  const T *output;
  T *x, *scale, *first, *second, *third, *factor;
};

template <typename T>
struct MessageKernels {
  int lanes;  ///< C must be a multiple
  void (*forward)(const Messages<T> &, T *out, int64_t begin, int64_t end);
  void (*backward)(const Messages<T> &, const MessageGradients<T> &, int64_t begin, int64_t end);
  /// out (rows, N) = x (rows, K) panels + bias (N) or 0, for rows begin .. end.
  void (*dense)(const T *x, const T *panels, const T *bias, T *out, int64_t inputs, int64_t outputs, int64_t begin,
                int64_t end);
  /// out (rows, W) = the table at x (rows); `interpolate_back`: out (rows) = dL/dx, from `gradient` (rows, W).
  void (*interpolate)(const T *x, const T *table, int64_t knots, int64_t width, T *out, int64_t begin, int64_t end);
  void (*interpolate_back)(const T *x, const T *table, int64_t knots, int64_t width, const T *gradient, T *out,
                           int64_t begin, int64_t end);
  TrainedKernels<T> trained;
};

#define UIP_DECLARE_KERNELS(set)                 \
  namespace set {                                \
  extern const MessageKernels<float> of_float;   \
  extern const MessageKernels<double> of_double; \
  }
UIP_DECLARE_KERNELS(kernels_generic)
UIP_DECLARE_KERNELS(kernels_avx2)
UIP_DECLARE_KERNELS(kernels_avx512)
#undef UIP_DECLARE_KERNELS

}  // namespace uip
