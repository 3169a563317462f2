"""The networks on SegNet that look inside it: MTAN, ATI-Net and SegNet's PAD-Net."""

import functools
import operator
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jax import lax

from emanet_jax.models.backbones.segnet import Decoder, SegNetConvNorm, max_pool, segnet_conv
from emanet_jax.models.distillation import PadDistillation
from emanet_jax.models.heads import PredictionHead
from emanet_jax.models.layers import BatchNorm, Module
from emanet_jax.models.networks.single_scale import Tasks
from emanet_jax.ops import upcast
from emanet_jax.types import Predictions


def bilinear_corners(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Upsamples maps (b, h, w, c) to `size` so that corner pixels stay corner pixels.

    Pixel i of n lies at i (m - 1) / (n - 1) among the input's m: the reference's
    `align_corners=True`. Two products with constant matrices, which hardware is made for and whose
    gradients need no scatter.
    """
    _, h, w, _ = x.shape
    rows = jnp.asarray(_interpolation(h, size[0]), x.dtype)
    columns = jnp.asarray(_interpolation(w, size[1]), x.dtype)
    product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    return product("xw,bywc->byxc", columns, product("yh,bhwc->bywc", rows, x))


def _interpolation(m: int, n: int) -> np.ndarray:
    """The (n, m) matrix of linear interpolation from m values to n between the same ends."""
    at = np.arange(n) * ((m - 1) / max(n - 1, 1))
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(m)))


class Mask(nn.Module):
    """MTAN's attention module: a task's share, between 0 and 1, in every value of a map."""

    features: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        """Maps (b, h, w, c_i) to (b, h, w, features)."""
        x, features = jnp.concatenate(maps, axis=-1), self.features
        x = segnet_conv(x.shape[-1], features, 1, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(BatchNorm(train, dtype=self.dtype, name="bn1")(x))
        x = segnet_conv(features, features, 1, dtype=self.dtype, name="conv2")(x)
        return nn.sigmoid(BatchNorm(train, dtype=self.dtype, name="bn2")(x))


class LatentDistillation(nn.Module):
    """ATI-Net's: the encoder's last map, seen by every task and distilled between them.

    Source: arXiv 2201.10649.

    Attributes:
      tasks: names.
      latent_widths: to which every task narrows the map, step by step; the last is distilled.
    """

    tasks: tuple[str, ...]
    latent_widths: tuple[int, ...] = (256, 128, 64)
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(b, h, w, c) to the same: the mean over the tasks' distilled maps."""
        c, widths = x.shape[-1], self.latent_widths
        chain = partial(PointwiseChain, dtype=self.dtype)
        narrow = {t: chain(widths, name=f"narrow_{t}")(x, train) for t in self.tasks}
        distilled = PadDistillation(self.tasks, segnet_conv, self.dtype, name="distillation")(
            narrow, train
        )
        back = (*widths[-2::-1], c)
        wide = [chain(back, name=f"broaden_{t}")(distilled[t], train) for t in self.tasks]
        return functools.reduce(operator.add, wide) / len(wide)


class PointwiseChain(nn.Module):
    """1 x 1 convolutions, each with norm and ReLU, in a row."""

    widths: tuple[int, ...]
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(b, h, w, c) to (b, h, w, widths[-1])."""
        conv_norm = partial(SegNetConvNorm, train=train, dtype=self.dtype)
        for i, width in enumerate(self.widths, start=1):
            x = conv_norm(width, 1, name=f"conv_norm{i}")(x)
        return x


class AttentionNet(nn.Module):
    """MTAN, and ATI-Net: one SegNet that every task sees through attention masks of its own.

    The convolutions between the scales of the tasks' own paths are shared, and called task after
    task: their running statistics move once per task and pass, as the reference's.

    Source: "End-to-End Multi-Task Learning with Attention" (arXiv 1803.10704); arXiv 2201.10649.

    Attributes:
      tasks: names and channels.
      backbone: makes the `SegNet`.
      latent: makes ATI-Net's distillation of the encoder's last map; None: MTAN.
      feed_decoder: give the distilled map to the shared decoder. The released ATI-Net does not:
        its `latent` is computed, moves its running statistics, and learns nothing.
    """

    tasks: Tasks
    backbone: Module
    latent: Module | None = None
    feed_decoder: bool = True
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Predictions:
        """Images (b, H, W, 3) to predictions."""
        backbone = self.backbone(dtype=self.dtype, name="backbone")
        widths = backbone.widths
        scales = range(len(widths))
        conv_norm = partial(SegNetConvNorm, train=train, dtype=self.dtype)
        down = [conv_norm(w, 3, name=f"down_{i}") for i, w in enumerate((*widths[1:], widths[-1]))]
        up = [conv_norm(w, 3, name=f"up_{i}") for i, w in enumerate((widths[0], *widths[:-1]))]

        encoded = backbone.encoder(images, train)
        pooled = encoded.pooled
        if self.latent is not None:
            names = tuple(task for task, _ in self.tasks)
            distilled = self.latent(tasks=names, dtype=self.dtype, name="latent")(pooled, train)
            pooled = distilled if self.feed_decoder else pooled
        decoded = backbone.decoder(pooled, encoded.argmax_indices, train)

        final = {}
        for task, channels in self.tasks:
            path: list[jax.Array] = []  # the task's last map: none before the first scale
            for i in scales:
                mask = Mask(widths[i], self.dtype, name=f"encoder_mask_{i}_{task}")
                attended = mask([encoded.first[i], *path], train) * encoded.last[i]
                path = [max_pool(down[i](attended))[0]]
            (x,) = path
            for i in reversed(scales):
                unpooled, last = decoded.unpooled[i], decoded.last[i]
                x = up[i](bilinear_corners(x, unpooled.shape[1:3]))
                mask = Mask(last.shape[-1], self.dtype, name=f"decoder_mask_{i}_{task}")
                x = mask([unpooled, x], train) * last
            head = PredictionHead(channels, dtype=self.dtype, name=f"head_{task}")
            final[task] = upcast(head(x, train))
        return Predictions(final)


class DecoderPerTask(nn.Module):
    """PAD-Net on SegNet: a decoder per task on one encoder, distillation at image size.

    Source: arXiv 1805.04409, as arXiv 2201.10649 builds it.
    """

    tasks: Tasks
    backbone: Module
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Predictions:
        """Images (b, H, W, 3) to predictions, without an auxiliary level."""
        backbone = self.backbone(dtype=self.dtype, name="backbone")
        encoded = backbone.encoder(images, train)
        features = {}
        for task, _ in self.tasks:
            decoder = Decoder(backbone.widths, self.dtype, name=f"decoder_{task}")
            features[task] = decoder(encoded.pooled, encoded.argmax_indices, train).last[0]
        names = tuple(task for task, _ in self.tasks)
        distill = PadDistillation(names, segnet_conv, self.dtype, name="decoded_distillation")
        distilled = distill(features, train)
        final = {}
        for task, channels in self.tasks:
            head = PredictionHead(channels, dtype=self.dtype, name=f"head_{task}")
            final[task] = upcast(head(distilled[task], train))
        return Predictions(final)
