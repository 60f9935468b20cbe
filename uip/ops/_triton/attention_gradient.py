"""Gradients of all-to-all attention and, with SECOND, their tangents; formulas: attention.py.

Programs are blocks of atoms i for gradients of queries, and blocks of atoms j for those of keys and values. Both make
the gradients of positions that fall to their atoms. With x = r_j - r_i and g = gS db/dr x / r, atom j receives g, atom
i -g, and its strain x (x) g.
"""

from __future__ import annotations

import triton
import triton.language as tl

from uip.ops._triton.attention import block, load_rows, logits, store_rows, vector_tangents, vectors
from uip.ops._triton.product import product
from uip.ops._triton.radial import inner, length, radial_bias, times_matrix, weight_gradient


@triton.jit
def pair_gradient(x, u_strain, i, i_mask, gs, gs_t, bias, x_t, inverse_r, STRAIN: tl.constexpr, SECOND: tl.constexpr):
    """The gradient of x, or with SECOND its tangent, and g alone and its tangent with respect to strained vectors."""
    _, by_w, by_w_twice, slope, curvature = bias
    c = gs * by_w * slope * inverse_r
    g_x, g_y, g_z = c * x[0], c * x[1], c * x[2]
    t_x, t_y, t_z = g_x, g_y, g_z
    m_x, m_y, m_z = g_x, g_y, g_z
    if SECOND:
        r_t = inner(x, x_t) * inverse_r
        of_r = gs_t * by_w * slope + gs * (by_w_twice * slope * slope + by_w * curvature) * r_t
        c_t = (of_r - c * r_t) * inverse_r
        t_x, t_y, t_z = c_t * x[0] + c * x_t[0], c_t * x[1] + c * x_t[1], c_t * x[2] + c * x_t[2]
        m_x, m_y, m_z = t_x, t_y, t_z
        if STRAIN:
            a, b, d = times_matrix((g_x, g_y, g_z), u_strain, i, i_mask, True)
            m_x, m_y, m_z = t_x + a, t_y + b, t_z + d
    return (m_x, m_y, m_z), (g_x, g_y, g_z), (t_x, t_y, t_z)


@triton.jit
def add_outer(total, a, b):
    """Adds to `total` (rows, 16) the sums over columns of a (x) b, in its first 9 columns."""
    column = tl.arange(0, 16)[None, :]
    for m in tl.static_range(3):
        for n in tl.static_range(3):
            total += tl.where(column == 3 * m + n, tl.sum(a[m] * b[n], 1)[:, None], 0.0)
    return total


@triton.jit
def add_vector(total, a, axis: tl.constexpr, sign: tl.constexpr):
    """Adds to `total` (atoms, 4) the sums of a, in its first 3 columns."""
    column = tl.arange(0, 4)[None, :]
    for m in tl.static_range(3):
        total += tl.where(column == m, sign * tl.sum(a[m], axis)[:, None], 0.0)
    return total


@triton.jit
def store_columns(x, value, i, mask, heads, head, COLUMNS: tl.constexpr, WIDTH: tl.constexpr):
    """The first COLUMNS of `value` (rows, WIDTH), into x (N, heads, COLUMNS)."""
    column = tl.arange(0, WIDTH)
    place = x + (i[:, None] * heads + head) * COLUMNS + column[None, :]
    tl.store(place, value, mask=mask[:, None] & (column < COLUMNS)[None, :])


