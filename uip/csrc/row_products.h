// Products of small matrices, transposes and softmax of the rows of tokens (row_kernels.h). Each row of a product is
// summed in the same order whatever rows are with it.
#pragma once

#include "message_products.h"
#include "row_kernels.h"
#include "simd.h"

namespace uip {
namespace {

/// Numbers on a cache line, zero at first.
template <typename T>
class Zeros {
 public:
  explicit Zeros(int64_t size) : memory_(new T[size + panel<T>]()) {
    data_ = memory_ + (64 - reinterpret_cast<uintptr_t>(memory_) % 64) % 64 / sizeof(T);
  }
  Zeros(const Zeros &) = delete;
  Zeros &operator=(const Zeros &) = delete;
  ~Zeros() { delete[] memory_; }
  operator T *() const { return data_; }

 private:
  T *memory_, *data_;
};

template <typename T>
constexpr int whole_vectors(int64_t size) {
  return static_cast<int>((size + lanes<T> - 1) / lanes<T> * lanes<T>);
}

template <int number>
struct Count {
  static constexpr int value = number;
};

/// A matrix: element (r, k) at data[r * row + k * step].
template <typename T>
struct Strided {
  const T *data;
  int64_t row, step = 1;
};

/// c[R][Q vectors] = (add ? c : bias or 0) + a[R][depth] b[depth][Q vectors].
template <typename T, int R, int Q, bool add>
UIP_INLINE void strided_block(Strided<T> a, const T *b, int64_t b_row, T *c, int64_t c_row, int depth, const T *bias) {
  constexpr int width = lanes<T>;
  Vector<T> sums[R][Q];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) {
      sums[r][q] = add ? load<T>(c + r * c_row + q * width) : bias ? load<T>(bias + q * width) : Vector<T>{};
    }
  }
  for (int k = 0; k < depth; ++k) {
    Vector<T> right[Q];
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) right[q] = load<T>(b + k * b_row + q * width);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const T left = a.data[r * a.row + k * a.step];
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) sums[r][q] += left * right[q];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) store<T>(c + r * c_row + q * width, sums[r][q]);
  }
}

/// Rows of products are computed so many at a time: memory after the last rows of a and c belongs to their owner, and
/// rows of c beyond the last are without meaning.
constexpr int rows_at_once = 8;

inline int whole_rows(int rows) { return (rows + rows_at_once - 1) / rows_at_once * rows_at_once; }

template <typename T, int Q, bool add>
UIP_INLINE void strided_strip(Strided<T> a, const T *b, int64_t b_row, T *c, int64_t c_row, int rows, int depth,
                              const T *bias) {
  constexpr int R = Q == widest ? rows_at_once / 2 : rows_at_once;  // sums fill the registers, and no row waits
  for (int r = 0; r < rows; r += R) {
    strided_block<T, R, Q, add>({a.data + r * a.row, a.row, a.step}, b, b_row, c + r * c_row, c_row, depth, bias);
  }
}

/// c (rows, columns) = (add ? c : bias or 0) + a b, for whole vectors of columns, which b and c have, and whole rows.
template <typename T, bool add = false>
__attribute__((noinline)) void product(Strided<T> a, const T *b, int64_t b_row, T *c, int64_t c_row, int rows,
                                       int depth, int columns, const T *bias = nullptr) {
  const int vectors = whole_vectors<T>(columns) / lanes<T>;
  const auto strip = [&](auto wide, int start) {
    constexpr int Q = decltype(wide)::value;
    const int column = start * lanes<T>;
    strided_strip<T, Q, add>(a, b + column, b_row, c + column, c_row, rows, depth, bias ? bias + column : nullptr);
  };
  int start = 0;
  for (; start + widest <= vectors; start += widest) strip(Count<widest>{}, start);
  if constexpr (widest > 2) {
    for (; start + 2 <= vectors; start += 2) strip(Count<2>{}, start);
  }
  for (; start < vectors; ++start) strip(Count<1>{}, start);
}

/// c (rows, columns) = bias or 0 + a (rows, depth) b, with b in parts of panels (`RowWeights`).
template <typename T>
__attribute__((noinline)) void packed_product_of_tile(const T *a, int64_t a_row, const T *b, T *c, int64_t c_row,
                                                      int rows, int depth, int columns, const T *bias = nullptr) {
  const auto part_of = [&](int start) { return depth - start < depth_of_part ? depth - start : depth_of_part; };
  multiply<T, false>(a, a_row, b, c, c_row, rows, part_of(0), columns, bias);
  for (int start = depth_of_part; start < depth; start += depth_of_part) {
    const T *panels = b + static_cast<int64_t>(start) * columns;
    multiply<T, true>(a + start, a_row, panels, c, c_row, rows, part_of(start), columns);
  }
}

}  // namespace
}  // namespace uip
