"""Swin Transformer V2: attention in windows that every second block shifts by half a window.

Source: "Swin Transformer V2" (arXiv 2111.09883): cosine attention, log-spaced continuous position
bias, normalisation after every branch; windows and shifts as in arXiv 2103.14030.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from emanet_jax.errors import UserError
from emanet_jax.models.layers import dense, fan_in_uniform, uniform_bias
from emanet_jax.ops import unit_vectors, wide_dtype

Maps = TypeVar("Maps", jax.Array, np.ndarray)

WINDOW = 8  # tokens on a side
PATCH = 4  # pixels on a side
POSITION_FEATURES = 512  # hidden width of the position bias
MASKED = -100.0  # added to the attention between tokens that only a shift made neighbours


def coordinate_table() -> np.ndarray:
    """(15, 15, 2) float32: log-spaced (rows, columns) between two tokens of a window.

    Offsets -7..7 are scaled to -8..8, then sign(x) * log2(1 + |x|) / 3; all in float32, because the
    public weights were trained on these numbers.
    """
    offsets = np.arange(1 - WINDOW, WINDOW, dtype=np.float32)
    scaled = offsets / np.float32(WINDOW - 1) * np.float32(8)
    spaced = np.sign(scaled) * np.log2(np.abs(scaled) + np.float32(1)) / np.float32(3)
    return np.stack(np.meshgrid(spaced, spaced, indexing="ij"), axis=-1)


def position_index() -> np.ndarray:
    """(64, 64): the entry of the flattened table that is the offset from token j to token i."""
    tokens = np.indices((WINDOW, WINDOW)).reshape(2, -1).T
    rows, columns = np.moveaxis(tokens[:, None] - tokens[None] + WINDOW - 1, -1, 0)
    return rows * (2 * WINDOW - 1) + columns


def shifts(size: Sequence[int], shifted: bool) -> tuple[int, ...]:
    """By how many tokens the windows move on each axis: not at all where one window covers it."""
    return tuple(WINDOW // 2 if shifted and side > WINDOW else 0 for side in size)


def regions(size: Sequence[int], shift: Sequence[int]) -> np.ndarray:
    """(windows, 64) ids: tokens of a shifted window see each other only where they are equal."""
    rows, columns = (
        1 * (np.arange(side) >= side - WINDOW) + (np.arange(side) >= side - step)
        for side, step in zip(size, shift, strict=True)
    )
    ids = 3 * rows[:, None] + columns
    return to_windows(ids[None, :, :, None])[0, :, :, 0]


def to_windows(x: Maps) -> Maps:
    """(b, h, w, c) to (b, windows, 64, c); h and w are multiples of a window."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c)
    return x.swapaxes(2, 3).reshape(b, -1, WINDOW * WINDOW, c)


