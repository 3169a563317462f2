"""ResNet's sizes, and the places that its blocks look at."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax.models.layers import BasicBlock, BottleneckBlock, ConvNorm
from emanet_jax.models.registry import BACKBONES


@pytest.mark.parametrize(
    ("name", "channels", "count"),
    [("resnet34", 512, 21_284_672), ("resnet50", 2048, 23_508_032)],
)
def test_sizes(name, channels, count):
    model = BACKBONES[name].make()
    images = jax.ShapeDtypeStruct((1, 96, 64, 3), jnp.float32)
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), images)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == count
    maps = jax.eval_shape(functools.partial(model.apply, train=False), variables, images)
    assert [x.shape for x in maps] == [(1, 3, 2, channels)]


@pytest.mark.parametrize("block", [BasicBlock, BottleneckBlock])
def test_a_block_that_halves_the_size_overlooks_no_pixel(block):
    conv_norm = functools.partial(ConvNorm, train=False)
    module = block(conv_norm, 8, strides=2)
    x = np.random.RandomState(0).random_sample((1, 6, 8, 4)).astype(np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    variables = jax.tree.map(jnp.abs, variables)  # so that no ReLU stops a gradient
    y, gradient = jax.jit(jax.vjp, static_argnums=0)(functools.partial(module.apply, variables), x)
    assert y.shape == (1, 3, 4, 8)
    assert (np.abs(gradient(jnp.ones_like(y))[0]).max(-1) > 0).all()


def test_the_stem_pools_the_greatest_of_overlapping_neighbours():
    model = BACKBONES["resnet_tiny"].make()
    x = np.random.RandomState(0).standard_normal((1, 32, 64, 3)).astype(np.float32)

    @jax.jit
    def run(x):
        seen = {}

        def record(call, args, kwargs, context):
            y = call(*args, **kwargs)
            seen[context.module.name] = (args[0], y)
            return y

        with nn.intercept_methods(record):
            model.init_with_output(jax.random.key(0), x, train=False)
        (_, stem), (pooled, _) = seen["stem"], seen["group1_0"]
        return stem, pooled

    stem, pooled = run(x)
    assert stem.shape == (1, 16, 32, 8)
    assert pooled.shape == (1, 8, 16, 8)
    for i, j in [(0, 0), (3, 5), (7, 15)]:
        window = stem[0, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2]
        np.testing.assert_array_equal(pooled[0, i, j], window.max((0, 1)))
