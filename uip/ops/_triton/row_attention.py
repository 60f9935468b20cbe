"""Attention within rows of tokens: value, gradient, and the tangent of both. One program for a row and a head.

    S_ab = q_a . k_b / sqrt(d) + bias_b      P = softmax_b(S)      out = P v

Keys and values of a row fit into one tile; queries pass in blocks, so logits live in registers only. Tokens of a row
lie anywhere: each slot names its token.
Second derivatives as in gated_message.py: the gradient of <u, gradients> consists of tangents along u.
"""

from __future__ import annotations

import triton
import triton.language as tl

from uip.ops._triton.product import plain_product, product


@triton.jit
def slots_of_row(tokens, bias, row, W, BLOCK_W: tl.constexpr):
    """Tokens and biases of a row, and which slots are filled."""
    slot = tl.arange(0, BLOCK_W)
    inside = slot < W
    b = tl.load(bias + row * W + slot, mask=inside, other=-1e9)
    b = b.to(tl.float64 if b.dtype == tl.float64 else tl.float32)
    return tl.load(tokens + row * W + slot, mask=inside, other=0), b, inside & (b > -1e8)


@triton.jit
def asking(tokens, bias, row, first, W, QUERIES_ALL: tl.constexpr, BLOCK_Q: tl.constexpr):
    """Tokens of a block of slots from `first`, and which of them ask."""
    slot = first + tl.arange(0, BLOCK_Q)
    inside = slot < (W if QUERIES_ALL else 1)
    filled = tl.load(bias + row * W + slot, mask=inside, other=-1e9).to(tl.float32) > -1e8
    return tl.load(tokens + row * W + slot, mask=inside, other=0), inside & filled


@triton.jit
def load_rows(x, token, stride, filled, head, D, BLOCK_D: tl.constexpr):
    """(slots, BLOCK_D) numbers of tokens, 0 where a slot is empty."""
    c = tl.arange(0, BLOCK_D)
    place = x + token[:, None] * stride + head * D + c[None, :]
    return tl.load(place, mask=filled[:, None] & (c < D)[None, :], other=0.0)


@triton.jit
def store_rows(x, value, token, stride, filled, head, D, BLOCK_D: tl.constexpr):
    c = tl.arange(0, BLOCK_D)
    place = x + token[:, None] * stride + head * D + c[None, :]
    tl.store(place, value.to(x.dtype.element_ty), mask=filled[:, None] & (c < D)[None, :])


@triton.jit
def softmax(logits):
    p = tl.exp(logits - tl.max(logits, 1)[:, None])
    return p / tl.sum(p, 1)[:, None]


@triton.jit
def row_weights(q, k, b, filled, scale):
    """P."""
    logits = product(q, tl.trans(k), q) * scale + b[None, :]
    return softmax(tl.where(filled[None, :], logits, float("-inf")))


