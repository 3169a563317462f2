"""Heads: a map to one task's prediction at the map's own size."""

from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from emanet_jax.models.layers import BottleneckBlock, ConvNorm, Module, conv, xavier_normal


class Head(nn.Module):
    """The fields of every head, which maps (b, h, w, c) and `train` to (b, h, w, channels).

    Attributes:
      channels: of the prediction.
      dropout: rate in training, where a head has any: DeepLab's.
      dtype: what to compute in; None promotes map and parameters.
    """

    channels: int
    dropout: float = 0.5
    dtype: Dtype | None = None


class HRNetHead(Head):
    """HRNet's own head on its concatenated maps: 1 x 1 convolution, norm, prediction."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(b, h, w, c) to (b, h, w, channels)."""
        c = x.shape[-1]
        x = ConvNorm(c, 1, use_bias=True, train=train, dtype=self.dtype, name="fuse")(x)
        return conv(c, self.channels, 1, dtype=self.dtype, name="predict")(x)


class BottleneckHead(Head):
    """Two bottleneck blocks of the map's own width, then the prediction."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(b, h, w, c) to (b, h, w, channels)."""
        c = x.shape[-1]
        x = two_bottlenecks(x, c, train, self.dtype)
        return conv(c, self.channels, 1, dtype=self.dtype, name="predict")(x)


class DeepLabHead(Head):
    """Sees each place in several widths at once and in the context of the whole map.

    Source: "Rethinking Atrous Convolution for Semantic Image Segmentation" (arXiv 1706.05587).
    """

    features: int = 256
    dilations: tuple[int, ...] = (12, 24, 36)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(b, h, w, c) to (b, h, w, channels)."""
        conv_norm = partial(ConvNorm, self.features, train=train, dtype=self.dtype)
        views = [conv_norm(1, name="near")(x)]
        for dilation in self.dilations:
            views.append(conv_norm(3, dilation=dilation, name=f"dilated{dilation}")(x))
        mean = x.mean((1, 2), keepdims=True)  # which jnp sums in float32 for half precision too
        views.append(jnp.broadcast_to(conv_norm(1, name="everywhere")(mean), views[0].shape))
        x = conv_norm(1, name="join")(jnp.concatenate(views, axis=-1))
        x = nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)
        x = conv_norm(3, name="refine")(x)
        return conv(self.features, self.channels, 1, dtype=self.dtype, name="output")(x)


class PredictionHead(Head):
    """SegNet's: a 3 x 3 convolution, and another that predicts, with nothing in between."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(b, h, w, c) to (b, h, w, channels); nothing in it depends on `train`."""
        c = x.shape[-1]
        xavier = partial(
            conv, kernel_init=xavier_normal, bias_init=nn.initializers.zeros, dtype=self.dtype
        )
        x = xavier(c, c, 3, name="context")(x)
        return xavier(c, self.channels, 1, name="project")(x)


class InitialPrediction(nn.Module):
    """A task's own branch before distillation: two bottleneck blocks, and their prediction."""

    features: int
    channels: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """(b, h, w, c) to features (b, h, w, features) and prediction (b, h, w, channels)."""
        x = two_bottlenecks(x, self.features, train, self.dtype)
        return x, conv(self.features, self.channels, 1, dtype=self.dtype, name="predict")(x)


def two_bottlenecks(x: jax.Array, features: int, train: bool, dtype: Dtype | None) -> jax.Array:
    """(b, h, w, c) to (b, h, w, features); makes its blocks in the module that calls it."""
    conv_norm = partial(ConvNorm, train=train, dtype=dtype)
    for block in range(2):
        x = BottleneckBlock(conv_norm, features, name=f"block_{block}")(x)
    return x


HEADS: Mapping[str, Module] = {
    "hrnet": HRNetHead,
    "bottleneck": BottleneckHead,
    "deeplab": DeepLabHead,
    "prediction": PredictionHead,
}
