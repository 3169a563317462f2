"""Methods on gradients, against their defining properties and SciPy's solvers, on small vectors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from emanet_jax import balancing
from emanet_jax.balancing import solvers
from emanet_jax.balancing.base import gram_matrix
from emanet_jax.balancing.gradients import GramBalancing

KEY = jax.random.key(0)
SEEDS = range(4)


def gradients(seed, count=None, size=50, conflict=0.0):
    """(K, n) in float64: of different lengths, and leaning against their mean by `conflict`."""
    rng = np.random.default_rng(seed)
    count = count or 2 + seed % 4
    g = rng.normal(size=(count, size)) + rng.normal(size=size)
    g = g - conflict * g.mean(axis=0)
    return g * 10.0 ** rng.uniform(-1, 1, (count, 1))


@functools.cache
def jitted(name, count, settings):
    method = balancing.make_balancing(name, {str(i): 1.0 for i in range(count)}, 2, dict(settings))
    return method, jax.jit(method.combine)


def combined(name, g, losses=None, state=None, key=KEY, **settings):
    """Direction (n,), weights (K,) and state, from a tree of two parameters."""
    count = len(g)
    method, combine = jitted(name, count, tuple(settings.items()))
    grads = {"a": jnp.asarray(g[:, :20], jnp.float32), "b": jnp.asarray(g[:, 20:], jnp.float32)}
    grads["own"] = None
    params = {"a": jnp.zeros(20), "b": jnp.zeros(g.shape[1] - 20), "own": jnp.zeros(3)}
    state = method.init_state(params) if state is None else state
    losses = jnp.ones(count) if losses is None else jnp.asarray(losses, jnp.float32)
    found = combine(grads, gram_matrix(grads), losses, state, key)
    direction = np.concatenate([found.grads["a"], found.grads["b"]])
    return direction, np.asarray(found.weights), found.state


def on_simplex(value, count):
    """The least value on the simplex that SciPy finds from several starts."""
    starts = [np.full(count, 1 / count), *(0.9 * np.eye(count) + 0.1 / count)]
    found = [
        optimize.minimize(
            value,
            start,
            method="SLSQP",
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        ).fun
        for start in starts
    ]
    return min(found)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("conflict", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_mgda_is_the_shortest_vector_of_the_hull(seed, conflict):
    g = gradients(seed, conflict=conflict)
    direction, w, _ = combined("mgda", g)
    assert (w >= 0).all() and w.sum() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(direction, w @ g, atol=1e-4 * np.abs(g).max())
    unit = np.linalg.norm(g, axis=1).max()
    shortest = on_simplex(lambda w: (np.linalg.norm(w @ g) / unit) ** 2, len(g))
    assert (np.linalg.norm(direction) / unit) ** 2 <= shortest + 1e-6
    # No task's loss grows: the projections on all are at least the squared length.
    assert (g @ direction / unit**2 >= (np.linalg.norm(direction) / unit) ** 2 - 1e-4).all()


@pytest.mark.parametrize("radius", [0.3, 0.9])
@pytest.mark.parametrize("seed", SEEDS)
def test_cagrad_solves_its_dual_and_its_primal(seed, radius):
    g = gradients(seed, conflict=1.3)
    mean = g.mean(axis=0)
    reach = radius * np.linalg.norm(mean)
    direction, _, _ = combined("cagrad", g, radius=radius)

    def dual(w):
        return (w @ g @ mean + reach * np.linalg.norm(w @ g)) / (mean @ mean)

    assert np.linalg.norm(direction - mean) == pytest.approx(reach, rel=1e-3)
    # Strong duality: the worst task's gain is the least value of the dual.
    gain = (g @ direction).min() / (mean @ mean)
    assert gain == pytest.approx(on_simplex(dual, len(g)), abs=2e-3)


def test_cagrad_without_a_radius_is_the_mean():
    g = gradients(3)
    np.testing.assert_allclose(combined("cagrad", g, radius=0.0)[0], g.mean(axis=0), rtol=1e-4)


def test_pcgrad_projects_conflicts_out():
    g = np.array([[1.0, 0.0], [-1.0, 1.0]])
    g = np.pad(g, ((0, 0), (0, 48)))
    direction, _, _ = combined("pcgrad", g)
    first = g[0] - (g[0] @ g[1]) / (g[1] @ g[1]) * g[1]
    second = g[1] - (g[0] @ g[1]) / (g[0] @ g[0]) * g[0]
    np.testing.assert_allclose(direction, first + second, atol=1e-6)
    assert first @ g[1] == pytest.approx(0) and second @ g[0] == pytest.approx(0)
    assert (g @ direction >= 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_pcgrad_of_two_tasks_never_conflicts(seed):
    g = gradients(seed, count=2, conflict=1.5)
    direction, _, _ = combined("pcgrad", g)
    assert (g @ direction >= -1e-4 * np.abs(g @ g.T).max()).all()
    friendly = np.abs(g)
    np.testing.assert_allclose(combined("pcgrad", friendly)[0], friendly.sum(axis=0), rtol=1e-5)


def test_pcgrad_of_three_tasks_is_one_of_its_orders():
    g = gradients(1, count=3, conflict=1.4)

    def surgery(i, order):
        x = g[i]
        for j in order:
            if j != i and x @ g[j] < 0:
                x = x - (x @ g[j]) / (g[j] @ g[j]) * g[j]
        return x

    each = [
        [surgery(i, order) for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0])]
        for i in range(3)
    ]
    sums = np.array([a + b + c for a in each[0] for b in each[1] for c in each[2]])
    found = np.array([combined("pcgrad", g, key=jax.random.key(i))[0] for i in range(8)])
    scale = np.abs(g).max()
    errors = np.abs(found[:, None] - sums).max(axis=-1) / scale
    assert errors.min(axis=1).max() < 1e-5
    assert len(set(errors.argmin(axis=1))) > 1  # the order is drawn


def test_gradvac_gives_the_usual_cosine():
    g = gradients(0, count=2, conflict=1.5)
    targets = np.array([[1.0, 0.6], [0.6, 1.0]], np.float32)
    direction, w, after = combined("gradvac", g, state=jnp.asarray(targets), rate=0.1)
    # Each gradient, mended by the other, has the target as its cosine with it.
    p, t = cosine(*g), 0.6
    n = np.linalg.norm(g, axis=1)
    factor = (t * np.sqrt(1 - p**2) - p * np.sqrt(1 - t**2)) / np.sqrt(1 - t**2)
    mended = [g[0] + n[0] * factor / n[1] * g[1], g[1] + n[1] * factor / n[0] * g[0]]
    assert cosine(mended[0], g[1]) == pytest.approx(0.6)
    np.testing.assert_allclose(direction, sum(mended), atol=1e-4 * np.abs(mended).max())
    np.testing.assert_allclose(direction, w @ g, atol=1e-4 * np.abs(mended).max())
    assert after[0, 1] == pytest.approx(0.6 + 0.1 * (p - 0.6), abs=1e-5)
    # With the first target, 0, it is gradient surgery; above the target nothing changes.
    np.testing.assert_allclose(
        combined("gradvac", g)[0], combined("pcgrad", g)[0], atol=1e-4 * np.abs(g).max()
    )
    friendly = np.abs(g)
    np.testing.assert_allclose(combined("gradvac", friendly)[0], friendly.sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_imtl_g_has_equal_projections(seed):
    g = gradients(seed)
    direction, w, _ = combined("imtl_g", g)
    projections = g @ direction / np.linalg.norm(g, axis=1)
    np.testing.assert_allclose(projections, projections.mean(), rtol=2e-3)
    assert w.sum() == pytest.approx(1, rel=1e-5)
    # The paper's closed form: w_2.. = g_1 U^T (D U^T)^-1, U and D the differences to the first.
    unit = g / np.linalg.norm(g, axis=1, keepdims=True)
    u, d = unit[0] - unit[1:], g[0] - g[1:]
    others = g[0] @ u.T @ np.linalg.inv(d @ u.T)
    np.testing.assert_allclose(w, [1 - others.sum(), *others], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("conflict", [0.0, 0.9])
@pytest.mark.parametrize("seed", SEEDS)
def test_nash_mtl_is_stationary_and_as_long_as_the_tasks_are_many(seed, conflict):
    g = gradients(seed, conflict=conflict)
    direction, w, _ = combined("nash_mtl", g)
    assert (w > 0).all()
    np.testing.assert_allclose(g @ g.T @ w * w, 1, atol=5e-3)
    assert np.linalg.norm(direction) ** 2 == pytest.approx(len(g), rel=5e-3)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_fairgrad_is_stationary(seed, alpha):
    g = gradients(seed, conflict=0.5)
    _, w, _ = combined("fairgrad", g, alpha=alpha)
    assert (w > 0).all()
    np.testing.assert_allclose(g @ g.T @ w * w ** (1 / alpha), 1, rtol=1e-2)


@pytest.mark.parametrize("seed", SEEDS)
def test_aligned_mtl_has_condition_number_one(seed):
    g = gradients(seed)
    direction, _, _ = combined("aligned_mtl", g)
    b = np.asarray(jax.jit(solvers.aligned)(jnp.asarray(g @ g.T, jnp.float32)))
    singular = np.linalg.svd(g.T @ b, compute_uv=False)
    np.testing.assert_allclose(singular, np.linalg.svd(g, compute_uv=False).min(), rtol=1e-2)
    np.testing.assert_allclose(direction, (g.T @ b).sum(axis=1), atol=1e-4 * np.abs(g).max())


def test_gradnorm_moves_weights_to_the_target():
    g = gradients(2, count=3)
    losses, weights = np.array([1.0, 2.0, 0.5]), np.ones(3)
    state, first = None, losses
    for decay in (1.0, 0.7, 0.6):
        losses = losses * [decay, 1.0, decay**2]
        norms = weights * np.linalg.norm(g, axis=1)
        lateness = losses / first / (losses / first).mean()
        grad = np.sign(norms - norms.mean() * lateness**1.5) * norms / weights / norms.mean()
        weights = weights - 0.025 * grad
        weights = 3 * weights / weights.sum()
        before = np.ones(3) if state is None else np.asarray(state.weights)
        direction, _, state = combined("gradnorm", g * before[:, None], losses, state)
        np.testing.assert_allclose(state.weights, weights, rtol=1e-4)
        np.testing.assert_allclose(direction, before @ g, atol=1e-4 * np.abs(g).max())
    # Losses that keep to their ratios: in the end all gradients are of one length.
    for _ in range(400):
        weighted = g * np.asarray(state.weights)[:, None]
        _, _, state = combined("gradnorm", weighted, first, state._replace(first=first))
    lengths = np.asarray(state.weights) * np.linalg.norm(g, axis=1)
    np.testing.assert_allclose(lengths / lengths.mean(), 1, atol=0.1)


def test_graddrop_keeps_one_sign_of_every_number():
    g = gradients(5, count=3)
    purity = (1 + g.sum(axis=0) / np.abs(g).sum(axis=0)) / 2
    up, down = np.maximum(g, 0).sum(axis=0), np.minimum(g, 0).sum(axis=0)
    share = np.zeros(50)
    for i in range(300):
        direction, w, _ = combined("graddrop", g, key=jax.random.key(i))
        positive = np.isclose(direction, up, rtol=1e-4, atol=1e-6)
        assert (positive | np.isclose(direction, down, rtol=1e-4, atol=1e-6)).all()
        share += positive / 300
    mixed = (up > 0) & (down < 0)
    assert mixed.sum() > 10
    np.testing.assert_allclose(share[mixed], purity[mixed], atol=0.12)
    kept = np.where(np.isclose(direction, up, rtol=1e-4, atol=1e-6), g > 0, g < 0)
    np.testing.assert_allclose(w, (g**2 * kept).sum(axis=1) / (g**2).sum(axis=1), rtol=1e-3)
    half, _, _ = combined("graddrop", g, key=jax.random.key(299), leak=0.5)
    np.testing.assert_allclose(half, (direction + g.sum(axis=0)) / 2, rtol=1e-3, atol=1e-5)


def test_db_mtl_averages_over_time_and_makes_gradients_equally_long():
    first, second = gradients(6, count=3), gradients(7, count=3)
    _, _, state = combined("db_mtl", first, decay=0.6)
    direction, w, state = combined("db_mtl", second, state=state, decay=0.6)
    mean = 0.6 * 0.4 * first + 0.4 * second
    lengths = np.linalg.norm(mean, axis=1)
    np.testing.assert_allclose(w, lengths.max() / lengths, rtol=1e-4)
    expected = lengths.max() * (mean / lengths[:, None]).sum(axis=0)
    np.testing.assert_allclose(direction, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(state["a"], mean[:, :20], rtol=1e-4, atol=1e-6)
    assert not state["own"].any() and state["own"].shape == (3, 3)
    method = balancing.make_balancing("db_mtl", dict.fromkeys("abc", 1.0), 2)
    losses = jnp.array([2.0, 4.0, 0.5])
    grads = jax.grad(method.total)(losses, {}, state, KEY)
    np.testing.assert_allclose(grads, 1 / losses)


def unit(x):
    return x / np.linalg.norm(x)


@pytest.mark.parametrize("name", ["nash_mtl", "imtl_g"])
def test_scaling_a_loss_changes_no_direction(name):
    g = gradients(3)
    scaled = g * np.array([10, 1, 0.1, 3, 0.3])[: len(g), None]
    plain, other = combined(name, g)[0], combined(name, scaled)[0]
    np.testing.assert_allclose(unit(other), unit(plain), atol=5e-3)
    assert abs(cosine(plain, g.sum(axis=0)) - cosine(plain, scaled.sum(axis=0))) > 0.01


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("name", balancing.methods_on("gradients"))
def test_scaling_all_gradients_changes_no_weight(name, scale):
    g = gradients(3, conflict=1.2)
    (plain, w, _), (scaled, after, _) = combined(name, g), combined(name, scale * g)
    # Nash bargaining's weights are those of an equation that is not homogeneous, FairGrad's too.
    factor = scale ** {"nash_mtl": -1, "fairgrad": -4 / 3}.get(name, 0)
    tolerance = 1e-4 * np.abs(plain).max()
    np.testing.assert_allclose(scaled / scale / factor, plain, atol=tolerance)
    np.testing.assert_allclose(after / factor, w, rtol=1e-3, atol=1e-4 * np.abs(w).max())


@pytest.mark.parametrize("name", balancing.methods_on("gradients"))
def test_what_is_not_finite_shows_in_the_direction(name):
    g = gradients(3)
    g[1, 7] = np.nan
    assert np.isnan(combined(name, g)[0]).any()
    if issubclass(balancing.METHODS[name], GramBalancing):
        too_large_to_square = 1e25 * gradients(3)
        assert not np.isfinite(combined(name, too_large_to_square)[0]).all()


def operations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for part in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from operations(inner)


@pytest.mark.parametrize("name", balancing.methods_on("gradients"))
def test_products_are_not_rounded_to_half_precision(name):
    method = balancing.make_balancing(name, dict.fromkeys("abc", 1.0), 2)
    grads = {"a": jnp.ones((3, 4))}
    state = method.init_state({"a": jnp.ones(4)})
    combine = jax.make_jaxpr(method.combine)(grads, gram_matrix(grads), jnp.ones(3), state, KEY)
    products = [x for x in operations(combine.jaxpr) if x.primitive.name == "dot_general"]
    assert bool(products) == (name != "graddrop")
    highest = (jax.lax.Precision.HIGHEST,) * 2
    assert all(x.params["precision"] == highest for x in products)


AWKWARD = {
    "a task without a gradient": lambda g: g * np.array([1, 0, 1])[:, None],
    "no gradient at all": lambda g: 0 * g,
    "the same twice": lambda g: g[[0, 1, 1]],
    "opposed": lambda g: np.stack([g[0], -g[0], g[1]]),
    "much smaller": lambda g: g * np.array([1, 1e-5, 1])[:, None],
}


@pytest.mark.parametrize("case", AWKWARD)
@pytest.mark.parametrize("name", balancing.methods_on("gradients"))
def test_awkward_gradients_leave_finite_directions(name, case):
    g = AWKWARD[case](gradients(1, count=3))
    direction, w, state = combined(name, g)
    assert np.isfinite(direction).all() and np.isfinite(w).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    if case == "a task without a gradient":  # the others go on as if it were not there
        assert np.linalg.norm(direction) > 0
        if name not in ("graddrop", "gradnorm", "pcgrad", "gradvac"):  # drawn, or remembered
            two, _, _ = combined(name, g[[0, 2]])
            np.testing.assert_allclose(direction, two, atol=2e-3 * np.abs(two).max())
