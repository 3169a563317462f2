"""The three ways to compute CTAL's diffusion (`ctal.py` has the definition), one interface.

Every implementation maps
  f (b, h, w, n, c): unit vectors of the n tasks,
  v (b, h, w, s, u, c): values; fusion s serves u tasks: (s, u) = (n, 1), or (1, n) when shared,
  kernel (s, 3, 3, n, P) and bias (s, P): the fusions,
to the diffused values sum_p V(p) G(i, p) as (b, h, w, s, u, c), accumulated in float32 or better.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from emanet_jax.ops import wide_dtype


def grouped_conv(f: jax.Array, v: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """The definition, word for word. O(P^2) memory, and slow backwards: the oracle for the rest."""
    b, h, w, n, c = f.shape
    s, pixels, dtype = len(kernel), h * w, wide_dtype(f.dtype)
    flat = f.reshape(b, pixels, n, c)
    affinity = jnp.einsum("bpkc,bikc->bpik", flat, flat, preferred_element_type=dtype)
    affinity = affinity.reshape(b, h, w, pixels * n)  # interleaved: channel i * n + k
    diffused = []
    for group in range(s):
        mixed = lax.conv_general_dilated(
            affinity,
            kernel[group].astype(dtype),
            window_strides=(1, 1),
            padding=[(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=pixels,
        )  # (b, h, w, P)
        mixed = (mixed + bias[group]).reshape(b, pixels, pixels)
        values = v[:, :, :, group].reshape(b, pixels, -1)
        diffused.append(jnp.einsum("bpi,bpx->bix", mixed, values, preferred_element_type=dtype))
    return jnp.stack(diffused, axis=2).reshape(v.shape)


def shifted(f: jax.Array, v: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """9 n shifted multiply-adds for the convolution. O(P^2) memory, least work at small P."""
    b, h, w, n, c = f.shape
    s, pixels, dtype = len(kernel), h * w, wide_dtype(f.dtype)
    flat = f.reshape(b, pixels, n, c)
    affinity = jnp.einsum("bikc,bpkc->bkip", flat, flat, preferred_element_type=dtype)
    affinity = affinity.reshape(b, n, pixels, h, w)
    affinity = jnp.pad(affinity, [(0, 0)] * 3 + [(1, 1), (1, 1)])
    mixed = bias[None, :, :, None, None].astype(dtype)  # (1, s, P, 1, 1), soon (b, s, P, h, w)
    for k in range(n):
        for dy, dx in itertools.product(range(3), range(3)):
            weight = kernel[:, dy, dx, k, :, None, None].astype(dtype)  # (s, P, 1, 1)
            mixed = mixed + weight * affinity[:, k, None, :, dy : dy + h, dx : dx + w]
    mixed = mixed.reshape(b, s, pixels, pixels)
    values = v.reshape(b, pixels, s, -1)
    diffused = jnp.einsum("bsip,bpsx->bisx", mixed, values, preferred_element_type=dtype)
    return diffused.reshape(v.shape)


def factorized(f: jax.Array, v: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """The sum over p moved inside: O(P n c + n^2 c^2) memory, forwards and backwards.

    First S of every offset, then every pixel's weighted sum of S f. All products are of plain
    matrices (pixels by channels), and loops go over offsets one by one.
    """
    b, h, w, n, c = f.shape
    s, dtype = len(kernel), wide_dtype(f.dtype)
    weights = kernel.reshape(s, 9, n, h * w).swapaxes(2, 3).astype(f.dtype)  # (s, 9, P, n)
    f = f.reshape(b, h, w, n * c)
    sums = _correlations(s, f, v.reshape(b, h, w, -1))
    diffused = _weighted_sums(_pixels(f), weights, sums).reshape(v.shape)
    totals = v.sum((1, 2), dtype=dtype)  # (b, s, u, c)
    return diffused + jnp.einsum("shw,bsuv->bhwsuv", bias.reshape(s, h, w).astype(dtype), totals)


def _dot(pattern: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Einsum that accumulates in float32 or better."""
    wide = wide_dtype(x.dtype)
    einsum = functools.partial(jnp.einsum, pattern, preferred_element_type=wide)
    if x.dtype == wide:
        return einsum(x, y)
    # XLA:CPU refuses some products of half precision with sums in float32.
    return lax.platform_dependent(
        x, y, cpu=lambda x, y: einsum(x.astype(wide), y.astype(wide)), default=einsum
    )


def _pixels(x: jax.Array) -> jax.Array:
    b, h, w, *_ = x.shape
    return x.reshape(b, h * w, -1)


def _pad(x: jax.Array) -> jax.Array:
    return jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])