def from_windows(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """The inverse of `to_windows`, to maps of `size` (h, w)."""
    b, _, _, c = x.shape
    h, w = size
    x = x.reshape(b, h // WINDOW, w // WINDOW, WINDOW, WINDOW, c)
    return x.swapaxes(2, 3).reshape(b, h, w, c)


class WindowAttention(nn.Module):
    """Cosine attention between the 64 tokens of every window, in float32 where it normalises."""

    heads: int
    shifted: bool
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to the same.

        Maps are filled up with zeros to whole windows; these tokens take part like all others.
        """
        _, h, w, c = x.shape
        size = tuple(-side % WINDOW + side for side in (h, w))
        shift = shifts(size, self.shifted)
        x = jnp.pad(x, [(0, 0), (0, size[0] - h), (0, size[1] - w), (0, 0)])
        x = jnp.roll(x, (-shift[0], -shift[1]), axis=(1, 2))

        q, k, v = self._split(to_windows(x))  # (b, windows, 64, heads, c / heads)
        scale = jnp.exp(jnp.minimum(self._logit_scale(), math.log(100)))  # (heads, 1, 1)
        logits = jnp.einsum(
            "bnqhd,bnkhd->bnhqk",
            unit_vectors(q),
            unit_vectors(k),
            preferred_element_type=wide_dtype(q.dtype),
        )
        logits = logits * scale + self._position_bias()
        if any(shift):
            ids = jnp.asarray(regions(size, shift))[:, None]  # (windows, 1, 64)
            logits += jnp.where(ids[..., None] == ids[..., None, :], 0, MASKED).astype(logits.dtype)
        weights = nn.softmax(logits).astype(v.dtype)
        x = jnp.einsum("bnhqk,bnkhd->bnqhd", weights, v)

        x = dense(c, c, dtype=self.dtype, name="proj")(x.reshape(*x.shape[:3], c))
        x = jnp.roll(from_windows(x, size), shift, axis=(1, 2))
        return x[:, :h, :w]

    def _split(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values; keys have no bias, though the public weights hold one."""
        c = x.shape[-1]
        x = dense(c, 3 * c, use_bias=False, dtype=self.dtype, name="qkv")(x)
        bias = self.param("qkv_bias", uniform_bias(c), (3 * c,))
        bias = jnp.where(jnp.arange(3 * c) // c == 1, 0, bias).astype(x.dtype)
        x = (x + bias).reshape(*x.shape[:3], 3, self.heads, c // self.heads)
        return tuple(jnp.moveaxis(x, 3, 0))

    def _logit_scale(self) -> jax.Array:
        start = nn.initializers.constant(math.log(10))
        return self.param("logit_scale", start, (self.heads, 1, 1))

    def _position_bias(self) -> jax.Array:
        """(heads, 64, 64) of 0 to 16, from a small network on the offsets; always float32."""
        table = jnp.asarray(coordinate_table())
        x = nn.relu(dense(2, POSITION_FEATURES, name="position1")(table))
        x = dense(POSITION_FEATURES, self.heads, use_bias=False, name="position2")(x)
        x = 16 * nn.sigmoid(x.reshape(-1, self.heads))
        return x[position_index()].transpose(2, 0, 1)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each normalised and added to what it started from."""

    heads: int
    shifted: bool
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, scale: jax.Array) -> jax.Array:
        """(b, h, w, c) to the same; `scale` (2, b) multiplies the two branches of every image."""
        c = x.shape[-1]
        scale = scale[..., None, None, None].astype(x.dtype)
        y = WindowAttention(self.heads, self.shifted, self.dtype, name="attn")(x)
        x = x + scale[0] * layer_norm(self.dtype, "norm1")(y)
        y = nn.gelu(dense(c, 4 * c, dtype=self.dtype, name="mlp1")(x), approximate=False)
        y = dense(4 * c, c, dtype=self.dtype, name="mlp2")(y)
        return x + scale[1] * layer_norm(self.dtype, "norm2")(y)


class PatchMerging(nn.Module):
    """Halves the size: every 2 x 2 tokens become one of twice the channels."""

    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to (b, ceil(h / 2), ceil(w / 2), 2c); odd sides are padded with a zero."""
        _, h, w, c = x.shape
        x = jnp.pad(x, [(0, 0), (0, h % 2), (0, w % 2), (0, 0)])
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = jnp.concatenate(corners, axis=-1)  # (b, h/2, w/2, 4c)
        x = dense(4 * c, 2 * c, use_bias=False, dtype=self.dtype, name="reduction")(x)
        return layer_norm(self.dtype, "norm")(x)


def draw_scales(key: jax.Array, rates: np.ndarray, images: int) -> jax.Array:
    """Stochastic depth (arXiv 1603.09382): which branches training leaves out of which image.

    One draw for all blocks, because XLA takes its time to compile each.

    Args:
      key: of the draw.
      rates: (blocks,) probabilities of leaving a branch out.
      images: how many.

    Returns:
      (blocks, 2, images): 0 for what is left out, elsewhere what keeps the branch's mean.
    """
    kept = 1 - rates[:, None, None]
    return (jax.random.uniform(key, (len(rates), 2, images)) < kept) / kept


def layer_norm(dtype: Dtype | None, name: str) -> nn.LayerNorm:
    """Layer normalisation as in PyTorch; statistics in at least float32."""
    return nn.LayerNorm(1e-5, dtype=dtype, use_fast_variance=False, name=name)


class SwinV2(nn.Module):
    """Images (b, H, W, 3) to one map at 1/32, normalised, and to those of the stages before."""

    embed_dim: int  # of the first stage; each further one has twice the channels, at half the size
    blocks: tuple[int, ...]
    heads: tuple[int, ...]
    stochastic_depth: float  # of the last block; the others' rise to it linearly from 0
    all_scales: bool = False  # give the maps of the other stages too, from 1/4 on
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> list[jax.Array]:
        """Images to [(b, H/32, W/32, 8 * embed_dim)], where there are four stages, or to all."""
        scales = iter(self._branch_scales(images.shape[0], train))  # len() takes no symbol
        x = nn.Conv(
            self.embed_dim,
            (PATCH, PATCH),
            PATCH,
            "VALID",
            kernel_init=fan_in_uniform,
            bias_init=uniform_bias(PATCH**2 * images.shape[-1]),
            dtype=self.dtype,
            name="embed",
        )(images)  # (b, H/4, W/4, embed_dim)
        x = layer_norm(self.dtype, "embed_norm")(x)
        maps = []
        for stage, (blocks, heads) in enumerate(zip(self.blocks, self.heads, strict=True), 1):
            if stage > 1:
                x = PatchMerging(self.dtype, name=f"merge{stage}")(x)
            for i in range(blocks):
                name = f"windows{stage}_{i}"
                x = Block(heads, i % 2 == 1, self.dtype, name=name)(x, next(scales))
            maps.append(x)
        last = layer_norm(self.dtype, "last_norm")(x)
        return [*maps[:-1], last] if self.all_scales else [last]

    def _branch_scales(self, images: int, train: bool) -> jax.Array:
        if not 0 <= self.stochastic_depth < 1:
            raise UserError(f"stochastic_depth is {self.stochastic_depth}; it must be in [0, 1).")
        rates = np.linspace(0, self.stochastic_depth, sum(self.blocks))
        if not (train and self.stochastic_depth):
            return jnp.ones((len(rates), 2, images))
        return draw_scales(self.make_rng("dropout"), rates, images)
