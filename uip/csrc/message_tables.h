// Functions of one number from tables (message_kernels.h), for the kernels that include it.
#pragma once

#include "flush_denormals.h"
#include "message_kernels.h"
#include "simd.h"

namespace uip {
namespace {

/// The interval of x, which starts at `knot`, and the weights of its rows: the value at its start, the step to its end,
/// slope and curvature at both ends. Of the derivative by x the first is 0.
template <typename T>
struct Interval {
  const T *knot;
  Vector<T> step, slope_0, curvature_0, slope_1, curvature_1;

  /// s from 0 to 1 in the interval.
  static UIP_INLINE T place(T x, const T *table, int64_t knots, int width, const T *&knot) {
    const T last = static_cast<T>(knots - 2);
    const int64_t k = static_cast<int64_t>(x > T(0) ? x < last ? x : last : T(0));
    knot = table + k * table_rows * width;
    return x - static_cast<T>(k);
  }

  static UIP_INLINE Interval of_value(T x, const T *table, int64_t knots, int width) {
    const T *knot = nullptr;
    const T s = place(x, table, knots, width, knot), p = T(1) - s, s3 = s * s * s, p3 = p * p * p;
    return {knot,
            all<T>(s3 * (T(1) + T(3) * p + T(6) * p * p)),
            all<T>(s * p3 * (T(1) + T(3) * s)),
            all<T>(T(0.5) * s * s * p3),
            all<T>(-p * s3 * (T(1) + T(3) * p)),
            all<T>(T(0.5) * p * p * s3)};
  }

  static UIP_INLINE Interval of_slope(T x, const T *table, int64_t knots, int width) {
    const T *knot = nullptr;
    const T s = place(x, table, knots, width, knot), p = T(1) - s, s2 = s * s, p2 = p * p;
    return {knot,
            all<T>(T(30) * s2 * p2),
            all<T>(p2 * (T(1) + s * (T(2) - T(15) * s))),
            all<T>(s * p2 * (T(1) - T(2.5) * s)),
            all<T>(s2 * (T(1) + p * (T(2) - T(15) * p))),
            all<T>(-p * s2 * (T(1) - T(2.5) * p))};
  }

  /// Columns k of the sum, of a table with `width` columns; without the value at the start.
  UIP_INLINE Vector<T> change(int k, int width) const {
    const T *row = knot + k, *next = row + table_rows * width;
    const Vector<T> start = step * load<T>(row + width) + slope_0 * load<T>(row + 2 * width);
    return (start + curvature_0 * load<T>(row + 3 * width)) +
           (slope_1 * load<T>(next + 2 * width) + curvature_1 * load<T>(next + 3 * width));
  }

  UIP_INLINE Vector<T> value(int k, int width) const { return load<T>(knot + k) + change(k, width); }
};

/// total (`first`) += the first columns at x, rest (width - `first`) = the others.
template <typename T>
UIP_INLINE void table_row(T x, const T *table, int64_t knots, int width, int first, T *total, T *rest) {
  const auto interval = Interval<T>::of_value(x, table, knots, width);
  for (int k = 0; k < first; k += lanes<T>) store<T>(total + k, load<T>(total + k) + interval.value(k, width));
  for (int k = first; k < width; k += lanes<T>) store<T>(rest + k - first, interval.value(k, width));
}

/// dL/dx, from derivatives (width) by the columns of the table.
template <typename T>
UIP_INLINE T table_back(T x, const T *table, int64_t knots, int width, const T *gradient) {
  const auto interval = Interval<T>::of_slope(x, table, knots, width);
  Vector<T> total{};
  for (int k = 0; k < width; k += lanes<T>) total += load<T>(gradient + k) * interval.change(k, width);
  return sum<T>(total);
}

template <typename T>
void interpolate(const T *x, const T *table, int64_t knots, int64_t width, T *out, int64_t begin, int64_t end) {
  const FlushDenormals flush;
  for (int64_t m = begin; m < end; ++m) {
    table_row<T>(x[m], table, knots, static_cast<int>(width), 0, nullptr, out + m * width);
  }
}

template <typename T>
void interpolate_back(const T *x, const T *table, int64_t knots, int64_t width, const T *gradient, T *out,
                      int64_t begin, int64_t end) {
  const FlushDenormals flush;
  for (int64_t m = begin; m < end; ++m) {
    out[m] = table_back<T>(x[m], table, knots, static_cast<int>(width), gradient + m * width);
  }
}

}  // namespace
}  // namespace uip
