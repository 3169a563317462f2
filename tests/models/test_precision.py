"""config.precision: what computes in bfloat16 and what stays in float32."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from tests import menu
from tests.menu import task

TASKS = [task("semseg", 3), task("depth", 1)]
SIZE = (32, 64)


def operands(jaxpr, name):
    """The types of the inputs of a primitive, wherever it occurs on accelerators."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == name:
            yield {x.aval.dtype for x in eqn.invars}
        inner = list(jaxprs_in_params(eqn.params))
        if eqn.primitive.name == "cond":  # by platform: a CPU's branch is first, all others' last
            inner = inner[-1:]
        for jaxpr_inside in inner:
            yield from operands(jaxpr_inside, name)


@pytest.mark.parametrize(
    ("name", "backbone"), [pytest.param(*pair, marks=menu.marks(*pair)) for pair in menu.NETWORKS]
)
def test_networks_compute_in_bfloat16_and_keep_float32(name, backbone):
    network = menu.tiny(name, backbone, TASKS, SIZE, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
    init = functools.partial(network.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), images)
    apply = functools.partial(
        network.apply, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)}
    )
    jaxpr, (predictions, updates) = jax.make_jaxpr(apply, return_shape=True)(variables, images)
    kept = jax.tree.leaves((variables, predictions, updates))
    assert {x.dtype for x in kept} == {jnp.dtype(jnp.float32)}
    convolutions = list(operands(jaxpr.jaxpr, "conv_general_dilated"))
    assert all(types == {jnp.dtype(jnp.bfloat16)} for types in convolutions)
    products = list(operands(jaxpr.jaxpr, "dot_general"))
    halves = sum(types == {jnp.dtype(jnp.bfloat16)} for types in products)
    # In float32: Swin's position bias, and sums of CTAL and PAP-Net.
    assert halves > len(products) / 2
