"""Distillation: {task: features} to {task: features}, each task learning from the others."""

from collections.abc import Callable, Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from emanet_jax.errors import UserError
from emanet_jax.models.ctal import CrossTaskAffinity
from emanet_jax.models.layers import BatchNorm, Conv, ConvNorm, DoublingConv, Dtype
from emanet_jax.ops import unit_vectors, wide_dtype


class SelfAttention(nn.Module):
    """A 3 x 3 convolution, gated by the sigmoid of another one."""

    conv: Callable[..., Conv] = partial(Conv, use_bias=False)
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to the same."""
        conv = partial(self.conv, x.shape[-1], 3, dtype=self.dtype)
        return conv(name="value")(x) * nn.sigmoid(conv(name="gate")(x))


class Messages(nn.Module):
    """What one task takes over from the others: the sum of their features, each gated by itself."""

    sources: tuple[str, ...]
    conv: Callable[..., Conv] = partial(Conv, use_bias=False)
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
        """{task: (b, h, w, c)} to (b, h, w, c)."""
        return sum(
            SelfAttention(self.conv, self.dtype, name=f"from_{source}")(features[source])
            for source in self.sources
        )


class PadDistillation(nn.Module):
    """PAD-Net's: every task adds the other tasks' features, gated by spatial attention.

    Source: PAD-Net, arXiv 1805.04409, attention-guided distillation (module C).

    Attributes:
      tasks: that learn from each other.
      conv: makes its convolutions, from features, kernel size, dtype and name.
    """

    tasks: tuple[str, ...]
    conv: Callable[..., Conv] = partial(Conv, use_bias=False)
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        """{task: (b, h, w, c)} to the same; nothing in it depends on `train`."""
        refined = {}
        for task in self.tasks:
            others = tuple(other for other in self.tasks if other != task)
            messages = Messages(others, self.conv, self.dtype, name=f"to_{task}")
            refined[task] = features[task] + messages(features)
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
    """What PAP-Net's released code computes: channels divided by their norms over the pixels.

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
      features: of the result, which a 1 x 1 convolution narrows the input to.
      affinity: one of AFFINITIES.
      beta: share of the diffused features in the result of the one diffusion step.
    """

    tasks: tuple[str, ...]
    features: int = 128
    affinity: str = "row_stochastic"
    beta: float = 0.05
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        """{task: (b, h, w, c)} to {task: (b, h, w, features)}; nothing depends on `train`.

        Raises:
          UserError: an unknown affinity.
        """
        if self.affinity not in AFFINITIES:
            choices = ", ".join(AFFINITIES)
            raise UserError(f"affinity is {self.affinity!r}; choose from {choices}.")
        b, h, w, _ = features[self.tasks[0]].shape
        n, pixels = len(self.tasks), h * w
        narrow = {}
        for task in self.tasks:
            x = Conv(self.features, 1, dtype=self.dtype, name=f"in_{task}")(features[task])
            narrow[task] = x.reshape(b, pixels, self.features)
        affinities = [AFFINITIES[self.affinity](narrow[task]) for task in self.tasks]

        refined = {}
        for task, x in narrow.items():
            weights = self.param(f"weights_{task}", nn.initializers.constant(1 / n), (n,))
            shares = nn.softmax(weights)
            mixed = sum(share * a for share, a in zip(shares, affinities, strict=True))
            diffused = jnp.einsum(
                "bij,bjc->bic", mixed.astype(x.dtype), x, preferred_element_type=mixed.dtype
            )
            x = self.beta * diffused + (1 - self.beta) * x
            refined[task] = x.astype(narrow[task].dtype).reshape(b, h, w, self.features)
        return refined


class AffinityBlock(nn.Module):
    """CTAL between a narrowing 1 x 1 convolution and a doubling of the resolution.

    Source: EMA-Net, arXiv 2401.11124. All its convolutions have biases, the ones in front of a
    batch norm too.

    Attributes:
      narrow_norm: batch norm and ReLU behind the narrowing convolution too.
      tasks, features, fusion, implementation, gamma, dtype: as CrossTaskAffinity's; `features` are
        those of the result.
    """

    tasks: tuple[str, ...]
    features: int = 128
    fusion: str = "task_specific"
    implementation: str = "auto"
    gamma: float = 0.05
    narrow_norm: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        """{task: (b, h, w, c)} to {task: (b, 2h, 2w, features)}."""
        conv = partial(Conv, self.features, dtype=self.dtype)
        narrow = conv
        if self.narrow_norm:
            narrow = partial(ConvNorm, self.features, use_bias=True, train=train, dtype=self.dtype)
        narrowed = {
            task: narrow(kernel_size=1, name=f"in_{task}")(features[task]) for task in self.tasks
        }
        refined = CrossTaskAffinity(
            self.fusion, self.implementation, self.gamma, self.tasks, self.dtype, name="affinity"
        )(narrowed)
        doubled = {}
        for task in self.tasks:
            x = DoublingConv(self.features, self.dtype, name=f"double_{task}")(refined[task])
            x = nn.relu(BatchNorm(train, dtype=self.dtype, name=f"bn_{task}")(x))
            doubled[task] = conv(3, name=f"out_{task}")(x)
        return doubled
