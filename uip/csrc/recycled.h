// Memory of large tensors that every step needs again.
#pragma once

#include <ATen/core/Tensor.h>

namespace uip {

/// As at::empty on the CPU. Blocks of more than 1 MiB return to a list instead of the system, up to 512 MiB in all: the
/// system would clear their pages for every step, which takes longer than writing them. Any thread may ask.
at::Tensor recycled_empty(at::IntArrayRef sizes, const at::TensorOptions &options);

}  // namespace uip
