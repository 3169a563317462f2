"""Convolutions and sums over pixels; what differs between platforms in networks is in this file.

Accelerators get XLA's own convolutions and reductions. XLA:CPU runs a convolution forwards, and
backwards to its input, at the machine's speed, but the gradient of its kernel, and sums over all
but the last axis, up to 10 times slower than matrix products that give the same numbers: these are
what it gets (benchmarks/NOTES.md has the measurements).
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from emanet_jax.ops import upcast

_CACHED_BYTES = 8 * 2**20  # of maps that a kernel's gradient goes over again and again


def _by_xla(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    k, *_ = kernel.shape
    if k == stride == 1:
        return x @ kernel[0, 0]
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(dilation * (k - 1) // 2,) * 2] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Convolution, padded alike on every side, also where it strides.

    Args:
        x: (b, h, w, c).
        kernel: (k, k, c, features), k odd.
        stride: between the places of the result.
        dilation: between the places that one of them sees.

    Returns:
        (b, ceil(h / stride), ceil(w / stride), features).
    """
    return _by_xla(x, kernel, stride, dilation)


def _forward(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> tuple:
    return conv(x, kernel, stride, dilation), (x, kernel)


@functools.partial(jax.jit, static_argnames=("stride", "dilation"))
def _backward(stride: int, dilation: int, saved: tuple, slope: jax.Array) -> tuple:
    x, kernel = saved
    settings = {"stride": stride, "dilation": dilation}
    _, to_x = jax.vjp(lambda x: _by_xla(x, kernel, **settings), x)

    def by_xla(x: jax.Array, slope: jax.Array) -> jax.Array:
        return jax.vjp(lambda kernel: _by_xla(x, kernel, **settings), kernel)[1](slope)[0]

    if not _alone():
        return *to_x(slope), by_xla(x, slope)
    by_products = functools.partial(_kernel_slopes, k=len(kernel), **settings)
    return *to_x(slope), lax.platform_dependent(x, slope, cpu=by_products, default=by_xla)


conv.defvjp(_forward, _backward)


def _alone() -> bool:
    """Whether there is one device; several would have to meet in every round of a loop."""
    return jax.device_count() == 1


def _kernel_slopes(x: jax.Array, slope: jax.Array, k: int, stride: int, dilation: int) -> jax.Array:
    """The gradient (k, k, c, n) of a kernel: what each of its places sees of x, times the slope.

    A product (n, pixels) by (pixels, c) for every place, of as many rows at a time as caches hold.
    """
    (b, h, w, c), (_, rows, columns, n), dtype = x.shape, slope.shape, x.dtype
    x, slope = upcast(x), upcast(slope)
    edge, reach = dilation * (k - 1) // 2, dilation * (k - 1) + 1
    # The last rows and columns go where no place reaches them: an even side and stride 2 leave one.
    fit = [
        (edge, (size - 1) * stride + reach - side - edge, 0)
        for size, side in ((rows, h), (columns, w))
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *fit, (0, 0, 0)])
    part = _rows_at_a_time(rows, b * columns * (c + n) * x.dtype.itemsize)
    down, across = (part - 1) * stride + 1, (columns - 1) * stride + 1
    places = dilation * np.indices((k, k)).reshape(2, -1).T
    # Barriers, or XLA would pad anew in every round, and transpose within the product's own loops.
    x, slope = lax.optimization_barrier((x, slope))

    def products(row: jax.Array | int) -> jax.Array:
        block = lax.dynamic_slice_in_dim(slope, row, part, axis=1).reshape(-1, n)
        transposed = lax.optimization_barrier(block.T)

        def at(place: jax.Array) -> jax.Array:
            start = (0, row * stride + place[0], place[1], 0)
            seen = lax.dynamic_slice(x, start, (b, down, across, c))[:, ::stride, ::stride]
            return transposed @ seen.reshape(-1, c)

        return lax.map(at, places) if k > 1 else at(places[0])[None]

    if part == rows:
        total = products(0)
    else:
        start = jnp.zeros((k * k, n, c), x.dtype)
        starts = jnp.arange(0, rows, part)
        total, _ = lax.scan(lambda total, row: (total + products(row), None), start, starts)
    return total.swapaxes(1, 2).reshape(k, k, c, n).astype(dtype)


def _rows_at_a_time(rows: int, row_bytes: int) -> int:
    """The most rows that divide all of them and fit into _CACHED_BYTES; at least 1."""
    fitting = [n for n in range(1, rows + 1) if rows % n == 0 and n * row_bytes <= _CACHED_BYTES]
    return max(fitting, default=1)


def pixel_sums(x: jax.Array) -> jax.Array:
    """Sums over images and pixels: (b, h, w, c) to (c,)."""

    def by_products(x: jax.Array) -> jax.Array:
        # Two rows of ones, of which one is read: a product of matrices is there in a library, that
        # of a vector and a matrix would be compiled anew for every one of hundreds of sums.
        ones = jnp.ones((2, *x.shape[:2]), x.dtype)
        return lax.dot_general(ones, x, (((1, 2), (0, 1)), ((), ())))[0].sum(0)

    return lax.platform_dependent(x, cpu=by_products, default=lambda x: x.sum((0, 1, 2)))


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Maps (b, h, w, c) plus a bias (c,) of the same dtype; its slopes are `pixel_sums`."""
    return x + bias


def _add_bias_backward(_: None, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    return slope, pixel_sums(upcast(slope)).astype(slope.dtype)


add_bias.defvjp(lambda x, bias: (x + bias, None), _add_bias_backward)


_LLVM_LEVEL = "xla_backend_optimization_level"  # a compiler option, and in XLA_FLAGS


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """XLA's options for a mesh, for `jax.jit(compiler_options=...)`; none but on CPUs.

    On CPUs: leave convolutions to XLA itself, since those of the library that it calls by default
    take EMA-Net's training step 3 times the memory, and hand over products without what comes
    before them; do not rewrite every sum as a tree of sums, which is slow to compile and to run,
    and there are thousands: norms, losses; and optimise kernels at LLVM's level 1, whose code is as
    fast here as level 3's and compiles in a tenth less time, unless XLA_FLAGS sets a level.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    options = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
        "xla_disable_hlo_passes": "tree_reduction_rewriter",
    }
    if _LLVM_LEVEL not in os.environ.get("XLA_FLAGS", ""):
        options[_LLVM_LEVEL] = "1"
    return options
