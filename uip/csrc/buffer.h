// Memory on the host for tensors whose sizes change from step to step.
#pragma once

#include <ATen/Functions.h>

namespace uip {

/// Keeps its memory, and takes more when it is too small: a page that the system clears costs more than its use.
template <typename T>
class Buffer {
 public:
  /// Numbers without defined values.
  T *resize(int64_t size) {
    if (!memory_.defined() || memory_.numel() < size) {
      memory_ = at::empty({size + size / 8}, c10::CppTypeToScalarType<T>::value);
      data_ = memory_.template mutable_data_ptr<T>();
    }
    size_ = size;
    return data_;
  }
  T *data() const { return data_; }
  int64_t size() const { return size_; }
  double bytes() const { return memory_.defined() ? static_cast<double>(memory_.nbytes()) : 0.0; }
  /// A view, valid until the next `resize`.
  at::Tensor view(at::IntArrayRef sizes) const { return memory_.narrow(0, 0, size_).view(sizes); }

 private:
  at::Tensor memory_;
  T *data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace uip
