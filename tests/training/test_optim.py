"""Schedules and the optimiser chain against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emanet_jax.errors import UserError
from emanet_jax.training import optim


def test_cosine_starts_after_warmup_and_ends_at_zero():
    schedule = optim.make_schedule("cosine", 1e-3, total_steps=100, warmup_steps=10)
    assert schedule(0) == 0
    assert schedule(5) == pytest.approx(5e-4)
    assert schedule(10) == pytest.approx(1e-3)
    assert schedule(55) == pytest.approx(5e-4)
    assert schedule(100) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", list(optim.SCHEDULES))
def test_every_schedule_without_warmup_starts_at_the_learning_rate(name):
    assert optim.make_schedule(name, 1e-3, total_steps=10)(0) == pytest.approx(1e-3)


def test_restarts_end_exactly_at_the_last_step():
    schedule = optim.make_schedule("cosine_restarts", 1e-3, total_steps=90)
    assert schedule(15) == pytest.approx(5e-4)
    assert schedule(29) < 5e-6
    assert schedule(30) == pytest.approx(1e-3)
    assert schedule(60) == pytest.approx(5e-4)
    assert schedule(90) == pytest.approx(0, abs=1e-9)


def test_halved_is_halved_in_the_middle():
    schedule = optim.make_schedule("halved", 1e-3, total_steps=10)
    assert [float(schedule(step)) for step in (4, 6, 9)] == pytest.approx([1e-3, 5e-4, 5e-4])


def test_unknown_schedule_and_long_warmup_are_said():
    with pytest.raises(UserError, match=r"'cosin'; known schedules: cosine, .*constant"):
        optim.make_schedule("cosin", 1e-3, 10)
    with pytest.raises(UserError, match="warmup_steps is 11"):
        optim.make_schedule("cosine", 1e-3, 10, 11)


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_three_steps_equal_adam_with_l2_in_the_gradient(clip_norm):
    learning_rate, l2 = 0.1, 0.01
    optimizer = optim.make_optimizer(lambda _: learning_rate, l2, clip_norm)
    params = expected = np.array([1.0, -2.0, 3.0])
    state = optimizer.init(jnp.asarray(params))
    m = v = np.zeros(3)
    for t, grad in enumerate(np.random.default_rng(0).standard_normal((3, 3)), start=1):
        updates, state = optimizer.update(jnp.asarray(grad), state, jnp.asarray(params))
        params = params + np.asarray(updates)
        clipped = grad * min(1, clip_norm / np.linalg.norm(grad)) if clip_norm else grad
        g = clipped + l2 * expected
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        expected = expected - learning_rate * step
        np.testing.assert_allclose(params, expected, rtol=1e-5)


def test_a_bad_step_keeps_the_optimisers_state():
    optimizer = optim.make_optimizer(optim.make_schedule("cosine", 0.1, 9), 0.01, clip_norm=1.0)
    params, grads = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}, {"a": 1.0, "b": 2.0}
    grads = {name: jnp.full_like(params[name], x) for name, x in grads.items()}
    _, one = optimizer.update(grads, optimizer.init(params), params)
    nans = {name: x * jnp.nan for name, x in grads.items()}
    _, bad = optimizer.update(nans, one, params, good=jnp.asarray(False))
    for a, b in zip(jax.tree.leaves(bad), jax.tree.leaves(one), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_chain_is_optax_s():
    schedule = optim.make_schedule("cosine", 0.1, 9)
    ours = optim.make_optimizer(schedule, 0.01, clip_norm=0.5)
    theirs = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.add_decayed_weights(0.01),
        optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8),
    )
    ends = []
    for optimizer in (ours, theirs):
        params = {"a": jnp.linspace(-1, 1, 5), "b": jnp.ones((2, 3))}
        state = optimizer.init(params)
        for scale in (1.0, 0.01, 3.0):
            grads = jax.tree.map(lambda x, s=scale: s * jnp.cos(3 * x + s), params)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        ends.append(params)
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6)
