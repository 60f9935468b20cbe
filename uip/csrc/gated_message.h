// Which kernels of messages this processor runs (message_kernels.h), and what ops with packed weights share.
#pragma once

#include <ATen/core/IListRef.h>
#include <ATen/core/Tensor.h>

#include "message_kernels.h"

namespace uip {

constexpr int64_t centres_per_task = 8;  ///< that a thread takes at a time

/// The fastest kernels that the processor has and whose vectors divide `columns`. The environment's UIP_CPU_KERNELS
/// (generic, avx2, avx512), read once, rules out better ones: for comparisons.
template <typename T>
const MessageKernels<T> &message_kernels(int64_t columns);

/// Error: a derivative by weights is wanted; ops with packed weights have none.
void check_constant(at::TensorList weights);

}  // namespace uip
