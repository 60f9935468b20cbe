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
UIP_INLINE Vector<T> larger(Vector<T> x, Vector<T> y) {
  return x > y ? x : y;
}

constexpr int chains = 4;  // sums that do not wait for each other

/// Of vectors x(0) .. x(count - 1), in a fixed order.
template <typename T, typename Term, typename Join>
UIP_INLINE Vector<T> joined(int count, Vector<T> start, const Term &x, const Join &join) {
  Vector<T> parts[chains] = {start, start, start, start};
  int r = 0;
  for (; r + chains <= count; r += chains) {
#pragma GCC unroll 4
    for (int k = 0; k < chains; ++k) parts[k] = join(parts[k], x(r + k));
  }
  for (; r < count; ++r) parts[0] = join(parts[0], x(r));
  return join(join(parts[0], parts[1]), join(parts[2], parts[3]));
}

template <typename T>
UIP_INLINE Vector<T> added(Vector<T> x, Vector<T> y) {
  return x + y;
}

/// From logits (keys, queries) without `bias` (keys) to weights, for each query; `width`: of a row, whole vectors.
template <typename T>
__attribute__((noinline)) void softmax_of_columns(T *logits, const T *bias, int keys, int width) {
  for (int k = 0; k < width; k += lanes<T>) {
    T *column = logits + k;
    const auto logit = [&](int r) { return load<T>(column + r * width) + bias[r]; };
    const Vector<T> high = joined<T>(keys, all<T>(static_cast<T>(empty_logit_of_row)), logit, larger<T>);
    const auto weight = [&](int r) {
      const Vector<T> value = exponential<T>(logit(r) - high);
      store<T>(column + r * width, value);
      return value;
    };
    const Vector<T> factor = T(1) / joined<T>(keys, Vector<T>{}, weight, added<T>);
    for (int r = 0; r < keys; ++r) store<T>(column + r * width, load<T>(column + r * width) * factor);
  }
}

/// From derivatives by weights (keys, queries) to those by logits; adds them, by lane, to `by_bias` (keys, lanes).
template <typename T>
__attribute__((noinline)) void softmax_gradient_of_columns(const T *weights, T *gradient, T *by_bias, int keys,
                                                           int width) {
  for (int k = 0; k < width; k += lanes<T>) {
    const T *p = weights + k;
    T *column = gradient + k;
    const auto product = [&](int r) { return load<T>(p + r * width) * load<T>(column + r * width); };
    const Vector<T> mean = joined<T>(keys, Vector<T>{}, product, added<T>);
    for (int r = 0; r < keys; ++r) {
      const Vector<T> by_logit = load<T>(p + r * width) * (load<T>(column + r * width) - mean);
      store<T>(column + r * width, by_logit);
      store<T>(by_bias + r * lanes<T>, load<T>(by_bias + r * lanes<T>) + by_logit);
    }
  }
}

template <int... places>
struct Places {};

/// Of x and y, blocks of `step` lanes: the even ones (low) or the odd ones, in turn.
template <typename T, int step, bool low, int... k>
UIP_INLINE Vector<T> every_second_block(Vector<T> x, Vector<T> y, Places<k...>) {
  constexpr int n = sizeof...(k);
  return __builtin_shufflevector(x, y, (k & step ? n + k - (low ? step : 0) : k + (low ? 0 : step))...);
}

template <typename T, int step, typename Lanes>
UIP_INLINE void transpose_block(Vector<T> (&x)[lanes<T>], Lanes places) {
#pragma GCC unroll 16
  for (int r = 0; r < lanes<T>; ++r) {
    if (r & step) continue;
    const Vector<T> a = x[r], b = x[r + step];
    x[r] = every_second_block<T, step, true>(a, b, places);
    x[r + step] = every_second_block<T, step, false>(a, b, places);
  }
  if constexpr (step > 1) transpose_block<T, step / 2>(x, places);
}

template <int count, int... k>
struct FirstPlaces : FirstPlaces<count - 1, count - 1, k...> {};
template <int... k>
struct FirstPlaces<0, k...> {
  using Type = Places<k...>;
};

/// x (rows, columns) to y (columns, width), both in whole vectors: columns of y after the last row are zero, and its
/// rows after the last column are without meaning.
template <typename T>
__attribute__((noinline)) void transpose_rows(const T *x, int64_t x_row, int rows, int columns, T *y, int width) {
  constexpr int size = lanes<T>;
  for (int c = 0; c < columns; c += size) {
    for (int r = 0; r < rows; r += size) {
      Vector<T> block[size];
#pragma GCC unroll 16
      for (int k = 0; k < size; ++k) block[k] = r + k < rows ? load<T>(x + (r + k) * x_row + c) : Vector<T>{};
      transpose_block<T, size / 2>(block, typename FirstPlaces<size>::Type{});
#pragma GCC unroll 16
      for (int k = 0; k < size; ++k) store<T>(y + static_cast<int64_t>(c + k) * width + r, block[k]);
    }
  }
}

/// All lanes joined, in each of them.
template <typename T, int step = lanes<T> / 2, typename Join, int... k>
UIP_INLINE Vector<T> joined_lanes(Vector<T> x, const Join &join, Places<k...> places) {
  const Vector<T> y = join(x, __builtin_shufflevector(x, x, (k ^ step)...));
  if constexpr (step > 1) {
    return joined_lanes<T, step / 2>(y, join, places);
  } else {
    return y;
  }
}

template <typename T, typename Join>
UIP_INLINE T of_all_lanes(Vector<T> x, const Join &join) {
  return joined_lanes<T>(x, join, typename FirstPlaces<lanes<T>>::Type{})[0];
}

}  // namespace
}  // namespace uip
