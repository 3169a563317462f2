"""Distillation: {task: features} to {task: features}, each task learning from the others.

Every module is made by its network from `tasks` (the names, in the order that they share axes in),
`dtype` and `name`; its other fields are settings.
"""

import functools
import operator
from collections.abc import Callable, Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from emanet_jax.errors import choose
from emanet_jax.models.ctal import CrossTaskAffinity
from emanet_jax.models.layers import BatchNorm, ConvNorm, Module, conv, doubling_conv
from emanet_jax.ops import unit_vectors, wide_dtype

Conv = Callable[..., nn.Conv]


class SelfAttention(nn.Module):
    """A 3 x 3 convolution, gated by the sigmoid of another one."""

    conv: Conv = partial(conv, use_bias=False)
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to the same."""
        c = x.shape[-1]
        conv3 = partial(self.conv, c, c, 3, dtype=self.dtype)
        return conv3(name="value")(x) * nn.sigmoid(conv3(name="gate")(x))


class Messages(nn.Module):
    """The sum of other tasks' features, each gated by itself, for one task to add to its own."""

    sources: tuple[str, ...]
    conv: Conv = partial(conv, use_bias=False)
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
        """{task: (b, h, w, c)} to (b, h, w, c)."""
        gated = [
            SelfAttention(self.conv, self.dtype, name=f"from_{source}")(features[source])
            for source in self.sources
        ]
        return functools.reduce(operator.add, gated)


class PadDistillation(nn.Module):
    """PAD-Net's: every task adds the other tasks' features, gated by spatial attention.

    Source: PAD-Net, arXiv 1805.04409, attention-guided distillation (module C).

    Attributes:
      tasks: that learn from each other.
      conv: makes its convolutions, as `layers.conv`.
    """

    tasks: tuple[str, ...]
    conv: Conv = partial(conv, use_bias=False)
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        """{task: (b, h, w, c)} to the same; nothing in it depends on `train`."""
        refined = {}
        for task in self.tasks:
            others = tuple(other for other in self.tasks if other != task)
            messages = Messages(others, self.conv, self.dtype, name=f"to_{task}")
            refined[task] = features[task] + messages(features) if others else features[task]
        return refined


def row_stochastic(x: jax.Array) -> jax.Array:
    """PAP-Net's affinities between pixels: cosines, negative ones cut to 0, whose rows sum to 1.

    Args:
      x: (b, P, c).

    Returns:
      (b, P, P) in float32 or better; the row of a zero vector is 0.
    """
    x = unit_vectors(x)
    a = nn.relu(jnp.einsum("bic,bjc->bij", x, x, preferred_element_type=wide_dtype(x.dtype)))
    return a / jnp.maximum(a.sum(axis=2, keepdims=True), 1e-12)


def column_stochastic(x: jax.Array) -> jax.Array:
    """PAP-Net's affinities as its released code has them: channels normalised over the pixels.

    Args:
      x: (b, P, c).

    Returns:
      (b, P, P) in float32 or better; columns sum to 1, but nothing keeps them from being divided by
      sums around 0.
    """
    x = jnp.swapaxes(unit_vectors(jnp.swapaxes(x, 1, 2)), 1, 2)
    a = jnp.einsum("bic,bjc->bij", x, x, preferred_element_type=wide_dtype(x.dtype))
    return a / a.sum(axis=1, keepdims=True)


AFFINITIES = {"row_stochastic": row_stochastic, "column_stochastic": column_stochastic}


class PatternPropagation(nn.Module):
    """PAP-Net's: features diffuse along affinities between pixels, which the tasks share.

    Takes P x P arrays, one per task and one for their mixture: 191 MB each for one image at 72 x 96
    in float32.

    Source: "Pattern-Affinitive Propagation across Depth, Surface Normal and Semantic Segmentation"
    (arXiv 1906.03525), cross-task propagation and task-specific propagation.

    Attributes:
      tasks: the order of the tasks in every task's mixing weights.
      distilled: channels of the result, to which a 1 x 1 convolution narrows the input.
      affinity: one of AFFINITIES.
      beta: share of the diffused features in the result of the one diffusion step.
    """

    tasks: tuple[str, ...]
    distilled: int = 128
    affinity: str = "row_stochastic"
    beta: float = 0.05
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        """{task: (b, h, w, c)} to {task: (b, h, w, distilled)}; nothing depends on `train`.

        Raises:
          UserError: an unknown affinity.
        """
        affinity_of = choose("affinity", self.affinity, AFFINITIES)
        b, h, w, c = features[self.tasks[0]].shape
        n, pixels = len(self.tasks), h * w
        narrow = {}
        for task in self.tasks:
            x = conv(c, self.distilled, 1, dtype=self.dtype, name=f"in_{task}")(features[task])
            narrow[task] = x.reshape(b, pixels, self.distilled)
        affinities = [affinity_of(narrow[task]) for task in self.tasks]

        refined = {}
        for task, x in narrow.items():
            weights = self.param(f"weights_{task}", nn.initializers.constant(1 / n), (n,))
            shares = nn.softmax(weights)
            mixed = sum(share * a for share, a in zip(shares, affinities, strict=True))
            diffused = jnp.einsum(
                "bij,bjc->bic", mixed.astype(x.dtype), x, preferred_element_type=mixed.dtype
            )
            x = self.beta * diffused + (1 - self.beta) * x
            refined[task] = x.astype(narrow[task].dtype).reshape(b, h, w, self.distilled)
        return refined


class AffinityBlock(nn.Module):
    """CTAL between a narrowing 1 x 1 convolution and a doubling of the resolution.

    Source: EMA-Net, arXiv 2401.11124. All its convolutions have biases, the ones in front of a
    batch norm too.

    Attributes:
      tasks: the order of the tasks on CTAL's fusions.
      distilled: channels of CTAL and of the result.
      narrow_norm: batch norm and ReLU behind the narrowing convolution too.
      affinity: makes the `CrossTaskAffinity`.
    """

    tasks: tuple[str, ...]
    distilled: int = 128
    narrow_norm: bool = False
    affinity: Module = CrossTaskAffinity
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        """{task: (b, h, w, c)} to {task: (b, 2h, 2w, distilled)}."""
        c, width, dtype = features[self.tasks[0]].shape[-1], self.distilled, self.dtype
        narrow: Module = partial(conv, c, width, 1, dtype=dtype)
        if self.narrow_norm:
            narrow = partial(ConvNorm, width, 1, use_bias=True, train=train, dtype=dtype)
        narrowed = {task: narrow(name=f"in_{task}")(features[task]) for task in self.tasks}
        refined = self.affinity(tasks=self.tasks, dtype=dtype, name="affinity")(narrowed)
        doubled = {}
        for task in self.tasks:
            x = doubling_conv(width, dtype=dtype, name=f"double_{task}")(refined[task])
            x = nn.relu(BatchNorm(train, dtype=dtype, name=f"bn_{task}")(x))
            doubled[task] = conv(width, width, 3, dtype=dtype, name=f"out_{task}")(x)
        return doubled
