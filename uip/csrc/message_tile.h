// One tile of messages (message_kernels.h), for the kernels that include it.
//
// A tile has 24 messages, which with their hidden layers stay in the first two levels of cache. Each row of a product
// is summed in the same order whatever tile it lies in, so that results do not depend on how work is divided.
#pragma once

#include "message_kernels.h"
#include "message_products.h"
#include "message_tables.h"
#include "simd.h"

namespace uip {
namespace {

constexpr double epsilon = 1e-5;  // of layer normalisation, as in torch

/// `fixed`: C, known to the compiler; 0: any C. Arrays have `tile_rows` rows.
template <typename T, int fixed>
class Tile {
 public:
  explicit Tile(const Messages<T> &messages) : m_(messages), w_(messages.weights) {
    const int64_t channels = C(), inputs = m_.inputs;
    const int64_t size =
        tile_rows * (4 * 2 * channels + 3 * channels + channels + 3 * inputs) + 2 * channels + 2 * tile_rows;
    memory_ = new T[size + panel<T>];  // what pads a tile is computed with, but never read
    T *place = memory_ + (64 - reinterpret_cast<uintptr_t>(memory_) % 64) % 64 / sizeof(T);
    const int64_t layer = tile_rows * 2 * channels;
    first_ = place;
    sigmoid_ = first_ + layer;
    silu_ = sigmoid_ + layer;
    own_hidden_ = hidden_ = silu_ + layer;
    backward_ = hidden_ + layer;
    factor_ = backward_ + tile_rows * 3 * channels;
    radial_ = factor_ + tile_rows * channels;
    slope_ = radial_ + tile_rows * inputs;
    inputs_ = slope_ + tile_rows * inputs;
    gates_ = inputs_ + tile_rows * inputs;
    deviation_ = gates_ + 2 * channels;
  }
  Tile(const Tile &) = delete;
  Tile &operator=(const Tile &) = delete;
  ~Tile() { delete[] memory_; }

  void forward(int64_t start, int rows, T *out) {
    const bool direct = rows == padded(rows) && start + rows <= m_.kept;  // others may own the rows after these
    hidden_ = direct ? m_.hidden + start * 2 * C() : own_hidden_;
    compute<false>(start, rows);
    if (!direct && start < m_.kept) {
      const int64_t left = m_.kept - start;
      __builtin_memcpy(m_.hidden + start * 2 * C(), hidden_, (left < rows ? left : rows) * 2 * C() * sizeof(T));
    }
    deviations(rows);
    for (int r = 0; r < rows; ++r) message_row(start + r, r, out);
  }

  void backward(int64_t start, int rows, const MessageGradients<T> &to) {
    const bool known = start + rows <= m_.kept;
    hidden_ = known ? m_.hidden + start * 2 * C() : own_hidden_;
    compute<true>(start, rows, known);
    deviations(rows);
    const int whole = padded(rows);
    for (int r = 0; r < rows; ++r) gate_back(start + r, r, to);
    if (is_hidden(m_.kind)) {
      multiply<T, false>(first_, 2 * C(), w_.core_back, backward_, 3 * C(), whole, C(), C());
      multiply<T, false>(first_ + C(), 2 * C(), w_.gate_back, backward_ + C(), 3 * C(), whole, C(), C());
    }
    for (int r = 0; r < rows; ++r) spread(start + r, r, to);
    inputs_back(start, rows, whole, to);
  }

 private:
  int C() const { return fixed ? fixed : static_cast<int>(m_.channels); }
  int K() const { return static_cast<int>(m_.inputs); }
  int W() const { return static_cast<int>(table_columns(m_.kind, C())); }
  static int padded(int rows) { return (rows + block_rows - 1) / block_rows * block_rows; }

