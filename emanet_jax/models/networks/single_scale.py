"""The networks of one scale: images (b, H, W, 3) to `Predictions` for every task."""

from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax

from emanet_jax.models.distillation import AffinityBlock, PadDistillation, PatternPropagation
from emanet_jax.models.heads import InitialPrediction, make_head
from emanet_jax.models.layers import ConvNorm, Dtype, concat_at_finest
from emanet_jax.ops import bilinear, upcast
from emanet_jax.types import Predictions

Tasks = tuple[tuple[str, int], ...]  # (name, channels), in the order that they share axes in


def names_of(tasks: Tasks) -> tuple[str, ...]:
    """The names alone."""
    return tuple(name for name, _ in tasks)


def at_image_size(maps: Mapping[str, jax.Array], images: jax.Array) -> dict[str, jax.Array]:
    """Final predictions {task: (b, h, w, channels)} as `Predictions` has them."""
    return {task: bilinear(upcast(x), images.shape[1:3]) for task, x in maps.items()}


class SingleTask(nn.Module):
    """STL, single-task learning: a backbone and a head per task, which share nothing."""

    tasks: Tasks
    backbone: nn.Module  # the pattern of every task's own
    head: str
    dropout: float = 0.5
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Predictions:
        """Images (b, H, W, 3) to predictions."""
        final = {}
        for task, channels in self.tasks:
            x = concat_at_finest(self.backbone.copy(name=f"backbone_{task}")(images, train))
            head = make_head(self.head, channels, self.dropout, self.dtype, f"head_{task}")
            final[task] = head(x, train)
        return Predictions(at_image_size(final, images))


class HardSharing(nn.Module):
    """HPS, hard parameter sharing: one backbone, and nothing else shared but it."""

    tasks: Tasks
    backbone: nn.Module
    head: str
    dropout: float = 0.5
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Predictions:
        """Images (b, H, W, 3) to predictions."""
        x = concat_at_finest(self.backbone(images, train))
        final = {}
        for task, channels in self.tasks:
            head = make_head(self.head, channels, self.dropout, self.dtype, f"head_{task}")
            final[task] = head(x, train)
        return Predictions(at_image_size(final, images))


class SingleScale(nn.Module):
    """Initial predictions on the backbone's map, distillation between the tasks, final predictions.

    PAD-Net, PAP-Net and EMA-Net are this with different distillations.
    """

    tasks: Tasks
    backbone: nn.Module
    distillation: nn.Module  # ({task: features}, train) to {task: features}
    features: int  # of every task, before distillation
    head: str
    dropout: float = 0.5
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Predictions:
        """Images (b, H, W, 3) to predictions, with one auxiliary level."""
        maps = self.backbone(images, train)
        x = concat_at_finest(maps)
        if len(maps) > 1:  # (b, H/4, W/4, 270) on HRNet
            unit = partial(ConvNorm, train=train, dtype=self.dtype)
            x = unit(x.shape[-1], 1, use_bias=True, name="fuse")(x)

        features, initial, final = {}, {}, {}
        for task, channels in self.tasks:
            branch = InitialPrediction(self.features, channels, self.dtype, name=f"initial_{task}")
            features[task], initial[task] = branch(x, train)
        distilled = self.distillation(features, train)
        for task, channels in self.tasks:
            head = make_head(self.head, channels, self.dropout, self.dtype, f"head_{task}")
            final[task] = head(distilled[task], train)
        auxiliary = {task: upcast(x) for task, x in initial.items()}
        return Predictions(at_image_size(final, images), (auxiliary,))


def stl(
    tasks: Tasks,
    backbone: nn.Module,
    *,
    head: str,
    dropout: float = 0.5,
    dtype: Dtype | None = None,
) -> SingleTask:
    """STL: one network per task. `dropout` is that of DeepLab's head, here and below."""
    return SingleTask(tasks, backbone, head, dropout, dtype)


def hps(
    tasks: Tasks,
    backbone: nn.Module,
    *,
    head: str,
    dropout: float = 0.5,
    dtype: Dtype | None = None,
) -> HardSharing:
    """HPS: one backbone, one head per task."""
    return HardSharing(tasks, backbone, head, dropout, dtype)


def pad_net(
    tasks: Tasks,
    backbone: nn.Module,
    *,
    refined_head: str,
    features: int = 256,
    dropout: float = 0.5,
    dtype: Dtype | None = None,
) -> SingleScale:
    """PAD-Net (arXiv 1805.04409): the other tasks' features, gated by spatial attention."""
    block = PadDistillation(names_of(tasks), dtype=dtype)
    return SingleScale(tasks, backbone, block, features, refined_head, dropout, dtype)


def pap_net(
    tasks: Tasks,
    backbone: nn.Module,
    *,
    refined_head: str,
    affinity: str,
    beta: float = 0.05,
    features: int = 256,
    distilled: int = 128,
    dropout: float = 0.5,
    dtype: Dtype | None = None,
) -> SingleScale:
    """PAP-Net (arXiv 1906.03525): diffusion along affinities that the tasks share."""
    block = PatternPropagation(names_of(tasks), distilled, affinity, beta, dtype)
    return SingleScale(tasks, backbone, block, features, refined_head, dropout, dtype)


def ema_net(
    tasks: Tasks,
    backbone: nn.Module,
    *,
    refined_head: str,
    narrow_norm: bool,
    fusion: str,
    implementation: str = "auto",
    gamma: float = 0.05,
    features: int = 256,
    distilled: int = 128,
    dropout: float = 0.5,
    dtype: Dtype | None = None,
) -> SingleScale:
    """EMA-Net (arXiv 2401.11124): CTAL."""
    block = AffinityBlock(
        names_of(tasks), distilled, fusion, implementation, gamma, narrow_norm, dtype
    )
    return SingleScale(tasks, backbone, block, features, refined_head, dropout, dtype)
