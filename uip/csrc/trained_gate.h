// Norm and gate of a message, y = silu(x_core) sigmoid(x_gate) f with x = n scale + shift, n = a / deviation(a), and
// its first and second derivatives (trained_tile.h has the names), for the kernels that include it.
#pragma once

#include "simd.h"

namespace uip {
namespace {

/// Core or gate of one row.
template <typename T>
struct Half {
  const T *a, *a_dot, *scale, *shift, *sigmoids;  ///< (C); sigmoids of x
  T inverse, shrink;                              ///< 1 / deviation, and minus its logarithmic derivative
  T *g, *g_other;  ///< (C): gradients of a; g is the result, g_other of the second derivative the gradient itself

  UIP_INLINE Vector<T> n(int k) const { return load<T>(a + k) * inverse; }
  UIP_INLINE Vector<T> n_dot(int k) const { return load<T>(a_dot + k) * inverse - n(k) * shrink; }
  UIP_INLINE Vector<T> x(int k) const { return n(k) * load<T>(scale + k) + load<T>(shift + k); }
};

template <typename T>
struct Gate {
  bool norm;
  Half<T> core, gate;
};

/// What derivatives of one row read and write.
template <typename T>
struct GateRow {
  const T *gradient, *factor;  ///< (C): dL/dy, f
  T *of_factor;                ///< (C): sum of gradients of f
  T *vectors;                  ///< (2, 3, C): sums of gradients of bias, scale and shift; or null
  bool with_bias;
};

/// The same for the second derivative.
template <typename T>
struct GateDirection {
  const T *factor;  ///< (C): f_dot
  T *of_factor;     ///< (C): sum of gradients of f, where `GateRow` has that of their derivatives
  T *tangent;       ///< (C): sum of y_dot
};

/// silu and sigmoid with derivatives.
template <typename T>
struct Activations {
  Vector<T> silu, silu_1, silu_2, gate, gate_1, gate_2;

