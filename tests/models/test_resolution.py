"""A checkpoint trained at one size goes on at another: predicts, evaluates, fine-tunes."""

import functools

import jax
import numpy as np
import pytest

from emanet_jax.models.ctal import adapt_resolution
from emanet_jax.training import steps
from tests.helpers import SIZE, TASKS, random_batch, tiny_model, tiny_training

LARGER = (64, 96)


def grid(size):
    return tuple(side // 4 for side in size)


def adapt(tree):
    return adapt_resolution(tree, grid(SIZE), grid(LARGER))


def fusions(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}
    return {name: x for name, x in named.items() if "fusion" in name}


@pytest.mark.slow
def test_a_train_state_goes_on_at_another_size():
    model = tiny_model()
    state, step = tiny_training(model)
    step = jax.jit(step)
    state, _ = step(state, random_batch(2))  # Adam's moments are no longer zero
    adapted = adapt(state)

    create = functools.partial(
        steps.create_state,
        model,
        made_with(step, "optimizer"),
        made_with(step, "balancing"),
        LARGER,
        0,
    )
    fresh = jax.eval_shape(create)
    jax.tree.map(
        lambda x, y: np.testing.assert_equal((x.shape, x.dtype), (y.shape, y.dtype)), adapted, fresh
    )

    batch = random_batch(2, size=LARGER)
    sums, predictions = jax.jit(functools.partial(steps.eval_step, model=model, tasks=TASKS))(
        adapted, batch
    )
    assert predictions["depth"].shape == (2, *LARGER, 1)
    assert all(np.isfinite(x) for x in sums["depth"].compute().values())
    tuned, scalars = step(adapted, batch)
    assert np.isfinite(scalars["loss"])
    changed = jax.tree.map(
        lambda x, y: bool((x != y).any()), fusions(tuned.params), fusions(adapted.params)
    )
    assert all(changed.values())


def made_with(step, name):
    return step.__wrapped__.keywords[name]


def test_moments_are_resampled_and_weights_scaled_too():
    ones = np.ones(np.prod(grid(SIZE)), np.float32)
    tree = {
        "params": {"fusion": {"bias": ones}},
        "opt_state": ({"mu": {"fusion": {"bias": ones}}},),
    }
    adapted = adapt(tree)
    share = np.prod(grid(SIZE)) / np.prod(grid(LARGER))
    np.testing.assert_allclose(adapted["params"]["fusion"]["bias"], share, rtol=1e-6)
    np.testing.assert_allclose(adapted["opt_state"][0]["mu"]["fusion"]["bias"], 1, rtol=1e-6)


def test_the_same_size_changes_nothing():
    state, _ = tiny_training(tiny_model())
    same = adapt_resolution(state, grid(SIZE), grid(SIZE))
    assert all(x is y for x, y in zip(jax.tree.leaves(same), jax.tree.leaves(state), strict=True))
