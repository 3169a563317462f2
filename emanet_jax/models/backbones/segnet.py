"""SegNet: an encoder that remembers where its maxima were, and a decoder that puts them back there.

Source: SegNet (arXiv 1511.00561) in the layout of MTAN (arXiv 1803.10704, its released code).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from emanet_jax.models.layers import ConvNorm, Module, conv, xavier_normal

# The family's convolutions, alone and in its "conv block".
_zeros = nn.initializers.zeros
segnet_conv: Callable[..., nn.Conv] = partial(conv, kernel_init=xavier_normal, bias_init=_zeros)
SegNetConvNorm: Callable[..., ConvNorm] = partial(
    ConvNorm, use_bias=True, kernel_init=xavier_normal, bias_init=_zeros
)


def max_pool(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The maxima of 2 x 2 windows and their indices; of equal values the first, row by row.

    The gradient goes to that place alone.

    Args:
      x: (b, h, w, c), h and w even.

    Returns:
      maxima (b, h/2, w/2, c) and argmax_indices in their windows, 0 to 3, uint8 of the same shape.
    """
    b, h, w, c = x.shape
    windows = x.reshape(b, h // 2, 2, w // 2, 2, c)
    corners = jax.lax.stop_gradient([windows[:, :, i // 2, :, i % 2] for i in range(4)])
    best, argmax_indices = corners[0], jnp.zeros(corners[0].shape, jnp.uint8)
    for i in (1, 2, 3):
        argmax_indices = jnp.where(corners[i] > best, jnp.uint8(i), argmax_indices)
        best = jnp.maximum(corners[i], best)
    return jnp.where(_one_hot(argmax_indices), windows, 0).sum((2, 4)), argmax_indices


def max_unpool(x: jax.Array, argmax_indices: jax.Array) -> jax.Array:
    """Values (b, h, w, c) at their places in windows of zeros: (b, 2h, 2w, c)."""
    b, h, w, c = x.shape
    values = jnp.where(_one_hot(argmax_indices), x[:, :, None, :, None], 0)
    return values.reshape(b, 2 * h, 2 * w, c)


def _one_hot(argmax_indices: jax.Array) -> jax.Array:
    """(b, h, w, c) to booleans (b, h, 2, w, 2, c)."""
    corners = np.arange(4, dtype=np.uint8).reshape(2, 1, 2, 1)
    return argmax_indices[:, :, None, :, None] == corners


class Encoded(NamedTuple):
    """The encoder's maps, scale i at 1/2^i of the image.

    Attributes:
      first: (b, H/2^i, W/2^i, widths[i]) after the first convolution of every scale.
      last: the same after its last convolution.
      argmax_indices: of the max-pooling of `last`.
      pooled: the last map, (b, H/32, W/32, widths[-1]).
    """

    first: tuple[jax.Array, ...]
    last: tuple[jax.Array, ...]
    argmax_indices: tuple[jax.Array, ...]
    pooled: jax.Array


class Decoded(NamedTuple):
    """The decoder's maps, scale i at 1/2^i of the image.

    Attributes:
      unpooled: (b, H/2^i, W/2^i, widths[i]) before the convolutions of every scale.
      last: after its last convolution, of the next finer scale's width.
    """

    unpooled: tuple[jax.Array, ...]
    last: tuple[jax.Array, ...]


class Scale(nn.Module):
    """The convolutions of one scale: the two finest have two, the others three."""

    conv_norm: Module
    features: int
    index: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(b, h, w, c) to the maps (b, h, w, features) after the first and the last one."""
        first = last = self.conv_norm(self.features, 3, name="conv_norm1")(x)
        for i in range(2, 3 if self.index < 2 else 4):
            last = self.conv_norm(self.features, 3, name=f"conv_norm{i}")(last)
        return first, last


class Encoder(nn.Module):
    """Five scales, a max-pooling after each."""

    widths: tuple[int, ...]
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> Encoded:
        """Images (b, H, W, 3), H and W multiples of 32."""
        conv_norm = partial(SegNetConvNorm, train=train, dtype=self.dtype)
        x, scales = images, []
        for i, width in enumerate(self.widths):
            first, last = Scale(conv_norm, width, i, name=f"scale_{i}")(x)
            x, argmax_indices = max_pool(last)
            scales.append((first, last, argmax_indices))
        firsts, lasts, indices = zip(*scales, strict=True)
        return Encoded(firsts, lasts, indices, x)


class Decoder(nn.Module):
    """The encoder's mirror image: an unpooling before each scale."""

    widths: tuple[int, ...]
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, argmax_indices: tuple[jax.Array, ...], train: bool) -> Decoded:
        """A map (b, H/32, W/32, widths[-1]) and the encoder's indices to the decoder's maps."""
        conv_norm = partial(SegNetConvNorm, train=train, dtype=self.dtype)
        scales = []
        for i in reversed(range(len(self.widths))):
            unpooled = max_unpool(x, argmax_indices[i])
            _, x = Scale(conv_norm, self.widths[max(i - 1, 0)], i, name=f"scale_{i}")(unpooled)
            scales.append((unpooled, x))
        return Decoded(*zip(*reversed(scales), strict=True))


class SegNet(nn.Module):
    """Images (b, H, W, 3) to one map (b, H, W, widths[0]), or to the encoder's.

    Attributes:
      widths: of the five scales, finest first.
      all_scales: give the encoder's map of every scale, (b, H, W, widths[0]) to 1/16.
      dtype: that layers compute in.
    """

    widths: tuple[int, ...]
    all_scales: bool = False
    dtype: Dtype | None = None

    def setup(self) -> None:
        """Its halves, for networks that look inside or bring decoders of their own."""
        self.encoder = Encoder(self.widths, self.dtype)
        self.decoder = Decoder(self.widths, self.dtype)

    def __call__(self, images: jax.Array, train: bool) -> list[jax.Array]:
        """Images to maps, as every backbone; image sides must be multiples of 32."""
        encoded = self.encoder(images, train)
        if self.all_scales:
            return list(encoded.last)
        return [self.decoder(encoded.pooled, encoded.argmax_indices, train).last[0]]
