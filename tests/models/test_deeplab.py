"""DeepLab's head where the golden maps are too small to show it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax.models.heads import DeepLabHead

SIZE = (80, 76)
CENTRE = (40, 37)


@functools.cache
def variables():
    x = jax.ShapeDtypeStruct((1, *SIZE, 1), jnp.float32)
    init = functools.partial(DeepLabHead(3, features=4).init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), x)
    r = np.random.RandomState(0)
    return jax.tree.map(lambda x: r.random_sample(x.shape).astype(np.float32) + 0.1, shapes)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def seen_by(x, part, train=False, dropout=0.5, rngs=None):
    """What the named part of the head gets, and what it returns."""
    seen = {}

    def record(call, args, kwargs, context):
        y = call(*args, **kwargs)
        seen[context.module.name] = (args[0], y)
        return y

    head = DeepLabHead(3, dropout, features=4)
    with nn.intercept_methods(record):
        head.apply(variables(), x, train, mutable=["batch_stats"], rngs=rngs)
    return seen[part]


@pytest.mark.parametrize("dilation", [12, 24, 36])
def test_dilated_kernels_reach_as_far_as_they_say(dilation):
    x = np.zeros((1, *SIZE, 1), np.float32)
    x[0, *CENTRE] = 1
    name = f"dilated{dilation}"
    _, y = seen_by(x, name)
    assert y.shape == (1, *SIZE, 4)
    params, stats = variables()["params"][name], variables()["batch_stats"][name]["bn"]
    kernel, norm = params["conv"]["kernel"], params["bn"]
    expected = np.zeros((*SIZE, 4), np.float32)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            place = CENTRE[0] - i * dilation, CENTRE[1] - j * dilation
            expected[place] = kernel[i + 1, j + 1, 0]
    expected = (expected - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    expected = np.maximum(expected * norm["scale"] + norm["bias"], 0)
    np.testing.assert_allclose(y[0], expected, rtol=1e-4, atol=1e-5)
    assert np.unique(expected[..., 0]).size > 9


def test_one_branch_sees_the_mean_of_the_map_everywhere():
    x = np.random.RandomState(1).standard_normal((2, 3, 5, 1)).astype(np.float32)
    mean, branch = seen_by(x, "everywhere")
    np.testing.assert_allclose(mean, x.mean((1, 2), keepdims=True), atol=1e-6)
    views, _ = seen_by(x, "join")
    assert views.shape == (2, 3, 5, 20)
    np.testing.assert_array_equal(views[..., 16:], np.broadcast_to(branch, (2, 3, 5, 4)))


def test_dropout_silences_values_in_training_alone_and_keeps_their_mean():
    x = np.random.RandomState(1).standard_normal((4, 16, 16, 1)).astype(np.float32)
    before, after = seen_by(x, "drop", True, rngs={"dropout": jax.random.key(0)})
    kept = after != 0
    np.testing.assert_allclose(after[kept], 2 * before[kept], rtol=1e-6)
    assert kept[before != 0].mean() == pytest.approx(0.5, abs=0.05)
    for train, rate in ((False, 0.5), (True, 0.0)):
        np.testing.assert_array_equal(*seen_by(x, "drop", train, rate))


def test_bfloat16_averages_the_map_in_float32():
    x = jnp.full((1, 64, 64, 1), 1 + 2**-7, jnp.bfloat16)
    head = DeepLabHead(3, dtype=jnp.bfloat16, features=4)
    text = str(jax.make_jaxpr(functools.partial(head.apply, train=False))(variables(), x))
    sums = [line for line in text.splitlines() if "= reduce_sum[" in line]
    assert sums
    assert all(":f32[" in line for line in sums)
