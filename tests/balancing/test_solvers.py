"""Solvers against what defines their solutions, where rounding, length and conflict strain them."""

import contextlib
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax.balancing import solvers

COUNT = 5
EVERY_DTYPE = pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("float64", 4e-15)])


def gradients(condition, decades, seed):
    """(K, K) in float64: cosines of about that condition, norms over so many powers of ten."""
    rng = np.random.default_rng(seed)
    g, _ = np.linalg.qr(rng.normal(size=(COUNT, COUNT)))
    g *= np.geomspace(1, condition**-0.5, COUNT)
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    assert condition / 50 < np.linalg.cond(g) ** 2 < 50 * condition
    return g * 10.0 ** rng.permutation(np.linspace(-decades / 2, decades / 2, COUNT))[:, None]


CASES = list(itertools.product((1e2, 1e4, 1e6, 1e8), (0, 4), range(4)))


def precise(dtype):
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


def solutions(solver, dtype, cases=CASES):
    """(gradients, their norms, the solver's result) of every case."""
    with precise(dtype):
        solve = jax.jit(solver)
        for case in cases:
            g = gradients(*case)
            result = np.asarray(solve(jnp.asarray(g @ g.T, dtype)), np.float64)
            assert np.isfinite(result).all(), case
            yield g, np.linalg.norm(g, axis=1), result


@EVERY_DTYPE
@pytest.mark.parametrize("power", [0.1, 0.5, 1.0, 2.0])
def test_fair_solves_its_equation(power, dtype, tolerance):
    for g, norms, w in solutions(functools.partial(solvers.fair, power=power), dtype):
        assert (w > 0).all()
        counts = w * norms > 1e-12 * (w * norms).max()  # in float32, less adds no digit
        error = np.abs(g @ g.T @ w - w**-power)
        assert (error <= tolerance * norms * (w @ norms))[counts].all()


def test_nash_bargaining_is_solved_to_six_digits_in_float64():
    for g, _, w in solutions(functools.partial(solvers.fair, power=1.0), "float64"):
        np.testing.assert_allclose(g @ g.T @ w * w, 1, atol=1e-6)


@EVERY_DTYPE
def test_projections_are_equal(dtype, tolerance):
    for g, norms, w in solutions(solvers.equal_projections, dtype):
        projections = g @ g.T @ w / norms
        assert np.ptp(projections) <= 2 * tolerance * (np.abs(w) @ norms)
        assert w.sum() == pytest.approx(1, abs=1e-5 * np.abs(w).sum())


def shortest(gram):
    """MGDA's weights."""
    w = solvers.best_for_worst(gram, jnp.zeros(len(gram), gram.dtype), jnp.ones((), gram.dtype))
    return w / w.sum()


def test_shortest_vector_has_no_shorter_one():
    for g, norms, w in solutions(shortest, "float64"):
        assert (w >= 0).all() and w.sum() == pytest.approx(1)
        direction = w @ g
        length = np.linalg.norm(direction)
        # Any direction's least projection is a lower bound of all lengths.
        assert length - (g @ direction).min() / length <= 1e-8 * norms.min()


def test_shortest_vector_in_float32_is_that_of_float64_but_for_rounding():
    for (g, norms, w), (_, _, exact) in zip(
        solutions(shortest, "float32"), solutions(shortest, "float64"), strict=True
    ):
        squares = [np.sum((x @ g) ** 2) for x in (w, exact)]
        assert squares[0] <= squares[1] + 4e-6 * np.sum((exact * norms) ** 2)


def conflict_averse(gram, radius=0.5):
    """CAGrad's w, for the mean gradient."""
    mean = jnp.full(len(gram), 1 / len(gram), gram.dtype)
    return solvers.best_for_worst(gram, mean, radius * jnp.sqrt(mean @ gram @ mean))


def worst_gain(g, w, radius=0.5):
    """The worst task's gain in CAGrad's direction, and what no direction in its ball exceeds.

    Both in terms of the ball's radius times the norm of the shortest gradient.
    """
    mean = g.mean(axis=0)
    reach = radius * np.linalg.norm(mean)
    length = np.linalg.norm(w @ g)
    assert length <= 1.001 * reach
    gain = (g @ (mean + min(1, reach / length) * w @ g)).min()
    point = w / w.sum()
    dual = point @ g @ mean + reach * np.linalg.norm(point @ g)
    return np.array([gain, dual]) / reach / np.linalg.norm(g, axis=1).min()


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-3), ("float64", 1e-9)])
def test_no_direction_near_the_mean_is_better_for_the_worst_task(dtype, tolerance):
    for g, _, w in solutions(conflict_averse, dtype):
        assert (w >= 0).all()
        gain, bound = worst_gain(g, w)
        assert bound - tolerance <= gain <= bound + 1e-12


TURN = np.array([[1, 0, 0], [-0.5, 0.75**0.5, 0], [-0.5, -(0.75**0.5), 0]])
DEPENDENT = {
    "the same twice": np.array([[3.0, 1, 0], [3, 1, 0], [-1, 2, 1]]),
    "opposed": np.array([[1.0, 2, 0], [-1.1, -2.2, 0], [0, 0, 2.3]]),
    "three in a plane that cancel": TURN,
    "three in a plane, far apart in length": TURN * np.array([[1e-2], [1], [1e2]]),
    "all the same": np.ones((3, 3)),
}


@pytest.mark.parametrize("case", DEPENDENT)
def test_dependent_gradients_have_solutions(case):
    g = DEPENDENT[case]
    norms = np.linalg.norm(g, axis=1)
    gram = jnp.asarray(g @ g.T, jnp.float32)
    w = np.asarray(jax.jit(shortest)(gram), np.float64)
    assert (w >= 0).all() and w.sum() == pytest.approx(1)
    shortest_length = {"the same twice": (59 / 18) ** 0.5, "all the same": 3**0.5}.get(case, 0)
    assert np.linalg.norm(w @ g) == pytest.approx(shortest_length, abs=2e-3 * norms.min())
    if case != "three in a plane that cancel":  # whose mean is 0, so that there is no way to go
        gain, bound = worst_gain(g, np.asarray(jax.jit(conflict_averse)(gram), np.float64))
        assert bound - 3e-3 <= gain <= bound + 1e-6
    w = np.asarray(jax.jit(functools.partial(solvers.fair, power=1.0))(gram), np.float64)
    assert (np.abs(g @ g.T @ w - 1 / w) <= 3e-6 * norms * (w @ norms)).all()


@EVERY_DTYPE
def test_aligned_gradients_are_orthogonal_and_of_the_least_singular_value(dtype, tolerance):
    known = 1e4 if dtype == "float32" else 1e8
    cases = [case for case in CASES if case[0] <= known]
    for (g, _, b), (condition, _, _) in zip(
        solutions(solvers.aligned, dtype, cases), cases, strict=True
    ):
        singular = np.linalg.svd(g.T @ b, compute_uv=False)
        least = np.linalg.svd(g, compute_uv=False).min()
        np.testing.assert_allclose(singular, least, rtol=50 * tolerance * condition)


def test_aligned_gradients_leave_out_what_rounding_hides():
    g = np.array([[1e3, 0, 0], [1e3, 0, 0], [1e-1, 1, 0]])
    b = np.asarray(jax.jit(solvers.aligned)(jnp.asarray(g @ g.T, jnp.float32)), np.float64)
    singular = np.linalg.svd(g.T @ b, compute_uv=False)
    least = np.linalg.svd(g, compute_uv=False)[1]
    np.testing.assert_allclose(singular, [least, least, 0], atol=1e-2 * least)
