// Attention of the tokens of one row to each other, head by head, for the kernels that include it.
//
// Letters: n tokens of the row, the atom's own first; L: n rounded up to whole vectors; d channels of a head. Logits of
// queries a and keys b are products of their channels c of degree l(c), with P_l of the cosine between their bonds:
//
//     s_ab = ln w_b + sum_l P_l(cos_ab) D_lab,      D_lab = sum over c of degree l of q_ac k_bc
//
// Tables have a row for each key and a lane for each query, so that softmax needs no sums over lanes.
#pragma once

#include "row_kernels.h"
#include "row_softmax.h"

namespace uip {
namespace {

/// Queries, keys and values of a head, or their gradients: (n, d) each, rows `row` apart.
template <typename T>
struct HeadOfRow {
  T *q, *k, *v;
  int64_t row;
};

template <typename T>
class RowAttentionKernel {
 public:
  explicit RowAttentionKernel(const TokenRows<T> &rows)
      : degrees_(rows.degrees),
        num_degrees_(rows.num_degrees),
        channels_(static_cast<int>(rows.channels / rows.heads)),
        longest_(whole_vectors<T>(rows.longest)),
        table_(static_cast<int64_t>(whole_rows(rows.longest) + 1) * longest_),
        bias_(rows.longest),
        by_bias_(rows.longest * lanes<T>),
        queries_(static_cast<int64_t>(whole_vectors<T>(channels_)) * longest_),
        gradients_(static_cast<int64_t>(whole_vectors<T>(channels_)) * longest_),
        weights_(table_),
        slopes_(table_),
        parts_(is_angular() ? num_degrees_ * table_ : 0),
        legendre_(is_angular() ? num_degrees_ * table_ : 0),
        legendre_slopes_(is_angular() ? num_degrees_ * table_ : 0),
        by_cosine_(is_angular() ? table_ : 0),
        scaled_(is_angular() ? table_ : 0),
        directions_(is_angular() ? 3 * longest_ : 0),
        by_direction_(is_angular() ? 3 * longest_ : 0) {}

  /// A row of n tokens: ln w (n - 1) and directions (n - 1, 3) of its bonds.
  void begin(int n, const T *log_weight, const T *direction) {
    n_ = n;
    padded_ = whole_vectors<T>(n);
    bias_[0] = T(0);
    for (int k = 1; k < n; ++k) bias_[k] = log_weight[k - 1];
    for (int k = 0; k < n * lanes<T>; ++k) by_bias_[k] = T(0);
    if (is_angular()) begin_angles(direction);
  }

  void forward(const HeadOfRow<const T> &x, T *context, int64_t context_row) {
    attention_weights(x);
    product<T>({weights_, 1, padded_}, x.v, x.row, context, context_row, n_, n_, channels_);
  }

  /// `gradient` (n, d): derivatives by contexts. Writes those by queries, keys and values.
  void backward(const T *gradient, int64_t gradient_row, const HeadOfRow<const T> &x, const HeadOfRow<T> &to) {
    attention_weights(x);
    transpose_rows<T>(gradient, gradient_row, n_, channels_, gradients_, padded_);
    product<T>({weights_, padded_}, gradient, gradient_row, to.v, to.row, n_, n_, channels_);
    product<T>({x.v, x.row}, gradients_, padded_, slopes_, padded_, n_, channels_, padded_);
    softmax_gradient_of_columns<T>(weights_, slopes_, by_bias_, n_, padded_);
    for (int l = 0, first = 0; l < num_degrees_; first += degrees_[l++]) {
      const T *by_product = l == 0 ? slopes_ : scaled_by(l);
      const int size = static_cast<int>(degrees_[l]);
      product<T>({by_product, 1, padded_}, x.k + first, x.row, to.q + first, to.row, n_, n_, size);
      product<T>({by_product, padded_}, x.q + first, x.row, to.k + first, to.row, n_, n_, size);
    }
  }

  /// Sums over the heads since `begin`, of the bonds: (n - 1) and (n - 1, 3).
  void end(T *by_log_weight, T *by_direction) {
    for (int k = 1; k < n_; ++k) by_log_weight[k - 1] = of_all_lanes<T>(load<T>(by_bias_ + k * lanes<T>), added<T>);
    if (is_angular()) end_angles(by_direction);
  }

 private:
  bool is_angular() const { return num_degrees_ > 1; }
  T *of_degree(T *x, int l) const { return x + l * table_; }

  void attention_weights(const HeadOfRow<const T> &x) {
    transpose_rows<T>(x.q, x.row, n_, channels_, queries_, padded_);
    if (is_angular()) {
      angular_logits(x);
    } else {
      product<T>({x.k, x.row}, queries_, padded_, weights_, padded_, n_, channels_, padded_);
    }
    softmax_of_columns<T>(weights_, bias_, n_, padded_);
  }

