// One tile of rows of tokens (row_kernels.h), for the kernels that include it:
//
//     z = x + W_o attention(W_qkv norm(x))
//
// A tile has some rows, or one if it is long. Its arrays (tokens, W) stay in the second level of cache.
#pragma once

#include "row_attention.h"
#include "row_kernels.h"
#include "row_norm.h"

namespace uip {
namespace {

template <typename T>
class TokenTile {
 public:
  TokenTile(const TokenRows<T> &rows, bool gradient)
      : r_(rows),
        W_(static_cast<int>(rows.width)),
        H_(static_cast<int>(rows.channels)),
        attention_(rows),
        x_(size()),
        normed_(size()),
        inverse_(rows.most_tokens),
        qkv_(3 * size()),
        context_(size()),
        out_(size()),
        by_qkv_(gradient ? 3 * size() : 0) {}

  void forward(int64_t tile, const RowResults<T> &to) {
    begin(tile);
    load_tokens(r_.atoms, r_.bonds, x_);
    normalise();
    queries_keys_values();
    if (to.kept) store_kept(to.kept);
    for (int64_t atom = first_; atom < last_; ++atom) {
      const int64_t row = begin_row(atom);
      for (int h = 0; h < r_.heads; ++h) attention_.forward(head<const T>(qkv_, row, h), of_head(context_, row, h), W_);
    }
    packed_product_of_tile<T>(context_, W_, r_.weights.output, out_, W_, whole(), H_, W_, r_.weights.output_bias);
    store_sums(out_, x_, to.atoms, to.bonds);
  }

  void backward(int64_t tile, const RowDerivatives<T> &to) {
    begin(tile);
    load_tokens(r_.atoms, r_.bonds, x_);
    normalise();
    if (to.kept) {
      load_kept(to.kept);
    } else {
      queries_keys_values();
    }
    T *gradient = x_;  // tokens are no longer needed
    load_tokens(to.of_atoms, to.of_bonds, gradient);
    packed_product_of_tile<T>(gradient, W_, r_.weights.output_back, context_, W_, whole(), H_, W_);
    for (int64_t atom = first_; atom < last_; ++atom) {
      const int64_t row = begin_row(atom);
      for (int h = 0; h < r_.heads; ++h) {
        attention_.backward(of_head(context_, row, h), W_, head<const T>(qkv_, row, h), head<T>(by_qkv_, row, h));
      }
      attention_.end(to.log_weight + r_.offsets[atom], to.direction + 3 * r_.offsets[atom]);
    }
    packed_product_of_tile<T>(by_qkv_, 3 * W_, r_.weights.qkv_back, out_, W_, whole(), 3 * W_, W_);
    for (int t = 0; t < num_tokens_; ++t) {
      norm_gradient<T>(out_ + t * W_, normed_ + t * W_, inverse_[t], H_, W_);
    }
    store_sums(out_, gradient, to.atoms, to.bonds);
  }

 private:
  int64_t size() const { return static_cast<int64_t>(r_.most_tokens + rows_at_once) * W_; }
  /// Rows of products: whole blocks are the fastest.
  int whole() const { return (num_tokens_ + block_rows - 1) / block_rows * block_rows; }

  void begin(int64_t tile) {
    first_ = r_.tiles[tile], last_ = r_.tiles[tile + 1];
    num_tokens_ = static_cast<int>(place(last_) - place(first_));
  }

  /// Tokens before the row of an atom, row by row.
  int64_t place(int64_t atom) const { return atom + r_.offsets[atom]; }

  int64_t begin_row(int64_t atom) {
    const int64_t bond = r_.offsets[atom];
    attention_.begin(static_cast<int>(1 + r_.offsets[atom + 1] - bond), r_.log_weight + bond, r_.direction + 3 * bond);
    return place(atom) - place(first_);
  }

  T *of_head(T *x, int64_t row, int h) const { return x + row * W_ + h * (H_ / r_.heads); }

  template <typename U>
  HeadOfRow<U> head(T *x, int64_t row, int h) const {
    U *q = x + row * 3 * W_ + h * (H_ / r_.heads);
    return {q, q + W_, q + 2 * W_, 3 * W_};
  }

  void load_tokens(const T *atoms, const T *bonds, T *to) const {
    for (int64_t atom = first_; atom < last_; ++atom) {
      const int64_t bond = r_.offsets[atom], count = r_.offsets[atom + 1] - bond;
      copy_rows(atoms + atom * H_, H_, to, W_, 1);
      copy_rows(bonds + bond * H_, H_, to + W_, W_, count);
      to += (1 + count) * W_;
    }
  }

  /// x + y
  void store_sums(const T *x, const T *y, T *atoms, T *bonds) const {
    for (int64_t atom = first_; atom < last_; ++atom) {
      const int64_t bond = r_.offsets[atom], count = r_.offsets[atom + 1] - bond;
      sum_rows(x, y, atoms + atom * H_, 1);
      sum_rows(x + W_, y + W_, bonds + bond * H_, count);
      x += (1 + count) * W_, y += (1 + count) * W_;
    }
  }

  void normalise() {
    for (int t = 0; t < num_tokens_; ++t) inverse_[t] = normed_row<T>(x_ + t * W_, normed_ + t * W_, H_, W_);
  }

  void queries_keys_values() {
    packed_product_of_tile<T>(normed_, W_, r_.weights.qkv, qkv_, 3 * W_, whole(), H_, 3 * W_, r_.weights.qkv_bias);
  }

  void store_kept(T *kept) const { copy_rows(qkv_, W_, kept + place(first_) * 3 * H_, H_, 3 * num_tokens_); }

  void load_kept(const T *kept) { copy_rows(kept + place(first_) * 3 * H_, H_, qkv_, W_, 3 * num_tokens_); }

  void copy_rows(const T *from, int64_t from_row, T *to, int64_t to_row, int64_t count) const {
    if (W_ == H_) {
      __builtin_memcpy(to, from, count * H_ * sizeof(T));
      return;
    }
    for (int64_t k = 0; k < count; ++k) __builtin_memcpy(to + k * to_row, from + k * from_row, H_ * sizeof(T));
  }

  void sum_rows(const T *x, const T *y, T *__restrict to, int64_t count) const {
    const int64_t rows = W_ == H_ ? 1 : count, size = W_ == H_ ? count * H_ : H_;
    for (int64_t k = 0; k < rows; ++k, x += W_, y += W_, to += H_) {
      for (int64_t c = 0; c < size; ++c) to[c] = x[c] + y[c];
    }
  }

  const TokenRows<T> &r_;
  const int W_, H_;
  int64_t first_ = 0, last_ = 0;  // atoms of the tile
  int num_tokens_ = 0;
  RowAttentionKernel<T> attention_;
  Zeros<T> x_, normed_, inverse_, qkv_, context_, out_, by_qkv_;
};

}  // namespace
}  // namespace uip
