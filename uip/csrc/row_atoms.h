// One tile of rows of which only the atoms' own tokens are written (row_kernels.h), for the kernels that include it.
//
// With one query per row, keys and values need not be computed: with y_t the normed tokens and p the weights of a head,
//
//     q . k_t = y_t . z,  z = W_k^T q          sum_t p_t v_t = W_v sum_t p_t y_t + b_v
//
// (the bias of keys is the same for all tokens of a row). The own token has no direction: its query meets keys of
// degree 0 alone.
#pragma once

#include "row_kernels.h"
#include "row_norm.h"
#include "row_softmax.h"

namespace uip {
namespace {

template <typename T>
class AtomTile {
 public:
  AtomTile(const TokenRows<T> &rows, bool gradient)
      : r_(rows),
        W_(static_cast<int>(rows.width)),
        H_(static_cast<int>(rows.channels)),
        heads_(static_cast<int>(rows.heads)),
        d_(H_ / heads_),
        longest_(whole_vectors<T>(rows.longest)),
        normed_(of_tokens()),
        inverse_(rows.longest),
        weights_(of_heads()),
        own_(of_atoms(1)),
        queries_(of_atoms(1)),
        context_(of_atoms(1)),
        out_(of_atoms(1)),
        keys_(of_atoms(heads_)),
        means_(of_atoms(heads_)),
        by_normed_(gradient ? of_tokens() : 0),
        own_inverse_(gradient ? rows.most_atoms : 0),
        by_bias_(gradient ? longest_ : 0),
        slopes_(gradient ? of_heads() : 0),
        gradient_(gradient ? of_atoms(1) : 0),
        by_keys_(gradient ? of_atoms(heads_) : 0) {}

  void forward(int64_t tile, const RowResults<T> &to) {
    begin(tile);
    for (int i = 0; i < n_; ++i) {
      attention_weights(i);
      product<T>({weights_, padded_}, normed_, W_, of_atom(means_, i), W_, heads_, tokens_, W_);
    }
    for (int h = 0; h < heads_; ++h) {
      product<T>({means_ + h * W_, heads_ * W_}, w().qkv + 2 * W_ + h * d_, 3 * W_, context_ + h * d_, W_, n_, H_, d_,
                 w().qkv_bias + 2 * W_ + h * d_);
    }
    product<T>({context_, W_}, w().output, W_, out_, W_, n_, H_, W_, w().output_bias);
    for (int i = 0; i < n_; ++i) {
      const T *x = r_.atoms + (first_ + i) * H_, *change = out_ + i * W_;
      T *y = to.atoms + (first_ + i) * H_;
      for (int c = 0; c < H_; ++c) y[c] = x[c] + change[c];
    }
  }

  void backward(int64_t tile, const RowDerivatives<T> &to) {
    begin(tile);
    for (int i = 0; i < n_; ++i) copy(to.of_atoms + (first_ + i) * H_, gradient_ + i * W_);
    product<T>({gradient_, W_}, w().output_back, W_, context_, W_, n_, H_, W_);
    for (int h = 0; h < heads_; ++h) to_tokens(context_, 2, h, d_, means_);
    for (int i = 0; i < n_; ++i) {
      attention_weights(i);
      row_gradient(i, to);
    }
    for (int h = 0; h < heads_; ++h) {
      T *by_query = queries_ + h * d_;
      product<T>({by_keys_ + h * W_, heads_ * W_}, w().qkv + W_ + h * d_, 3 * W_, by_query, W_, n_, H_, d_);
      for (int i = 0; i < n_; ++i) clear(by_query + i * W_ + meeting(), whole_vectors<T>(d_) - meeting());
    }
    product<T, true>({queries_, W_}, w().qkv_back, W_, out_, W_, n_, H_, W_);
    for (int i = 0; i < n_; ++i) {
      T *by_own = out_ + i * W_, *y = to.atoms + (first_ + i) * H_;
      norm_gradient<T>(by_own, own_ + i * W_, own_inverse_[i], H_, W_);
      for (int c = 0; c < H_; ++c) y[c] = by_own[c] + gradient_[i * W_ + c];
    }
  }

 private:
  const RowWeights<T> &w() const { return r_.weights; }
  int64_t of_tokens() const { return static_cast<int64_t>(whole_rows(r_.longest)) * W_; }
  int64_t of_heads() const { return static_cast<int64_t>(whole_rows(heads_) + 1) * longest_; }
  int64_t of_atoms(int64_t vectors) const { return (r_.most_atoms + rows_at_once) * vectors * W_; }
  T *of_atom(T *x, int i) const { return x + static_cast<int64_t>(i) * heads_ * W_; }
  /// Channels of a head in which a query meets keys.
  int meeting() const { return static_cast<int>(r_.degrees[0]); }

  /// Own tokens, queries q and, for each head, z.
  void begin(int64_t tile) {
    first_ = r_.tiles[tile];
    n_ = static_cast<int>(r_.tiles[tile + 1] - first_);
    for (int i = 0; i < n_; ++i) {
      copy(r_.atoms + (first_ + i) * H_, out_ + i * W_);
      normed_row<T>(out_ + i * W_, own_ + i * W_, H_, W_);
    }
    product<T>({own_, W_}, w().qkv, 3 * W_, queries_, W_, n_, H_, W_, w().qkv_bias);
    for (int h = 0; h < heads_; ++h) to_tokens(queries_, 1, h, meeting(), keys_);
  }