@triton.jit
def rows_kernel(
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
    lse,
    delta,
    mu,
    delta_t,
    g_q,
    g_positions,
    g_strain,
    g_weight,
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
    WEIGHT: tl.constexpr,
    SECOND: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradients of queries (N, H); by head, of positions as i, (N, h, 3), and strain (N, h, 9); by block and head, of
    weights (blocks, h, 32)."""
    head, heads = tl.program_id(1), tl.num_programs(1)
    real: tl.constexpr = lse.dtype.element_ty
    cells = (graph, lattice, inverse, shifts, num_shifts)
    i, mask, first, last, start, end = block(tl.program_id(0), bounds, N, BLOCK_M)
    queries = load_rows(q, i, mask, q_stride, head, D, BLOCK_D)
    go = load_rows(gradient, i, mask, H, head, D, BLOCK_D)
    log_sum = tl.load(lse + i * heads + head, mask=mask, other=0.0)[:, None]
    mean_g = tl.load(delta + i * heads + head, mask=mask, other=0.0)[:, None]
    of_queries = tl.zeros([BLOCK_M, BLOCK_D], real)
    of_positions = tl.zeros([BLOCK_M, 4], real)
    of_strain = tl.zeros([BLOCK_M, 16], real)
    of_weight = tl.zeros([32], real)
    for j0 in range(start, end, BLOCK_N):
        j = j0 + tl.arange(0, BLOCK_N).to(tl.int64)
        inside = (j[None, :] >= first[:, None]) & (j[None, :] < last[:, None])
        keys = load_rows(k, j, j < end, k_stride, head, D, BLOCK_D)
        values = load_rows(v, j, j < end, v_stride, head, D, BLOCK_D)
        bias = (tl.zeros([BLOCK_M, BLOCK_N], real), 0.0, 0.0, 0.0, 0.0)
        x = (0.0, 0.0, 0.0)
        y_t = x
        x_t = x
        r = 0.0
        inverse_r = 0.0
        if RADIAL:
            x = vectors(positions, i, j, mask, j < end, cells, real)
            r, inverse_r = length(x)
            bias = radial_bias(r, weight, omega, head)
        p = tl.exp(logits(queries, keys, inside, scale, bias[0]) - log_sum)
        gp = product(go, tl.trans(values), values)
        gs = p * (gp - mean_g)
        gs_t = gs
        if SECOND:
            queries_t = load_rows(u_q, i, mask, H, head, D, BLOCK_D)
            keys_t = load_rows(u_k, j, j < end, H, head, D, BLOCK_D)
            values_t = load_rows(u_v, j, j < end, H, head, D, BLOCK_D)
            s_t = (product(queries_t, tl.trans(keys), keys) + product(queries, tl.trans(keys_t), keys)) * scale
            if RADIAL:
                y_t, x_t = vector_tangents(u_positions, u_strain, i, j, mask, j < end, x, real, STRAIN)
                s_t += bias[1] * bias[3] * inner(x, x_t) * inverse_r
            p_t = p * (s_t - tl.load(mu + i * heads + head, mask=mask, other=0.0)[:, None])
            mean_g_t = tl.load(delta_t + i * heads + head, mask=mask, other=0.0)[:, None]
            gs_t = p_t * (gp - mean_g) + p * (product(go, tl.trans(values_t), values) - mean_g_t)
            of_queries += product(gs, keys_t, keys)
        of_queries += product(gs_t, keys, keys)
        if RADIAL:
            moved, g, g_t = pair_gradient(x, u_strain, i, mask, gs, gs_t, bias, x_t, inverse_r, STRAIN, SECOND)
            of_positions = add_vector(of_positions, moved, 1, -1.0)
            if STRAIN:
                of_strain = add_outer(of_strain, x, g_t)
                if SECOND:
                    of_strain = add_outer(of_strain, y_t, g)
            if WEIGHT:
                by_w = gs_t * bias[1]
                by_slope = 0.0 * by_w
                if SECOND:
                    r_t = inner(x, x_t) * inverse_r
                    by_w += gs * bias[2] * bias[3] * r_t
                    by_slope = gs * bias[1] * r_t
                of_weight = weight_gradient(of_weight, by_w, by_slope, r, omega)
    store_rows(g_q, of_queries * scale, i, mask, H, head, D, BLOCK_D)
    if RADIAL:
        store_columns(g_positions, of_positions, i, mask, heads, head, 3, 4)
        if STRAIN:
            store_columns(g_strain, of_strain, i, mask, heads, head, 9, 16)
        if WEIGHT:
            tl.store(g_weight + (tl.program_id(0) * heads + head) * 32 + tl.arange(0, 32), of_weight)


@triton.jit
def columns_kernel(
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
    lse,
    delta,
    mu,
    delta_t,
    g_k,
    g_v,
    g_positions,
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
    SECOND: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradients of keys and values (N, H); by head, of positions as j, (N, h, 3)."""
    head, heads = tl.program_id(1), tl.num_programs(1)
    real: tl.constexpr = lse.dtype.element_ty
    cells = (graph, lattice, inverse, shifts, num_shifts)
    j, j_mask, first, last, start, end = block(tl.program_id(0), bounds, N, BLOCK_N)
    keys = load_rows(k, j, j_mask, k_stride, head, D, BLOCK_D)
    values = load_rows(v, j, j_mask, v_stride, head, D, BLOCK_D)
    of_keys = tl.zeros([BLOCK_N, BLOCK_D], real)
    of_values = tl.zeros([BLOCK_N, BLOCK_D], real)
    of_positions = tl.zeros([BLOCK_N, 4], real)
    for i0 in range(start, end, BLOCK_M):
        i = i0 + tl.arange(0, BLOCK_M).to(tl.int64)
        mask = i < end
        inside = (i[:, None] >= first[None, :]) & (i[:, None] < last[None, :])
        queries = load_rows(q, i, mask, q_stride, head, D, BLOCK_D)
        go = load_rows(gradient, i, mask, H, head, D, BLOCK_D)
        log_sum = tl.load(lse + i * heads + head, mask=mask, other=0.0)[:, None]
        mean_g = tl.load(delta + i * heads + head, mask=mask, other=0.0)[:, None]
        bias = (tl.zeros([BLOCK_M, BLOCK_N], real), 0.0, 0.0, 0.0, 0.0)
        x = (0.0, 0.0, 0.0)
        x_t = x
        inverse_r = 0.0
        if RADIAL:
            x = vectors(positions, i, j, mask, j_mask, cells, real)
            r, inverse_r = length(x)
            bias = radial_bias(r, weight, omega, head)
        p = tl.exp(logits(queries, keys, inside, scale, bias[0]) - log_sum)
        gp = product(go, tl.trans(values), values)
        gs = p * (gp - mean_g)
        gs_t = gs
        p_t = p
        if SECOND:
            queries_t = load_rows(u_q, i, mask, H, head, D, BLOCK_D)
            keys_t = load_rows(u_k, j, j_mask, H, head, D, BLOCK_D)
            values_t = load_rows(u_v, j, j_mask, H, head, D, BLOCK_D)
            s_t = (product(queries_t, tl.trans(keys), keys) + product(queries, tl.trans(keys_t), keys)) * scale
            if RADIAL:
                _, x_t = vector_tangents(u_positions, u_strain, i, j, mask, j_mask, x, real, STRAIN)
                s_t += bias[1] * bias[3] * inner(x, x_t) * inverse_r
            p_t = p * (s_t - tl.load(mu + i * heads + head, mask=mask, other=0.0)[:, None])
            mean_g_t = tl.load(delta_t + i * heads + head, mask=mask, other=0.0)[:, None]
            gs_t = p_t * (gp - mean_g) + p * (product(go, tl.trans(values_t), values) - mean_g_t)
            of_keys += product(tl.trans(gs), queries_t, keys)
        of_keys += product(tl.trans(gs_t), queries, keys)
        of_values += product(tl.trans(p_t), go, values)
        if RADIAL:
            moved, _, _ = pair_gradient(x, u_strain, i, mask, gs, gs_t, bias, x_t, inverse_r, STRAIN, SECOND)
            of_positions = add_vector(of_positions, moved, 0, 1.0)
    store_rows(g_k, of_keys * scale, j, j_mask, H, head, D, BLOCK_D)
    store_rows(g_v, of_values, j, j_mask, H, head, D, BLOCK_D)
    if RADIAL:
        store_columns(g_positions, of_positions, j, j_mask, heads, head, 3, 4)
