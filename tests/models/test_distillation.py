"""PAD-Net's and PAP-Net's distillation against their definitions, pixel by pixel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax.models.distillation import (
    PadDistillation,
    PatternPropagation,
    column_stochastic,
    row_stochastic,
)
from emanet_jax.models.layers import conv

TASKS = ("semseg", "depth", "normals")  # not in the order of their names


def random(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def random_features(b, h, w, c):
    return {task: random(b, h, w, c, seed=seed) for seed, task in enumerate(TASKS)}


def random_params(module, features):
    """Parameters of order one."""
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), features, train=False))
    r = np.random.RandomState(1)
    return jax.tree.map(lambda x: r.standard_normal(x.shape).astype(np.float32), params)


def rows_by_hand(x):
    """Of x (P, c): every row has the non-negative cosines, divided by their sum."""
    a = np.zeros((len(x), len(x)))
    for i, u in enumerate(x):
        for j, v in enumerate(x):
            a[i, j] = max(u @ v / np.linalg.norm(u) / np.linalg.norm(v), 0)
        a[i] /= a[i].sum()
    return a


def columns_by_hand(x):
    """Of x (P, c): products of channels made unit vectors over the pixels; columns sum to 1."""
    x = np.stack([channel / np.linalg.norm(channel) for channel in x.T], axis=1)
    a = np.array([[u @ v for v in x] for u in x])
    return np.stack([column / column.sum() for column in a.T], axis=1)


@pytest.mark.parametrize(
    ("affinity", "by_hand"),
    [(row_stochastic, rows_by_hand), (column_stochastic, columns_by_hand)],
)
def test_affinities_are_their_definitions(affinity, by_hand):
    x = random(2, 7, 4) + 0.5  # keeps the sums of columns away from 0
    a = affinity(x)
    for image in range(2):
        np.testing.assert_allclose(a[image], by_hand(x[image]), rtol=2e-4, atol=1e-6)


def test_rows_are_weights_of_a_mean():
    a = row_stochastic(random(3, 20, 4))
    assert (a >= 0).all()
    assert (a == 0).any()  # opposite pixels have no say
    np.testing.assert_allclose(a.sum(axis=2), 1, rtol=1e-6)
    assert (jnp.diagonal(a, axis1=1, axis2=2) >= a.max(axis=2) - 1e-6).all()


def test_columns_of_the_released_affinities_sum_to_one():
    a = column_stochastic(random(1, 20, 4) + 1)
    np.testing.assert_allclose(a.sum(axis=1), 1, rtol=1e-5)
    assert np.abs(a.sum(axis=2) - 1).max() > 0.1


def test_a_pixel_without_features_is_finite_and_has_finite_gradients():
    x = jnp.asarray(random(1, 5, 3)).at[0, 2].set(0)
    a, pull = jax.vjp(row_stochastic, x)
    np.testing.assert_array_equal(a[0, 2], 0)
    assert np.isfinite(pull(random(1, 5, 5))[0]).all()


def test_half_precision_sums_in_single():
    a = row_stochastic(jnp.asarray(random(1, 300, 8), jnp.bfloat16))
    assert a.dtype == jnp.float32
    np.testing.assert_allclose(a.sum(axis=2), 1, rtol=1e-5)


@pytest.mark.parametrize("affinity", ["row_stochastic", "column_stochastic"])
def test_propagation_mixes_the_tasks_affinities(affinity):
    features = random_features(2, 2, 3, 6)
    module = PatternPropagation(TASKS, distilled=4, affinity=affinity, beta=0.3)
    variables = random_params(module, features)
    refined = module.apply(variables, features, train=True)

    params = variables["params"]
    by_hand = {"row_stochastic": rows_by_hand, "column_stochastic": columns_by_hand}[affinity]
    narrow = {
        task: features[task] @ params[f"in_{task}"]["kernel"][0, 0] + params[f"in_{task}"]["bias"]
        for task in TASKS
    }
    for image in range(2):
        flat = {task: narrow[task][image].reshape(6, 4) for task in TASKS}
        for task in TASKS:
            shares = np.exp(params[f"weights_{task}"])
            shares /= shares.sum()
            mixed = sum(shares[k] * by_hand(flat[other]) for k, other in enumerate(TASKS))
            expected = 0.3 * mixed @ flat[task] + 0.7 * flat[task]
            found = refined[task][image].reshape(6, 4)
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_mixing_starts_with_equal_weights():
    features = random_features(1, 2, 2, 4)
    variables = PatternPropagation(TASKS, 4).init(jax.random.key(0), features, train=True)
    for task in TASKS:
        np.testing.assert_allclose(variables["params"][f"weights_{task}"], 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("use_bias", [False, True])
def test_pad_adds_the_others_behind_their_gates(use_bias):
    features = random_features(1, 4, 5, 3)
    module = PadDistillation(TASKS, functools.partial(conv, use_bias=use_bias))
    variables = random_params(module, features)
    refined = module.apply(variables, features, train=True)

    def convolved(layer, x):
        padded = np.pad(x, [(1, 1), (1, 1), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
        return np.einsum("hwcyx,yxco->hwo", windows, layer["kernel"]) + layer.get("bias", 0)

    for task in TASKS:
        expected = features[task][0].astype(np.float64)
        for other in TASKS:
            if other != task:
                layers = variables["params"][f"to_{task}"][f"from_{other}"]
                assert ("bias" in layers["gate"]) == use_bias
                gate = 1 / (1 + np.exp(-convolved(layers["gate"], features[other][0])))
                expected += gate * convolved(layers["value"], features[other][0])
        np.testing.assert_allclose(refined[task][0], expected, rtol=1e-4, atol=1e-4)


def test_one_task_alone_learns_from_nobody():
    features = {"depth": random(1, 2, 2, 3)}
    refined, variables = PadDistillation(("depth",)).init_with_output(
        jax.random.key(0), features, train=True
    )
    assert not jax.tree.leaves(variables)
    np.testing.assert_array_equal(refined["depth"], features["depth"])