  /// From inputs to what enters the gate, in `hidden_`, if that is not `known`.
  template <bool gradient>
  UIP_INLINE void compute(int64_t start, int rows, bool known = false) {
    if (known && !is_hidden(m_.kind)) return;
    T *total = is_hidden(m_.kind) ? first_ : hidden_;
    const int whole = padded(rows);
    for (int r = 0; r < rows; ++r) gather(start + r, total + r * 2 * C());
    if (w_.table) {
      for (int r = 0; r < rows; ++r) table_row(start + r, total + r * 2 * C(), factor_ + r * C());
    } else if (from_distance(m_.kind)) {
      for (int r = 0; r < rows; ++r) radial_row<gradient>(start + r, r);
      multiply<T, false>(radial_, K(), w_.factor, factor_, C(), whole, K(), C());
      multiply<T, true>(radial_, K(), w_.input, total, 2 * C(), whole, K(), 2 * C());
    } else {
      const T *x = m_.x + start * C();
      if (rows != whole) {
        __builtin_memcpy(inputs_, x, rows * C() * sizeof(T));
        x = inputs_;
      }
      multiply<T, true>(x, C(), w_.input, total, 2 * C(), whole, C(), 2 * C());
    }
    if (!is_hidden(m_.kind)) return;
    for (int k = 0; k < rows * 2 * C(); k += lanes<T>) {
      const Vector<T> y = load<T>(first_ + k), s = sigmoid<T>(y);
      if (gradient) store<T>(sigmoid_ + k, s);
      store<T>(silu_ + k, y * s);
    }
    if (known) return;
    multiply<T, false>(silu_, 2 * C(), w_.core, hidden_, 2 * C(), whole, C(), C(), w_.core_bias);
    multiply<T, false>(silu_ + C(), 2 * C(), w_.gate, hidden_ + C(), 2 * C(), whole, C(), C(), w_.gate_bias);
  }

  UIP_INLINE void gather(int64_t message, T *total) const {
    const T *a = m_.first + m_.row[message] * 2 * C(), *b = m_.second + m_.column[message] * 2 * C();
    const int64_t slot = m_.slot ? m_.slot[message] : -1;
    if (slot < 0) {
      for (int k = 0; k < 2 * C(); k += lanes<T>) store<T>(total + k, load<T>(a + k) + load<T>(b + k));
      return;
    }
    const T *c = m_.third + slot * 2 * C();
    for (int k = 0; k < 2 * C(); k += lanes<T>) {
      store<T>(total + k, load<T>(a + k) + load<T>(b + k) + load<T>(c + k));
    }
  }

  // widths that the compiler knows, where it knows C
  UIP_INLINE void table_row(int64_t message, T *total, T *rest) const {
    if (fixed && W() == 3 * fixed) {
      uip::table_row<T>(m_.x[message], w_.table, w_.knots, 3 * fixed, 2 * fixed, total, rest);
    } else {
      uip::table_row<T>(m_.x[message], w_.table, w_.knots, W(), 2 * C(), total, rest);
    }
  }

  UIP_INLINE T table_back(int64_t message, const T *gradient) const {
    if (fixed && W() == 3 * fixed) {
      return uip::table_back<T>(m_.x[message], w_.table, w_.knots, 3 * fixed, gradient);
    }
    return uip::table_back<T>(m_.x[message], w_.table, w_.knots, W(), gradient);
  }

  /// Radial functions, a constant 1, zeros; with `gradient` also their derivatives by x, and sines before scaling.
  template <bool gradient>
  UIP_INLINE void radial_row(int64_t message, int r) {
    T *value = radial_ + r * K(), *slope = slope_ + r * K(), *bare = inputs_ + r * K();
    const Vector<T> x = all<T>(m_.x[message]);
    const T scale = m_.scale[message];
    for (int k = 0; k < K(); k += lanes<T>) {
      Vector<T> sine, cosine;
      const Vector<T> f = load<T>(w_.frequencies + k);
      sine_cosine<T>(f, x, sine, cosine);
      store<T>(value + k, sine * scale);
      if (!gradient) continue;
      store<T>(slope + k, cosine * f * (scale * T(3.14159265358979323846)));
      store<T>(bare + k, sine);
    }
    value[m_.num_radial] = T(1);
    if (gradient) slope[m_.num_radial] = bare[m_.num_radial] = T(0);
  }

  /// 1 / standard deviation of core and gate; weights before are centred, so that means are zero. Of all rows at once:
  /// no row waits for the root of another.
  UIP_INLINE void deviations(int rows) {
    for (int part = 0; part < 2 * rows; ++part) {
      Vector<T> squares{};
      for (int k = 0; k < C(); k += lanes<T>) {
        const Vector<T> x = load<T>(hidden_ + part * C() + k);
        squares += x * x;
      }
      deviation_[part] = sum<T>(squares);
    }
    for (int part = 0; part < 2 * rows; ++part) {
      deviation_[part] = m_.norm ? T(1) / root(deviation_[part] / C() + T(epsilon)) : T(1);
    }
  }

