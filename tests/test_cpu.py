"""What CPUs get instead of XLA's convolutions and reductions is the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from emanet_jax import cpu
from emanet_jax.cpu import conv, pixel_sums


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """As where there is one device: these tests have four."""
    monkeypatch.setattr(cpu, "_alone", lambda: True)


def plain(x, kernel, stride, dilation):
    """XLA's convolution, differentiated by JAX."""
    edge = dilation * (len(kernel) - 1) // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(edge, edge)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.mark.parametrize("cached", [2**23, 1000], ids=["at once", "in parts"])
@pytest.mark.parametrize(
    ("size", "k", "stride", "dilation"),
    [
        ((8, 12), 1, 1, 1),
        ((8, 6), 1, 2, 1),
        ((6, 9), 3, 1, 1),
        ((8, 6), 3, 2, 1),
        ((9, 7), 3, 2, 1),
        ((5, 6), 3, 1, 4),
        ((12, 10), 7, 2, 1),
    ],
)
def test_gradients_are_those_of_the_plain_convolution(
    size, k, stride, dilation, cached, monkeypatch
):
    monkeypatch.setattr(cpu, "_CACHED_BYTES", cached)
    r = np.random.default_rng(0)
    x, kernel = r.standard_normal((2, *size, 5)), r.standard_normal((k, k, 5, 3))
    with jax.enable_x64(True):
        y, ours = jax.vjp(lambda *args: conv(*args, stride, dilation), x, kernel)
        expected, theirs = jax.vjp(lambda *args: plain(*args, stride, dilation), x, kernel)
        np.testing.assert_allclose(y, expected, atol=1e-12)
        slope = r.standard_normal(y.shape)
        for a, b in zip(jax.jit(ours)(slope), theirs(slope), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-11)


def test_kernels_slopes_are_summed_in_float32():
    """The product of ones is the number of pixels, which bfloat16 cannot count up to."""
    x, kernel = jnp.ones((1, 32, 32, 1), jnp.bfloat16), jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    _, backwards = jax.vjp(lambda kernel: conv(x, kernel), kernel)
    (slope,) = backwards(x)
    assert slope.dtype == jnp.bfloat16
    assert float(slope[0, 0, 0, 0]) == 1024


def test_gradients_on_shared_rows_are_those_of_one_device(monkeypatch):
    monkeypatch.setattr(cpu, "_alone", lambda: False)
    mesh = jax.make_mesh((2, 2), ("data", "spatial"), axis_types=(AxisType.Auto,) * 2)
    shared = NamedSharding(mesh, PartitionSpec("data", "spatial"))
    r = np.random.default_rng(0)
    x, kernel, slope = (r.standard_normal(s) for s in ((4, 8, 6, 3), (3, 3, 3, 5), (4, 4, 3, 5)))
    with jax.enable_x64(True):
        run = jax.jit(lambda x, kernel, slope: jax.vjp(lambda *a: conv(*a, 2), x, kernel)[1](slope))
        expected = run(x, kernel, slope)
        found = run(jax.device_put(x, shared), kernel, jax.device_put(slope, shared))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


def test_accelerators_get_xlas_own_operations():
    def loss(x, kernel):
        return pixel_sums(conv(x, kernel)).sum()

    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(x, kernel)
    cpu, gpu, tpu = (
        traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda", "tpu")
    )
    assert cpu.count("stablehlo.convolution") == 1  # the input's slopes alone
    assert "stablehlo.dot_general" in cpu
    for text in (gpu, tpu):
        assert text.count("stablehlo.convolution") == 2
        assert "stablehlo.dot_general" not in text
        assert "stablehlo.while" not in text


def test_sums_over_pixels():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 4))
    with jax.enable_x64(True):
        np.testing.assert_allclose(pixel_sums(x), x.sum((0, 1, 2)), atol=1e-13)
