"""The networks: images (b, H, W, 3) to `Predictions` for every task."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax

from emanet_jax.models.blocks import ConvNorm, Dtype, concat_at_finest
from emanet_jax.models.decoders import BottleneckHead, HRNetHead
from emanet_jax.models.distillation import AffinityBlock
from emanet_jax.ops import bilinear, widen


class Predictions(NamedTuple):
    """What every network returns, in float32 or better and before any activation.

    Attributes:
      final: {task: (b, H, W, channels)} at image size.
      auxiliary: one dict like it per level of deep supervision, finest first, its maps at their own
        size (1/4 of the image in the single-scale networks).
    """

    final: dict[str, jax.Array]
    auxiliary: tuple[dict[str, jax.Array], ...] = ()


Tasks = tuple[tuple[str, int], ...]  # (name, channels), in the order that they share axes in


def _at_image_size(maps: Mapping[str, jax.Array], images: jax.Array) -> dict[str, jax.Array]:
    return {task: bilinear(widen(x), images.shape[1:3]) for task, x in maps.items()}


class HardSharing(nn.Module):
    """HPS, hard parameter sharing: one backbone, and nothing else shared but it."""

    tasks: Tasks
    backbone: nn.Module
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Predictions:
        """Images (b, H, W, 3) to predictions."""
        unit = partial(ConvNorm, train=train, dtype=self.dtype)
        x = concat_at_finest(self.backbone(images, train))
        final = {
            task: HRNetHead(unit, channels, self.dtype, name=f"head_{task}")(x)
            for task, channels in self.tasks
        }
        return Predictions(_at_image_size(final, images))


class SingleScale(nn.Module):
    """Initial predictions on the fused backbone, distillation between the tasks, final predictions.

    PAD-Net, PAP-Net and EMA-Net are this with different distillations.
    """

    tasks: Tasks
    backbone: nn.Module
    distillation: nn.Module  # ({task: features}, train) to {task: features}
    features: int  # of every task, before distillation
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Predictions:
        """Images (b, H, W, 3) to predictions, with one auxiliary level."""
        unit = partial(ConvNorm, train=train, dtype=self.dtype)
        x = concat_at_finest(self.backbone(images, train))
        x = unit(x.shape[-1], 1, use_bias=True, name="fuse")(x)  # (b, H/4, W/4, 270)

        features, initial, final = {}, {}, {}
        for task, channels in self.tasks:
            branch = BottleneckHead(
                unit, self.features, channels, self.dtype, name=f"initial_{task}"
            )
            features[task], initial[task] = branch(x)
        distilled = self.distillation(features, train)
        for task, channels in self.tasks:
            width = distilled[task].shape[-1]
            head = BottleneckHead(unit, width, channels, self.dtype, name=f"head_{task}")
            _, final[task] = head(distilled[task])
        auxiliary = {task: widen(x) for task, x in initial.items()}
        return Predictions(_at_image_size(final, images), (auxiliary,))


def ema_net(
    tasks: Tasks,
    backbone: nn.Module,
    *,
    fusion: str,
    implementation: str = "auto",
    gamma: float = 0.05,
    features: int = 256,
    distilled: int = 128,
    dtype: Dtype | None = None,
) -> SingleScale:
    """EMA-Net (arXiv 2401.11124): the single-scale decoder with CTAL as its distillation."""
    names = tuple(name for name, _ in tasks)
    block = AffinityBlock(names, distilled, fusion, implementation, gamma, dtype)
    return SingleScale(tasks, backbone, block, features, dtype)


def hps(tasks: Tasks, backbone: nn.Module, *, dtype: Dtype | None = None) -> HardSharing:
    """HPS: one backbone, HRNet's head per task."""
    return HardSharing(tasks, backbone, dtype)