  UIP_INLINE Activations(const Gate<T> &from, int k) {
    const Vector<T> x = from.core.x(k), s = load<T>(from.core.sigmoids + k), rest = T(1) - s;
    silu = x * s;
    silu_1 = s + silu * rest;
    silu_2 = s * rest * (T(2) + x * (T(1) - T(2) * s));
    gate = load<T>(from.gate.sigmoids + k);
    gate_1 = gate * (T(1) - gate);
    gate_2 = gate_1 * (T(1) - T(2) * gate);
  }
};

template <typename T>
UIP_INLINE void add(T *place, Vector<T> value) {
  store<T>(place, load<T>(place) + value);
}

template <typename T>
UIP_INLINE T root(T x) {
  if constexpr (sizeof(T) == 4) {
    return __builtin_sqrtf(x);
  } else {
    return __builtin_sqrt(x);
  }
}

template <typename T>
UIP_INLINE void add_values(const Gate<T> &from, int channels, const T *factor, T *out) {
  for (int k = 0; k < channels; k += lanes<T>) {
    const Activations<T> f(from, k);
    add<T>(out + k, f.silu * f.gate * load<T>(factor + k));
  }
}

/// Through the norm: from gradients of n to those of a, with the sum of their products with n; and to the bias.
template <typename T>
UIP_INLINE void norm_gradient(const Half<T> &from, int channels, bool norm, Vector<T> products, T *bias) {
  const T along = norm ? sum<T>(products) / channels : T(0);
  for (int k = 0; k < channels; k += lanes<T>) {
    const Vector<T> g = (load<T>(from.g + k) - from.n(k) * along) * from.inverse;
    store<T>(from.g + k, g);
    if (bias) add<T>(bias + k, g);
  }
}

template <typename T>
UIP_INLINE void add_gradients(const Gate<T> &from, int channels, const GateRow<T> &row) {
  Vector<T> of_core{}, of_gate{};
  const auto half = [&](const Half<T> &part, T *vectors, int k, Vector<T> g_x, Vector<T> &products) {
    const Vector<T> n = part.n(k), g = g_x * load<T>(part.scale + k);
    products += g * n;
    store<T>(part.g + k, g);
    if (vectors) add<T>(vectors + channels + k, g_x * n), add<T>(vectors + 2 * channels + k, g_x);
  };
  T *core = row.vectors, *gate = core ? core + 3 * channels : nullptr;
  for (int k = 0; k < channels; k += lanes<T>) {
    const Activations<T> f(from, k);
    const Vector<T> d = load<T>(row.gradient + k), d_f = d * load<T>(row.factor + k);
    add<T>(row.of_factor + k, d * f.silu * f.gate);
    half(from.core, core, k, d_f * f.gate * f.silu_1, of_core);
    half(from.gate, gate, k, d_f * f.silu * f.gate_1, of_gate);
  }
  norm_gradient<T>(from.core, channels, from.norm, of_core, row.with_bias ? core : nullptr);
  norm_gradient<T>(from.gate, channels, from.norm, of_gate, row.with_bias ? gate : nullptr);
}

/// Sums of g n, and of its derivative.
template <typename T>
struct Products {
  Vector<T> plain{}, dot{};
};

/// The derivative of `norm_gradient`.
template <typename T>
UIP_INLINE void norm_second(const Half<T> &from, int channels, bool norm, const Products<T> &products, T *bias) {
  const T along = norm ? sum<T>(products.plain) / channels : T(0);
  const T along_dot = norm ? sum<T>(products.dot) / channels : T(0);
  for (int k = 0; k < channels; k += lanes<T>) {
    const Vector<T> n = from.n(k);
    const Vector<T> g = (load<T>(from.g_other + k) - n * along) * from.inverse;
    const Vector<T> change = load<T>(from.g + k) - from.n_dot(k) * along - n * along_dot;
    const Vector<T> g_dot = change * from.inverse - g * from.shrink;
    store<T>(from.g_other + k, g);
    store<T>(from.g + k, g_dot);
    if (bias) add<T>(bias + k, g_dot);
  }
}

template <typename T>
UIP_INLINE void add_second(const Gate<T> &from, int channels, const GateRow<T> &row, const GateDirection<T> &along) {
  Products<T> of_core, of_gate;
  const auto half = [&](const Half<T> &part, T *vectors, int k, Vector<T> g_x, Vector<T> g_x_dot, Products<T> &sums) {
    const Vector<T> n = part.n(k), n_dot = part.n_dot(k), scale = load<T>(part.scale + k);
    const Vector<T> g = g_x * scale, g_dot = g_x_dot * scale;
    sums.plain += g * n;
    sums.dot += g_dot * n + g * n_dot;
    store<T>(part.g + k, g_dot);
    store<T>(part.g_other + k, g);
    if (!vectors) return;
    add<T>(vectors + channels + k, g_x_dot * n + g_x * n_dot);
    add<T>(vectors + 2 * channels + k, g_x_dot);
  };
  T *core = row.vectors, *gate = core ? core + 3 * channels : nullptr;
  for (int k = 0; k < channels; k += lanes<T>) {
    const Activations<T> f(from, k);
    const Vector<T> x_core = from.core.n_dot(k) * load<T>(from.core.scale + k);  // of x, both _dot
    const Vector<T> x_gate = from.gate.n_dot(k) * load<T>(from.gate.scale + k);
    const Vector<T> factor = load<T>(row.factor + k), factor_dot = load<T>(along.factor + k);
    const Vector<T> value = f.silu * f.gate;
    const Vector<T> value_dot = f.silu_1 * x_core * f.gate + f.silu * f.gate_1 * x_gate;
    add<T>(along.tangent + k, value_dot * factor + value * factor_dot);
    const Vector<T> d = load<T>(row.gradient + k), d_f = d * factor, d_f_dot = d * factor_dot;
    add<T>(row.of_factor + k, d * value_dot);
    add<T>(along.of_factor + k, d * value);
    half(from.core, core, k, d_f * f.gate * f.silu_1,
         d_f_dot * f.gate * f.silu_1 + d_f * (f.gate_1 * x_gate * f.silu_1 + f.gate * f.silu_2 * x_core), of_core);
    half(from.gate, gate, k, d_f * f.silu * f.gate_1,
         d_f_dot * f.silu * f.gate_1 + d_f * (f.silu_1 * x_core * f.gate_1 + f.silu * f.gate_2 * x_gate), of_gate);
  }
  norm_second<T>(from.core, channels, from.norm, of_core, row.with_bias ? core : nullptr);
  norm_second<T>(from.gate, channels, from.norm, of_gate, row.with_bias ? gate : nullptr);
}

}  // namespace
}  // namespace uip
