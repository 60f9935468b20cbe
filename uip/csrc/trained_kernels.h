// Kernels of messages that training differentiates once or twice, with respect to weights too (trained_message.cpp),
// as plain pointers, as those of message_kernels.h.
//
//     z_m = first[row_m] + second[column_m] (+ third[slot_m]) + x_m W         y_m = G(z_m) f_m
//
// Letters: M messages, C channels, K inputs, O = 2 C outputs of W, or 3 C, where f_m are the last C. Packed matrices
// are in panels as in message_kernels.h. With layer normalisation, weights before it are centred: means are zero.
#pragma once

#include <cstdint>

namespace uip {

template <typename T>
struct TrainedMessages {
  bool hidden;  ///< whether SiLU and a second layer follow the first
  bool norm;
  bool summed;                                   ///< y are summed by row, or by themselves
  int64_t channels, inputs, outputs;             ///< C, K, O
  const T *x;                                    ///< (M, K)
  const T *first, *second, *third;               ///< (., 2 C); third null: none
  const T *factor;                               ///< (., C): f by column; null: from W if O = 3 C, else 1
  const int64_t *row, *column, *slot;            ///< (M); slot -1: none
  const int64_t *offsets;                        ///< messages of centre i: offsets[i] .. offsets[i + 1]
  const T *input, *input_back;                   ///< panels of W: (K, O), (O, K)
  const T *core, *gate, *core_back, *gate_back;  ///< panels (C, C); with a second layer
  const T *vectors;                              ///< (2, 3, C): bias, scale and shift of core and gate
};

/// A direction in the space of the arguments of the same names; null: zero.
template <typename T>
struct Directions {
  const T *x, *first, *second, *third, *factor;
};

/// Where derivatives go. Sums start from what is there, but `x` is written; null: not wanted.
template <typename T>
struct TrainedResults {
  const T *gradient;  ///< dL/dy, which is read
  T *tangent;         ///< of y; of the second derivative alone
  T *x, *first, *second, *third, *factor;
  T *input, *matrices, *vectors;  ///< (O, K), (2, C, C), (2, 3, C)
};

template <typename T>
struct TrainedKernels {
  void (*forward)(const TrainedMessages<T> &, T *out, int64_t begin, int64_t end);
  void (*gradient)(const TrainedMessages<T> &, const TrainedResults<T> &, int64_t begin, int64_t end);
  /// The derivative of `gradient` along a direction, which is the gradient of <direction, gradient>.
  void (*second)(const TrainedMessages<T> &, const Directions<T> &, const TrainedResults<T> &, int64_t begin,
                 int64_t end);
};

}  // namespace uip