def _shifted(padded: jax.Array, dy: int, dx: jax.Array) -> jax.Array:
    """Every pixel's neighbour at (dy, dx) - 1: padded (b, h + 2, w + 2, c) to (b, P, c).

    Rows are a static slice: an image whose rows are sharded exchanges one row with its neighbours
    and an all-reduce of S, and nothing else.
    """
    _, h, w, _ = padded.shape
    return _pixels(lax.dynamic_slice_in_dim(padded[:, dy : dy + h - 2], dx, w - 2, axis=2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _correlations(s: int, f: jax.Array, v: jax.Array) -> jax.Array:
    """S: f (b, h, w, n c) and v (b, h, w, s u c) to sum_p v(p) f(p + d)^T, (9, s, b, u c, n c)."""
    b, h, w, _ = f.shape
    padded, values = _pad(f), v.reshape(b, h * w, s, -1)

    def at(dy: int, dx: jax.Array) -> jax.Array:
        return _dot("bpsx,bpy->sbxy", values, _shifted(padded, dy, dx)).astype(f.dtype)

    columns = jnp.arange(3)
    return jnp.concatenate([lax.map(functools.partial(at, dy), columns) for dy in range(3)])


def _correlations_backward(s: int, saved: tuple, slopes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Shifts v the other way instead of adding shifted slopes up: no scattered sums."""
    f, v = saved
    b, h, w, _ = f.shape
    # Without the barrier XLA pads anew for every row of offsets, and holds all six.
    padded_f, padded_v = lax.optimization_barrier((_pad(f), _pad(v)))

    def step(dy: int, total: tuple, offset: tuple) -> tuple[tuple, None]:
        df, dv = total
        dx, slope = offset  # slope (s, b, u c, n c)
        dv = dv + _dot("bpy,sbxy->bpsx", _shifted(padded_f, dy, dx), slope).reshape(dv.shape)
        values = _shifted(padded_v, 2 - dy, 2 - dx).reshape(b, h * w, s, -1)
        return (df + _dot("bpsx,sbxy->bpy", values, slope), dv), None

    total = tuple(jnp.zeros((b, h * w, x.shape[-1]), wide_dtype(x.dtype)) for x in (f, v))
    for dy in range(3):
        offsets = (jnp.arange(3), slopes[3 * dy : 3 * dy + 3])
        total, _ = lax.scan(functools.partial(step, dy), total, offsets)
    df, dv = total
    return df.reshape(f.shape).astype(f.dtype), dv.reshape(v.shape).astype(v.dtype)


_correlations.defvjp(lambda s, f, v: (_correlations(s, f, v), (f, v)), _correlations_backward)


def _weighted(weight: jax.Array, f: jax.Array) -> jax.Array:
    """Every pixel's features of task k times its own weight: (P, n) and (b, P, n c) to f's."""
    b, pixels, _ = f.shape
    return (weight[:, :, None] * f.reshape(b, pixels, weight.shape[1], -1)).reshape(f.shape)


@jax.custom_vjp
def _weighted_sums(f: jax.Array, weights: jax.Array, sums: jax.Array) -> jax.Array:
    """sum_k sum_d w(i, k, d) S_kd f_k(i) of every fusion.

    f (b, P, n c), weights (s, 9, P, n), S (9, s, b, u c, n c) to (b, P, s u c).
    """
    b, pixels, _ = f.shape
    diffused = []
    for j, weight in enumerate(weights):

        def step(total: jax.Array, offset: tuple) -> tuple[jax.Array, None]:
            weight, matrix = offset
            return total + _dot("bpy,bxy->bpx", _weighted(weight, f), matrix), None

        start = jnp.zeros((b, pixels, sums.shape[3]), wide_dtype(f.dtype))
        diffused.append(lax.scan(step, start, (weight, sums[:, j]))[0])
    return jnp.concatenate(diffused, axis=-1)


def _weighted_sums_backward(saved: tuple, slopes: jax.Array) -> tuple[jax.Array, ...]:
    """One fusion after the other adds to f's slopes, so that one fusion's arrays live at a time."""
    f, weights, sums = saved
    (b, pixels, _), n = f.shape, weights.shape[-1]
    df, dweights, dsums = jnp.zeros(f.shape, wide_dtype(f.dtype)), [], []
    parts = jnp.split(slopes.astype(f.dtype), len(weights), axis=-1)
    for j, (weight, slope) in enumerate(zip(weights, parts, strict=True)):

        def step(df: jax.Array, offset: tuple, slope: jax.Array = slope) -> tuple:
            weight, matrix = offset
            dmatrix = _dot("bpx,bpy->bxy", slope, _weighted(weight, f))
            back = _dot("bpx,bxy->bpy", slope, matrix)  # (b, P, n c), slopes of the weighted f
            dweight = (back * f).reshape(b, pixels, n, -1).sum((0, 3))
            saved = dweight.astype(weight.dtype), dmatrix.astype(matrix.dtype)
            return df + _weighted(weight, back), saved

        df, (dweight, dmatrix) = lax.scan(step, df, (weight, sums[:, j]))
        dweights.append(dweight)
        dsums.append(dmatrix)
    return df.astype(f.dtype), jnp.stack(dweights), jnp.stack(dsums, axis=1)


_weighted_sums.defvjp(lambda *args: (_weighted_sums(*args), args), _weighted_sums_backward)

IMPLEMENTATIONS = {"factorized": factorized, "shifted": shifted, "grouped_conv": grouped_conv}
