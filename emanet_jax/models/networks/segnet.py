"""The networks on SegNet that look inside it: MTAN, ATI-Net and SegNet's PAD-Net."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax

from emanet_jax.models.backbones.segnet import Decoder, SegNet, SegNetUnit, max_pool
from emanet_jax.models.distillation import PadDistillation
from emanet_jax.models.heads import PredictionHead
from emanet_jax.models.layers import BatchNorm, Conv, Dtype, xavier_normal
from emanet_jax.models.networks.single_scale import Tasks, names_of
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


class JoinedConv(nn.Module):
    """1 x 1 convolution of the concatenation of several maps, which is never made."""

    features: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> jax.Array:
        """Maps (b, h, w, c_i) to (b, h, w, features)."""
        ends = list(accumulate(x.shape[-1] for x in maps))
        c = ends[-1]
        kernel = self.param("kernel", xavier_normal, (1, 1, c, self.features), c)
        bias = self.param("bias", xavier_normal, (self.features,), c)
        *maps, kernel, bias = promote_dtype(*maps, kernel, bias, dtype=self.dtype)
        parts = jnp.split(kernel[0, 0], ends[:-1])
        return sum(x @ part for x, part in zip(maps, parts, strict=True)) + bias


class Mask(nn.Module):
    """MTAN's attention module: what of a map a task takes, between 0 and 1, seen from others."""

    features: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        """Maps (b, h, w, c_i) to (b, h, w, features)."""
        x = JoinedConv(self.features, self.dtype, name="conv1")(maps)
        x = nn.relu(BatchNorm(train, dtype=self.dtype, name="bn1")(x))
        x = Conv(self.features, 1, dtype=self.dtype, start=xavier_normal, name="conv2")(x)
        return nn.sigmoid(BatchNorm(train, dtype=self.dtype, name="bn2")(x))


class LatentDistillation(nn.Module):
    """ATI-Net's: the encoder's last map, seen by every task and distilled between them.

    Source: arXiv 2201.10649.

    Attributes:
      tasks: names.
      widths: that every task narrows the map to, step by step; the last is distilled.
    """

    tasks: tuple[str, ...]
    widths: tuple[int, ...]
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(b, h, w, c) to the same: the mean of what the tasks make of it."""
        c = x.shape[-1]
        chain = partial(PointwiseChain, dtype=self.dtype)
        narrow = {t: chain(self.widths, name=f"narrow_{t}")(x, train) for t in self.tasks}
        distilled = PadDistillation(
            self.tasks, partial(Conv, start=xavier_normal), self.dtype, name="distillation"
        )(narrow, train)
        back = (*self.widths[-2::-1], c)
        wide = [chain(back, name=f"broaden_{t}")(distilled[t], train) for t in self.tasks]
        return sum(wide) / len(wide)


class PointwiseChain(nn.Module):
    """1 x 1 units in a row."""

    widths: tuple[int, ...]
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(b, h, w, c) to (b, h, w, widths[-1])."""
        unit = partial(SegNetUnit, train=train, dtype=self.dtype)
        for i, width in enumerate(self.widths, start=1):
            x = unit(width, 1, name=f"unit{i}")(x)
        return x


class AttentionNet(nn.Module):
    """MTAN: one SegNet, of which every task takes what its own attention masks let through.

    The units between the scales of the tasks' own paths are shared, and called task after task:
    their running statistics move once per task and pass, as the reference's.

    Source: "End-to-End Multi-Task Learning with Attention" (arXiv 1803.10704).

    Attributes:
      tasks: names and channels.
      backbone: whose encoder and decoder the tasks attend to.
      latent: None, or ATI-Net's distillation of the encoder's last map.
      feed_decoder: give the distilled map to the shared decoder. The released ATI-Net does not:
        its `latent` is computed, moves its running statistics, and learns nothing.
    """

    tasks: Tasks
    backbone: SegNet
    latent: nn.Module | None = None  # ((b, h, w, c), train) to the same
    feed_decoder: bool = True
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Predictions:
        """Images (b, H, W, 3) to predictions."""
        widths = self.backbone.widths
        scales = range(len(widths))
        unit = partial(SegNetUnit, train=train, dtype=self.dtype)
        down = [unit(w, 3, name=f"down_{i}") for i, w in enumerate((*widths[1:], widths[-1]))]
        up = [unit(w, 3, name=f"up_{i}") for i, w in enumerate((widths[0], *widths[:-1]))]

        encoded = self.backbone.encoder(images, train)
        latent = encoded.pooled
        if self.latent is not None:
            distilled = self.latent(latent, train)
            latent = distilled if self.feed_decoder else latent
        decoded = self.backbone.decoder(latent, encoded.places, train)

        final = {}
        for task, channels in self.tasks:
            path = []  # the task's last map: none before the first scale
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
    """PAD-Net on SegNet: a decoder per task on one encoder, distillation at image size."""

    tasks: Tasks
    backbone: SegNet
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Predictions:
        """Images (b, H, W, 3) to predictions, without an auxiliary level."""
        encoded = self.backbone.encoder(images, train)
        features = {}
        for task, _ in self.tasks:
            decoder = Decoder(self.backbone.widths, self.dtype, name=f"decoder_{task}")
            features[task] = decoder(encoded.pooled, encoded.places, train).last[0]
        distilled = PadDistillation(
            names_of(self.tasks),
            partial(Conv, start=xavier_normal),
            self.dtype,
            name="decoded_distillation",
        )(features, train)
        final = {}
        for task, channels in self.tasks:
            head = PredictionHead(channels, dtype=self.dtype, name=f"head_{task}")
            final[task] = upcast(head(distilled[task], train))
        return Predictions(final)


def mtan(tasks: Tasks, backbone: SegNet, *, dtype: Dtype | None = None) -> AttentionNet:
    """MTAN (arXiv 1803.10704)."""
    return AttentionNet(tasks, backbone, dtype=dtype)


def ati_net(
    tasks: Tasks,
    backbone: SegNet,
    *,
    feed_decoder: bool,
    latent_widths: tuple[int, ...] = (256, 128, 64),
    dtype: Dtype | None = None,
) -> AttentionNet:
    """ATI-Net (arXiv 2201.10649): MTAN with distillation in the latent space."""
    latent = LatentDistillation(names_of(tasks), latent_widths, dtype)
    return AttentionNet(tasks, backbone, latent, feed_decoder, dtype)


def pad_net(tasks: Tasks, backbone: SegNet, *, dtype: Dtype | None = None) -> DecoderPerTask:
    """PAD-Net (arXiv 1805.04409) as arXiv 2201.10649 builds it on SegNet."""
    return DecoderPerTask(tasks, backbone, dtype)
