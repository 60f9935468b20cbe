"""All-to-all attention within graphs, with a radial bias made on the fly; memory is linear in the number of atoms.

    S_ij = q_i . k_j / sqrt(d) + b(r_ij)      P = softmax_j(S)      out = P v

Programs are blocks of atoms i (or j) and heads; they pass over the blocks of the others. With go the gradient of out,

    gP = go v^T,    gS = P (gP - delta),    delta_i = sum_j P gP,    g_q = gS k / sqrt(d),    g_k, g_v, g_r likewise

Second derivatives: the gradient of <u, gradients> consists of tangents along u (names in _t) of out and of gradients,

    P_t = P (S_t - mu),  mu_i = sum_j P S_t,    gS_t = P_t (gP - delta) + P (gP_t - delta_t)

`tangent_kernel` computes out_t, mu and delta_t; with SECOND, the others then compute tangents of gradients.
"""

from __future__ import annotations

import triton
import triton.language as tl

from uip.ops._triton.product import product
from uip.ops._triton.radial import between, components, inner, length, nearest_image, radial_bias, times_matrix


@triton.jit
def load_rows(x, i, mask, stride, head, D, BLOCK_D: tl.constexpr):
    """(rows, BLOCK_D) numbers of a head."""
    c = tl.arange(0, BLOCK_D)
    place = x + i[:, None] * stride + head * D + c[None, :]
    return tl.load(place, mask=mask[:, None] & (c < D)[None, :], other=0.0)


@triton.jit
def store_rows(x, value, i, mask, stride, head, D, BLOCK_D: tl.constexpr):
    c = tl.arange(0, BLOCK_D)
    place = x + i[:, None] * stride + head * D + c[None, :]
    tl.store(place, value.to(x.dtype.element_ty), mask=mask[:, None] & (c < D)[None, :])


@triton.jit
def block(number, bounds, N, SIZE: tl.constexpr):
    """Atoms of a block, which exist, first and last + 1 atom of the graph of each, and of all of them."""
    i = number.to(tl.int64) * SIZE + tl.arange(0, SIZE)
    mask = i < N
    first = tl.load(bounds + i, mask=mask, other=0)
    last = tl.load(bounds + N + i, mask=mask, other=0)
    return i, mask, first, last, tl.min(tl.where(mask, first, N)), tl.max(last)


@triton.jit
def vectors(positions, i, j, i_mask, j_mask, cells, real: tl.constexpr):
    """r_j - r_i to the nearest image, (rows, columns)."""
    graph, lattice, inverse, shifts, num_shifts = cells
    g = tl.load(graph + i, mask=i_mask, other=0)
    from_, to = components(positions, i, i_mask, real), components(positions, j, j_mask, real)
    return nearest_image(between(from_, to), lattice, inverse, shifts, num_shifts, g, i_mask)


@triton.jit
def logits(q, k, inside, scale, bias):
    return tl.where(inside, product(q, tl.trans(k), q) * scale + bias, float("-inf"))


