"""Forward-mode differentiation works on every network: JVPs, linearisation, Hessian products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


@pytest.mark.parametrize(("name", "backbone"), [("ema_net", "hrnet_tiny"), ("mtan", "segnet_tiny")])
def test_forward_and_reverse_mode_agree(name, backbone):
    """The JVP is the gradient times the tangent, the Hessian's product that of two gradients."""
    with jax.enable_x64(True):
        loss, init, images, _ = loss_of(name, backbone)
        variables = jax.jit(init)(jax.random.key(0, impl="rbg"), images)
        variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
        r = np.random.RandomState(1)
        tangent = jax.tree.map(lambda x: 0.1 * r.standard_normal(x.shape), variables["params"])

        def dot(a, b):
            return sum(jnp.vdot(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))

        of_params = functools.partial(loss, batch_stats=variables["batch_stats"])

        @jax.jit
        def both(params):
            _, jvp = jax.jvp(of_params, (params,), (tangent,))
            gradient, hvp = jax.jvp(jax.grad(of_params), (params,), (tangent,))
            twice = jax.grad(lambda params: dot(jax.grad(of_params)(params), tangent))(params)
            return (jvp, dot(hvp, tangent)), (dot(gradient, tangent), dot(twice, tangent))

        forward, reverse = both(variables["params"])
        np.testing.assert_allclose(forward, reverse, rtol=1e-9)