  /// exp(-y), or with `gradient` sigmoid(y), of what enters both functions of the gate, to `gates_`. Apart from their
  /// product: iterations as short as these overlap.
  template <bool gradient>
  UIP_INLINE void open_gates(int r) {
    for (int half = 0; half < 2; ++half) {
      const T *hidden = hidden_ + (2 * r + half) * C(), deviation = deviation_[2 * r + half];
      const T *scale = half ? w_.gate_scale : w_.core_scale, *shift = half ? w_.gate_shift : w_.core_shift;
      T *out = gates_ + half * C();
      for (int k = 0; k < C(); k += lanes<T>) {
        const Vector<T> y = load<T>(hidden + k) * deviation * load<T>(scale + k) + load<T>(shift + k);
        store<T>(out + k, gradient ? sigmoid<T>(y) : exp_minus<T>(y));
      }
    }
  }

  static UIP_INLINE T root(T x) {
    if constexpr (sizeof(T) == 4) {
      return __builtin_sqrtf(x);
    } else {
      return __builtin_sqrt(x);
    }
  }

  const T *factor_of(int64_t message, int r) const {
    return from_distance(m_.kind) ? factor_ + r * C() : m_.factor + m_.column[message] * C();
  }

  const T *angle_of(int64_t message, int r) const { return w_.table ? factor_ + r * C() : m_.x + message * C(); }

  UIP_INLINE void message_row(int64_t message, int r, T *out) {
    open_gates<false>(r);
    const T *hidden = hidden_ + r * 2 * C(), core = deviation_[2 * r];
    const bool summed = m_.kind == MessageKind::edges || m_.kind == MessageKind::bonds;
    T *place = out + (summed ? m_.row[message] : message) * C();
    const T *factor = m_.kind == MessageKind::angles ? nullptr : factor_of(message, r);
    const T *before = summed ? place : m_.kind == MessageKind::angles ? angle_of(message, r) : nullptr;
    for (int k = 0; k < C(); k += lanes<T>) {
      const Vector<T> c = load<T>(hidden + k) * core * load<T>(w_.core_scale + k) + load<T>(w_.core_shift + k);
      // c / ((1 + exp(-c)) (1 + exp(-g)))
      const Vector<T> u = T(1) + load<T>(gates_ + k), v = load<T>(gates_ + C() + k);
      Vector<T> value = c * reciprocal<T>(u * v + u);
      if (factor) value *= load<T>(factor + k);
      store<T>(place + k, before ? load<T>(before + k) + value : value);
    }
  }

  /// Through gate and norm: dL/dhidden to `first_`, or for one layer to `backward_`; dL/dfactor.
  UIP_INLINE void gate_back(int64_t message, int r, const MessageGradients<T> &to) {
    open_gates<true>(r);
    const T *hidden = hidden_ + r * 2 * C(), core = deviation_[2 * r], gate = deviation_[2 * r + 1];
    const bool summed = m_.kind == MessageKind::edges || m_.kind == MessageKind::bonds;
    const T *gradient = to.output + (summed ? m_.row[message] : message) * C();
    const T *factor = m_.kind == MessageKind::angles ? nullptr : factor_of(message, r);
    T *out = is_hidden(m_.kind) ? first_ + r * 2 * C() : backward_ + r * 3 * C();
    T *of_factor = from_distance(m_.kind) ? backward_ + r * 3 * C() + 2 * C()
                   : factor               ? to.factor + m_.column[message] * C()
                                          : nullptr;
    const bool adds = !from_distance(m_.kind), keeps = w_.table && m_.kind == MessageKind::angles;
    Vector<T> along_core{}, along_gate{};
    for (int k = 0; k < C(); k += lanes<T>) {
      const Vector<T> x = load<T>(hidden + k) * core, y = load<T>(hidden + C() + k) * gate;
      const Vector<T> a = load<T>(w_.core_scale + k), b = load<T>(w_.gate_scale + k);
      const Vector<T> c = x * a + load<T>(w_.core_shift + k), sc = load<T>(gates_ + k), sg = load<T>(gates_ + C() + k);
      const Vector<T> silu = c * sc, value = silu * sg;
      Vector<T> d = load<T>(gradient + k);
      if (keeps) store<T>(out + 2 * C() + k, d);
      if (of_factor) store<T>(of_factor + k, adds ? load<T>(of_factor + k) + d * value : d * value);
      if (factor) d *= load<T>(factor + k);
      const Vector<T> dx = d * sg * (sc + silu * (T(1) - sc)) * a, dy = d * value * (T(1) - sg) * b;
      along_core += dx * x;
      along_gate += dy * y;
      store<T>(out + k, dx);
      store<T>(out + C() + k, dy);
    }
    if (!m_.norm) return;
    const T p = sum<T>(along_core) / C(), q = sum<T>(along_gate) / C();
    for (int k = 0; k < C(); k += lanes<T>) {
      const Vector<T> x = load<T>(hidden + k) * core, y = load<T>(hidden + C() + k) * gate;
      store<T>(out + k, (load<T>(out + k) - x * p) * core);
      store<T>(out + C() + k, (load<T>(out + C() + k) - y * q) * gate);
    }
  }

