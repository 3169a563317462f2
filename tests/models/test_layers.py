"""Layers against values worked out by hand or by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from emanet_jax.models.layers import (
    BatchNorm,
    SqueezeExcitation,
    concat_at_finest,
    conv,
    dense,
    doubling_conv,
    upsample_nearest,
)


def random(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("k", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_conv_pads_alike_on_both_sides(k, stride):
    x = random(1, 6, 4, 2)
    layer = conv(2, 3, k, strides=stride)
    variables = layer.init(jax.random.key(0), x)
    y = layer.apply(variables, x)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    padded = np.pad(x, [(0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)])
    for i in range(0, 6, stride):
        for j in range(0, 4, stride):
            window = padded[0, i : i + k, j : j + k]
            expected = np.einsum("yxc,yxcf->f", window, kernel) + bias
            np.testing.assert_allclose(y[0, i // stride, j // stride], expected, atol=1e-5)
    assert y.shape == (1, 6 // stride, 4 // stride, 3)


def test_doubling_conv_spreads_each_pixel_over_its_patch():
    x = random(1, 2, 3, 4)
    layer = doubling_conv(5)
    variables = layer.init(jax.random.key(0), x)
    y = layer.apply(variables, x)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    assert y.shape == (1, 4, 6, 5)
    np.testing.assert_allclose(y[0, 3, 2], x[0, 1, 1] @ kernel[0, 1] + bias, atol=1e-5)
    np.testing.assert_allclose(y[0, 0, 5], x[0, 0, 2] @ kernel[1, 0] + bias, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape", "fan_in"),
    [
        (conv(20, 300, 3), (1, 4, 4, 20), 180),
        (dense(100, 400), (1, 100), 100),
        (doubling_conv(30), (1, 2, 2, 40), 120),
    ],
    ids=["conv", "dense", "doubling_conv"],
)
def test_layers_start_uniform_in_their_fan_in(layer, shape, fan_in):
    """PyTorch's default, kernels and biases alike."""
    params = layer.init(jax.random.key(3), jnp.zeros(shape))["params"]
    bound = 1 / np.sqrt(fan_in)
    for name, bins in (("kernel", 10), ("bias", 2)):
        x = np.ravel(params[name])
        assert -bound <= x.min() < -0.8 * bound and 0.8 * bound < x.max() < bound
        shares, _ = np.histogram(x, bins=bins, range=(-bound, bound))
        np.testing.assert_allclose(shares / x.size, 1 / bins, atol=2.5 / np.sqrt(x.size))


def test_batch_norm_keeps_the_unbiased_variance():
    x = random(2, 3, 4, 5) * 3 + 1
    train = BatchNorm(train=True, decay=0.8)
    y, updates = train.apply(train.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    np.testing.assert_allclose(np.mean(y, (0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.var(y, (0, 1, 2)), 1, atol=1e-4)
    flat = x.reshape(-1, 5)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.2 * flat.mean(0), rtol=1e-4)
    expected = 0.8 + 0.2 * flat.var(0, ddof=1)
    np.testing.assert_allclose(updates["batch_stats"]["var"], expected, rtol=1e-5)

    variables = {"params": {"scale": 2 * np.ones(5), "bias": np.ones(5)}} | updates
    variables = jax.tree.map(jnp.float32, variables)
    y = BatchNorm(train=False).apply(variables, x)
    mean, var = updates["batch_stats"]["mean"], updates["batch_stats"]["var"]
    np.testing.assert_allclose(y, 2 * (x - mean) / np.sqrt(var + 1e-5) + 1, atol=1e-5)


def test_batch_norm_of_one_pixel_is_finite():
    x = random(1, 1, 1, 3)
    norm = BatchNorm(train=True)
    y, updates = norm.apply(norm.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((y, updates)))


def test_batch_norm_counts_the_global_batch():
    mesh = jax.make_mesh((2, 2), ("data", "spatial"), axis_types=(AxisType.Auto,) * 2)
    x = random(4, 6, 5, 3) * np.arange(1, 5).reshape(4, 1, 1, 1)
    norm = BatchNorm(train=True)
    variables = norm.init(jax.random.key(0), x)

    @jax.jit
    def run(x):
        return norm.apply(variables, x, mutable=["batch_stats"])

    sharded = run(jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", "spatial"))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), sharded, run(x))


def test_batch_norm_keeps_statistics_in_float32_for_bfloat16():
    x = jnp.asarray(random(2, 8, 8, 2) * 0.01 + 100, jnp.bfloat16)
    norm = BatchNorm(train=True, dtype=jnp.bfloat16)
    y, updates = norm.apply(norm.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert updates["batch_stats"]["var"].dtype == jnp.float32
    exact = np.asarray(x, np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * exact, rtol=1e-6)


def test_maps_are_brought_to_the_finest():
    fine, coarse = random(1, 4, 8, 2), np.full((1, 2, 4, 3), 7, np.float32)
    both = concat_at_finest([fine, coarse])
    assert both.shape == (1, 4, 8, 5)
    np.testing.assert_array_equal(both[..., :2], fine)
    np.testing.assert_allclose(both[..., 2:], 7, rtol=1e-6)


def test_nearest_repeats_pixels():
    x = random(1, 2, 2, 1)
    y = upsample_nearest(x, (4, 8))
    np.testing.assert_array_equal(y[0, :, :, 0], np.kron(x[0, :, :, 0], np.ones((2, 4))))


def test_squeeze_and_excitation_scales_channels_by_their_means():
    x = random(2, 3, 4, 8)
    layer = SqueezeExcitation(reduction=4)
    variables = layer.init(jax.random.key(0), x)
    squeeze, excite = (variables["params"][name] for name in ("squeeze", "excite"))
    assert squeeze["kernel"].shape == (8, 2)
    hidden = np.maximum(x.mean((1, 2)) @ squeeze["kernel"] + squeeze["bias"], 0)
    scale = 1 / (1 + np.exp(-(hidden @ excite["kernel"] + excite["bias"])))
    np.testing.assert_allclose(layer.apply(variables, x), x * scale[:, None, None], rtol=1e-5)


def test_squeeze_and_excitation_keeps_one_channel_of_few():
    x = random(1, 2, 2, 6)
    variables = SqueezeExcitation().init(jax.random.key(0), x)
    assert variables["params"]["squeeze"]["kernel"].shape == (6, 1)