  /// y (n, h, W) = W_p^T x of one head, with p: 0 queries, 1 keys, 2 values.
  void to_tokens(const T *x, int p, int h, int depth, T *y) const {
    product<T>({x + h * d_, W_}, w().qkv_back + static_cast<int64_t>(p * W_ + h * d_) * W_, W_, y + h * W_, heads_ * W_,
               n_, depth, W_);
  }

  void attention_weights(int i) {
    const int64_t atom = first_ + i, bond = r_.offsets[atom];
    tokens_ = static_cast<int>(1 + r_.offsets[atom + 1] - bond);
    padded_ = whole_vectors<T>(tokens_);
    for (int t = 0; t < tokens_; ++t) {
      T *y = normed_ + static_cast<int64_t>(t) * W_;
      copy(t == 0 ? r_.atoms + atom * H_ : r_.bonds + (bond + t - 1) * H_, y);
      inverse_[t] = normed_row<T>(y, y, H_, W_);
    }
    dots(of_atom(keys_, i), weights_, static_cast<T>(empty_logit_of_row));
    for (int h = 0; h < heads_; ++h) softmax_of_head(weights_ + h * padded_, r_.log_weight + bond);
  }

  void softmax_of_head(T *row, const T *log_weight) const {
    for (int t = 1; t < tokens_; ++t) row[t] += log_weight[t - 1];
    const int vectors = padded_ / lanes<T>;
    const auto logit = [&](int k) { return load<T>(row + k * lanes<T>); };
    const Vector<T> lowest = all<T>(static_cast<T>(empty_logit_of_row));
    const T high = of_all_lanes<T>(joined<T>(vectors, lowest, logit, larger<T>), larger<T>);
    const auto weight = [&](int k) {
      const Vector<T> value = exponential<T>(logit(k) - high);
      store<T>(row + k * lanes<T>, value);
      return value;
    };
    const T factor = T(1) / of_all_lanes<T>(joined<T>(vectors, Vector<T>{}, weight, added<T>), added<T>);
    for (int k = 0; k < padded_; k += lanes<T>) store<T>(row + k, load<T>(row + k) * factor);
  }

  /// From derivatives by weights, in `slopes_`, to those by logits; sums over heads go to `by_bias_`.
  void softmax_gradient() {
    clear(by_bias_, padded_);
    for (int h = 0; h < heads_; ++h) {
      const T *p = weights_ + h * padded_;
      T *row = slopes_ + h * padded_;
      const T mean = dot<T>(p, row, padded_);
      for (int k = 0; k < padded_; k += lanes<T>) {
        const Vector<T> by_logit = load<T>(p + k) * (load<T>(row + k) - mean);
        store<T>(row + k, by_logit);
        store<T>(by_bias_ + k, load<T>(by_bias_ + k) + by_logit);
      }
    }
  }

  /// x (h, W) and tokens of the row to their products (h, L); `rest` pads.
  void dots(const T *x, T *y, T rest) const {
    for (int h = 0; h < heads_; ++h) {
      T *row = y + h * padded_;
      for (int t = 0; t < tokens_; ++t) row[t] = dot<T>(normed_ + static_cast<int64_t>(t) * W_, x + h * W_, W_);
      for (int t = tokens_; t < padded_; ++t) row[t] = rest;
    }
  }

  /// `means_` has the derivatives by the means of tokens.
  void row_gradient(int i, const RowDerivatives<T> &to) {
    const T *by_mean = of_atom(means_, i);
    dots(by_mean, slopes_, T(0));
    softmax_gradient();
    product<T>({slopes_, padded_}, normed_, W_, of_atom(by_keys_, i), W_, heads_, tokens_, W_);
    product<T>({weights_, 1, padded_}, by_mean, W_, by_normed_, W_, tokens_, heads_, W_);
    product<T, true>({slopes_, 1, padded_}, of_atom(keys_, i), W_, by_normed_, W_, tokens_, heads_, W_);
    const int64_t bond = r_.offsets[first_ + i] - 1;
    for (int t = 1; t < tokens_; ++t) {
      T *by_token = by_normed_ + static_cast<int64_t>(t) * W_;
      norm_gradient<T>(by_token, normed_ + static_cast<int64_t>(t) * W_, inverse_[t], H_, W_);
      __builtin_memcpy(to.bonds + (bond + t) * H_, by_token, H_ * sizeof(T));
      to.log_weight[bond + t] = by_bias_[t];
    }
    __builtin_memcpy(out_ + i * W_, by_normed_, W_ * sizeof(T));
    own_inverse_[i] = inverse_[0];
  }

  void copy(const T *from, T *to) const { __builtin_memcpy(to, from, H_ * sizeof(T)); }

  static void clear(T *x, int count) {
    for (int k = 0; k < count; ++k) x[k] = T(0);
  }

  const TokenRows<T> &r_;
  const int W_, H_, heads_, d_, longest_;
  int64_t first_ = 0;                       // atom of the tile
  int n_ = 0, tokens_ = 0, padded_ = 0;     // atoms of the tile, tokens of a row
  Zeros<T> normed_, inverse_, weights_;     // of one row: (tokens, W), (tokens), (h, L)
  Zeros<T> own_, queries_, context_, out_;  // (n, W)
  Zeros<T> keys_, means_;                   // z, sum_t p_t y_t: (n, h, W)
  Zeros<T> by_normed_, own_inverse_, by_bias_, slopes_;
  Zeros<T> gradient_, by_keys_;
};

}  // namespace
}  // namespace uip
