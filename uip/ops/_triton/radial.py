"""The radial bias of a tile of pairs, with derivatives, from positions: nothing of it is stored.

b = ln(softplus(w) + 1e-6)        w = sum_k W_k sinc(omega_k r)        r: distance to the nearest image
"""

from __future__ import annotations

import triton
import triton.language as tl

NUM_FREQUENCIES = tl.constexpr(32)


@triton.jit
def components(x, i, mask, real: tl.constexpr):
    """Columns of x (N, 3) for atoms i."""
    return (
        tl.load(x + 3 * i, mask=mask, other=0.0).to(real),
        tl.load(x + 3 * i + 1, mask=mask, other=0.0).to(real),
        tl.load(x + 3 * i + 2, mask=mask, other=0.0).to(real),
    )


@triton.jit
def between(a, b):
    """b_j - a_i, three (rows, columns)."""
    return b[0][None, :] - a[0][:, None], b[1][None, :] - a[1][:, None], b[2][None, :] - a[2][:, None]


@triton.jit
def times_matrix(v, matrices, g, mask, TRANSPOSED: tl.constexpr):
    """v_i M_g(i), or with its transpose; `matrices` (B, 3, 3)."""
    row: tl.constexpr = 1 if TRANSPOSED else 3
    column: tl.constexpr = 3 if TRANSPOSED else 1
    x, y, z = v
    place = matrices + 9 * g
    m00 = tl.load(place, mask=mask, other=0.0).to(x.dtype)[:, None]
    m01 = tl.load(place + column, mask=mask, other=0.0).to(x.dtype)[:, None]
    m02 = tl.load(place + 2 * column, mask=mask, other=0.0).to(x.dtype)[:, None]
    m10 = tl.load(place + row, mask=mask, other=0.0).to(x.dtype)[:, None]
    m11 = tl.load(place + row + column, mask=mask, other=0.0).to(x.dtype)[:, None]
    m12 = tl.load(place + row + 2 * column, mask=mask, other=0.0).to(x.dtype)[:, None]
    m20 = tl.load(place + 2 * row, mask=mask, other=0.0).to(x.dtype)[:, None]
    m21 = tl.load(place + 2 * row + column, mask=mask, other=0.0).to(x.dtype)[:, None]
    m22 = tl.load(place + 2 * row + 2 * column, mask=mask, other=0.0).to(x.dtype)[:, None]
    return x * m00 + y * m10 + z * m20, x * m01 + y * m11 + z * m21, x * m02 + y * m12 + z * m22


@triton.jit
def to_even(x):
    """The nearest whole number, an even one where two are: as torch, so that vectors of i j and j i are opposite."""
    nearest = tl.floor(x + 0.5)
    is_tie_to_odd = (nearest - x == 0.5) & (nearest - 2.0 * tl.floor(0.5 * nearest) == 1.0)
    return tl.where(is_tie_to_odd, nearest - 1.0, nearest)


@triton.jit
def nearest_image(v, lattice, inverse, shifts, num_shifts, g, mask):
    """Shortest periodic images of v (rows, columns); arguments as in `uip.ops.cuda.attention.Cells`."""
    f0, f1, f2 = times_matrix(v, inverse, g, mask, False)
    s0, s1, s2 = times_matrix((to_even(f0), to_even(f1), to_even(f2)), lattice, g, mask, False)
    x, y, z = v[0] - s0, v[1] - s1, v[2] - s2
    best_x, best_y, best_z = x, y, z
    least = x * x + y * y + z * z
    for number in range(num_shifts):
        a, b, c = components(shifts, g * num_shifts + number, mask, x.dtype)
        other_x, other_y, other_z = x + a[:, None], y + b[:, None], z + c[:, None]
        square = other_x * other_x + other_y * other_y + other_z * other_z
        nearer = square < least
        least = tl.where(nearer, square, least)
        best_x = tl.where(nearer, other_x, best_x)
        best_y = tl.where(nearer, other_y, best_y)
        best_z = tl.where(nearer, other_z, best_z)
    return best_x, best_y, best_z


@triton.jit
def inner(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@triton.jit
def length(v):
    """r, and 1 / r or 0 where an atom meets itself."""
    square = inner(v, v)
    r = tl.sqrt(tl.maximum(square, 1e-12))
    return r, tl.where(square > 1e-12, 1.0 / r, 0.0)


@triton.jit
def sinc_derivatives(x):
    """sinc(x), its first and second derivative: series below 1, where the closed forms lose digits."""
    t = x * x
    value = 1.0 - t / 6 * (1.0 - t / 20 * (1.0 - t / 42 * (1.0 - t / 72 * (1.0 - t / 110 * (1.0 - t / 156)))))
    # each term of a derivative is that of the value times 2 n, times (2 n)(2 n - 1)
    slope, curvature = 0.0 * t, 0.0 * t
    factor = 0.0 * t + 1.0
    for n in tl.static_range(1, 9):
        factor = -factor / (2 * n * (2 * n + 1))
        slope += 2 * n * factor
        curvature += 2 * n * (2 * n - 1) * factor
        factor *= t
    slope *= x
    safe = tl.where(x < 1.0, 1.0, x)
    closed = tl.sin(safe) / safe
    closed_slope = (tl.cos(safe) - closed) / safe
    small = x < 1.0
    return (
        tl.where(small, value, closed),
        tl.where(small, slope, closed_slope),
        tl.where(small, curvature, -closed - 2.0 * closed_slope / safe),
    )


@triton.jit
def log1p(x):
    """ln(1 + x) without loss of digits for small x >= 0."""
    y = 1.0 + x
    return tl.where(y == 1.0, x, tl.log(y) * x / tl.where(y == 1.0, 1.0, y - 1.0))


@triton.jit
def radial_bias(r, weight, omega, head):
    """b; its first and second derivative by w; the first and second derivative of w by r."""
    w, slope, curvature = 0.0 * r, 0.0 * r, 0.0 * r
    for number in range(NUM_FREQUENCIES):
        o = tl.load(omega + number).to(r.dtype)
        factor = tl.load(weight + head * NUM_FREQUENCIES + number).to(r.dtype)
        s, s1, s2 = sinc_derivatives(o * r)
        w += factor * s
        slope += factor * o * s1
        curvature += factor * o * o * s2
    e = tl.exp(-tl.abs(w))
    softplus = tl.maximum(w, 0.0) + log1p(e) + 1e-6
    by_w = tl.where(w >= 0.0, 1.0, e) / (1.0 + e) / softplus
    by_w_twice = by_w * (tl.where(w >= 0.0, e, 1.0) / (1.0 + e) - by_w)
    return tl.log(softplus), by_w, by_w_twice, slope, curvature


@triton.jit
def weight_gradient(total, by_w, by_slope, r, omega):
    """Adds to `total` (32,) the sums over pairs of by_w sinc_k + by_slope d sinc_k / dr."""
    index = tl.arange(0, NUM_FREQUENCIES)
    for number in range(NUM_FREQUENCIES):
        o = tl.load(omega + number).to(r.dtype)
        s, s1, _ = sinc_derivatives(o * r)
        total += tl.where(index == number, tl.sum(by_w * s + by_slope * o * s1), 0.0)
    return total
