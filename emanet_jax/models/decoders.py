"""Heads: a map to one task's prediction at the map's own size."""

import flax.linen as nn
import jax

from emanet_jax.models.blocks import BottleneckBlock, Conv, Dtype, Unit


class HRNetHead(nn.Module):
    """HRNet's own head on its concatenated maps: 1 x 1 unit (with bias), then the prediction."""

    unit: Unit
    channels: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to (b, h, w, channels)."""
        x = self.unit(x.shape[-1], 1, use_bias=True, name="fuse")(x)
        return Conv(self.channels, 1, dtype=self.dtype, name="predict")(x)


class BottleneckHead(nn.Module):
    """Two bottleneck blocks, then the prediction; also the start of every task's own branch."""

    unit: Unit
    features: int
    channels: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(b, h, w, c) to features (b, h, w, features) and prediction (b, h, w, channels)."""
        for block in range(2):
            x = BottleneckBlock(self.unit, self.features, name=f"block_{block}")(x)
        return x, Conv(self.channels, 1, dtype=self.dtype, name="predict")(x)
