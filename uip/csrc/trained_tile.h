// One tile of messages that training differentiates (trained_kernels.h), for the kernels that include it.
//
// Names: z first layer, h = silu(z), a second layer (or z), n = a / deviation, x what enters the functions of the gate;
// g_ is a gradient, _dot the derivative along a direction. The second derivative is the first with a `_dot` next to
// each number. Arrays have the rows of a tile twice: numbers of the forward pass, then their `_dot`; of gradients the
// rows that are results come first: of the second derivative g_dot, then g.
//
// Each row is computed in the same order whatever tile it lies in; sums over messages follow their order.
#pragma once

#include "message_products.h"
#include "simd.h"
#include "trained_gate.h"
#include "trained_kernels.h"

namespace uip {
namespace {

/// `fixed`: C, known to the compiler; 0: any C.
template <typename T, int fixed>
class TrainedTile {
 public:
  explicit TrainedTile(const TrainedMessages<T> &messages) : m_(messages) {
    const int64_t wide = 2 * tile_rows * O(), layer = 2 * tile_rows * 2 * C(), inputs = tile_rows * K();
    memory_ = new T[2 * wide + 4 * layer + 3 * inputs + 6 * C() + panel<T>];
    T *place = memory_ + (64 - reinterpret_cast<uintptr_t>(memory_) % 64) % 64 / sizeof(T);
    const auto take = [&](int64_t size) { return place += size, place - size; };
    z_ = take(wide), g_z_ = take(wide);
    h_ = take(layer);
    a_ = is_hidden() ? take(layer) : z_;
    g_a_ = is_hidden() ? take(layer) : g_z_;
    slope_ = take(layer / 2), bend_ = take(layer / 2);
    for (auto *&own : own_) own = take(inputs);
    gates_ = take(2 * C()), zeros_ = take(2 * C()), ones_ = take(C()), scratch_ = take(C());
    for (int k = 0; k < 2 * C(); ++k) zeros_[k] = T(0);
    for (int k = 0; k < C(); ++k) ones_[k] = T(1);
  }
  TrainedTile(const TrainedTile &) = delete;
  TrainedTile &operator=(const TrainedTile &) = delete;
  ~TrainedTile() { delete[] memory_; }

  void forward(int64_t start, int rows, T *out) {
    begin(start, rows);
    values<0>();
    for (int r = 0; r < rows; ++r) {
      open_gates(r);
      const Gate<T> gate = gate_of(r);
      add_values<T>(gate, C(), factor_of(r), out + out_row(r) * C());
    }
  }

  void gradient(int64_t start, int rows, const TrainedResults<T> &to) {
    begin(start, rows);
    values<1>();
    for (int r = 0; r < rows; ++r) {
      open_gates(r);
      add_gradients<T>(gate_of(r), C(), row_of_gate(r, to));
    }
    first_layer_back<false>();
    if (to.input) add_weights<false>(to);
    spread(to);
  }

  void second(int64_t start, int rows, const Directions<T> &along, const TrainedResults<T> &to) {
    begin(start, rows);
    values<2>();
    tangents(along);
    for (int r = 0; r < rows; ++r) {
      open_gates(r);
      add_second<T>(gate_of(r), C(), row_of_gate(r, to), direction_of_gate(r, along, to));
    }
    first_layer_back<true>();
    if (to.input) add_weights<true>(to);
    spread(to);
  }

 private:
  bool is_hidden() const { return m_.hidden; }
  bool factor_from_inputs() const { return O() == 3 * C(); }
  int C() const { return fixed ? fixed : static_cast<int>(m_.channels); }
  int K() const { return static_cast<int>(m_.inputs); }
  int O() const { return static_cast<int>(m_.outputs); }
  T *dot(T *rows, int width) const { return rows + tile_rows * width; }
  int64_t out_row(int r) const { return m_.summed ? m_.row[start_ + r] : start_ + r; }

  void begin(int64_t start, int rows) {
    start_ = start, rows_ = rows;
    whole_ = (rows + block_rows - 1) / block_rows * block_rows;
  }

  /// Rows of this tile of `x` (M, K), with room behind them for those that pad it.
  const T *padded(const T *x, T *own) const {
    x += start_ * K();
    if (rows_ == whole_) return x;
    __builtin_memcpy(own, x, rows_ * K() * sizeof(T));
    return own;
  }

  /// From inputs to `a` and deviations; with the derivatives of SiLU that `order` derivatives need.
  template <int order>
  UIP_INLINE void values() {
    x_ = padded(m_.x, own_[0]);
    first_layer(m_.first, m_.second, m_.third, x_, z_);
    if (is_hidden()) {
      for (int r = 0; r < rows_; ++r) silu_row<order>(r);
      second_layer(h_, a_, true);
    }
    for (int part = 0; part < 2 * rows_; ++part) squares_[part] = product(a_, a_, part);
    for (int part = 0; part < 2 * rows_; ++part) {
      inverse_[part] = m_.norm ? T(1) / root<T>(squares_[part] / C() + T(1e-5)) : T(1);
    }
  }

