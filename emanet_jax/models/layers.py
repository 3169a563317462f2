"""The layers that networks are made of, on maps (b, h, w, c), channels last.

Kernels and biases start as PyTorch's do, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), because the published
numbers were made with it. Parameters are float32; `dtype` is what a layer computes in (None:
whatever its input and parameters promote to).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jax import lax

from emanet_jax.ops import bilinear, upcast

Module = Callable[..., nn.Module]  # makes a module from keywords: a class, or a partial of one

fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# PyTorch counts the fan-in of the convolution that a transposed one transposes.
transposed_uniform = nn.initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2
)
xavier_normal = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")


def uniform_bias(fan_in: int) -> Initializer:
    """PyTorch's start of a bias: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), `fan_in` of its kernel."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        bound = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def conv(
    channels: int,
    features: int,
    kernel_size: int,
    *,
    strides: int = 1,
    dilation: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer = fan_in_uniform,
    bias_init: Initializer | None = None,
    dtype: Dtype | None = None,
    name: str | None = None,
) -> nn.Conv:
    """`nn.Conv` from (b, h, w, channels) to (b, ceil(h / strides), ceil(w / strides), features).

    Padded alike on every side, also where it strides, as PyTorch's; the kernel size is odd.
    """
    padding = dilation * (kernel_size - 1) // 2
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        strides,
        [(padding, padding)] * 2,
        kernel_dilation=dilation,
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=bias_init or uniform_bias(kernel_size**2 * channels),
        dtype=dtype,
        name=name,
    )


def dense(
    channels: int,
    features: int,
    *,
    use_bias: bool = True,
    dtype: Dtype | None = None,
    name: str | None = None,
) -> nn.Dense:
    """`nn.Dense` from (..., channels) to (..., features)."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        kernel_init=fan_in_uniform,
        bias_init=uniform_bias(channels),
        dtype=dtype,
        name=name,
    )


def doubling_conv(
    features: int, *, dtype: Dtype | None = None, name: str | None = None
) -> nn.ConvTranspose:
    """Transposed 2 x 2 convolution with stride 2: (b, h, w, c) to (b, 2h, 2w, features)."""
    return nn.ConvTranspose(
        features,
        (2, 2),
        (2, 2),
        "VALID",
        kernel_init=transposed_uniform,
        bias_init=uniform_bias(4 * features),
        dtype=dtype,
        name=name,
    )


def normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises maps (b, h, w, c) by their own statistics.

    Returns:
      Maps in float32 or better, and the statistics: mean (c,), variance (c,).
    """
    x = upcast(x)
    mean = x.mean((0, 1, 2))
    var = jnp.square(x - mean).mean((0, 1, 2))
    return (x - mean) * (lax.rsqrt(var + epsilon) * scale) + bias, mean, var


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's running variance, the unbiased one: n / (n - 1) of ours.

    The running average is decay * old + (1 - decay) * new; a decay is one minus PyTorch's momentum.
    Statistics are kept in at least float32. Under jit they are those of the global batch, however
    it is sharded.

    Attributes:
      normalise: the function of that name, or an equal one for some platform.
    """

    train: bool
    decay: float = 0.9
    epsilon: float = 1e-5
    dtype: Dtype | None = None
    normalise: Callable[..., tuple[jax.Array, jax.Array, jax.Array]] = normalise

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to the same."""
        b, h, w, c = x.shape
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (c,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (c,))
        dtype = self.dtype or jnp.result_type(x, scale)

        if not self.train:
            factor = lax.rsqrt(running_var.value + self.epsilon) * scale
            return ((upcast(x) - running_mean.value) * factor + bias).astype(dtype)
        y, mean, var = self.normalise(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            n, keep = b * h * w, self.decay
            unbiased = var * (n / max(n - 1, 1))
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * unbiased
        return y.astype(dtype)


class ConvNorm(nn.Module):
    """Convolution, batch norm and (unless told otherwise) ReLU: what nearly all is made of."""

    features: int
    kernel_size: int
    strides: int = 1
    dilation: int = 1
    use_bias: bool = False
    relu: bool = True
    train: bool = False
    decay: float = 0.9
    kernel_init: Initializer = fan_in_uniform
    bias_init: Initializer | None = None
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to (b, ceil(h / strides), ceil(w / strides), features)."""
        x = conv(
            x.shape[-1],
            self.features,
            self.kernel_size,
            strides=self.strides,
            dilation=self.dilation,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = BatchNorm(self.train, self.decay, dtype=self.dtype, name="bn")(x)
        return nn.relu(x) if self.relu else x


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut, projected where the channels or sizes differ.

    Attributes:
      conv_norm: `ConvNorm` with train, decay and dtype already given, here and below.
    """

    conv_norm: Module
    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to (b, ceil(h / strides), ceil(w / strides), features)."""
        conv_norm = self.conv_norm
        y = conv_norm(self.features, 3, strides=self.strides, name="conv_norm1")(x)
        y = conv_norm(self.features, 3, relu=False, name="conv_norm2")(y)
        if x.shape[-1] != self.features or self.strides != 1:
            shortcut = conv_norm(
                self.features, 1, strides=self.strides, relu=False, name="shortcut"
            )
            x = shortcut(x)
        return nn.relu(x + y)


class BottleneckBlock(nn.Module):
    """1 x 1 to a quarter of the features, 3 x 3, 1 x 1 back, around a shortcut as BasicBlock's."""

    conv_norm: Module
    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to (b, ceil(h / strides), ceil(w / strides), features)."""
        conv_norm, width = self.conv_norm, self.features // 4
        y = conv_norm(width, 1, name="conv_norm1")(x)
        y = conv_norm(width, 3, strides=self.strides, name="conv_norm2")(y)
        y = conv_norm(self.features, 1, relu=False, name="conv_norm3")(y)
        if x.shape[-1] != self.features or self.strides != 1:
            shortcut = conv_norm(
                self.features, 1, strides=self.strides, relu=False, name="shortcut"
            )
            x = shortcut(x)
        return nn.relu(x + y)


class SqueezeExcitation(nn.Module):
    """Scales every channel by a factor that a narrow MLP finds from the means of all channels.

    Source: "Squeeze-and-Excitation Networks" (arXiv 1709.01507).
    """

    reduction: int = 16
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to the same."""
        _, _, _, c = x.shape
        width = max(c // self.reduction, 1)
        means = upcast(x).mean((1, 2), keepdims=True).astype(x.dtype)  # (b, 1, 1, c)
        hidden = nn.relu(dense(c, width, dtype=self.dtype, name="squeeze")(means))
        return x * nn.sigmoid(dense(width, c, dtype=self.dtype, name="excite")(hidden))


def upsample_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Repeats pixels: (b, h, w, c) to (b, *size, c), whole multiples of (h, w)."""
    _, h, w, _ = x.shape
    return x.repeat(size[0] // h, axis=1).repeat(size[1] // w, axis=2)


def concat_at_finest(maps: Sequence[jax.Array]) -> jax.Array:
    """Maps of several scales, finest first, to one of the finest size: (b, h, w, sum of c)."""
    _, h, w, _ = maps[0].shape
    return jnp.concatenate([bilinear(x, (h, w)) for x in maps], axis=-1)
