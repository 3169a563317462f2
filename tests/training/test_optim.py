"""Schedules and the optimiser chain against NumPy."""

import jax.numpy as jnp
import numpy as np
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
    with pytest.raises(UserError, match=r"'cosin'; choose from cosine, .*did you mean 'cosine'"):
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