  /// Through SiLU, to whom the first layer was summed from.
  UIP_INLINE void spread(int64_t message, int r, const MessageGradients<T> &to) {
    T *total = backward_ + r * 3 * C();
    T *a = to.first + m_.row[message] * 2 * C();
    T *b = to.second + m_.column[message] * 2 * C();
    const int64_t slot = m_.slot ? m_.slot[message] : -1;
    T *c = slot < 0 ? nullptr : to.third + slot * 2 * C();
    const T *s = sigmoid_ + r * 2 * C(), *z = silu_ + r * 2 * C();
    const bool hidden = is_hidden(m_.kind);
    for (int k = 0; k < 2 * C(); k += lanes<T>) {
      Vector<T> d = load<T>(total + k);
      if (hidden) {
        const Vector<T> sigma = load<T>(s + k);
        d *= sigma + load<T>(z + k) * (T(1) - sigma);
        store<T>(total + k, d);
      }
      store<T>(a + k, load<T>(a + k) + d);
      store<T>(b + k, load<T>(b + k) + d);
      if (c) store<T>(c + k, load<T>(c + k) + d);
    }
  }

  UIP_INLINE void inputs_back(int64_t start, int rows, int whole, const MessageGradients<T> &to) {
    if (w_.table) {
      for (int r = 0; r < rows; ++r) to.x[start + r] = table_back(start + r, backward_ + r * 3 * C());
      return;
    }
    if (!from_distance(m_.kind)) {
      T *x = rows == whole ? to.x + start * C() : inputs_;
      if (m_.kind == MessageKind::angles) {
        __builtin_memcpy(x, to.output + start * C(), rows * C() * sizeof(T));
        multiply<T, true>(backward_, 3 * C(), w_.input_back, x, C(), whole, 2 * C(), C());
      } else {
        multiply<T, false>(backward_, 3 * C(), w_.input_back, x, C(), whole, 2 * C(), C());
      }
      if (rows != whole) __builtin_memcpy(to.x + start * C(), x, rows * C() * sizeof(T));
      return;
    }
    multiply<T, false>(backward_, 3 * C(), w_.input_back, radial_, K(), whole, 3 * C(), K());
    for (int r = 0; r < rows; ++r) {
      Vector<T> by_x{}, by_scale{};
      for (int k = 0; k < K(); k += lanes<T>) {
        const Vector<T> d = load<T>(radial_ + r * K() + k);
        by_x += d * load<T>(slope_ + r * K() + k);
        by_scale += d * load<T>(inputs_ + r * K() + k);
      }
      to.x[start + r] = sum<T>(by_x);
      to.scale[start + r] = sum<T>(by_scale);
    }
  }

  const Messages<T> &m_;
  const MessageWeights<T> &w_;
  T *memory_;
  T *first_, *sigmoid_, *silu_;             // 2 C: first layer, its sigmoid and SiLU
  T *hidden_, *own_hidden_;                 // 2 C: second layer, in memory that is kept or in the tile's own
  T *backward_;                             // 3 C: dL/dtotal, dL/dfactor; of angles with a table, what is added to
  T *factor_, *radial_, *slope_, *inputs_;  // C; K; K; K
  T *gates_, *deviation_;                   // of one row, 2 C; 2
};

}  // namespace
}  // namespace uip
