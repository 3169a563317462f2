"""The layers that every network is made of; maps are (b, h, w, c), channels last.

Layers start as PyTorch's do, U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for kernels and biases, because the
published numbers were made with it, unless told another `start`. Parameters are float32; `dtype` is
what a layer computes in (None: whatever its input and parameters promote to).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from emanet_jax.cpu import add_bias, conv, pixel_sums
from emanet_jax.ops import bilinear, upcast

Dtype = Any


def _mix(bits: jax.Array) -> jax.Array:
    """Murmur3's finaliser: a bijection of 32 bits; every input bit moves every output bit."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


@functools.partial(jax.jit, static_argnames="shape")
def _signed_uniform(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    """U[-1, 1) in steps of 2^-23.

    A hash of the key and a counter, not `jax.random.uniform`: XLA:CPU compiles that for 0.3 s per
    flat array and 2 s per kernel, which makes minutes before the first step of a network.
    """
    first, second = jax.random.key_data(key).ravel()[-2:]
    counter = lax.iota(jnp.uint32, math.prod(shape)) * jnp.uint32(0x9E3779B9)
    bits = _mix(_mix(counter + first) + second).reshape(shape)
    return (bits >> 8).astype(jnp.float32) * 2.0**-23 - 1


Start = Callable[[jax.Array, Sequence[int], int], jax.Array]  # (key, shape, fan_in) to values


def fan_in_uniform(key: jax.Array, shape: Sequence[int], fan_in: int) -> jax.Array:
    """PyTorch's default start of kernels and biases alike: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    return _signed_uniform(key, tuple(shape)) / math.sqrt(fan_in)


def xavier_normal(key: jax.Array, shape: Sequence[int], fan_in: int) -> jax.Array:
    """N(0, 2 / (fan_in + fan_out)) for kernels (..., c, features), zeros for biases (features,)."""
    if len(shape) == 1:
        return jnp.zeros(shape, jnp.float32)
    *_, c, features = shape
    fan_out = fan_in // c * features
    centred = _signed_uniform(key, tuple(shape)) + 2.0**-24  # (-1, 1): the ends have no quantile
    return lax.erf_inv(centred) * (2 / math.sqrt(fan_in + fan_out))


class Conv(nn.Module):
    """k x k convolution, padded alike on every side, also where it strides (as PyTorch)."""

    features: int
    kernel_size: int
    stride: int = 1
    use_bias: bool = True
    dtype: Dtype | None = None
    dilation: int = 1
    start: Start = fan_in_uniform

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to (b, ceil(h / stride), ceil(w / stride), features)."""
        _, _, _, c = x.shape
        k, fan_in = self.kernel_size, self.kernel_size**2 * c
        kernel = self.param("kernel", self.start, (k, k, c, self.features), fan_in)
        bias = self.param("bias", self.start, (self.features,), fan_in) if self.use_bias else 0
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = conv(x, kernel, self.stride, self.dilation)
        return add_bias(x, bias) if self.use_bias else x


class Dense(nn.Module):
    """The same linear map at every place: (..., c) to (..., features)."""

    features: int
    use_bias: bool = True
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., c) to (..., features)."""
        c = x.shape[-1]
        kernel = self.param("kernel", fan_in_uniform, (c, self.features), c)
        bias = self.param("bias", fan_in_uniform, (self.features,), c) if self.use_bias else 0
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x @ kernel + bias


class DoublingConv(nn.Module):
    """Transposed 2 x 2 convolution with stride 2: every pixel becomes its own 2 x 2 patch.

    The windows do not overlap, so it is one matrix product. The kernel (2, 2, out, in) is that of
    the convolution which it transposes, and starts with that convolution's fan-in.
    """

    features: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to (b, 2h, 2w, features)."""
        b, h, w, c = x.shape
        fan_in = 4 * self.features
        kernel = self.param("kernel", fan_in_uniform, (2, 2, self.features, c), fan_in)
        bias = self.param("bias", fan_in_uniform, (self.features,), fan_in)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = jnp.einsum("bhwc,yxoc->bhywxo", x, kernel)
        return add_bias(x.reshape(b, 2 * h, 2 * w, self.features), bias)


