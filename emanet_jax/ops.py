"""Operations on maps that networks, losses and metrics share."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def wide_dtype(dtype: Any) -> Any:
    """The dtype that sums over pixels are kept in: float32, or float64 where the input is."""
    return jnp.promote_types(dtype, jnp.float32)


def upcast(x: Array) -> Array:
    """Half precision to float32; float32 and float64 stay as they are."""
    return x.astype(wide_dtype(x.dtype))


def unit_vectors(x: Array) -> Array:
    """Divides by the norm over the last axis, x / max(|x|, 1e-12); finite gradients at zero."""
    wide = upcast(x)
    squares = jnp.sum(wide * wide, axis=-1, keepdims=True)
    return (wide * lax.rsqrt(jnp.maximum(squares, 1e-24))).astype(x.dtype)


def bilinear(x: Array, size: Sequence[int]) -> Array:
    """Resizes maps (b, h, w, c) to `size` (h, w), half-pixel centres, no antialiasing.

    Equal to `align_corners=False` of the reference; the identity when the size is unchanged.
    """
    _, h, w, _ = x.shape
    if (h, w) == tuple(size):
        return x
    # The weights are constants: jax.image.resize has XLA work them out, in dozens of kernels.
    down, across = (
        linear_weights(*sides).astype(x.dtype) for sides in ((h, size[0]), (w, size[1]))
    )
    return jnp.einsum("bhwc,Hh,Ww->bHWc", x, down, across, precision=lax.Precision.HIGHEST)


def linear_weights(count: int, places: int) -> np.ndarray:
    """Weights (places, count) of linear interpolation between `count` pixels, edges repeated."""
    at = np.clip((np.arange(places) + 0.5) * count / places - 0.5, 0, count - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(count)))
