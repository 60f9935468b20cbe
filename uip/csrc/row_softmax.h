// Exponentials and softmax of rows, its gradient, and transposes, for the kernels of rows of tokens (row_kernels.h).
#pragma once

#include "row_products.h"

namespace uip {
namespace {

constexpr double empty_logit_of_row = -1e30;  // of what pads a row: its weight is 0

template <typename T>
struct Natural;  // of exp: x below `lowest` gives 0; ln 2 in two parts, the first with few digits

template <>
struct Natural<float> {
  static constexpr float lowest = -87.0f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr Terms<8> series = taylor<8>(1.0, 0, 1, false);
};

template <>
struct Natural<double> {
  static constexpr double lowest = -708.0, ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
  static constexpr Terms<14> series = taylor<14>(1.0, 0, 1, false);
};

/// exp(x) for x <= 0, within 1 unit of the last digit; 0 where it is near the smallest normal number.
template <typename T>
UIP_INLINE Vector<T> exponential(Vector<T> x) {
  using S = Simd<T>;
  const Vector<T> shifted = x * T(1.44269504088896340736) + S::rounding, whole = shifted - S::rounding;
  const Vector<T> rest = (x - whole * Natural<T>::ln2_high) - whole * Natural<T>::ln2_low;
  constexpr int terms = sizeof(Natural<T>::series.of) / sizeof(double);
  Vector<T> value = all<T>(static_cast<T>(Natural<T>::series.of[terms - 1]));
#pragma GCC unroll 16
  for (int k = terms - 2; k >= 0; --k) value = value * rest + static_cast<T>(Natural<T>::series.of[k]);
  value = (Vector<T>)((Bits<T>)value + ((Bits<T>)shifted << S::mantissa));
  return x < all<T>(Natural<T>::lowest) ? Vector<T>{} : value;
}

template <typename T>
UIP_INLINE T largest(Vector<T> x) {
  T half[lanes<T>];
  store<T>(half, x);
  for (int count = lanes<T> / 2; count > 0; count /= 2) {
    for (int k = 0; k < count; ++k) half[k] = half[k] > half[k + count] ? half[k] : half[k + count];
  }
  return half[0];
}

/// From logits (rows, width) without `bias` (width) to weights, row by row.
template <typename T>
__attribute__((noinline)) void softmax_of_rows(T *logits, const T *bias, int rows, int width) {
  for (int r = 0; r < rows; ++r) {
    T *row = logits + static_cast<int64_t>(r) * width;
    Vector<T> high = all<T>(static_cast<T>(empty_logit_of_row)), total{};
    for (int k = 0; k < width; k += lanes<T>) {
      const Vector<T> logit = load<T>(row + k) + load<T>(bias + k);
      store<T>(row + k, logit);
      high = logit > high ? logit : high;
    }
    const Vector<T> most = all<T>(largest<T>(high));
    for (int k = 0; k < width; k += lanes<T>) {
      const Vector<T> weight = exponential<T>(load<T>(row + k) - most);
      store<T>(row + k, weight);
      total += weight;
    }
    const T factor = T(1) / sum<T>(total);
    for (int k = 0; k < width; k += lanes<T>) store<T>(row + k, load<T>(row + k) * factor);
  }
}

/// From derivatives by weights (rows, width) to those by logits; adds the sums over rows to `by_bias` (width).
template <typename T>
__attribute__((noinline)) void softmax_gradient_of_rows(const T *weights, T *gradient, T *by_bias, int rows,
                                                        int width) {
  for (int r = 0; r < rows; ++r) {
    const T *p = weights + static_cast<int64_t>(r) * width;
    T *row = gradient + static_cast<int64_t>(r) * width;
    Vector<T> total{};
    for (int k = 0; k < width; k += lanes<T>) total += load<T>(p + k) * load<T>(row + k);
    const Vector<T> mean = all<T>(sum<T>(total));
    for (int k = 0; k < width; k += lanes<T>) {
      const Vector<T> by_logit = load<T>(p + k) * (load<T>(row + k) - mean);
      store<T>(row + k, by_logit);
      store<T>(by_bias + k, load<T>(by_bias + k) + by_logit);
    }
  }
}

/// x (rows, columns) to y (columns, width): rows that pad the last vector are zero.
template <typename T>
__attribute__((noinline)) void transpose_rows(const T *x, int64_t x_row, int rows, int columns, T *y, int width) {
  for (int c = 0; c < columns; ++c) {
    T *to = y + static_cast<int64_t>(c) * width;
    for (int r = 0; r < rows; ++r) to[r] = x[r * x_row + c];
    for (int r = rows; r < width; ++r) to[r] = T(0);
  }
}

}  // namespace
}  // namespace uip
