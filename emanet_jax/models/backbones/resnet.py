"""ResNet: a stack of residual blocks from 1/4 to 1/32 of the image.

Source: "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), with the stride of a
bottleneck block on its 3 x 3 convolution, as the public ImageNet weights have it.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from emanet_jax.models.layers import BasicBlock, BottleneckBlock, ConvNorm


class ResNet(nn.Module):
    """Images (b, H, W, 3) to one map at 1/32, or one of every group; no pooling and classifier."""

    block: type[BasicBlock] | type[BottleneckBlock]
    stem: int
    widths: tuple[int, ...]  # of every group of blocks; all but the first group halve the size
    blocks: tuple[int, ...]
    all_scales: bool = False  # give the map of every group, from 1/4 to 1/32
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> list[jax.Array]:
        """Images to [(b, H/32, W/32, widths[-1])], where there are four groups, or to all maps."""
        conv_norm = partial(ConvNorm, train=train, dtype=self.dtype)
        x = conv_norm(self.stem, 7, strides=2, name="stem")(images)
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
        x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))  # (b, H/4, W/4, stem)
        maps = []
        for group, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
            for i in range(blocks):
                strides = 2 if group > 1 and i == 0 else 1
                x = self.block(conv_norm, width, strides, name=f"group{group}_{i}")(x)
            maps.append(x)
        return maps if self.all_scales else maps[-1:]
