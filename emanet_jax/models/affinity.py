"""The three ways to compute CTAL's diffusion (`ctal.py` has the definition), one interface.

Every implementation maps
  f (b, h, w, n, c): unit vectors of the n tasks,
  v (b, h, w, s, u, c): values; fusion s serves u tasks: (s, u) = (n, 1), or (1, n) when shared,
  kernel (s, 3, 3, n, P) and bias (s, P): the fusions,
to the diffused values sum_p V(p) G(i, p) as (b, h, w, s, u, c), accumulated in float32 or better.
"""

import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from emanet_jax.ops import wide_dtype


def grouped_conv(
    f: Float[Array, "b h w n c"],
    v: Float[Array, "b h w s u c"],
    kernel: Float[Array, "s 3 3 n p"],
    bias: Float[Array, "s p"],
) -> Float[Array, "b h w s u c"]:
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


def shifted(
    f: Float[Array, "b h w n c"],
    v: Float[Array, "b h w s u c"],
    kernel: Float[Array, "s 3 3 n p"],
    bias: Float[Array, "s p"],
) -> Float[Array, "b h w s u c"]:
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


def factorized(
    f: Float[Array, "b h w n c"],
    v: Float[Array, "b h w s u c"],
    kernel: Float[Array, "s 3 3 n p"],
    bias: Float[Array, "s p"],
) -> Float[Array, "b h w s u c"]:
    """The sum over p moved inside: O(P n c + n^2 c^2) memory, forwards and backwards.

    First S of every offset, then every pixel's weighted sum of S f. All products are of plain
    matrices (pixels by channels), loops go over offsets one by one, and backwards every round makes
    its neighbours or weighted features anew instead of keeping them.
    """
    b, h, w, n, c = f.shape
    s, dtype = len(kernel), wide_dtype(f.dtype)
    weights = kernel.reshape(s, 9, n, h * w).astype(f.dtype)
    sums = _correlations(f.reshape(b, h, w, n * c), v.reshape(b, h * w, -1))
    sums = sums.reshape(9, b, s, -1, n * c).transpose(2, 0, 1, 3, 4)
    flat = f.reshape(b, h * w, n * c)
    totals = v.sum((1, 2), dtype=dtype).reshape(b, s, -1).swapaxes(0, 1)  # (s, b, u c)
    fusions = (bias.astype(dtype), totals, weights, sums)
    diffused = lax.map(lambda fusion: _weighted_sums(flat, *fusion), fusions)
    return jnp.moveaxis(diffused, 0, 2).reshape(v.shape)


def _correlations(f: Float[Array, "b h w y"], v: Float[Array, "b p x"]) -> Float[Array, "9 b x y"]:
    """S: f (b, h, w, n c) and v (b, P, x) to sum_p v(p) f(p + d)^T for all 9 d, (9, b, x, n c)."""
    _, h, w, _ = f.shape
    padded = jnp.pad(f, [(0, 0), (1, 1), (1, 1), (0, 0)])

    @jax.checkpoint
    def at(dx: jax.Array, padded: jax.Array, v: jax.Array) -> jax.Array:
        # Rows are sliced statically: an image whose rows are sharded exchanges one row with its
        # neighbours and an all-reduce of S, and nothing else.
        column = lax.dynamic_slice_in_dim(padded, dx, w, axis=2)
        neighbours = [column[:, dy : dy + h].reshape(*v.shape[:2], -1) for dy in range(3)]
        wide = wide_dtype(f.dtype)
        return jnp.stack(
            [jnp.einsum("bpx,bpy->bxy", v, x, preferred_element_type=wide) for x in neighbours]
        )

    sums = lax.map(lambda dx: at(dx, padded, v), jnp.arange(3))  # (dx, dy, b, x, n c)
    return sums.swapaxes(0, 1).reshape(9, *sums.shape[2:]).astype(f.dtype)


def _weighted_sums(
    f: Float[Array, "b p y"],
    bias: Float[Array, " p"],
    totals: Float[Array, "b x"],
    weights: Float[Array, "9 n p"],
    sums: Float[Array, "9 b x y"],
) -> Float[Array, "b p x"]:
    """One fusion's b(i) sum_p V(p) + sum_k sum_d w(i, k, d) S_kd f_k(i), in float32 or better."""
    b, pixels, _ = f.shape
    dtype = wide_dtype(f.dtype)

    @jax.checkpoint
    def add(total: jax.Array, weight: jax.Array, matrix: jax.Array, f: jax.Array) -> jax.Array:
        by_task = f.reshape(b, pixels, len(weight), -1)
        weighted = (weight.T[:, :, None] * by_task).reshape(f.shape)
        return total + jnp.einsum("bpy,bxy->bpx", weighted, matrix, preferred_element_type=dtype)

    start = bias[:, None] * totals[:, None]
    return lax.scan(lambda total, d: (add(total, *d, f), None), start, (weights, sums))[0]


IMPLEMENTATIONS = {"factorized": factorized, "shifted": shifted, "grouped_conv": grouped_conv}
