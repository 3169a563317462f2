"""The networks of four scales: images (b, H, W, 3) to `Predictions` for every task.

Source: MTI-Net, arXiv 2001.06902, and EMA-Net's multi-scale form, arXiv 2401.11124.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from emanet_jax.errors import choose
from emanet_jax.models.distillation import AffinityBlock, PadDistillation
from emanet_jax.models.heads import BottleneckHead
from emanet_jax.models.layers import (
    BasicBlock,
    ConvNorm,
    Module,
    SqueezeExcitation,
    concat_at_finest,
    conv,
)
from emanet_jax.models.networks.single_scale import Tasks, at_image_size
from emanet_jax.ops import bilinear, upcast
from emanet_jax.types import Predictions

Features = Mapping[str, jax.Array]  # {task: (b, h, w, c)}


def over_tasks(x: jax.Array, n: int) -> jax.Array:
    """Softmax over the n tasks, per channel, of (b, h, w, n * c) whose tasks follow each other."""
    b, h, w, c = x.shape
    return nn.softmax(x.reshape(b, h, w, n, c // n), axis=3).reshape(x.shape)


def over_neighbours(x: jax.Array, n: int) -> jax.Array:
    """The released code's softmax, over every n neighbouring channels whatever their task."""
    b, h, w, c = x.shape
    return nn.softmax(x.reshape(b, h, w, c // n, n), axis=4).reshape(x.shape)


SOFTMAX_OVER = {"tasks": over_tasks, "neighbours": over_neighbours}


class ScalePrediction(nn.Module):
    """Every task's features and initial predictions at one scale."""

    tasks: Tasks
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, coarser: Features, train: bool
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Joins the backbone's map with the propagated features of the coarser scale.

        Args:
          x: (b, h, w, c).
          coarser: {task: (b, h/2, w/2, d)}, or {} at the coarsest scale.
          train: whether batch norms take the batch's statistics.

        Returns:
          Features {task: (b, h, w, c)} and predictions {task: (b, h, w, channels)}.
        """
        _, h, w, c = x.shape
        conv_norm = partial(ConvNorm, train=train, dtype=self.dtype)
        features, predictions = {}, {}
        for task, channels in self.tasks:
            y = x
            if coarser:
                y = jnp.concatenate([x, bilinear(coarser[task], (h, w))], axis=-1)
            for block in range(2):
                y = BasicBlock(conv_norm, c, name=f"refine_{task}_{block}")(y)
            features[task] = y
            predict = conv(c, channels, 1, dtype=self.dtype, name=f"predict_{task}")
            predictions[task] = predict(y)
        return features, predictions


class FeaturePropagation(nn.Module):
    """Features for the next finer scale: every task's own and a selection of all tasks' together.

    Source: MTI-Net, feature propagation across scales.

    Attributes:
      tasks: in the order of their concatenation.
      softmax_over: the axis of the attention, one of SOFTMAX_OVER.
    """

    tasks: tuple[str, ...]
    softmax_over: str = "tasks"
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, features: Features, train: bool) -> dict[str, jax.Array]:
        """{task: (b, h, w, c)} to the same.

        Raises:
          UserError: an unknown axis.
        """
        softmax = choose("softmax_over", self.softmax_over, SOFTMAX_OVER)
        n, c = len(self.tasks), features[self.tasks[0]].shape[-1]
        conv_norm, width = partial(ConvNorm, train=train, dtype=self.dtype), n * c // 4
        together = jnp.concatenate([features[task] for task in self.tasks], axis=-1)
        scores = BasicBlock(conv_norm, width, name="attend_0")(together)
        scores = BasicBlock(conv_norm, width, name="attend_1")(scores)
        scores = conv(width, n * c, 1, dtype=self.dtype, name="attend_2")(scores)
        attention = softmax(scores, n)  # (b, h, w, n * c)
        shared = BasicBlock(conv_norm, c, name="share")(attention * together)
        return {
            task: features[task]
            + SqueezeExcitation(dtype=self.dtype, name=f"select_{task}")(shared)
            for task in self.tasks
        }


class PadPerScale(nn.Module):
    """MTI-Net's distillation: PAD-Net's at every scale, then all scales next to each other."""

    tasks: tuple[str, ...]
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, scales: Sequence[Features], train: bool) -> dict[str, jax.Array]:
        """Features per scale, finest first, to {task: (b, h, w, sum of c)} of the finest."""
        refined = [
            PadDistillation(self.tasks, dtype=self.dtype, name=f"scale_{scale}")(features, train)
            for scale, features in enumerate(scales)
        ]
        return {task: concat_at_finest([x[task] for x in refined]) for task in self.tasks}


class FusedAffinity(nn.Module):
    """EMA-Net's distillation on several scales: every task fuses its own, then CTAL.

    Attributes:
      block: makes the `AffinityBlock`.
    """

    tasks: tuple[str, ...]
    block: Module = AffinityBlock
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, scales: Sequence[Features], train: bool) -> dict[str, jax.Array]:
        """Features per scale, finest first, to {task: (b, 2h, 2w, distilled)}, finest (h, w)."""
        conv_norm = partial(ConvNorm, train=train, dtype=self.dtype)
        fused = {}
        for task in self.tasks:
            x = concat_at_finest([features[task] for features in scales])
            fused[task] = conv_norm(x.shape[-1], 1, use_bias=True, name=f"fuse_{task}")(x)
        return self.block(tasks=self.tasks, dtype=self.dtype, name="block")(fused, train)


class MultiScale(nn.Module):
    """Initial predictions from coarse to fine, distillation between the tasks, final predictions.

    MTI-Net and EMA-Net-MS are this with different distillations.

    Attributes:
      distillation: makes (features per scale, finest first; train) to {task: one map}.
      refined_head: makes the head on the distilled maps.
      propagation: makes the `FeaturePropagation`.
    """

    tasks: Tasks
    backbone: Module
    distillation: Module
    refined_head: Module = BottleneckHead
    propagation: Module = FeaturePropagation
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Predictions:
        """Images (b, H, W, 3) to predictions, with an auxiliary level per scale."""
        dtype = self.dtype
        names = tuple(task for task, _ in self.tasks)
        maps = self.backbone(dtype=dtype, name="backbone")(images, train)
        coarser: Features = {}
        features: list[Features] = []
        initial: list[Features] = []
        for scale in reversed(range(len(maps))):
            branches = ScalePrediction(self.tasks, dtype, name=f"scale_{scale}")
            by_task, predicted = branches(maps[scale], coarser, train)
            features, initial = [by_task, *features], [predicted, *initial]
            if scale > 0:
                propagate = self.propagation(tasks=names, dtype=dtype, name=f"propagate_{scale}")
                coarser = propagate(by_task, train)
        distilled = self.distillation(tasks=names, dtype=dtype, name="distillation")(
            features, train
        )
        final = {}
        for task, channels in self.tasks:
            head = self.refined_head(channels=channels, dtype=dtype, name=f"head_{task}")
            final[task] = head(distilled[task], train)
        auxiliary = tuple({task: upcast(x) for task, x in level.items()} for level in initial)
        return Predictions(at_image_size(final, images), auxiliary)
