"""How losses are balanced, against each method's formula worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax import balancing
from emanet_jax.errors import UserError
from tests.helpers import TASKS, random_batch, tiny_model, tiny_training

NAMES = ("semseg", "depth")


def losses(semseg, depth):
    return {"semseg": jnp.float32(semseg), "depth": jnp.float32(depth)}


def test_fixed_is_the_sum():
    method = balancing.make_balancing("fixed", NAMES, 10)
    assert method.total(losses(2, 3), method.trained, method.memory) == 5


def test_uncertainty_is_its_formula_and_finds_the_logarithm_of_the_loss():
    method = balancing.make_balancing("uncertainty", NAMES, 10)
    start = 2 * np.exp(0.5) / 2 - 0.25 + 3 * np.exp(0.5) / 2 - 0.25
    total = jax.value_and_grad(method.total, argnums=1)
    value, slopes = total(losses(2, 3), method.trained, method.memory)
    assert float(value) == pytest.approx(start)
    # The derivative, -L exp(-s)/2 + 1/2, is zero where s = log L.
    assert float(slopes["depth"]) == pytest.approx(-3 * np.exp(0.5) / 2 + 0.5)
    best = {"semseg": jnp.log(2.0), "depth": jnp.log(3.0)}
    _, slopes = total(losses(2, 3), best, method.memory)
    assert np.allclose(list(slopes.values()), 0, atol=1e-6)


def test_dwa_weighs_by_the_last_two_epochs():
    method = balancing.make_balancing("dwa", NAMES, 2)
    memory, weights = method.memory, []
    for step in [(4, 1), (2, 3), (1, 2), (2, 2), (1, 1), (5, 5)]:  # epochs of two steps
        weights.append(np.array(list(method.weights({}, memory).values())))
        memory = method.remember(losses(*step), memory)
    np.testing.assert_array_equal(weights[:4], np.ones((4, 2)))
    ratio = np.array([1.5 / 3, 2.0 / 2])  # second epoch's mean over the first's
    expected = 2 * np.exp(ratio / 2) / np.exp(ratio / 2).sum()
    np.testing.assert_allclose(weights[4:], [expected, expected], rtol=1e-6)
    third = np.array([3 / 1.5, 3 / 2])
    after = np.array(list(method.weights({}, memory).values()))
    np.testing.assert_allclose(after, 2 * np.exp(third / 2) / np.exp(third / 2).sum(), rtol=1e-6)
    total = method.total(losses(1, 10), {}, memory)
    assert float(total) == pytest.approx(after @ [1, 10], rel=1e-6)


@pytest.mark.parametrize("method", sorted(balancing.METHODS.keys() - {"fixed"}))
def test_every_method_trains_a_network(method):
    state, step = tiny_training(tiny_model("hps", "segnet_tiny"), method=method)
    step = jax.jit(step)
    before = jax.device_get(state.balancing)
    for seed in range(5):
        state, scalars = step(state, random_batch(2, seed))
        assert np.isfinite(scalars["loss"])
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(
            jax.tree.leaves(before), jax.tree.leaves(jax.device_get(state.balancing)), strict=True
        )
    ]
    assert any(moved)
    logged = {key for key in scalars if key.startswith("weight_")}
    assert logged == {f"weight_{task.name}" for task in TASKS}


def test_unknown_method_is_said():
    with pytest.raises(UserError, match=r"config\.balancing is 'mean'; known methods: fixed, unc"):
        balancing.make_balancing("mean", NAMES, 10)
