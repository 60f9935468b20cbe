"""Steps of one half (core or gate) of a gated message, for a tile of messages: values, tangents, gradients.

    a = W silu(z) + bias   (HIDDEN; otherwise a = z)        x = scale LN(a) + shift   (NORM; otherwise x = a)

A tangent is the derivative of a number in the direction u of z. Channels beyond C are zero throughout.
"""

from __future__ import annotations

import triton
import triton.language as tl

from uip.ops._triton.product import product


@triton.jit
def silu_derivatives(x):
    """silu(x) and its first and second derivative."""
    s = 1.0 / (1.0 + tl.exp(-x))
    slope = s * (1.0 - s)
    return x * s, s + x * slope, slope * (2.0 + x * (1.0 - 2.0 * s))


@triton.jit
def sigmoid_derivatives(x):
    s = 1.0 / (1.0 + tl.exp(-x))
    slope = s * (1.0 - s)
    return s, slope, slope * (1.0 - 2.0 * s)


@triton.jit
def mean(x, C):
    return (tl.sum(x, 1) / C)[:, None]


@triton.jit
def total(first, second, each, row, column, m, c, mask, C, half):
    """z of messages m: the sum of three contributions (rows, 2 C), in at least float32."""
    place = half * C + c[None, :]
    z = tl.load(each + m[:, None] * 2 * C + place, mask=mask, other=0.0)
    z = z.to(tl.float64 if z.dtype == tl.float64 else tl.float32)
    z += tl.load(first + row[:, None] * 2 * C + place, mask=mask, other=0.0)
    z += tl.load(second + column[:, None] * 2 * C + place, mask=mask, other=0.0)
    return z


@triton.jit
def matrix(matrices, c, C, half, HIDDEN: tl.constexpr):
    """W (outputs, inputs) of a half; not read without a hidden layer."""
    mask = (c < C)[:, None] & (c < C)[None, :] & HIDDEN
    return tl.load(matrices + half * C * C + c[:, None] * C + c[None, :], mask=mask, other=0.0)


@triton.jit
def vector(vectors, c, C, half, number):
    """0: bias, 1: scale, 2: shift of a half."""
    return tl.load(vectors + (3 * half + number) * C + c, mask=c < C, other=0.0)[None, :]


@triton.jit
def value(z, w, vectors, c, C, half, HIDDEN: tl.constexpr, NORM: tl.constexpr):
    """silu(z), LN(a), the inverse standard deviation of a, and x."""
    h = z
    a = z
    if HIDDEN:
        h = silu_derivatives(z)[0]
        a = product(h, tl.trans(w), w) + vector(vectors, c, C, half, 0)
    inverse = tl.zeros_like(mean(a, C)) + 1.0
    x = a
    if NORM:
        centred = tl.where((c < C)[None, :], a - mean(a, C), 0.0)
        inverse = 1.0 / tl.sqrt(mean(centred * centred, C) + 1e-5)
        a = centred * inverse
        x = a * vector(vectors, c, C, half, 1) + vector(vectors, c, C, half, 2)
    return h, a, inverse, x


@triton.jit
def tangent(u, z, w, normed, inverse, vectors, c, C, half, HIDDEN: tl.constexpr, NORM: tl.constexpr):
    """Tangents of silu(z), LN(a), x, and of the logarithm of the inverse standard deviation."""
    h = u
    a = u
    if HIDDEN:
        h = silu_derivatives(z)[1] * u
        a = product(h, tl.trans(w), w)
    log_inverse = tl.zeros_like(inverse)
    x = a
    if NORM:
        along = mean(a * normed, C)
        log_inverse = -inverse * along
        a = tl.where((c < C)[None, :], inverse * (a - mean(a, C) - normed * along), 0.0)
        x = a * vector(vectors, c, C, half, 1)
    return h, a, x, log_inverse


@triton.jit
def norm_gradient(gx, normed, inverse, vectors, c, C, half, NORM: tl.constexpr):
    """From the gradient of x to that of a."""
    ga = gx
    if NORM:
        gn = gx * vector(vectors, c, C, half, 1)
        ga = tl.where((c < C)[None, :], inverse * (gn - mean(gn, C) - normed * mean(gn * normed, C)), 0.0)
    return ga


@triton.jit
def norm_gradient_tangent(
    gx, gx_t, ga, normed, normed_t, inverse, log_inverse_t, vectors, c, C, half, NORM: tl.constexpr
):
    """Tangent of `norm_gradient`; names in _t are tangents."""
    ga_t = gx_t
    if NORM:
        scale = vector(vectors, c, C, half, 1)
        gn, gn_t = gx * scale, gx_t * scale
        inner = gn_t - mean(gn_t, C) - normed_t * mean(gn * normed, C)
        inner -= normed * mean(gn_t * normed + gn * normed_t, C)
        ga_t = tl.where((c < C)[None, :], log_inverse_t * ga + inverse * inner, 0.0)
    return ga_t