@triton.jit
def forward_kernel(
    q,
    k,
    v,
    tokens,
    bias,
    out,
    q_stride,
    k_stride,
    v_stride,
    W,
    D,
    H,
    scale: tl.constexpr,
    QUERIES_ALL: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out, (queries, H)."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token, b, filled = slots_of_row(tokens, bias, row, W, BLOCK_W)
    keys = load_rows(k, token, k_stride, filled, head, D, BLOCK_D)
    values = load_rows(v, token, v_stride, filled, head, D, BLOCK_D)
    for start in range(0, W if QUERIES_ALL else 1, BLOCK_Q):
        asker, asks = asking(tokens, bias, row, start, W, QUERIES_ALL, BLOCK_Q)
        queries = load_rows(q, asker, q_stride, asks, head, D, BLOCK_D)
        p = row_weights(queries, keys, b, filled, scale)
        store_rows(out, product(p, values, values), asker, H, asks, head, D, BLOCK_D)


@triton.jit
def backward_kernel(
    gradient,
    q,
    k,
    v,
    tokens,
    bias,
    g_q,
    g_k,
    g_v,
    g_bias,
    q_stride,
    k_stride,
    v_stride,
    W,
    D,
    H,
    scale: tl.constexpr,
    QUERIES_ALL: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradients of queries, keys and values, and of biases by head, (N, h, W)."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token, b, filled = slots_of_row(tokens, bias, row, W, BLOCK_W)
    keys = load_rows(k, token, k_stride, filled, head, D, BLOCK_D)
    values = load_rows(v, token, v_stride, filled, head, D, BLOCK_D)
    of_keys = tl.zeros([BLOCK_W, BLOCK_D], b.dtype)
    of_values = tl.zeros([BLOCK_W, BLOCK_D], b.dtype)
    of_bias = tl.zeros([BLOCK_W], b.dtype)
    for start in range(0, W if QUERIES_ALL else 1, BLOCK_Q):
        asker, asks = asking(tokens, bias, row, start, W, QUERIES_ALL, BLOCK_Q)
        queries = load_rows(q, asker, q_stride, asks, head, D, BLOCK_D)
        go = load_rows(gradient, asker, H, asks, head, D, BLOCK_D)
        p = row_weights(queries, keys, b, filled, scale)
        gp = product(go, tl.trans(values), values)
        gs = p * (gp - tl.sum(p * gp, 1)[:, None])
        store_rows(g_q, product(gs, keys, keys) * scale, asker, H, asks, head, D, BLOCK_D)
        of_keys += product(tl.trans(gs), queries, keys)
        of_values += product(tl.trans(p), go, values)
        of_bias += tl.sum(gs, 0)
    store_rows(g_k, of_keys * scale, token, H, filled, head, D, BLOCK_D)
    store_rows(g_v, of_values, token, H, filled, head, D, BLOCK_D)
    slot = tl.arange(0, BLOCK_W)
    tl.store(g_bias + (row * tl.num_programs(1) + head) * W + slot, of_bias, mask=slot < W)


@triton.jit
def second_kernel(
    u_q,
    u_k,
    u_v,
    u_bias,
    gradient,
    q,
    k,
    v,
    tokens,
    bias,
    out_tangent,
    g_q,
    g_k,
    g_v,
    g_bias,
    q_stride,
    k_stride,
    v_stride,
    W,
    D,
    H,
    scale: tl.constexpr,
    QUERIES_ALL: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Tangents along (u_q, u_k, u_v, u_bias) of out and of what `backward_kernel` computes; _t: tangents."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token, b, filled = slots_of_row(tokens, bias, row, W, BLOCK_W)
    keys = load_rows(k, token, k_stride, filled, head, D, BLOCK_D)
    values = load_rows(v, token, v_stride, filled, head, D, BLOCK_D)
    keys_t = load_rows(u_k, token, H, filled, head, D, BLOCK_D)
    values_t = load_rows(u_v, token, H, filled, head, D, BLOCK_D)
    slot = tl.arange(0, BLOCK_W)
    b_t = tl.load(u_bias + row * W + slot, mask=filled, other=0.0)
    of_keys = tl.zeros([BLOCK_W, BLOCK_D], b.dtype)
    of_values = tl.zeros([BLOCK_W, BLOCK_D], b.dtype)
    of_bias = tl.zeros([BLOCK_W], b.dtype)
    for start in range(0, W if QUERIES_ALL else 1, BLOCK_Q):
        asker, asks = asking(tokens, bias, row, start, W, QUERIES_ALL, BLOCK_Q)
        queries = load_rows(q, asker, q_stride, asks, head, D, BLOCK_D)
        queries_t = load_rows(u_q, asker, H, asks, head, D, BLOCK_D)
        go = load_rows(gradient, asker, H, asks, head, D, BLOCK_D)
        logits = plain_product(queries, tl.trans(keys), keys) * scale + b[None, :]
        p = softmax(tl.where(filled[None, :], logits, float("-inf")))
        s_t = plain_product(queries_t, tl.trans(keys), keys) + plain_product(queries, tl.trans(keys_t), keys)
        s_t = s_t * scale + b_t[None, :]
        p_t = p * (s_t - tl.sum(p * s_t, 1)[:, None])
        o_t = plain_product(p_t, values, values) + plain_product(p, values_t, values)
        store_rows(out_tangent, o_t, asker, H, asks, head, D, BLOCK_D)
        gp = plain_product(go, tl.trans(values), values)
        gp_t = plain_product(go, tl.trans(values_t), values)
        centred = gp - tl.sum(p * gp, 1)[:, None]
        gs = p * centred
        gs_t = p_t * centred + p * (gp_t - tl.sum(p_t * gp + p * gp_t, 1)[:, None])
        q_t = (plain_product(gs_t, keys, keys) + plain_product(gs, keys_t, keys)) * scale
        store_rows(g_q, q_t, asker, H, asks, head, D, BLOCK_D)
        of_keys += plain_product(tl.trans(gs_t), queries, keys) + plain_product(tl.trans(gs), queries_t, keys)
        of_values += plain_product(tl.trans(p_t), go, values)
        of_bias += tl.sum(gs_t, 0)
    store_rows(g_k, of_keys * scale, token, H, filled, head, D, BLOCK_D)
    store_rows(g_v, of_values, token, H, filled, head, D, BLOCK_D)
    tl.store(g_bias + (row * tl.num_programs(1) + head) * W + slot, of_bias, mask=slot < W)