  /// The derivatives of `values` along a direction.
  UIP_INLINE void tangents(const Directions<T> &along) {
    x_dot_ = along.x ? padded(along.x, own_[1]) : nullptr;
    T *z_dot = dot(z_, O()), *h_dot = dot(h_, 2 * C()), *a_dot = dot(a_, 2 * C());
    first_layer(along.first, along.second, along.third, x_dot_, z_dot);
    if (is_hidden()) {
      for (int r = 0; r < rows_; ++r) {
        for (int k = 0; k < 2 * C(); k += lanes<T>) {
          const int place = r * 2 * C() + k;
          const Vector<T> u = load<T>(z_dot + r * O() + k);
          store<T>(h_dot + place, load<T>(slope_ + place) * u);
          store<T>(bend_ + place, load<T>(bend_ + place) * u);
        }
      }
      second_layer(h_dot, a_dot, false);
    }
    for (int part = 0; part < 2 * rows_; ++part) squares_[part] = product(a_, a_dot, part);
    for (int part = 0; part < 2 * rows_; ++part) {
      shrink_[part] = m_.norm ? squares_[part] / C() * inverse_[part] * inverse_[part] : T(0);
    }
  }

  UIP_INLINE void first_layer(const T *first, const T *second, const T *third, const T *x, T *out) const {
    for (int r = 0; r < rows_; ++r) {
      const int64_t message = start_ + r, slot = m_.slot && third ? m_.slot[message] : -1;
      const T *a = first ? first + m_.row[message] * 2 * C() : zeros_;
      const T *b = second ? second + m_.column[message] * 2 * C() : zeros_;
      const T *c = slot < 0 ? zeros_ : third + slot * 2 * C();
      T *total = out + r * O();
      for (int k = 0; k < 2 * C(); k += lanes<T>) {
        store<T>(total + k, load<T>(a + k) + load<T>(b + k) + load<T>(c + k));
      }
      for (int k = 2 * C(); k < O(); k += lanes<T>) store<T>(total + k, Vector<T>{});
    }
    if (x) multiply<T, true>(x, K(), m_.input, out, O(), whole_, K(), O());
  }

  UIP_INLINE void second_layer(const T *h, T *a, bool with_bias) const {
    const T *bias = with_bias ? m_.vectors : nullptr;
    multiply<T, false>(h, 2 * C(), m_.core, a, 2 * C(), whole_, C(), C(), bias);
    multiply<T, false>(h + C(), 2 * C(), m_.gate, a + C(), 2 * C(), whole_, C(), C(), bias ? bias + 3 * C() : nullptr);
  }

  template <int order>
  UIP_INLINE void silu_row(int r) {
    for (int k = 0; k < 2 * C(); k += lanes<T>) {
      const int place = r * 2 * C() + k;
      const Vector<T> z = load<T>(z_ + r * O() + k), s = sigmoid<T>(z), h = z * s;
      store<T>(h_ + place, h);
      if (order > 0) store<T>(slope_ + place, s + h * (T(1) - s));
      if (order > 1) store<T>(bend_ + place, s * (T(1) - s) * (T(2) + z * (T(1) - T(2) * s)));
    }
  }

  /// <u, v> of a half of a row: part 2 r of core, 2 r + 1 of gate.
  UIP_INLINE T product(const T *u, const T *v, int part) const {
    Vector<T> total{};
    for (int k = part * C(); k < (part + 1) * C(); k += lanes<T>) total += load<T>(u + k) * load<T>(v + k);
    return sum<T>(total);
  }

  UIP_INLINE Half<T> half_of(int r, int half) {
    const int part = 2 * r + half;
    const T *vectors = m_.vectors + half * 3 * C();
    return {a_ + part * C(),
            dot(a_, 2 * C()) + part * C(),
            vectors + C(),
            vectors + 2 * C(),
            gates_ + half * C(),
            inverse_[part],
            shrink_[part],
            g_a_ + part * C(),
            dot(g_a_, 2 * C()) + part * C()};
  }

  UIP_INLINE Gate<T> gate_of(int r) { return {m_.norm, half_of(r, 0), half_of(r, 1)}; }

  /// Sigmoids of what enters both functions of the gate. Apart from their product: iterations as short as these
  /// overlap.
  UIP_INLINE void open_gates(int r) {
    for (int half = 0; half < 2; ++half) {
      const Half<T> from = half_of(r, half);
      for (int k = 0; k < C(); k += lanes<T>) store<T>(gates_ + half * C() + k, sigmoid<T>(from.x(k)));
    }
  }

  const T *factor_of(int r) const {
    if (m_.factor) return m_.factor + m_.column[start_ + r] * C();
    return factor_from_inputs() ? z_ + r * O() + 2 * C() : ones_;
  }

