"""Methods on losses, against each one's formula worked out by hand, and its invariances."""

import re
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax import balancing
from emanet_jax.errors import UserError
from tests.conftest import ROOT

WEIGHTS = {"semseg": 1.0, "depth": 2.0, "normals": 3.0}
KEY = jax.random.key(3)
LOSSES = np.array([2.0, 3.0, 0.5], np.float32)
SCALES = np.array([10.0, 0.1, 3.0], np.float32)


def make(name, steps_per_epoch=2, **settings):
    method = balancing.make_balancing(name, WEIGHTS, steps_per_epoch, settings)
    return method, method.init_state({})


def weights(method, losses, state, params=None, key=KEY):
    params = method.init_params() if params is None else params
    return np.asarray(jax.grad(method.total)(jnp.asarray(losses), params, state, key))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


@pytest.mark.parametrize("name, weighs", [("equal", False), ("fixed", True)])
def test_equal_and_fixed_are_the_sum(name, weighs):
    method, state = make(name)
    assert method.total(LOSSES, {}, state, KEY) == 5.5
    assert list(method.task_weights.values()) == ([1, 2, 3] if weighs else [1, 1, 1])


def test_uncertainty_is_its_formula_and_finds_the_logarithm_of_the_loss():
    method, state = make("uncertainty")
    total = jax.value_and_grad(method.total, argnums=1)
    value, grads = total(LOSSES, method.init_params(), state, KEY)
    assert float(value) == pytest.approx((LOSSES * np.exp(0.5) / 2 - 0.25).sum())
    np.testing.assert_allclose(grads, -LOSSES * np.exp(0.5) / 2 + 0.5, rtol=1e-6)
    _, grads = total(LOSSES, jnp.log(LOSSES), state, KEY)
    np.testing.assert_allclose(grads, 0, atol=1e-6)


def test_imtl_l_is_its_formula_and_makes_scaled_losses_one():
    method, state = make("imtl_l")
    s = np.array([0.5, -1.0, 0.2], np.float32)
    value = method.total(LOSSES, s, state, KEY)
    assert float(value) == pytest.approx((LOSSES * np.exp(s) - s).sum())
    np.testing.assert_allclose(weights(method, LOSSES, state, s), np.exp(s), rtol=1e-6)
    grads = jax.grad(method.total, argnums=1)(LOSSES, -jnp.log(LOSSES), state, KEY)
    np.testing.assert_allclose(grads, 0, atol=1e-6)
    np.testing.assert_array_equal(method.init_params(), np.zeros(3))


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_dwa_weighs_by_the_last_two_epochs(temperature):
    method, state = make("dwa", temperature=temperature)
    found = []
    for step in [(4, 1), (2, 3), (1, 2), (2, 2), (1, 1), (5, 5)]:  # epochs of two steps
        losses = np.array([*step, 1], np.float32)
        found.append(weights(method, losses, state))
        state = method.update_state(losses, state)
    np.testing.assert_array_equal(found[:4], np.ones((4, 3)))
    ratio = np.array([1.5 / 3, 2.0 / 2, 1])  # second epoch's mean over the first's
    expected = 3 * softmax(ratio / temperature)
    np.testing.assert_allclose(found[4:], [expected, expected], rtol=1e-6)
    third = np.array([3 / 1.5, 3 / 2, 1])
    np.testing.assert_allclose(
        weights(method, LOSSES, state), 3 * softmax(third / temperature), rtol=1e-6
    )


