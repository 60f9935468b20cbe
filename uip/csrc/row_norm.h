// The root-mean-square norm of tokens without its learned factors, for the kernels of rows of tokens (row_kernels.h).
#pragma once

#include "row_softmax.h"

namespace uip {
namespace {

template <typename T>
struct NormEpsilon;
template <>
struct NormEpsilon<float> {
  static constexpr float value = 1.1920928955078125e-07f;
};
template <>
struct NormEpsilon<double> {
  static constexpr double value = 2.220446049250313e-16;
};

template <typename T>
UIP_INLINE T dot(const T *x, const T *y, int width) {
  Vector<T> total{};
  for (int k = 0; k < width; k += lanes<T>) total += load<T>(x + k) * load<T>(y + k);
  return of_all_lanes<T>(total, added<T>);
}

/// 1 / root of the mean square of `channels` numbers; x (width) has zeros after them.
template <typename T>
UIP_INLINE T inverse_norm(const T *x, int channels, int width) {
  const T square = dot<T>(x, x, width) / static_cast<T>(channels) + NormEpsilon<T>::value;
  if constexpr (sizeof(T) == 4) {
    return 1.0f / __builtin_sqrtf(square);
  } else {
    return 1.0 / __builtin_sqrt(square);
  }
}

/// y = x / norm; returns 1 / norm.
template <typename T>
UIP_INLINE T normed_row(const T *x, T *y, int channels, int width) {
  const T inverse = inverse_norm<T>(x, channels, width);
  for (int k = 0; k < width; k += lanes<T>) store<T>(y + k, load<T>(x + k) * inverse);
  return inverse;
}

/// From dL/dy to dL/dx, in place.
template <typename T>
UIP_INLINE void norm_gradient(T *gradient, const T *normed, T inverse, int channels, int width) {
  const T along = dot<T>(gradient, normed, width) / static_cast<T>(channels);
  for (int k = 0; k < width; k += lanes<T>) {
    store<T>(gradient + k, (load<T>(gradient + k) - load<T>(normed + k) * along) * inverse);
  }
}

}  // namespace
}  // namespace uip
