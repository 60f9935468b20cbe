"""The gated message of CHGNet: value, gradient, and the tangent of both, which is the gradient of the gradient.

    z_m = first[row_m] + second[column_m] + each_m         y = silu(x(z_core)) sigmoid(x(z_gate))    (gated_layer.py)

Second derivatives: with the gradient g_z = (dy/dz)^T g_y and a direction u, the gradient of <u, g_z> is, with respect
to g_y, the tangent of y along u and, with respect to z and weights, the tangent of their gradients. Nothing of a
message is stored: each kernel computes the message again. For gradients of W, both factors of the sum over messages are
written and multiplied by torch: a sum of that size in registers would spill.
"""

from __future__ import annotations

import triton
import triton.language as tl

from uip.ops._triton.gated_layer import (
    matrix,
    norm_gradient,
    norm_gradient_tangent,
    sigmoid_derivatives,
    silu_derivatives,
    tangent,
    total,
    value,
)
from uip.ops._triton.product import product


@triton.jit
def indices(row, column, tile, M, C, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """Messages and channels of a tile, and which of them exist; rows and columns of messages."""
    m = tile * BLOCK_M + tl.arange(0, BLOCK_M).to(tl.int64)
    c = tl.arange(0, BLOCK_C)
    mask = (m < M)[:, None] & (c < C)[None, :]
    return m, c, mask, tl.load(row + m, mask=m < M, other=0), tl.load(column + m, mask=m < M, other=0)


@triton.jit
def store_half(rows, x, m, c, mask, C, half):
    """x of messages m into rows (M, 2 C)."""
    tl.store(rows + m[:, None] * 2 * C + half * C + c[None, :], x.to(rows.dtype.element_ty), mask=mask)


@triton.jit
def store_sums(sums, tile, bias, scale, shift, c, C, half):
    """Gradients of the vectors of a half, summed over a tile, into sums (tiles, 2, 3, C)."""
    place = sums + (2 * tile + half) * 3 * C + c
    tl.store(place, tl.sum(bias, 0), mask=c < C)
    tl.store(place + C, tl.sum(scale, 0), mask=c < C)
    tl.store(place + 2 * C, tl.sum(shift, 0), mask=c < C)


@triton.jit
def forward_kernel(
    first,
    second,
    each,
    row,
    column,
    matrices,
    vectors,
    out,
    M,
    C,
    HIDDEN: tl.constexpr,
    NORM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """y, (M, C)."""
    m, c, mask, r, k = indices(row, column, tl.program_id(0), M, C, BLOCK_M, BLOCK_C)
    w_core, w_gate = matrix(matrices, c, C, 0, HIDDEN), matrix(matrices, c, C, 1, HIDDEN)
    z_core = total(first, second, each, r, k, m, c, mask, C, 0)
    z_gate = total(first, second, each, r, k, m, c, mask, C, 1)
    x_core = value(z_core, w_core, vectors, c, C, 0, HIDDEN, NORM)[3]
    x_gate = value(z_gate, w_gate, vectors, c, C, 1, HIDDEN, NORM)[3]
    y = silu_derivatives(x_core)[0] * sigmoid_derivatives(x_gate)[0]
    tl.store(out + m[:, None] * C + c[None, :], y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def first_layer_gradient(ga, z, w, HIDDEN: tl.constexpr):
    """From the gradient of a to that of z."""
    gz = ga
    if HIDDEN:
        gz = product(ga, w, w) * silu_derivatives(z)[1]
    return gz


@triton.jit
def backward_kernel(
    gradient,
    first,
    second,
    each,
    row,
    column,
    matrices,
    vectors,
    g_total,
    inner,
    hidden,
    sums,
    M,
    C,
    HIDDEN: tl.constexpr,
    NORM: tl.constexpr,
    WEIGHTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradients of z, (M, 2 C). With WEIGHTS also those of a, silu(z), (M, 2 C), and sums of those of vectors."""
    tile = tl.program_id(0)
    m, c, mask, r, k = indices(row, column, tile, M, C, BLOCK_M, BLOCK_C)
    w_core, w_gate = matrix(matrices, c, C, 0, HIDDEN), matrix(matrices, c, C, 1, HIDDEN)
    z_core = total(first, second, each, r, k, m, c, mask, C, 0)
    z_gate = total(first, second, each, r, k, m, c, mask, C, 1)
    h_core, n_core, i_core, x_core = value(z_core, w_core, vectors, c, C, 0, HIDDEN, NORM)
    h_gate, n_gate, i_gate, x_gate = value(z_gate, w_gate, vectors, c, C, 1, HIDDEN, NORM)
    gy = tl.load(gradient + m[:, None] * C + c[None, :], mask=mask, other=0.0).to(z_core.dtype)
    s, s1, _ = silu_derivatives(x_core)
    t, t1, _ = sigmoid_derivatives(x_gate)
    gx_core = gy * t * s1
    gx_gate = gy * s * t1
    ga_core = norm_gradient(gx_core, n_core, i_core, vectors, c, C, 0, NORM)
    ga_gate = norm_gradient(gx_gate, n_gate, i_gate, vectors, c, C, 1, NORM)
    store_half(g_total, first_layer_gradient(ga_core, z_core, w_core, HIDDEN), m, c, mask, C, 0)
    store_half(g_total, first_layer_gradient(ga_gate, z_gate, w_gate, HIDDEN), m, c, mask, C, 1)
    if WEIGHTS:
        if HIDDEN:
            store_half(inner, ga_core, m, c, mask, C, 0)
            store_half(inner, ga_gate, m, c, mask, C, 1)
            store_half(hidden, h_core, m, c, mask, C, 0)
            store_half(hidden, h_gate, m, c, mask, C, 1)
        store_sums(sums, tile, ga_core, gx_core * n_core, gx_core, c, C, 0)
        store_sums(sums, tile, ga_gate, gx_gate * n_gate, gx_gate, c, C, 1)


@triton.jit
def first_layer_gradient_tangent(ga, ga_t, z, u, w, HIDDEN: tl.constexpr):
    """Tangent of `first_layer_gradient`."""
    gz_t = ga_t
    if HIDDEN:
        _, slope, curvature = silu_derivatives(z)
        gz_t = product(ga_t, w, w) * slope + product(ga, w, w) * curvature * u
    return gz_t


@triton.jit
def second_kernel(
    direction,
    gradient,
    first,
    second,
    each,
    row,
    column,
    matrices,
    vectors,
    y_tangent,
    g_total,
    inner,
    hidden,
    inner_tangent,
    hidden_tangent,
    sums,
    M,
    C,
    HIDDEN: tl.constexpr,
    NORM: tl.constexpr,
    WEIGHTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Tangents along `direction` (M, 2 C) of y and of what `backward_kernel` computes; names in _t are tangents."""
    tile = tl.program_id(0)
    m, c, mask, r, k = indices(row, column, tile, M, C, BLOCK_M, BLOCK_C)
    w_core, w_gate = matrix(matrices, c, C, 0, HIDDEN), matrix(matrices, c, C, 1, HIDDEN)
    z_core = total(first, second, each, r, k, m, c, mask, C, 0)
    z_gate = total(first, second, each, r, k, m, c, mask, C, 1)
    place = m[:, None] * 2 * C + c[None, :]
    u_core = tl.load(direction + place, mask=mask, other=0.0).to(z_core.dtype)
    u_gate = tl.load(direction + C + place, mask=mask, other=0.0).to(z_core.dtype)
    h_core, n_core, i_core, x_core = value(z_core, w_core, vectors, c, C, 0, HIDDEN, NORM)
    h_gate, n_gate, i_gate, x_gate = value(z_gate, w_gate, vectors, c, C, 1, HIDDEN, NORM)
    h_core_t, n_core_t, x_core_t, l_core_t = tangent(
        u_core, z_core, w_core, n_core, i_core, vectors, c, C, 0, HIDDEN, NORM
    )
    h_gate_t, n_gate_t, x_gate_t, l_gate_t = tangent(
        u_gate, z_gate, w_gate, n_gate, i_gate, vectors, c, C, 1, HIDDEN, NORM
    )
    gy = tl.load(gradient + m[:, None] * C + c[None, :], mask=mask, other=0.0).to(z_core.dtype)
    s, s1, s2 = silu_derivatives(x_core)
    t, t1, t2 = sigmoid_derivatives(x_gate)
    y_t = s1 * x_core_t * t + s * t1 * x_gate_t
    tl.store(y_tangent + m[:, None] * C + c[None, :], y_t.to(y_tangent.dtype.element_ty), mask=mask)
    gx_core = gy * t * s1
    gx_gate = gy * s * t1
    gx_core_t = gy * (t * s2 * x_core_t + t1 * x_gate_t * s1)
    gx_gate_t = gy * (s1 * x_core_t * t1 + s * t2 * x_gate_t)
    ga_core = norm_gradient(gx_core, n_core, i_core, vectors, c, C, 0, NORM)
    ga_gate = norm_gradient(gx_gate, n_gate, i_gate, vectors, c, C, 1, NORM)
    ga_core_t = norm_gradient_tangent(
        gx_core, gx_core_t, ga_core, n_core, n_core_t, i_core, l_core_t, vectors, c, C, 0, NORM
    )
    ga_gate_t = norm_gradient_tangent(
        gx_gate, gx_gate_t, ga_gate, n_gate, n_gate_t, i_gate, l_gate_t, vectors, c, C, 1, NORM
    )
    gz_core_t = first_layer_gradient_tangent(ga_core, ga_core_t, z_core, u_core, w_core, HIDDEN)
    gz_gate_t = first_layer_gradient_tangent(ga_gate, ga_gate_t, z_gate, u_gate, w_gate, HIDDEN)
    store_half(g_total, gz_core_t, m, c, mask, C, 0)
    store_half(g_total, gz_gate_t, m, c, mask, C, 1)
    if WEIGHTS:
        if HIDDEN:
            store_half(inner, ga_core, m, c, mask, C, 0)
            store_half(inner, ga_gate, m, c, mask, C, 1)
            store_half(hidden, h_core, m, c, mask, C, 0)
            store_half(hidden, h_gate, m, c, mask, C, 1)
            store_half(inner_tangent, ga_core_t, m, c, mask, C, 0)
            store_half(inner_tangent, ga_gate_t, m, c, mask, C, 1)
            store_half(hidden_tangent, h_core_t, m, c, mask, C, 0)
            store_half(hidden_tangent, h_gate_t, m, c, mask, C, 1)
        store_sums(sums, tile, ga_core_t, gx_core_t * n_core + gx_core * n_core_t, gx_core_t, c, C, 0)
        store_sums(sums, tile, ga_gate_t, gx_gate_t * n_gate + gx_gate * n_gate_t, gx_gate_t, c, C, 1)