@triton.jit
def forward_kernel(
    q,
    k,
    v,
    weight,
    positions,
    bounds,
    graph,
    lattice,
    inverse,
    shifts,
    omega,
    out,
    lse,
    q_stride,
    k_stride,
    v_stride,
    N,
    D,
    H,
    num_shifts,
    scale: tl.constexpr,
    RADIAL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out (N, H) and the logarithm of the sum of exponentials, (N, h)."""
    head, heads = tl.program_id(1), tl.num_programs(1)
    real: tl.constexpr = lse.dtype.element_ty
    cells = (graph, lattice, inverse, shifts, num_shifts)
    i, mask, first, last, start, end = block(tl.program_id(0), bounds, N, BLOCK_M)
    queries = load_rows(q, i, mask, q_stride, head, D, BLOCK_D)
    highest = tl.full([BLOCK_M], float("-inf"), real)
    total = tl.zeros([BLOCK_M], real)
    result = tl.zeros([BLOCK_M, BLOCK_D], real)
    for j0 in range(start, end, BLOCK_N):
        j = j0 + tl.arange(0, BLOCK_N).to(tl.int64)
        inside = (j[None, :] >= first[:, None]) & (j[None, :] < last[:, None])
        bias = tl.zeros([BLOCK_M, BLOCK_N], real)
        if RADIAL:
            r, _ = length(vectors(positions, i, j, mask, j < end, cells, real))
            bias, _, _, _, _ = radial_bias(r, weight, omega, head)
        s = logits(queries, load_rows(k, j, j < end, k_stride, head, D, BLOCK_D), inside, scale, bias)
        higher = tl.maximum(highest, tl.max(s, 1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp(s - finite[:, None])
        change = tl.exp(highest - finite)
        values = load_rows(v, j, j < end, v_stride, head, D, BLOCK_D)
        total = total * change + tl.sum(p, 1)
        result = result * change[:, None] + product(p, values, values)
        highest = higher
    total = tl.where(mask, total, 1.0)
    store_rows(out, result / total[:, None], i, mask, H, head, D, BLOCK_D)
    tl.store(lse + i * heads + head, highest + tl.log(total), mask=mask)


@triton.jit
def vector_tangents(u_positions, u_strain, i, j, i_mask, j_mask, v, real: tl.constexpr, STRAIN: tl.constexpr):
    """Tangents of v along the directions of positions, and along those of positions and strain."""
    from_, to = components(u_positions, i, i_mask, real), components(u_positions, j, j_mask, real)
    x, y, z = between(from_, to)
    moved_x, moved_y, moved_z = x, y, z
    if STRAIN:
        a, b, c = times_matrix(v, u_strain, i, i_mask, False)
        moved_x, moved_y, moved_z = x + a, y + b, z + c
    return (x, y, z), (moved_x, moved_y, moved_z)


@triton.jit
def tangent_kernel(
    u_q,
    u_k,
    u_v,
    u_positions,
    u_strain,
    gradient,
    q,
    k,
    v,
    weight,
    positions,
    bounds,
    graph,
    lattice,
    inverse,
    shifts,
    omega,
    out,
    lse,
    delta,
    out_t,
    mu,
    delta_t,
    q_stride,
    k_stride,
    v_stride,
    N,
    D,
    H,
    num_shifts,
    scale: tl.constexpr,
    RADIAL: tl.constexpr,
    STRAIN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Tangents of out (N, H), of lse, (N, h), and of delta, (N, h)."""
    head, heads = tl.program_id(1), tl.num_programs(1)
    real: tl.constexpr = lse.dtype.element_ty
    cells = (graph, lattice, inverse, shifts, num_shifts)
    i, mask, first, last, start, end = block(tl.program_id(0), bounds, N, BLOCK_M)
    queries = load_rows(q, i, mask, q_stride, head, D, BLOCK_D)
    queries_t = load_rows(u_q, i, mask, H, head, D, BLOCK_D)
    go = load_rows(gradient, i, mask, H, head, D, BLOCK_D)
    log_sum = tl.load(lse + i * heads + head, mask=mask, other=0.0)
    mean_s = tl.zeros([BLOCK_M], real)
    mean_g = tl.zeros([BLOCK_M], real)
    result = tl.zeros([BLOCK_M, BLOCK_D], real)
    for j0 in range(start, end, BLOCK_N):
        j = j0 + tl.arange(0, BLOCK_N).to(tl.int64)
        inside = (j[None, :] >= first[:, None]) & (j[None, :] < last[:, None])
        keys = load_rows(k, j, j < end, k_stride, head, D, BLOCK_D)
        values = load_rows(v, j, j < end, v_stride, head, D, BLOCK_D)
        keys_t = load_rows(u_k, j, j < end, H, head, D, BLOCK_D)
        values_t = load_rows(u_v, j, j < end, H, head, D, BLOCK_D)
        bias = tl.zeros([BLOCK_M, BLOCK_N], real)
        s_t = (product(queries_t, tl.trans(keys), keys) + product(queries, tl.trans(keys_t), keys)) * scale
        if RADIAL:
            x = vectors(positions, i, j, mask, j < end, cells, real)
            r, inverse_r = length(x)
            bias, by_w, _, slope, _ = radial_bias(r, weight, omega, head)
            _, x_t = vector_tangents(u_positions, u_strain, i, j, mask, j < end, x, real, STRAIN)
            s_t += by_w * slope * inner(x, x_t) * inverse_r
        p = tl.exp(logits(queries, keys, inside, scale, bias) - log_sum[:, None])
        gp = product(go, tl.trans(values), values)
        mean_s += tl.sum(p * s_t, 1)
        mean_g += tl.sum(p * s_t * gp + p * product(go, tl.trans(values_t), values), 1)
        result += product(p * s_t, values, values) + product(p, values_t, values)
    mean_old = tl.load(delta + i * heads + head, mask=mask, other=0.0)
    result -= mean_s[:, None] * load_rows(out, i, mask, H, head, D, BLOCK_D).to(real)
    store_rows(out_t, result, i, mask, H, head, D, BLOCK_D)
    tl.store(mu + i * heads + head, mean_s, mask=mask)
    tl.store(delta_t + i * heads + head, mean_g - mean_s * mean_old, mask=mask)
