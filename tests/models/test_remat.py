"""What is recomputed backwards changes memory, and neither parameters nor numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from emanet_jax.errors import UserError
from emanet_jax.models.remat import rematerialised
from tests import menu
from tests.menu import task

TASKS = [task("semseg", 3), task("depth", 1)]
SIZE = (32, 64)


def loss_of(network):
    """(params, batch_stats, images) to a number that all outputs take part in, and statistics."""

    def loss(params, batch_stats, images):
        predictions, updates = network.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )
        return sum(jnp.abs(x).mean() for x in jax.tree.leaves(predictions)), updates

    return loss


def count(jaxpr, name):
    """How often a primitive occurs, in inner jaxprs too."""
    return sum(
        (eqn.primitive.name == name)
        + sum(count(inner, name) for inner in jaxprs_in_params(eqn.params))
        for eqn in jaxpr.eqns
    )


@pytest.mark.parametrize(
    ("name", "backbone"), [pytest.param(*pair, marks=menu.marks(*pair)) for pair in menu.NETWORKS]
)
def test_blocks_of_every_network_are_recomputed(name, backbone):
    network = menu.tiny(name, backbone, TASKS, SIZE)
    assert rematerialised(network, "nothing") is network
    images = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
    init = functools.partial(network.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), images)
    regions = {}
    for choice in ("blocks", "everything"):
        loss = loss_of(rematerialised(network, choice))
        traced = jax.make_jaxpr(loss)(variables["params"], variables["batch_stats"], images)
        regions[choice] = count(traced.jaxpr, "remat2")
    assert regions["blocks"] > len(TASKS) and regions["everything"] > len(TASKS)


@pytest.mark.slow
def test_recomputing_changes_no_number():
    network = menu.tiny("hps", "swin_v2_tiny", TASKS, SIZE)  # with dropout and batch norms
    images = np.random.default_rng(0).standard_normal((2, *SIZE, 3))
    variables = jax.jit(functools.partial(network.init, train=False))(jax.random.key(0), images)
    variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)

    def run(choice):
        slopes = jax.jit(jax.value_and_grad(loss_of(rematerialised(network, choice)), has_aux=True))
        with jax.enable_x64(True):
            return jax.device_get(slopes(variables["params"], variables["batch_stats"], images))

    expected = run("nothing")
    for choice in ("blocks", "everything"):
        found = run(choice)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_an_unknown_choice_is_said():
    with pytest.raises(UserError, match=r"config.remat is 'all'; choose from nothing, blocks"):
        rematerialised(menu.tiny("hps", "hrnet_tiny", TASKS, SIZE), "all")