  void angular_logits(const HeadOfRow<const T> &x) {
    for (int l = 0, first = 0; l < num_degrees_; first += degrees_[l++]) {
      T *part = l == 0 ? weights_ : of_degree(parts_, l);
      product<T>({x.k + first, x.row}, queries_ + first * padded_, padded_, part, padded_, n_,
                 static_cast<int>(degrees_[l]), padded_);
    }
    for (int64_t k = 0; k < size(); k += lanes<T>) {
      Vector<T> logit = load<T>(weights_ + k);
      for (int l = 1; l < num_degrees_; ++l) {
        logit += load<T>(of_degree(legendre_, l) + k) * load<T>(of_degree(parts_, l) + k);
      }
      store<T>(weights_ + k, logit);
    }
  }

  /// Derivatives by D_l from those by logits; adds the part of degree l to those by cosines.
  T *scaled_by(int l) {
    const T *p = of_degree(legendre_, l), *slope = of_degree(legendre_slopes_, l), *part = of_degree(parts_, l);
    for (int64_t k = 0; k < size(); k += lanes<T>) {
      const Vector<T> by_logit = load<T>(slopes_ + k);
      store<T>(scaled_ + k, by_logit * load<T>(p + k));
      store<T>(by_cosine_ + k, load<T>(by_cosine_ + k) + by_logit * load<T>(part + k) * load<T>(slope + k));
    }
    return scaled_;
  }

  /// P_l and its derivatives for l > 0: 0 where one of the tokens is the atom's own, which has no direction.
  void begin_angles(const T *direction) {
    for (int x = 0; x < 3; ++x) {
      T *to = directions_ + x * longest_;
      for (int k = 0; k < padded_; ++k) to[k] = k > 0 && k < n_ ? direction[3 * (k - 1) + x] : T(0);
    }
    for (int64_t k = 0; k < size(); ++k) by_cosine_[k] = T(0);
    const T *x = directions_, *y = x + longest_, *z = y + longest_;
    for (int a = 0; a < n_; ++a) {
      for (int b = 0; b < padded_; b += lanes<T>) {
        const Vector<T> cosine = x[a] * load<T>(x + b) + y[a] * load<T>(y + b) + z[a] * load<T>(z + b);
        legendre(cosine, a * padded_ + b);
      }
      for (int l = 1; l < num_degrees_; ++l) clear(l, a);
    }
  }

  UIP_INLINE void legendre(Vector<T> x, int64_t place) {
    Vector<T> last = all<T>(T(1)), value = x, last_slope{}, slope = all<T>(T(1));
    for (int l = 1; l < num_degrees_; ++l) {
      store<T>(of_degree(legendre_, l) + place, value);
      store<T>(of_degree(legendre_slopes_, l) + place, slope);
      const Vector<T> next = (T(2 * l + 1) * x * value - T(l) * last) / T(l + 1);
      const Vector<T> next_slope = last_slope + T(2 * l + 1) * value;
      last = value, value = next, last_slope = slope, slope = next_slope;
    }
  }

  UIP_INLINE void clear(int l, int a) {
    T *p = of_degree(legendre_, l) + a * padded_, *slope = of_degree(legendre_slopes_, l) + a * padded_;
    const int count = a == 0 ? padded_ : 1;
    for (int b = 0; b < count; ++b) p[b] = slope[b] = T(0);
  }

  /// Of directions u: dL/du_a = sum_b (g_ab + g_ba) u_b, with g the derivatives by cosines.
  void end_angles(T *by_direction) {
    for (int64_t k = 0; k < 3 * longest_; ++k) by_direction_[k] = T(0);
    for (int a = 0; a < n_; ++a) {
      for (int x = 0; x < 3; ++x) {
        const T *u = directions_ + x * longest_;
        T *to = by_direction_ + x * longest_;
        Vector<T> total{};
        for (int b = 0; b < padded_; b += lanes<T>) {
          const Vector<T> g = load<T>(by_cosine_ + a * padded_ + b);
          total += g * load<T>(u + b);
          store<T>(to + b, load<T>(to + b) + g * u[a]);
        }
        to[a] += of_all_lanes<T>(total, added<T>);
      }
    }
    for (int k = 1; k < n_; ++k) {
      for (int x = 0; x < 3; ++x) by_direction[3 * (k - 1) + x] = by_direction_[x * longest_ + k];
    }
  }

  int64_t size() const { return static_cast<int64_t>(n_) * padded_; }

  const int64_t *degrees_;
  int num_degrees_, channels_, longest_;
  int64_t table_;
  int n_ = 0, padded_ = 0;
  Zeros<T> bias_, by_bias_;              // (n), (n, lanes)
  Zeros<T> queries_, gradients_;         // (d, L): of queries and, by contexts, transposed
  Zeros<T> weights_, slopes_;            // (n, L), keys by queries: attention, derivatives by it and by logits
  Zeros<T> parts_;                       // by degree (n, L): D_l
  Zeros<T> legendre_, legendre_slopes_;  // by degree (n, L)
  Zeros<T> by_cosine_, scaled_;          // (n, L)
  Zeros<T> directions_, by_direction_;   // (3, L)
};

}  // namespace
}  // namespace uip
