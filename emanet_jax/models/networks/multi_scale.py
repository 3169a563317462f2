"""The networks of four scales: images (b, H, W, 3) to `Predictions` for every task.

Source: MTI-Net, arXiv 2001.06902, and EMA-Net's multi-scale form, arXiv 2401.11124.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from emanet_jax.errors import UserError
from emanet_jax.models.distillation import AffinityBlock, PadDistillation
from emanet_jax.models.heads import make_head
from emanet_jax.models.layers import (
    BasicBlock,
    Conv,
    ConvNorm,
    Dtype,
    SqueezeExcitation,
    concat_at_finest,
)
from emanet_jax.models.networks.single_scale import Tasks, at_image_size, names_of
from emanet_jax.ops import bilinear, upcast
from emanet_jax.types import Predictions

Features = Mapping[str, jax.Array]  # {task: (b, h, w, c)}


def over_tasks(x: jax.Array, n: int) -> jax.Array:
    """Softmax over the n tasks, per channel, of (b, h, w, n * c) whose tasks follow each other."""
    b, h, w, c = x.shape
    return nn.softmax(x.reshape(b, h, w, n, c // n), axis=3).reshape(x.shape)


def over_neighbours(x: jax.Array, n: int) -> jax.Array:
    """The released code's: softmax over every n neighbouring channels, whosever they are."""
    b, h, w, c = x.shape
    return nn.softmax(x.reshape(b, h, w, c // n, n), axis=4).reshape(x.shape)


SOFTMAX_OVER = {"tasks": over_tasks, "neighbours": over_neighbours}


class ScalePrediction(nn.Module):
    """Every task's features at one scale, and what they predict there."""

    tasks: Tasks
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, coarser: Features, train: bool
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """The backbone's map and the propagated features of the coarser scale, if there is one.

        Args:
          x: (b, h, w, c).
          coarser: {task: (b, h/2, w/2, d)}, or {} at the coarsest scale.
          train: whether batch norms take the batch's statistics.

        Returns:
          Features {task: (b, h, w, c)} and predictions {task: (b, h, w, channels)}.
        """
        _, h, w, c = x.shape
        unit = partial(ConvNorm, train=train, dtype=self.dtype)
        features, predictions = {}, {}
        for task, channels in self.tasks:
            y = x
            if coarser:
                y = jnp.concatenate([x, bilinear(coarser[task], (h, w))], axis=-1)
            for block in range(2):
                y = BasicBlock(unit, c, name=f"refine_{task}_{block}")(y)
            features[task] = y
            predictions[task] = Conv(channels, 1, dtype=self.dtype, name=f"predict_{task}")(y)
        return features, predictions


class FeaturePropagation(nn.Module):
    """What the next finer scale gets: every task's features and what the tasks have in common.

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
        if self.softmax_over not in SOFTMAX_OVER:
            choices = ", ".join(SOFTMAX_OVER)
            raise UserError(f"softmax_over is {self.softmax_over!r}; choose from {choices}.")
        n, c = len(self.tasks), features[self.tasks[0]].shape[-1]
        unit = partial(ConvNorm, train=train, dtype=self.dtype)
        together = jnp.concatenate([features[task] for task in self.tasks], axis=-1)
        scores = BasicBlock(unit, n * c // 4, name="attend_0")(together)
        scores = BasicBlock(unit, n * c // 4, name="attend_1")(scores)
        scores = Conv(n * c, 1, dtype=self.dtype, name="attend_2")(scores)  # (b, h, w, n * c)
        attention = SOFTMAX_OVER[self.softmax_over](scores, n)
        shared = BasicBlock(unit, c, name="share")(attention * together)
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
    """EMA-Net's distillation on several scales: every task fuses its own, then CTAL."""

    tasks: tuple[str, ...]
    block: AffinityBlock
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, scales: Sequence[Features], train: bool) -> dict[str, jax.Array]:
        """Features per scale, finest first, to {task: (b, 2h, 2w, features)}, finest (h, w)."""
        unit = partial(ConvNorm, train=train, dtype=self.dtype)
        fused = {}
        for task in self.tasks:
            x = concat_at_finest([features[task] for features in scales])
            fused[task] = unit(x.shape[-1], 1, use_bias=True, name=f"fuse_{task}")(x)
        return self.block(fused, train)


class MultiScale(nn.Module):
    """Initial predictions from coarse to fine, distillation between the tasks, final predictions.

    Attributes:
      distillation: (features per scale, finest first; train) to {task: one map}.
      softmax_over: FeaturePropagation's.
    """

    tasks: Tasks
    backbone: nn.Module
    distillation: nn.Module
    head: str
    softmax_over: str
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Predictions:
        """Images (b, H, W, 3) to predictions, with an auxiliary level per scale."""
        maps = self.backbone(images, train)
        names, coarser = names_of(self.tasks), {}
        features, initial = [], []
        for scale in reversed(range(len(maps))):
            branches = ScalePrediction(self.tasks, self.dtype, name=f"scale_{scale}")
            seen, predicted = branches(maps[scale], coarser, train)
            features, initial = [seen, *features], [predicted, *initial]
            if scale > 0:
                propagate = FeaturePropagation(
                    names, self.softmax_over, self.dtype, name=f"propagate_{scale}"
                )
                coarser = propagate(seen, train)
        distilled = self.distillation(features, train)
        final = {}
        for task, channels in self.tasks:
            head = make_head(self.head, channels, 0.0, self.dtype, f"head_{task}")
            final[task] = head(distilled[task], train)
        auxiliary = tuple({task: upcast(x) for task, x in level.items()} for level in initial)
        return Predictions(at_image_size(final, images), auxiliary)


def mti_net(
    tasks: Tasks, backbone: nn.Module, *, softmax_over: str, dtype: Dtype | None = None
) -> MultiScale:
    """MTI-Net (arXiv 2001.06902): PAD-Net's distillation at four scales."""
    block = PadPerScale(names_of(tasks), dtype)
    return MultiScale(tasks, backbone, block, "hrnet", softmax_over, dtype)


def ema_net_ms(
    tasks: Tasks,
    backbone: nn.Module,
    *,
    refined_head: str,
    softmax_over: str,
    fusion: str,
    implementation: str = "auto",
    gamma: float = 0.05,
    distilled: int = 128,
    dtype: Dtype | None = None,
) -> MultiScale:
    """EMA-Net-MS (arXiv 2401.11124): MTI-Net's scales, fused for CTAL."""
    names = names_of(tasks)
    affinity = AffinityBlock(names, distilled, fusion, implementation, gamma, dtype=dtype)
    block = FusedAffinity(names, affinity, dtype)
    return MultiScale(tasks, backbone, block, refined_head, softmax_over, dtype)
