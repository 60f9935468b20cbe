// Products of a few rows with packed matrices (message_kernels.h), for the kernels that include it. Each row is summed
// in the same order whatever rows are with it.
#pragma once

#include "flush_denormals.h"
#include "simd.h"

namespace uip {
namespace {

constexpr int tile_rows = 24, block_rows = 6;

template <typename T>
constexpr int panel = 64 / sizeof(T);
/// Vectors of columns that a block of rows is multiplied with at once, so that sums fill the registers.
constexpr int widest = UIP_VECTOR_BYTES == 64 ? 4 : 2;

/// c[R][Q vectors] = (add ? c : bias or 0) + a[R][depth] b, vectors `start` .. `start + Q` of the columns.
template <typename T, int R, int Q, bool add>
UIP_INLINE void block(const T *a, int64_t a_stride, const T *b, T *c, int64_t c_stride, int depth, int start,
                      const T *bias) {
  constexpr int width = lanes<T>, per_panel = panel<T> / width;
  const T *columns[Q];
  for (int q = 0; q < Q; ++q) {
    columns[q] = b + (start + q) / per_panel * depth * panel<T> + (start + q) % per_panel * width;
  }
  T *out = c + start * width;
  Vector<T> sums[R][Q];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) {
      sums[r][q] = add    ? load<T>(out + r * c_stride + q * width)
                   : bias ? load<T>(bias + (start + q) * width)
                          : Vector<T>{};
    }
  }
#pragma GCC unroll 2
  for (int k = 0; k < depth; ++k) {
    Vector<T> right[Q];
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) right[q] = load<T>(columns[q] + k * panel<T>);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const T left = a[r * a_stride + k];
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) sums[r][q] += left * right[q];
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) store<T>(out + r * c_stride + q * width, sums[r][q]);
  }
}

template <typename T, int Q, bool add>
UIP_INLINE void strip(const T *a, int64_t a_stride, const T *b, T *c, int64_t c_stride, int rows, int depth, int start,
                      const T *bias) {
  int r = 0;
  for (; r + block_rows <= rows; r += block_rows) {
    block<T, block_rows, Q, add>(a + r * a_stride, a_stride, b, c + r * c_stride, c_stride, depth, start, bias);
  }
  for (; r < rows; ++r) {
    block<T, 1, Q, add>(a + r * a_stride, a_stride, b, c + r * c_stride, c_stride, depth, start, bias);
  }
}

/// c (rows, columns) = (add ? c : bias or 0) + a (rows, depth) b, with b in panels.
template <typename T, bool add>
UIP_INLINE void multiply(const T *a, int64_t a_stride, const T *b, T *c, int64_t c_stride, int rows, int depth,
                         int columns, const T *bias = nullptr) {
  const int vectors = columns / lanes<T>;
  int start = 0;
  for (; start + widest <= vectors; start += widest) {
    strip<T, widest, add>(a, a_stride, b, c, c_stride, rows, depth, start, bias);
  }
  if constexpr (widest > 2) {
    for (; start + 2 <= vectors; start += 2) {
      strip<T, 2, add>(a, a_stride, b, c, c_stride, rows, depth, start, bias);
    }
  }
  for (; start < vectors; ++start) strip<T, 1, add>(a, a_stride, b, c, c_stride, rows, depth, start, bias);
}

/// c[R][Q vectors] += sum over rows of a[row][0 .. R] b[row][Q vectors].
template <typename T, int R, int Q>
UIP_INLINE void outer_block(const T *a, int64_t a_stride, const T *b, int64_t b_stride, T *c, int64_t c_stride,
                            int rows) {
  constexpr int width = lanes<T>;
  Vector<T> sums[R][Q];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) sums[r][q] = load<T>(c + r * c_stride + q * width);
  }
  for (int row = 0; row < rows; ++row) {
    Vector<T> right[Q];
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) right[q] = load<T>(b + row * b_stride + q * width);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const T left = a[row * a_stride + r];
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) sums[r][q] += left * right[q];
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) store<T>(c + r * c_stride + q * width, sums[r][q]);
  }
}

/// c (height, width) += a^T b, with a (rows, height) and b (rows, width); height is a multiple of 4.
template <typename T>
UIP_INLINE void add_outer(const T *a, int64_t a_stride, const T *b, int64_t b_stride, T *c, int rows, int height,
                          int width) {
  constexpr int step = widest * lanes<T>;
  int k = 0;
  for (; k + step <= width; k += step) {
    for (int r = 0; r < height; r += 4) {
      outer_block<T, 4, widest>(a + r, a_stride, b + k, b_stride, c + r * width + k, width, rows);
    }
  }
  for (; k < width; k += lanes<T>) {
    for (int r = 0; r < height; r += 4) {
      outer_block<T, 4, 1>(a + r, a_stride, b + k, b_stride, c + r * width + k, width, rows);
    }
  }
}

template <typename T>
void dense(const T *x, const T *panels, const T *bias, T *out, int64_t inputs, int64_t outputs, int64_t begin,
           int64_t end) {
  const FlushDenormals flush;
  for (int64_t start = begin; start < end; start += tile_rows) {
    const int rows = static_cast<int>(end - start < tile_rows ? end - start : tile_rows);
    multiply<T, false>(x + start * inputs, inputs, panels, out + start * outputs, outputs, rows,
                       static_cast<int>(inputs), static_cast<int>(outputs), bias);
  }
}

}  // namespace
}  // namespace uip
