"""Everything that only CPUs want, behind one switch: `jit(step, mesh)`.

Accelerators get XLA's own operations and compiler settings. XLA:CPU runs a convolution forwards,
and backwards to its input, at the machine's speed, but the gradient of its kernel, transposed
convolutions, and sums over all but the last axis up to 10 times slower than matrix products that
give the same numbers: these are what it gets here (benchmarks/NOTES.md has the measurements).
Networks know nothing of it: `nn.Conv` and `BatchNorm` have fields for other functions, which are
filled in while a step is traced.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from emanet_jax.models.layers import BatchNorm
from emanet_jax.ops import upcast

_CACHED_BYTES = 8 * 2**20  # of maps that a kernel's gradient goes over again and again

Step = TypeVar("Step", bound=Callable[..., Any])


def on_cpus(mesh: Mesh) -> bool:
    """Whether the devices of a mesh are CPUs."""
    return mesh.devices.flat[0].platform == "cpu"


def jit(step: Callable[..., Any], mesh: Mesh, **options: Any) -> Any:
    """`jax.jit` of a step for a mesh, with all of this file where its devices are CPUs."""
    return jax.jit(fast_layers(step, mesh), compiler_options=compiler_options(mesh), **options)


_LLVM_LEVEL = "xla_backend_optimization_level"  # a compiler option, and in XLA_FLAGS


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """XLA's options for a mesh, for `jax.jit(compiler_options=...)`; none but on CPUs.

    On CPUs: leave convolutions to XLA itself, since those of the library that it calls by default
    take EMA-Net's training step 3 times the memory, and hand over products without what comes
    before them; do not rewrite every sum as a tree of sums, which is slow to compile and to run,
    and there are thousands: norms, losses; and optimise kernels at LLVM's level 1, whose code is as
    fast here as level 3's and compiles in a tenth less time, unless XLA_FLAGS sets a level.
    """
    if not on_cpus(mesh):
        return {}
    options = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
        "xla_disable_hlo_passes": "tree_reduction_rewriter",
    }
    if _LLVM_LEVEL not in os.environ.get("XLA_FLAGS", ""):
        options[_LLVM_LEVEL] = "1"
    return options


def fast_layers(step: Step, mesh: Mesh) -> Step:
    """A step whose layers are made for the one CPU of a mesh; for other meshes the step as it is.

    Several devices would have to meet in every round of the loops.
    """
    if not on_cpus(mesh) or mesh.size > 1:
        return step

    @functools.wraps(step)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(_inject):
            return step(*args, **kwargs)

    return traced  # type: ignore[return-value]


def _inject(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    module = context.module
    if context.method_name != "__call__":
        return call(*args, **kwargs)
    if isinstance(module, nn.Conv):
        object.__setattr__(module, "conv_general_dilated", conv_general_dilated)
    elif isinstance(module, BatchNorm):
        object.__setattr__(module, "normalise", normalise)
    elif isinstance(module, nn.ConvTranspose) and module.kernel_size == module.strides:
        return call(*args, **kwargs) if module.is_initializing() else _spread(args[0], module)
    return call(*args, **kwargs)


def _spread(x: jax.Array, module: nn.ConvTranspose) -> jax.Array:
    """A transposed convolution whose windows do not overlap: one product of matrices."""
    params = module.variables["params"]
    dtype = module.dtype or jnp.result_type(x, *jax.tree.leaves(params))
    x, kernel, bias = (array.astype(dtype) for array in (x, params["kernel"], params["bias"]))
    (b, h, w, _), (down, across, _, features) = x.shape, kernel.shape
    y = jnp.einsum("bhwc,yxcf->bhywxf", x, kernel[::-1, ::-1])
    return y.reshape(b, down * h, across * w, features) + bias


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: tuple[int, int],
    padding: Any,
    lhs_dilation: tuple[int, int],
    rhs_dilation: tuple[int, int],
    dimension_numbers: Any,
    feature_group_count: int,
    precision: Any,
) -> jax.Array:
    """`lax.conv_general_dilated` on images as `nn.Conv` calls it, with a fast gradient."""
    del lhs_dilation, dimension_numbers, precision
    assert feature_group_count == 1
    if isinstance(padding, str):
        sides, kernel = lhs.shape[1:3], rhs.shape[:2]
        padding = lax.padtype_to_pads(sides, kernel, window_strides, padding)
    return _conv(lhs, rhs, tuple(window_strides), tuple(map(tuple, padding)), tuple(rhs_dilation))


def _by_xla(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, dilation: Any
) -> jax.Array:
    if kernel.shape[:2] == strides == (1, 1):
        return x @ kernel[0, 0]
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, dilation: Any) -> jax.Array:
    return _by_xla(x, kernel, strides, padding, dilation)


def _forward(x: jax.Array, kernel: jax.Array, *settings: Any) -> tuple:
    return _conv(x, kernel, *settings), (x, kernel)


# Jitted within a jitted step, so that networks of hundreds of layers trace each shape once.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _backward(
    strides: Any, padding: Any, dilation: Any, saved: tuple, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    _, to_x = jax.vjp(lambda x: _by_xla(x, kernel, strides, padding, dilation), x)
    gradient = _kernel_gradient(x, cotangent, len(kernel), strides[0], padding[0][0], dilation[0])
    return *to_x(cotangent), gradient


_conv.defvjp(_forward, _backward)


def _kernel_gradient(
    x: jax.Array, cotangent: jax.Array, k: int, stride: int, edge: int, dilation: int
) -> jax.Array:
    """The gradient (k, k, c, n) of a kernel: for each of its places x there, times the cotangent.

    A product (n, pixels) by (pixels, c) for every place, of as many rows at a time as caches hold.
    """
    (b, h, w, c), (_, rows, columns, n), dtype = x.shape, cotangent.shape, x.dtype
    x, cotangent = upcast(x), upcast(cotangent)
    reach = dilation * (k - 1) + 1
    # The last rows and columns go where no place reaches them: an even side and stride 2 leave one.
    fit = [
        (edge, (size - 1) * stride + reach - side - edge, 0)
        for size, side in ((rows, h), (columns, w))
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *fit, (0, 0, 0)])
    block_rows = _rows_at_a_time(rows, b * columns * (c + n) * x.dtype.itemsize)
    down, across = (block_rows - 1) * stride + 1, (columns - 1) * stride + 1
    places = dilation * np.indices((k, k)).reshape(2, -1).T
    # Barriers, or XLA would pad anew in every round, and transpose within the product's own loops.
    x, cotangent = lax.optimization_barrier((x, cotangent))

    def products(row: jax.Array | int) -> jax.Array:
        block = lax.dynamic_slice_in_dim(cotangent, row, block_rows, axis=1).reshape(-1, n)
        transposed = lax.optimization_barrier(block.T)

        def at(place: jax.Array) -> jax.Array:
            start = (0, row * stride + place[0], place[1], 0)
            window = lax.dynamic_slice(x, start, (b, down, across, c))[:, ::stride, ::stride]
            return transposed @ window.reshape(-1, c)

        return lax.map(at, places) if k > 1 else at(places[0])[None]

    if block_rows == rows:
        total = products(0)
    else:
        start = jnp.zeros((k * k, n, c), x.dtype)
        starts = jnp.arange(0, rows, block_rows)
        total, _ = lax.scan(lambda total, row: (total + products(row), None), start, starts)
    return total.swapaxes(1, 2).reshape(k, k, c, n).astype(dtype)


def _rows_at_a_time(rows: int, row_bytes: int) -> int:
    """The most rows that divide all of them and fit into _CACHED_BYTES; at least 1."""
    fitting = [n for n in range(1, rows + 1) if rows % n == 0 and n * row_bytes <= _CACHED_BYTES]
    return max(fitting, default=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`layers.normalise`, but that no gradients go back through the statistics it returns."""
    return _normalise_forward(x, scale, bias, epsilon)[0]


