"""Operations on maps that networks, losses and metrics share."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def wide_dtype(dtype: Any) -> Any:
    """The dtype that sums over pixels are kept in: float32, or float64 where the input is."""
    return jnp.promote_types(dtype, jnp.float32)


def widen(x: Array) -> Array:
    """Half precision to float32; float32 and float64 stay as they are."""
    return x.astype(wide_dtype(x.dtype))


def unit_vectors(x: Array) -> Array:
    """Divides by the norm over the last axis, x / max(|x|, 1e-12); finite gradients at zero."""
    wide = widen(x)
    squares = jnp.sum(wide * wide, axis=-1, keepdims=True)
    return (wide * lax.rsqrt(jnp.maximum(squares, 1e-24))).astype(x.dtype)


def bilinear(x: Array, size: tuple[int, int]) -> Array:
    """Resizes maps (b, h, w, c) to `size` (h, w), half-pixel centres, no antialiasing.

    Equal to `align_corners=False` of the reference; the identity when the size is unchanged.
    """
    b, h, w, c = x.shape
    if (h, w) == tuple(size):
        return x
    return jax.image.resize(x, (b, *size, c), method="linear", antialias=False)