  UIP_INLINE GateRow<T> row_of_gate(int r, const TrainedResults<T> &to) const {
    T *of_factor = to.factor ? to.factor + m_.column[start_ + r] * C() : scratch_;
    if (factor_from_inputs()) of_factor = cleared(g_z_ + r * O() + 2 * C());
    return {to.gradient + out_row(r) * C(), factor_of(r), of_factor, to.vectors, is_hidden()};
  }

  UIP_INLINE GateDirection<T> direction_of_gate(int r, const Directions<T> &along, const TrainedResults<T> &to) const {
    const T *factor = along.factor ? along.factor + m_.column[start_ + r] * C() : zeros_;
    if (!factor_from_inputs()) return {factor, scratch_, to.tangent + out_row(r) * C()};
    return {z_ + (tile_rows + r) * O() + 2 * C(), cleared(g_z_ + (tile_rows + r) * O() + 2 * C()),
            to.tangent + out_row(r) * C()};
  }

  T *cleared(T *row) const {
    for (int k = 0; k < C(); k += lanes<T>) store<T>(row + k, Vector<T>{});
    return row;
  }

  /// From gradients of `a` to those of z.
  template <bool twice>
  UIP_INLINE void first_layer_back() {
    if (!is_hidden()) return;
    T *g = g_z_, *other = dot(g_z_, O());
    layer_back(g_a_, g);
    if (twice) layer_back(dot(g_a_, 2 * C()), other);
    for (int r = 0; r < rows_; ++r) {
      for (int k = 0; k < 2 * C(); k += lanes<T>) {
        const Vector<T> slope = load<T>(slope_ + r * 2 * C() + k);
        Vector<T> value = load<T>(g + r * O() + k) * slope;
        if (twice) {
          const Vector<T> plain = load<T>(other + r * O() + k);
          value += plain * load<T>(bend_ + r * 2 * C() + k);
          store<T>(other + r * O() + k, plain * slope);
        }
        store<T>(g + r * O() + k, value);
      }
    }
  }

  UIP_INLINE void layer_back(const T *g_a, T *g_z) const {
    multiply<T, false>(g_a, 2 * C(), m_.core_back, g_z, O(), whole_, C(), C());
    multiply<T, false>(g_a + C(), 2 * C(), m_.gate_back, g_z + C(), O(), whole_, C(), C());
  }

  template <bool twice>
  UIP_INLINE void add_weights(const TrainedResults<T> &to) {
    add_products(g_z_, x_, to.input);
    if (twice && x_dot_) add_products(dot(g_z_, O()), x_dot_, to.input);
    if (!is_hidden()) return;
    for (int half = 0; half < 2; ++half) {
      T *matrix = to.matrices + half * C() * C();
      const int from = half * C();
      add_outer<T>(g_a_ + from, 2 * C(), h_ + from, 2 * C(), matrix, rows_, C(), C());
      if (!twice) continue;
      add_outer<T>(dot(g_a_, 2 * C()) + from, 2 * C(), dot(h_, 2 * C()) + from, 2 * C(), matrix, rows_, C(), C());
    }
  }

  UIP_INLINE void add_products(const T *g_z, const T *x, T *input) const {
    add_outer<T>(g_z, O(), x, K(), input, rows_, O(), K());
  }

  /// To whom the first layer was summed from.
  UIP_INLINE void spread(const TrainedResults<T> &to) {
    for (int r = 0; r < rows_; ++r) {
      const int64_t message = start_ + r, slot = m_.slot && to.third ? m_.slot[message] : -1;
      const T *from = g_z_ + r * O();
      if (to.first) add_row(from, to.first + m_.row[message] * 2 * C());
      if (to.second) add_row(from, to.second + m_.column[message] * 2 * C());
      if (slot >= 0) add_row(from, to.third + slot * 2 * C());
    }
    if (!to.x) return;
    T *x = rows_ == whole_ ? to.x + start_ * K() : own_[2];
    multiply<T, false>(g_z_, O(), m_.input_back, x, K(), whole_, O(), K());
    if (rows_ != whole_) __builtin_memcpy(to.x + start_ * K(), x, rows_ * K() * sizeof(T));
  }

  UIP_INLINE void add_row(const T *from, T *to) const {
    for (int k = 0; k < 2 * C(); k += lanes<T>) store<T>(to + k, load<T>(to + k) + load<T>(from + k));
  }

  const TrainedMessages<T> &m_;
  T *memory_;
  int64_t start_ = 0;
  int rows_ = 0, whole_ = 0;  // of this tile; rounded up to blocks of products
  const T *x_ = nullptr, *x_dot_ = nullptr;
  T *z_, *g_z_;                           // twice O
  T *h_, *a_, *g_a_;                      // twice 2 C
  T *slope_, *bend_;                      // 2 C: first and second derivative of SiLU, the second times z_dot
  T *own_[3];                             // K: x, x_dot, dL/dx of a tile that needs padding
  T *gates_, *zeros_, *ones_, *scratch_;  // of one row
  T squares_[2 * tile_rows], inverse_[2 * tile_rows], shrink_[2 * tile_rows];  // of halves of rows
};

}  // namespace
}  // namespace uip
