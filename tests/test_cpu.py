"""Convolutions as CPUs get them: the same numbers as XLA's, and nowhere else."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax import cpu
from emanet_jax.models.layers import BatchNorm, conv, doubling_conv
from emanet_jax.training import sharding


def gradients(layer, fast):
    """(variables, x, cotangent) to the layer's result and its gradients to both."""

    def run(variables, x, cotangent):
        y, backwards = jax.vjp(layer.apply, variables, x)
        return y, backwards(cotangent)

    one = sharding.make_mesh(devices=jax.devices()[:1])
    return jax.jit(cpu.fast_layers(run, one) if fast else run)


@pytest.mark.parametrize("cached", [2**23, 1000], ids=["at once", "in blocks"])
@pytest.mark.parametrize(
    ("size", "k", "strides", "dilation"),
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
def test_gradients_are_those_of_xlas_convolution(size, k, strides, dilation, cached, monkeypatch):
    monkeypatch.setattr(cpu, "_CACHED_BYTES", cached)
    r = np.random.default_rng(0)
    with jax.enable_x64(True):
        layer = conv(5, 3, k, strides=strides, dilation=dilation)
        x = r.standard_normal((2, *size, 5))
        shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
        variables = jax.tree.map(lambda s: r.standard_normal(s.shape), shapes)
        cotangent = r.standard_normal(jax.eval_shape(layer.apply, variables, x).shape)
        arrays = (variables, x, cotangent)
        ours, theirs = (gradients(layer, fast)(*arrays) for fast in (True, False))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), ours, theirs)


def test_patches_are_convolved_too():
    layer = nn.Conv(6, (4, 4), 4, "VALID")
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 12, 3)), jnp.float32)
    variables = layer.init(jax.random.key(0), x)
    arrays = (variables, x, jnp.ones((2, 2, 3, 6)))
    ours, theirs = (gradients(layer, fast)(*arrays) for fast in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_batch_norm_is_the_layers():
    r = np.random.default_rng(0)
    with jax.enable_x64(True):
        layer, x = BatchNorm(train=True), 3 * r.standard_normal((2, 3, 4, 5)) + 1
        params = {"scale": r.standard_normal(5), "bias": r.standard_normal(5)}
        variables = {"params": params, "batch_stats": {"mean": jnp.zeros(5), "var": jnp.ones(5)}}
        cotangent = r.standard_normal(x.shape)

        def run(variables, x, cotangent):
            apply = functools.partial(layer.apply, mutable=["batch_stats"])
            y, backwards, updates = jax.vjp(apply, variables, x, has_aux=True)
            return y, updates, backwards(cotangent)

        one = sharding.make_mesh(devices=jax.devices()[:1])
        arrays = (variables, x, cotangent)
        ours, theirs = jax.jit(cpu.fast_layers(run, one))(*arrays), jax.jit(run)(*arrays)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), ours, theirs)


def test_doubling_is_the_layers():
    layer, r = doubling_conv(6), np.random.default_rng(0)
    x = jnp.asarray(r.standard_normal((2, 3, 4, 5)), jnp.float32)
    variables = layer.init(jax.random.key(0), x)
    arrays = (variables, x, jnp.asarray(r.standard_normal((2, 6, 8, 6)), jnp.float32))
    ours, theirs = (gradients(layer, fast)(*arrays) for fast in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_kernel_gradients_are_summed_in_float32():
    """The product of ones is the number of pixels, which bfloat16 cannot count up to."""
    layer = nn.Conv(1, (1, 1), use_bias=False, dtype=jnp.bfloat16)
    x = jnp.ones((1, 32, 32, 1), jnp.bfloat16)
    variables = {"params": {"kernel": jnp.ones((1, 1, 1, 1), jnp.bfloat16)}}
    _, (gradient, _) = gradients(layer, fast=True)(variables, x, x)
    assert float(gradient["params"]["kernel"][0, 0, 0, 0]) == 1024


def test_several_devices_keep_xlas_operations():
    layer, x = conv(4, 4, 3), jnp.ones((1, 8, 8, 4))
    variables = layer.init(jax.random.key(0), x)

    def step(variables, x):
        return jax.grad(lambda variables: layer.apply(variables, x).sum())(variables)

    def products(step):
        return jax.jit(step).lower(variables, x).as_text().count("dot_general")

    assert cpu.fast_layers(step, sharding.make_mesh()) is step
    one = sharding.make_mesh(devices=jax.devices()[:1])
    assert products(cpu.fast_layers(step, one)) > products(step) == 0
