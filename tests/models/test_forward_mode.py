"""Forward-mode differentiation works on every network: JVPs, linearisation, Hessian products."""

import functools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax.models.affinity import IMPLEMENTATIONS
from emanet_jax.models.backbones.segnet import max_pool, max_unpool
from emanet_jax.models.ctal import CrossTaskAffinity
from emanet_jax.models.layers import BottleneckBlock, ConvNorm, SqueezeExcitation
from tests import menu
from tests.menu import task

TASKS = [task("semseg", 3), task("depth", 1)]
SIZE = (32, 64)


def loss_of(name, backbone):
    """A scalar function of the parameters of a tiny network in training mode, and a shape tree."""
    network = menu.tiny(name, backbone, TASKS, SIZE)
    images = np.random.RandomState(0).random_sample((2, *SIZE, 3)).astype(np.float32)
    init = functools.partial(network.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), images)

    def loss(params, batch_stats):
        predictions, _ = network.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )
        return sum(jnp.square(x - 0.5).mean() for x in jax.tree.leaves(predictions))

    return loss, init, images, shapes


@pytest.mark.parametrize(
    ("name", "backbone"), [pytest.param(*pair, marks=menu.marks(*pair)) for pair in menu.NETWORKS]
)
def test_every_network_has_jvps_and_hessian_products(name, backbone):
    loss, _, _, shapes = loss_of(name, backbone)
    stats = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes["batch_stats"])

    def products(params, tangent):
        of_params = functools.partial(loss, batch_stats=stats)
        _, jvp = jax.jvp(of_params, (params,), (tangent,))
        _, linear = jax.linearize(of_params, params)
        _, hvp = jax.jvp(jax.grad(of_params), (params,), (tangent,))
        return jvp, linear(tangent), hvp

    jvp, linear, hvp = jax.eval_shape(products, shapes["params"], shapes["params"])
    assert jvp.shape == linear.shape == ()
    assert jax.tree.map(jnp.shape, hvp) == jax.tree.map(jnp.shape, shapes["params"])


def agree(of_params, params):
    """The JVP is the gradient times the tangent, the Hessian's product that of two gradients."""
    r = np.random.RandomState(1)
    tangent = jax.tree.map(lambda x: 0.1 * r.standard_normal(x.shape), params)

    def dot(a, b):
        return sum(jnp.vdot(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))

    @jax.jit
    def both(params):
        _, jvp = jax.jvp(of_params, (params,), (tangent,))
        gradient, hvp = jax.jvp(jax.grad(of_params), (params,), (tangent,))
        twice = jax.grad(lambda params: dot(jax.grad(of_params)(params), tangent))(params)
        return (jvp, dot(hvp, tangent)), (dot(gradient, tangent), dot(twice, tangent))

    forward, reverse = both(params)
    assert min(map(abs, forward)) > 1e-6
    np.testing.assert_allclose(forward, reverse, rtol=1e-9)


class Pooled(nn.Module):
    """SegNet's pooling and its inverse between two layers, in training mode."""

    @nn.compact
    def __call__(self, x):
        y, argmax_indices = max_pool(ConvNorm(4, 3, train=True)(x))
        return max_unpool(nn.Dense(4)(y), argmax_indices)


class Affinities(nn.Module):
    """CTAL between two tasks."""

    implementation: str

    @nn.compact
    def __call__(self, x):
        ctal = CrossTaskAffinity(implementation=self.implementation)
        return ctal({"a": nn.Dense(4)(x), "b": nn.Dense(4)(x)})


PARTS = {
    "residual": BottleneckBlock(partial(ConvNorm, train=True), 4),
    "pooled": Pooled(),
    "attention": SqueezeExcitation(),
    **{name: Affinities(name) for name in IMPLEMENTATIONS},
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_modes_agree_on_the_parts_of_networks(part):
    with jax.enable_x64(True):
        x = np.random.RandomState(0).standard_normal((2, 4, 6, 4))
        variables = dict(jax.jit(part.init)(jax.random.key(0, impl="rbg"), x))
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables.pop("params"))

        def loss(params):
            out = part.apply({"params": params, **variables}, x, mutable=["batch_stats"])[0]
            return sum(jnp.square(y - 0.5).mean() for y in jax.tree.leaves(out))

        agree(loss, params)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone"), [("ema_net", "hrnet_tiny"), ("mtan", "segnet_tiny")])
def test_modes_agree_on_networks(name, backbone):
    with jax.enable_x64(True):
        loss, init, images, _ = loss_of(name, backbone)
        variables = jax.jit(init)(jax.random.key(0, impl="rbg"), images)
        variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
        agree(functools.partial(loss, batch_stats=variables["batch_stats"]), variables["params"])
