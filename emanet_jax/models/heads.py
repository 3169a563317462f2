"""Heads: a map to one task's prediction at the map's own size."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from emanet_jax.errors import UserError
from emanet_jax.models.layers import BottleneckBlock, Conv, ConvNorm, Dtype, Unit, xavier_normal


class Head(nn.Module):
    """What every head is: a map (b, h, w, c) and `train` to a prediction (b, h, w, channels).

    Attributes:
      channels: of the prediction.
      dropout: rate in training, where a head has any: DeepLab's.
      dtype: what to compute in; None promotes map and parameters.
    """

    channels: int
    dropout: float = 0.5
    dtype: Dtype | None = None


class HRNetHead(Head):
    """HRNet's own head on its concatenated maps: 1 x 1 unit (with bias), then the prediction."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(b, h, w, c) to (b, h, w, channels)."""
        unit = partial(ConvNorm, train=train, dtype=self.dtype)
        x = unit(x.shape[-1], 1, use_bias=True, name="fuse")(x)
        return Conv(self.channels, 1, dtype=self.dtype, name="predict")(x)


class BottleneckHead(Head):
    """Two bottleneck blocks of the map's own width, then the prediction."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(b, h, w, c) to (b, h, w, channels)."""
        unit = partial(ConvNorm, train=train, dtype=self.dtype)
        x = _bottlenecks(x, unit, x.shape[-1])
        return Conv(self.channels, 1, dtype=self.dtype, name="predict")(x)


class DeepLabHead(Head):
    """Looks at each place in several widths at once and at the whole map, then predicts.

    Source: "Rethinking Atrous Convolution for Semantic Image Segmentation" (arXiv 1706.05587).
    """

    features: int = 256
    dilations: tuple[int, ...] = (12, 24, 36)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(b, h, w, c) to (b, h, w, channels)."""
        unit = partial(ConvNorm, self.features, train=train, dtype=self.dtype)
        views = [unit(1, name="near")(x)]
        for dilation in self.dilations:
            views.append(unit(3, dilation=dilation, name=f"dilated{dilation}")(x))
        mean = x.mean((1, 2), keepdims=True)  # which jnp sums in float32 for half precision too
        views.append(jnp.broadcast_to(unit(1, name="everywhere")(mean), views[0].shape))
        x = unit(1, name="join")(jnp.concatenate(views, axis=-1))
        x = nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)
        x = unit(3, name="refine")(x)
        return Conv(self.channels, 1, dtype=self.dtype, name="output")(x)


class PredictionHead(Head):
    """SegNet's: a 3 x 3 convolution, and another that predicts, with nothing in between."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(b, h, w, c) to (b, h, w, channels); nothing in it depends on `train`."""
        conv = partial(Conv, dtype=self.dtype, start=xavier_normal)
        x = conv(x.shape[-1], 3, name="context")(x)
        return conv(self.channels, 1, name="project")(x)


class InitialPrediction(nn.Module):
    """A task's own branch before distillation: two bottleneck blocks, and what they predict."""

    features: int
    channels: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """(b, h, w, c) to features (b, h, w, features) and prediction (b, h, w, channels)."""
        unit = partial(ConvNorm, train=train, dtype=self.dtype)
        x = _bottlenecks(x, unit, self.features)
        return x, Conv(self.channels, 1, dtype=self.dtype, name="predict")(x)


def _bottlenecks(x: jax.Array, unit: Unit, features: int) -> jax.Array:
    for block in range(2):
        x = BottleneckBlock(unit, features, name=f"block_{block}")(x)
    return x


HEADS = {
    "hrnet": HRNetHead,
    "bottleneck": BottleneckHead,
    "deeplab": DeepLabHead,
    "prediction": PredictionHead,
}


def make_head(kind: str, channels: int, dropout: float, dtype: Dtype | None, name: str) -> Head:
    """A head of HEADS with its parameters under `name`.

    Raises:
      UserError: no such head.
    """
    if kind not in HEADS:
        raise UserError(f"head is {kind!r}; choose from {', '.join(HEADS)}.")
    return HEADS[kind](channels, dropout, dtype, name=name)
