"""SegNet: an encoder that remembers where its maxima were, and a decoder that puts them back there.

Source: SegNet (arXiv 1511.00561) in the layout of MTAN (arXiv 1803.10704, its released code).
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from emanet_jax.models.layers import ConvNorm, Dtype, Unit, xavier_normal

SegNetUnit = partial(ConvNorm, use_bias=True, start=xavier_normal)  # the family's "conv block"


@jax.custom_vjp
def max_pool(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The maxima of 2 x 2 windows and their places; of equal values the first, row by row.

    The gradient goes to that place alone.

    Args:
      x: (b, h, w, c), h and w even.

    Returns:
      maxima (b, h/2, w/2, c) and places in their windows, 0 to 3, uint8 of the same shape.
    """
    b, h, w, c = x.shape
    windows = x.reshape(b, h // 2, 2, w // 2, 2, c)
    best = windows[:, :, 0, :, 0]
    places = jnp.zeros(best.shape, jnp.uint8)
    for place in (1, 2, 3):
        corner = windows[:, :, place // 2, :, place % 2]
        places = jnp.where(corner > best, jnp.uint8(place), places)
        best = jnp.maximum(corner, best)
    return best, places


def max_unpool(x: jax.Array, places: jax.Array) -> jax.Array:
    """Values (b, h, w, c) at their places in windows of zeros: (b, 2h, 2w, c)."""
    b, h, w, c = x.shape
    return jnp.where(_one_hot(places), x[:, :, None, :, None], 0).reshape(b, 2 * h, 2 * w, c)


def _one_hot(places: jax.Array) -> jax.Array:
    """(b, h, w, c) to booleans (b, h, 2, w, 2, c)."""
    corners = jnp.arange(4, dtype=jnp.uint8).reshape(2, 1, 2, 1)
    return places[:, :, None, :, None] == corners


def _pool_and_keep(x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    maxima, places = max_pool(x)
    return (maxima, places), places


def _unpool_gradient(places: jax.Array, gradients: tuple[jax.Array, Any]) -> tuple[jax.Array]:
    return (max_unpool(gradients[0], places),)  # places have none


# By hand: one selection, where JAX would go back through the chain of comparisons.
max_pool.defvjp(_pool_and_keep, _unpool_gradient)


class Encoded(NamedTuple):
    """What the encoder saw, scale i at 1/2^i of the image.

    Attributes:
      first: the maps (b, H/2^i, W/2^i, widths[i]) after the first unit of every scale.
      last: those after its last unit.
      places: of their maxima.
      pooled: what is left, (b, H/32, W/32, widths[-1]).
    """

    first: tuple[jax.Array, ...]
    last: tuple[jax.Array, ...]
    places: tuple[jax.Array, ...]
    pooled: jax.Array


class Decoded(NamedTuple):
    """What the decoder saw, scale i at 1/2^i of the image.

    Attributes:
      unpooled: the maps (b, H/2^i, W/2^i, widths[i]) before the units of every scale.
      last: those after its last unit, of the next finer scale's width.
    """

    unpooled: tuple[jax.Array, ...]
    last: tuple[jax.Array, ...]


class Scale(nn.Module):
    """The units of one scale: the two finest have two, the others three."""

    unit: Unit
    features: int
    index: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(b, h, w, c) to the maps (b, h, w, features) after the first and after the last unit."""
        first = last = self.unit(self.features, 3, name="unit1")(x)
        for i in range(2, 3 if self.index < 2 else 4):
            last = self.unit(self.features, 3, name=f"unit{i}")(last)
        return first, last


class Encoder(nn.Module):
    """Five scales, a max-pooling after each."""

    widths: tuple[int, ...]
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> Encoded:
        """Images (b, H, W, 3), H and W multiples of 32."""
        unit = partial(SegNetUnit, train=train, dtype=self.dtype)
        x, scales = images, []
        for i, width in enumerate(self.widths):
            first, last = Scale(unit, width, i, name=f"scale_{i}")(x)
            x, places = max_pool(last)
            scales.append((first, last, places))
        first, last, places = zip(*scales, strict=True)
        return Encoded(first, last, places, x)


class Decoder(nn.Module):
    """The encoder's mirror image: an unpooling before each scale."""

    widths: tuple[int, ...]
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, places: tuple[jax.Array, ...], train: bool) -> Decoded:
        """A map (b, H/32, W/32, widths[-1]) and the encoder's places."""
        unit = partial(SegNetUnit, train=train, dtype=self.dtype)
        scales = []
        for i in reversed(range(len(self.widths))):
            unpooled = max_unpool(x, places[i])
            _, x = Scale(unit, self.widths[max(i - 1, 0)], i, name=f"scale_{i}")(unpooled)
            scales.append((unpooled, x))
        unpooled, last = zip(*reversed(scales), strict=True)
        return Decoded(unpooled, last)


class SegNet(nn.Module):
    """Images (b, H, W, 3) to one map (b, H, W, widths[0]).

    Attributes:
      widths: of the five scales, finest first.
      dtype: that layers compute in.
    """

    widths: tuple[int, ...]
    dtype: Dtype | None = None

    def setup(self) -> None:
        """Its halves, for networks that look inside or bring decoders of their own."""
        self.encoder = Encoder(self.widths, self.dtype)
        self.decoder = Decoder(self.widths, self.dtype)

    def __call__(self, images: jax.Array, train: bool) -> list[jax.Array]:
        """Images to maps, as every backbone; image sides must be multiples of 32."""
        encoded = self.encoder(images, train)
        return [self.decoder(encoded.pooled, encoded.places, train).last[0]]


def segnet(*, dtype: Dtype | None = None) -> SegNet:
    """SegNet of VGG-16's widths: 25 M parameters; one map of 64 channels at image size."""
    return SegNet((64, 128, 256, 512, 512), dtype)


def segnet_tiny(*, dtype: Dtype | None = None) -> SegNet:
    """For tests: the same layers, narrow."""
    return SegNet((4, 6, 8, 10, 12), dtype)