def test_rlw_draws_weights_that_sum_to_one():
    method, state = make("rlw")
    draws = np.array([weights(method, LOSSES, state, key=jax.random.key(i)) for i in range(300)])
    np.testing.assert_allclose(draws.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(draws.mean(axis=0), 1 / 3, atol=0.05)
    # The logarithms of the ratios are differences of normal numbers: deviation sqrt(2).
    assert np.log(draws[:, 0] / draws[:, 1]).std() == pytest.approx(2**0.5, abs=0.15)


def test_gls_is_the_geometric_mean():
    method, state = make("gls")
    mean = (2.0 * 3.0 * 0.5) ** (1 / 3)
    assert float(method.total(LOSSES, {}, state, KEY)) == pytest.approx(mean)
    np.testing.assert_allclose(weights(method, LOSSES, state), mean / (3 * LOSSES), rtol=1e-6)


def test_stch_is_a_soft_maximum_of_what_is_left_of_the_losses():
    method, state = make("stch", mu=0.5)
    warm = []
    for scale in (1.5, 0.5):  # the first epoch: its mean is LOSSES
        warm.append(weights(method, scale * LOSSES, state))
        state = method.update_state(scale * LOSSES, state)
    np.testing.assert_allclose(warm, [1 / (1.5 * LOSSES), 1 / (0.5 * LOSSES)], rtol=1e-6)
    share = np.array([0.5, 0.8, 0.7], np.float32)
    total = 3 * 0.5 * np.log((share**2).sum())
    for _ in range(2):  # later epochs change nothing
        assert float(method.total(share * LOSSES, {}, state, KEY)) == pytest.approx(total)
        state = method.update_state(share * LOSSES, state)
    hard, _ = make("stch", mu=0.01)
    found = weights(hard, share * LOSSES, state) * share * LOSSES
    np.testing.assert_allclose(found, [0, 3, 0], atol=1e-4)
    harder, _ = make("stch", mu=1e-5)
    losses = share * LOSSES * np.array([1, 0, 1], np.float32)  # the worst has no valid pixel
    np.testing.assert_allclose(weights(harder, losses, state) * losses, [0, 0, 3], rtol=1e-5)


def test_famo_follows_its_recursion():
    method, xi = make("famo", rate=0.1, decay=0.01)
    expected, before = np.zeros(3), LOSSES.astype(float)
    for factor in ([0.9, 0.7, 1.1], [0.8, 1.0, 0.9], [0.5, 0.9, 0.95]):
        z = softmax(expected)
        grads = z / before / (z / before).sum()
        np.testing.assert_allclose(weights(method, before, xi), grads, rtol=1e-5)
        after = before * factor
        xi = method.post_step(jnp.asarray(before), lambda after=after: jnp.asarray(after), xi)
        jacobian = np.diag(z) - np.outer(z, z)
        expected = expected - 0.1 * (jacobian @ -np.log(factor) + 0.01 * expected)
        np.testing.assert_allclose(xi, expected, rtol=1e-4, atol=1e-7)
        before = after
    # The task that fell least weighs most.
    assert np.argmax(xi) == 2 and np.argmin(xi) == 0


def after_steps(name, scale):
    """The weights times the scales: what a task's own gradient counts for, after some steps."""
    method, state = make(name)
    for step in range(5):
        losses = LOSSES * (1 - 0.1 * step * np.array([1, 0.5, 0.2], np.float32)) * scale
        state = method.update_state(losses, state)
        after = losses * np.array([0.9, 0.8, 1.0])
        state = method.post_step(losses, lambda after=after: after, state)
    return weights(method, LOSSES * scale, state) * scale


@pytest.mark.parametrize("name", ["gls", "stch", "famo"])
def test_scaling_a_loss_changes_no_direction(name):
    plain, scaled = (x / x.sum() for x in (after_steps(name, 1), after_steps(name, SCALES)))
    np.testing.assert_allclose(plain, scaled, rtol=1e-4)


def test_scaling_a_loss_changes_no_weight_of_dwa():
    plain, scaled = after_steps("dwa", 1), after_steps("dwa", SCALES) / SCALES
    np.testing.assert_allclose(plain, scaled, rtol=1e-5)
    assert plain.max() > 1.05 * plain.min()


@pytest.mark.parametrize("name", balancing.methods_on("losses"))
def test_affine_methods_are_those_whose_weights_do_not_see_the_losses(name):
    method, state = make(name)
    state = method.update_state(LOSSES, method.update_state(LOSSES, state))
    same = np.allclose(weights(method, LOSSES, state), weights(method, 2 * LOSSES[::-1], state))
    assert same == method.affine


@pytest.mark.parametrize("name", balancing.methods_on("losses"))
@pytest.mark.parametrize("losses", [[2, 0, 0.5], [0, 0, 0]])
def test_tasks_without_a_valid_pixel_leave_finite_weights(name, losses):
    method, state = make(name)
    losses = np.array(losses, np.float32)
    for _ in range(5):
        found = weights(method, losses, state)
        assert np.isfinite(found).all() and np.isfinite(
            method.total(losses, method.init_params(), state, KEY)
        )
        state = method.update_state(losses, state)
        state = method.post_step(losses, lambda: losses * 0.9, state)
    if losses.any():
        assert (found[[0, 2]] > 0).all()


def test_unknown_methods_and_settings_are_said():
    with pytest.raises(UserError, match=r"config\.balancing is 'mean'; choose from equal, fix"):
        balancing.make_balancing("mean", WEIGHTS, 10)
    with pytest.raises(UserError, match=r"has .radius., which dwa does not know.*: temperature\."):
        make("dwa", radius=0.5)
    with pytest.raises(UserError, match=r"which pcgrad does not know; its settings: none\."):
        make("pcgrad", radius=0.5)
    for name, key, value, words in [
        ("cagrad", "radius", 1.0, "at least 0 and below 1"),
        ("cagrad", "radius", "0.4", "at least 0 and below 1"),
        ("dwa", "temperature", 0, "positive and finite"),
        ("famo", "decay", -1.0, "finite and at least 0"),
        ("stch", "warmup_epochs", float("inf"), "finite and at least 0"),
    ]:
        with pytest.raises(UserError, match=rf"config\.balancing_settings\.{key} is .*{words}\."):
            make(name, **{key: value})


@pytest.mark.parametrize("name", balancing.METHODS)
def test_every_setting_has_a_range_that_its_default_is_in(name):
    balancing.make_balancing(name, WEIGHTS, 2, balancing.METHODS[name].settings())


@pytest.fixture
def own_method(tmp_path):
    """The config file on the page about balancing, run as --config runs it; the method's name."""
    page = (ROOT / "docs" / "balancing.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    path = tmp_path / "power.py"
    path.write_text(code)
    for _ in range(2):  # as flags may run it again
        config = runpy.run_path(str(path))["get_config"]("model=hps")
    yield config.balancing
    del balancing.METHODS[config.balancing]


def test_a_config_file_registers_a_method(own_method):
    method, state = make(own_method, power=3)
    np.testing.assert_allclose(weights(method, LOSSES, state), 3 * LOSSES**2, rtol=1e-6)
    with pytest.raises(UserError, match=r"settings\.power is 0; it must be positive and finite\."):
        make(own_method, power=0)
    with pytest.raises(UserError, match="method of balancing 'fixed' is one of this package's own"):
        balancing.register("fixed", balancing.METHODS[own_method])
