// Gated messages for training: values, first and second derivatives, also with respect to weights.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <vector>

namespace uip {

/// Arguments that have derivatives, in the order of the op `trained_message`.
enum TrainedArgument : size_t { at_x, at_first, at_second, at_third, at_factor, at_input, at_matrices, at_vectors };
constexpr size_t num_trained = 8, num_directions = 5;  // weights have no direction

/// Messages of `z = first[row] + second[column] (+ third[slot]) + x W`, y = G(z) f (trained_kernels.h).
struct TrainedCall {
  /// x (M, K), first, second, third (., 2 C), factor (., C) or (0), W (O, K), matrices (2, C, C) or (0, C, C),
  /// vectors (2, 3, C).
  std::array<at::Tensor, num_trained> arguments;
  /// row, column, slot, offsets, column_offsets, by_column: `uip.nn.fused.Lists`.
  std::vector<at::Tensor> lists;
  bool norm, summed;

  /// Contiguous, and checked.
  TrainedCall(at::TensorList arguments, at::TensorList lists, bool norm, bool summed);

  int64_t channels() const { return arguments[at_first].size(1) / 2; }
  int64_t num_messages() const { return arguments[at_x].size(0); }
  int64_t num_centres() const { return lists[3].size(0) - 1; }
};

using Wanted = std::array<bool, num_trained>;

struct TrainedDerivatives {
  at::Tensor tangent;                                ///< of y; of the second derivative
  std::array<at::Tensor, num_trained> of_arguments;  ///< no rows where not wanted
};

/// y: (rows of `first`, C), or (M, C) if not summed.
at::Tensor trained_values(const TrainedCall &call);

/// Of <gradient, y>.
TrainedDerivatives trained_gradients(const TrainedCall &call, const at::Tensor &gradient, const Wanted &wanted);

/// Of <directions, `trained_gradients`>: with respect to `gradient` (the tangent of y), and to the arguments. Undefined
/// directions are zero.
TrainedDerivatives trained_second(const TrainedCall &call, const at::Tensor &gradient, at::TensorList directions,
                                  const Wanted &wanted);

}  // namespace uip
