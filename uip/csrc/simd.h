// Short vectors of float or double, and the functions of them that messages need. Included by kernels that are compiled
// once for each instruction set (`UIP_VECTOR_BYTES`); everything has internal linkage, so that the linker cannot give
// code of one set to another. GCC's vector types alone: no intrinsics but where a set has something better.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#define UIP_INLINE inline __attribute__((always_inline))

namespace uip {
namespace {

template <typename T>
struct Simd;

template <>
struct Simd<float> {
  using Whole = int32_t;
  typedef float Vector __attribute__((vector_size(UIP_VECTOR_BYTES)));
  typedef float Unaligned __attribute__((vector_size(UIP_VECTOR_BYTES), aligned(4), may_alias));
  typedef int32_t Bits __attribute__((vector_size(UIP_VECTOR_BYTES)));
  static constexpr float rounding = 12582912.0f;  // 1.5 * 2^23: added, it leaves the nearest whole number
  static constexpr int mantissa = 23, sign = 31;
  static constexpr float lowest = -126.0f, highest = 60.0f;  // of exponents: (2^highest)^2 is finite
};

template <>
struct Simd<double> {
  using Whole = int64_t;
  typedef double Vector __attribute__((vector_size(UIP_VECTOR_BYTES)));
  typedef double Unaligned __attribute__((vector_size(UIP_VECTOR_BYTES), aligned(8), may_alias));
  typedef int64_t Bits __attribute__((vector_size(UIP_VECTOR_BYTES)));
  static constexpr double rounding = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int mantissa = 52, sign = 63;
  static constexpr double lowest = -1022.0, highest = 500.0;
};

template <typename T>
using Vector = typename Simd<T>::Vector;
template <typename T>
using Bits = typename Simd<T>::Bits;

/// Elements of a vector.
template <typename T>
constexpr int lanes = UIP_VECTOR_BYTES / sizeof(T);

template <typename T>
UIP_INLINE Vector<T> load(const T *place) {
  return *reinterpret_cast<const typename Simd<T>::Unaligned *>(place);
}

template <typename T>
UIP_INLINE void store(T *place, Vector<T> value) {
  *reinterpret_cast<typename Simd<T>::Unaligned *>(place) = value;
}

template <typename T>
UIP_INLINE Vector<T> all(T value) {
  return Vector<T>{} + value;
}

template <typename T>
UIP_INLINE T sum(Vector<T> x) {
  T half[lanes<T>];
  store<T>(half, x);
  for (int count = lanes<T> / 2; count > 0; count /= 2) {
    for (int k = 0; k < count; ++k) half[k] += half[k + count];
  }
  return half[0];
}

/// min(max(x, low), high); `high` for what is no number.
template <typename T>
UIP_INLINE Vector<T> clamp(Vector<T> x, T low, T high) {
  const Vector<T> most = all<T>(high), least = all<T>(low);
#if defined(__AVX__) && !defined(__AVX512F__)  // the compiler finds these for AVX-512 alone
  if constexpr (sizeof(T) == 4) {
    return (Vector<T>)_mm256_max_ps((__m256)least, _mm256_min_ps((__m256)x, (__m256)most));
  } else {
    return (Vector<T>)_mm256_max_pd((__m256d)least, _mm256_min_pd((__m256d)x, (__m256d)most));
  }
#else
  x = x < most ? x : most;
  return x > least ? x : least;
#endif
}

template <typename T>
UIP_INLINE Vector<T> reciprocal(Vector<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4 && UIP_VECTOR_BYTES == 64) {
    const Vector<T> y = (Vector<T>)_mm512_maskz_rcp14_ps(0xFFFF, (__m512)x);
    return y * (2.0f - x * y);
  }
#endif
  return T(1) / x;
}

/// sum_k coefficients[k] x^k
template <typename T, int N>
UIP_INLINE Vector<T> polynomial(const T (&coefficients)[N], Vector<T> x) {
  Vector<T> value = all<T>(coefficients[N - 1]);
#pragma GCC unroll 16
  for (int k = N - 2; k >= 0; --k) value = value * x + coefficients[k];
  return value;
}

// Coefficients in powers of x^2 (sine, cosine of pi x) and x (2^x) for |x| <= 1/2. float: least maximum; double:
// Taylor.
template <typename T>
struct Series;

template <>
struct Series<float> {
  static constexpr float power[6] = {1.000000072e+00f, 6.931469671e-01f, 2.402211972e-01f,
                                     5.550713290e-02f, 9.675541293e-03f, 1.327646680e-03f};
  static constexpr float sine[5] = {3.141592580e+00f, -5.167706879e+00f, 2.550031377e+00f, -5.980451736e-01f,
                                    7.722012808e-02f};
  static constexpr float cosine[5] = {9.999999535e-01f, -4.934792859e+00f, 4.058411914e+00f, -1.331880159e+00f,
                                      2.196967948e-01f};
};

template <int N>
struct Terms {
  double of[N];
};

/// step^(first + k * stride) / (first + k * stride)!, with signs that alternate if `alternating`.
template <int N>
constexpr Terms<N> taylor(double step, int first, int stride, bool alternating) {
  Terms<N> terms{};
  double term = 1.0;
  for (int n = 1; n <= first; ++n) term *= step / n;
  for (int k = 0, n = first; k < N; ++k) {
    terms.of[k] = alternating && k % 2 == 1 ? -term : term;
    for (int m = 0; m < stride; ++m) term *= step / ++n;
  }
  return terms;
}

template <>
struct Series<double> {
  static constexpr double pi = 3.14159265358979323846, ln2 = 0.69314718055994530942;
  static constexpr Terms<14> power = taylor<14>(ln2, 0, 1, false);
  static constexpr Terms<12> sine = taylor<12>(pi, 1, 2, true);
  static constexpr Terms<12> cosine = taylor<12>(pi, 0, 2, true);
};

template <int N>
UIP_INLINE Vector<double> polynomial(const Terms<N> &terms, Vector<double> x) {
  return polynomial<double>(terms.of, x);
}

/// exp(-x), at least 2^lowest and at most 2^highest: what is beyond makes no difference to a sigmoid.
template <typename T>
UIP_INLINE Vector<T> exp_minus(Vector<T> x) {
  using S = Simd<T>;
  const Vector<T> t = clamp<T>(x * T(-1.44269504088896340736), S::lowest, S::highest);
  const Vector<T> shifted = t + S::rounding;
  const Vector<T> fraction = t - (shifted - S::rounding);
  Vector<T> value;
  if constexpr (sizeof(T) == 4) {
    value = polynomial<T>(Series<T>::power, fraction);
  } else {
    value = polynomial(Series<T>::power, fraction);
  }
  return (Vector<T>)((Bits<T>)value + ((Bits<T>)shifted << S::mantissa));
}

template <typename T>
UIP_INLINE Vector<T> sigmoid(Vector<T> x) {
  return reciprocal<T>(T(1) + exp_minus<T>(x));
}

/// Sine and cosine of pi a b. The product is not rounded where the processor has fused multiply-add.
template <typename T>
UIP_INLINE void sine_cosine(Vector<T> a, Vector<T> b, Vector<T> &sine, Vector<T> &cosine) {
  using S = Simd<T>;
  const Vector<T> shifted = a * b + S::rounding;
  const Vector<T> fraction = a * b - (shifted - S::rounding), square = fraction * fraction;
  const Bits<T> flip = (Bits<T>)shifted << S::sign;
  if constexpr (sizeof(T) == 4) {
    sine = polynomial<T>(Series<T>::sine, square) * fraction;
    cosine = polynomial<T>(Series<T>::cosine, square);
  } else {
    sine = polynomial(Series<T>::sine, square) * fraction;
    cosine = polynomial(Series<T>::cosine, square);
  }
  sine = (Vector<T>)((Bits<T>)sine ^ flip);
  cosine = (Vector<T>)((Bits<T>)cosine ^ flip);
}

}  // namespace
}  // namespace uip