# Jitted within a jitted step, here and in other small functions, so that networks of hundreds of
# layers trace and lower each shape once.


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalised(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Maps (b, h, w, c) normalised by their own statistics, and these: mean (c,), variance (c,).

    In float32 or better. No slopes go back through the statistics that are returned: they are for
    the running averages.
    """
    return _normalised_forward(x, scale, bias, epsilon)[0]


@functools.partial(jax.jit, static_argnames="epsilon")
def _normalised_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[tuple, tuple]:
    n, wide = x.size // x.shape[-1], upcast(x)
    mean = pixel_sums(wide) / n
    var = pixel_sums(jnp.square(wide - mean)) / n
    inverse = lax.rsqrt(var + epsilon)
    return ((wide - mean) * (inverse * scale) + bias, mean, var), (x, scale, mean, inverse)


@functools.partial(jax.jit, static_argnames="epsilon")
def _normalised_backward(epsilon: float, saved: tuple, slopes: tuple) -> tuple:
    """In closed form: two sums over the pixels, and nothing kept but x and its statistics."""
    (x, scale, mean, inverse), (slope, _, _) = saved, slopes
    n, unit = x.size // x.shape[-1], (upcast(x) - mean) * inverse
    to_bias, to_scale = pixel_sums(slope), pixel_sums(slope * unit)
    to_x = (slope - (to_bias + unit * to_scale) / n) * (inverse * scale)
    return to_x.astype(x.dtype), to_scale.astype(scale.dtype), to_bias.astype(scale.dtype)


_normalised.defvjp(_normalised_forward, _normalised_backward)


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's running variance, the unbiased one: n / (n - 1) of ours.

    The running average is decay * old + (1 - decay) * new; a decay is one minus PyTorch's momentum.
    Statistics are kept in at least float32. Under jit they are those of the global batch, however
    it is sharded.
    """

    train: bool
    decay: float = 0.9
    epsilon: float = 1e-5
    dtype: Dtype | None = None

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
            mean, factor = running_mean.value, lax.rsqrt(running_var.value + self.epsilon) * scale
            return ((upcast(x) - mean) * factor + bias).astype(dtype)
        y, mean, var = _normalised(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            n, keep = b * h * w, self.decay
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            unbiased = var * (n / max(n - 1, 1))
            running_var.value = keep * running_var.value + (1 - keep) * unbiased
        return y.astype(dtype)


class ConvNorm(nn.Module):
    """Convolution, batch norm and (unless told otherwise) ReLU: what nearly all is made of."""

    features: int
    kernel_size: int
    stride: int = 1
    use_bias: bool = False
    relu: bool = True
    train: bool = False
    decay: float = 0.9
    dtype: Dtype | None = None
    dilation: int = 1
    start: Start = fan_in_uniform

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to (b, ceil(h / stride), ceil(w / stride), features)."""
        x = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.use_bias,
            self.dtype,
            self.dilation,
            self.start,
            name="conv",
        )(x)
        x = BatchNorm(self.train, self.decay, dtype=self.dtype, name="bn")(x)
        return nn.relu(x) if self.relu else x


Unit = Callable[..., ConvNorm]  # ConvNorm with train, decay and dtype already given


class BasicBlock(nn.Module):
    """Two 3 x 3 units around a shortcut, which is projected where the channels or sizes differ."""

    unit: Unit
    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to (b, ceil(h / stride), ceil(w / stride), features)."""
        y = self.unit(self.features, 3, self.stride, name="unit1")(x)
        y = self.unit(self.features, 3, relu=False, name="unit2")(y)
        if x.shape[-1] != self.features or self.stride != 1:
            x = self.unit(self.features, 1, self.stride, relu=False, name="shortcut")(x)
        return nn.relu(x + y)


class BottleneckBlock(nn.Module):
    """1 x 1 to a quarter of the features, 3 x 3, 1 x 1 back, around a shortcut as BasicBlock's."""

    unit: Unit
    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to (b, ceil(h / stride), ceil(w / stride), features)."""
        y = self.unit(self.features // 4, 1, name="unit1")(x)
        y = self.unit(self.features // 4, 3, self.stride, name="unit2")(y)
        y = self.unit(self.features, 1, relu=False, name="unit3")(y)
        if x.shape[-1] != self.features or self.stride != 1:
            x = self.unit(self.features, 1, self.stride, relu=False, name="shortcut")(x)
        return nn.relu(x + y)


class SqueezeExcitation(nn.Module):
    """Scales every channel by what the means of all channels, in a narrow MLP, say of it.

    Source: "Squeeze-and-Excitation Networks" (arXiv 1709.01507).
    """

    reduction: int = 16
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to the same."""
        _, _, _, c = x.shape
        means = upcast(x).mean((1, 2), keepdims=True).astype(x.dtype)  # (b, 1, 1, c)
        hidden = Dense(max(c // self.reduction, 1), dtype=self.dtype, name="squeeze")(means)
        return x * nn.sigmoid(Dense(c, dtype=self.dtype, name="excite")(nn.relu(hidden)))


def upsample_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Repeat pixels: (b, h, w, c) to (b, *size, c), whole multiples of (h, w)."""
    _, h, w, _ = x.shape
    return x.repeat(size[0] // h, axis=1).repeat(size[1] // w, axis=2)


def concat_at_finest(maps: Sequence[jax.Array]) -> jax.Array:
    """Maps of several scales, finest first, to one of the finest size: (b, h, w, sum of c)."""
    _, h, w, _ = maps[0].shape
    return jnp.concatenate([bilinear(x, (h, w)) for x in maps], axis=-1)