@functools.partial(jax.jit, static_argnames="epsilon")
def _normalise_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[tuple, tuple]:
    n, wide = x.size // x.shape[-1], upcast(x)
    mean = _pixel_sums(wide) / n
    var = _pixel_sums(jnp.square(wide - mean)) / n
    inverse = lax.rsqrt(var + epsilon)
    return ((wide - mean) * (inverse * scale) + bias, mean, var), (x, scale, mean, inverse)


@functools.partial(jax.jit, static_argnames="epsilon")
def _normalise_backward(epsilon: float, saved: tuple, cotangents: tuple) -> tuple:
    """Closed form: two sums over the pixels, and nothing kept but x and its statistics."""
    (x, scale, mean, inverse), (cotangent, _, _) = saved, cotangents
    n, unit = x.size // x.shape[-1], (upcast(x) - mean) * inverse
    to_bias, to_scale = _pixel_sums(cotangent), _pixel_sums(cotangent * unit)
    to_x = (cotangent - (to_bias + unit * to_scale) / n) * (inverse * scale)
    return to_x.astype(x.dtype), to_scale.astype(scale.dtype), to_bias.astype(scale.dtype)


normalise.defvjp(_normalise_forward, _normalise_backward)


def _pixel_sums(x: jax.Array) -> jax.Array:
    """Sums over images and pixels: (b, h, w, c) to (c,)."""
    # Two rows of ones, of which one is read: a product of matrices is there in a library, that of
    # a vector and a matrix would be compiled anew for every one of hundreds of sums.
    ones = jnp.ones((2, *x.shape[:2]), x.dtype)
    return lax.dot_general(ones, x, (((1, 2), (0, 1)), ((), ())))[0].sum(0)
