// Numbers of a contiguous tensor as pointers, for kernels; null if there are none.
#pragma once

#include <ATen/core/Tensor.h>

namespace uip {

template <typename T>
const T *values(const at::Tensor &x) {
  return x.defined() && x.numel() ? x.const_data_ptr<T>() : nullptr;
}

/// To be written.
template <typename T>
T *places(const at::Tensor &x) {
  return x.defined() && x.numel() ? x.mutable_data_ptr<T>() : nullptr;
}

}  // namespace uip
