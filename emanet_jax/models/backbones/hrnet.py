"""HRNet: parallel branches from fine to coarse that keep exchanging what they see.

Source: "Deep High-Resolution Representation Learning for Visual Recognition" (arXiv 1908.07919).
"""

from functools import partial

import flax.linen as nn
import jax
from flax.typing import Dtype

from emanet_jax.errors import choose
from emanet_jax.models.layers import (
    BasicBlock,
    BottleneckBlock,
    ConvNorm,
    Module,
    upsample_nearest,
)
from emanet_jax.ops import bilinear

UPSAMPLING = {"bilinear": bilinear, "nearest": upsample_nearest}


class Exchange(nn.Module):
    """One HRNet module: basic blocks on every branch, then every branch sums all of them."""

    conv_norm: Module
    blocks: int
    upsampling: str

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> list[jax.Array]:
        """One map per branch, finest first, to the same shapes."""
        widths = [x.shape[-1] for x in maps]
        branches = []
        for i, x in enumerate(maps):
            for block in range(self.blocks):
                x = BasicBlock(self.conv_norm, widths[i], name=f"branch_{i}_{block}")(x)
            branches.append(x)
        return [
            nn.relu(sum(self._send(x, j, i, branches[i]) for j, x in enumerate(branches)))
            for i in range(len(maps))
        ]

    def _send(self, x: jax.Array, j: int, i: int, target: jax.Array) -> jax.Array:
        """Branch j's map in the shape of branch i's."""
        _, h, w, c = target.shape
        if j > i:  # coarser: to the target's width, then upsample
            x = self.conv_norm(c, 1, relu=False, name=f"up_{i}_{j}")(x)
            return UPSAMPLING[self.upsampling](x, (h, w))
        for step in range(i - j):  # finer: halve, keeping j's width until the last step
            last = step == i - j - 1
            width, name = c if last else x.shape[-1], f"down_{i}_{j}_{step}"
            x = self.conv_norm(width, 3, strides=2, relu=not last, name=name)(x)
        return x


class HRNet(nn.Module):
    """Images (b, H, W, 3) to one map per width, at 1/4, 1/8, 1/16, ... of the image."""

    widths: tuple[int, ...]
    stem: int
    first_blocks: int
    modules: tuple[int, ...]  # of every stage from the second on; each stage adds a branch
    blocks: int
    upsampling: str = "bilinear"  # ImageNet checkpoints of timm were trained with "nearest"
    decay: float = 0.99  # of the batch norms' running averages
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> list[jax.Array]:
        """Images to maps, finest first; image sides must be multiples of 8 * 2^(stages - 1)."""
        choose("upsampling", self.upsampling, UPSAMPLING)
        conv_norm = partial(ConvNorm, train=train, decay=self.decay, dtype=self.dtype)
        x = conv_norm(self.stem, 3, strides=2, name="stem1")(images)
        x = conv_norm(self.stem, 3, strides=2, name="stem2")(x)  # (b, H/4, W/4, stem)
        for block in range(self.first_blocks):
            x = BottleneckBlock(conv_norm, 4 * self.stem, name=f"layer1_{block}")(x)
        maps = [x]
        for stage, modules in enumerate(self.modules, start=2):
            coarsest = maps[-1]
            for i, x in enumerate(maps):
                if x.shape[-1] != self.widths[i]:
                    name = f"transition{stage - 1}_{i}"
                    maps[i] = conv_norm(self.widths[i], 3, name=name)(x)
            width, name = self.widths[stage - 1], f"downsample{stage - 1}_{stage - 1}"
            maps = [*maps, conv_norm(width, 3, strides=2, name=name)(coarsest)]
            for module in range(modules):
                name = f"stage{stage}_{module}"
                maps = Exchange(conv_norm, self.blocks, self.upsampling, name=name)(maps)
        return maps
