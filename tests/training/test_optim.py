"""Schedules and the optimiser chain against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax.errors import UserError
from emanet_jax.training import optim


def last_of_cosine(steps):
    """The share of the learning rate that the last of these steps has."""
    return np.sin(np.pi / 2 / steps) ** 2


# Steps of a run of 12, the first and the last among them, to shares of the learning rate.
WITHOUT_WARMUP = {
    "cosine": {0: 1, 6: 0.5, 11: last_of_cosine(12)},
    "cosine_restarts": {0: 1, 2: 0.5, 3: last_of_cosine(4), 4: 1, 8: 0.5, 11: last_of_cosine(8)},
    "halved": {0: 1, 5: 1, 6: 0.5, 11: 0.5},
    "constant": {0: 1, 6: 1, 11: 1},
}
AFTER_3_STEPS = {
    "cosine": {0: 0, 1: 1 / 3, 3: 1, 6: 0.75, 9: 0.25, 11: last_of_cosine(9)},
    "cosine_restarts": {0: 0, 2: 2 / 3, 3: 1, 5: 0.25, 6: 1, 9: 0.5, 11: last_of_cosine(6)},
    "halved": {0: 0, 1: 1 / 3, 3: 1, 6: 1, 7: 0.5, 11: 0.5},
    "constant": {0: 0, 1: 1 / 3, 3: 1, 6: 1, 11: 1},
}


@pytest.mark.parametrize("warmup, table", [(0, WITHOUT_WARMUP), (3, AFTER_3_STEPS)])
@pytest.mark.parametrize("name", list(optim.SCHEDULES))
def test_rates_of_the_first_the_last_and_steps_between(name, warmup, table):
    schedule = optim.make_schedule(name, 1e-3, total_steps=12, warmup_steps=warmup)
    found = {step: float(schedule(step)) / 1e-3 for step in table[name]}
    assert found == pytest.approx(table[name], rel=1e-5)


@pytest.mark.parametrize("name", list(optim.SCHEDULES))
def test_a_run_that_is_all_warmup_ends_below_the_learning_rate(name):
    schedule = optim.make_schedule(name, 1e-3, total_steps=4, warmup_steps=4)
    found = [float(schedule(step)) for step in range(4)]
    assert found == pytest.approx([0, 2.5e-4, 5e-4, 7.5e-4])


@pytest.mark.parametrize("name", ["cosine", "cosine_restarts"])
def test_cosines_would_be_zero_after_the_last_step(name):
    assert optim.make_schedule(name, 1e-3, total_steps=12)(12) == pytest.approx(0, abs=1e-9)


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
