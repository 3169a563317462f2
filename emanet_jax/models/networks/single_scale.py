"""The networks of one scale: images (b, H, W, 3) to `Predictions` for every task."""

from collections.abc import Mapping

import flax.linen as nn
import jax
from flax.typing import Dtype

from emanet_jax.models.heads import BottleneckHead, HRNetHead, InitialPrediction
from emanet_jax.models.layers import ConvNorm, Module, concat_at_finest
from emanet_jax.ops import bilinear, upcast
from emanet_jax.types import Predictions

Tasks = tuple[tuple[str, int], ...]  # (name, channels), in the order that they share axes in


def at_image_size(maps: Mapping[str, jax.Array], images: jax.Array) -> dict[str, jax.Array]:
    """Final predictions {task: (b, h, w, channels)} as `Predictions` has them."""
    return {task: bilinear(upcast(x), images.shape[1:3]) for task, x in maps.items()}


class SingleTask(nn.Module):
    """STL, single-task learning: a backbone and a head per task, which share nothing.

    Attributes:
      tasks: names and channels, here and in the other networks.
      backbone: makes a backbone, images to a list of maps, finest first.
      head: makes a head of `heads.HEADS`.
      dtype: that everything computes in; None promotes inputs and parameters.
    """

    tasks: Tasks
    backbone: Module
    head: Module = HRNetHead
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Predictions:
        """Images (b, H, W, 3) to predictions."""
        final = {}
        for task, channels in self.tasks:
            backbone = self.backbone(dtype=self.dtype, name=f"backbone_{task}")
            head = self.head(channels=channels, dtype=self.dtype, name=f"head_{task}")
            final[task] = head(concat_at_finest(backbone(images, train)), train)
        return Predictions(at_image_size(final, images))


class HardSharing(nn.Module):
    """HPS, hard parameter sharing: one backbone, and nothing else shared but it."""

    tasks: Tasks
    backbone: Module
    head: Module = HRNetHead
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Predictions:
        """Images (b, H, W, 3) to predictions."""
        backbone = self.backbone(dtype=self.dtype, name="backbone")
        x = concat_at_finest(backbone(images, train))
        final = {}
        for task, channels in self.tasks:
            head = self.head(channels=channels, dtype=self.dtype, name=f"head_{task}")
            final[task] = head(x, train)
        return Predictions(at_image_size(final, images))


class SingleScale(nn.Module):
    """Initial predictions on the backbone's map, distillation between the tasks, final predictions.

    PAD-Net (arXiv 1805.04409), PAP-Net (arXiv 1906.03525) and EMA-Net (arXiv 2401.11124) are this
    with different distillations.

    Attributes:
      distillation: makes a module of `distillation`, {task: features} to {task: features}.
      refined_head: makes the head on the distilled features.
      features: channels of every task before distillation.
    """

    tasks: Tasks
    backbone: Module
    distillation: Module
    refined_head: Module = BottleneckHead
    features: int = 256
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Predictions:
        """Images (b, H, W, 3) to predictions, with one auxiliary level."""
        dtype = self.dtype
        maps = self.backbone(dtype=dtype, name="backbone")(images, train)
        x = concat_at_finest(maps)
        if len(maps) > 1:  # (b, H/4, W/4, 270) on HRNet
            x = ConvNorm(x.shape[-1], 1, use_bias=True, train=train, dtype=dtype, name="fuse")(x)

        features, initial, final = {}, {}, {}
        for task, channels in self.tasks:
            branch = InitialPrediction(self.features, channels, dtype, name=f"initial_{task}")
            features[task], initial[task] = branch(x, train)
        names = tuple(task for task, _ in self.tasks)
        distilled = self.distillation(tasks=names, dtype=dtype, name="distillation")(
            features, train
        )
        for task, channels in self.tasks:
            head = self.refined_head(channels=channels, dtype=dtype, name=f"head_{task}")
            final[task] = head(distilled[task], train)
        auxiliary = {task: upcast(x) for task, x in initial.items()}
        return Predictions(at_image_size(final, images), (auxiliary,))
