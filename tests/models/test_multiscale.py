"""MTI-Net's propagation of features against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax.models.layers import BasicBlock, ConvNorm, SqueezeExcitation
from emanet_jax.models.networks.multi_scale import FeaturePropagation, over_neighbours, over_tasks

TASKS = ("semseg", "depth", "normals")  # not in the order of their names
N, C = len(TASKS), 4


def random(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def softmax(values):
    return np.exp(values) / np.exp(values).sum()


def test_attention_over_tasks():
    """Per pixel and channel, over the places that this channel has in the tasks' features."""
    x = random(1, 2, 3, N * C)
    expected = np.zeros_like(x)
    for i, j, channel in np.ndindex(2, 3, C):
        places = [task * C + channel for task in range(N)]
        expected[0, i, j, places] = softmax(x[0, i, j, places])
    np.testing.assert_allclose(over_tasks(x, N), expected, rtol=1e-5)


def test_released_attention_over_neighbouring_channels():
    x = random(1, 2, 3, N * C)
    expected = np.zeros_like(x)
    for i, j, first in np.ndindex(2, 3, C):
        places = [first * N + k for k in range(N)]
        expected[0, i, j, places] = softmax(x[0, i, j, places])
    np.testing.assert_allclose(over_neighbours(x, N), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("softmax_over", "attend"), [("tasks", over_tasks), ("neighbours", over_neighbours)]
)
def test_propagation(softmax_over, attend):
    """Attention times the concatenation, to one shared map, of which every task takes its part."""
    features = {task: random(1, 3, 2, C, seed=seed) for seed, task in enumerate(TASKS)}
    module = FeaturePropagation(TASKS, softmax_over)
    variables = module.init(jax.random.key(0), features, train=False)
    params, stats = variables["params"], variables["batch_stats"]

    def apply(layer, name, x):
        mine = {"params": params[name], "batch_stats": stats.get(name, {})}
        return layer.apply(mine, x)

    together = np.concatenate([features[task] for task in TASKS], axis=-1)
    scores = apply(BasicBlock(ConvNorm, N * C // 4), "attend_0", together)
    scores = apply(BasicBlock(ConvNorm, N * C // 4), "attend_1", scores)
    scores = scores @ params["attend_2"]["kernel"][0, 0] + params["attend_2"]["bias"]
    shared = apply(BasicBlock(ConvNorm, C), "share", attend(scores, N) * together)
    propagated = module.apply(variables, features, train=False)
    for task in TASKS:
        expected = features[task] + apply(SqueezeExcitation(), f"select_{task}", shared)
        np.testing.assert_allclose(propagated[task], expected, rtol=1e-4, atol=1e-5)


def test_attention_of_equal_scores_is_the_mean_over_tasks():
    attention = over_tasks(jnp.ones((1, 1, 1, N * C)), N)
    np.testing.assert_allclose(attention, 1 / N, rtol=1e-6)
