"""CTAL: every way to compute it is the definition; linear memory; any resolution."""

import functools
import logging
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from emanet_jax.cpu import compiler_options
from emanet_jax.errors import UserError
from emanet_jax.models import ctal
from emanet_jax.models.ctal import CrossTaskAffinity, adapt_resolution, choose_implementation

FAST = ("factorized", "shifted")


def random_features(n, h, w, c=4, b=2, seed=0):
    r = np.random.RandomState(seed)
    return {f"t{k}": r.standard_normal((b, h, w, c)) for k in range(n)}


def float32(tree):
    return jax.tree.map(jnp.float32, tree)


def random_params(module, features, seed=1):
    """Parameters of order one, so that the diffusion counts beside the features."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), features)
    r = np.random.RandomState(seed)
    return jax.tree.map(lambda x: r.standard_normal(x.shape), shapes)


@functools.cache
def runner(implementation, fusion):
    module = CrossTaskAffinity(fusion, implementation, gamma=0.5)

    def loss(params, features):
        refined = module.apply(params, features)
        slopes = {t: jnp.arange(x.size).reshape(x.shape) for t, x in refined.items()}
        return sum(jnp.sum(x * slopes[t]) for t, x in refined.items()), refined

    return module, jax.jit(jax.grad(loss, (0, 1), has_aux=True))


def values_and_gradients(implementation, fusion, features, dtype):
    """Refined features, and the gradients of a loss of theirs to parameters and features."""
    module, run = runner(implementation, fusion)
    params = random_params(module, features)
    params, features = jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, features))
    gradients, values = jax.tree.map(np.asarray, run(params, features))
    return values, gradients


def assert_close(tree, reference, tolerance):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(reference), strict=True
    ):
        error = np.linalg.norm(x - y) / np.linalg.norm(y)
        assert error < tolerance, f"{jax.tree_util.keystr(path)}: {error:.1e}"


SHAPES = [(3, 4, 4), (1, 4, 4), (2, 3, 6), (5, 6, 3), (4, 1, 7)]  # square, wide, tall, one row


@pytest.mark.parametrize("fusion", ctal.FUSIONS)
@pytest.mark.parametrize(
    ("n", "h", "w"),
    [pytest.param(*x, marks=pytest.mark.slow if x[0] > 3 else ()) for x in SHAPES],
)
def test_implementations_agree(fusion, n, h, w):
    """Values and every gradient: 1e-10 in float64, 2e-5 in float32."""
    features = random_features(n, h, w)
    with jax.enable_x64(True):
        definition = values_and_gradients("grouped_conv", fusion, features, jnp.float64)
        for implementation in FAST:
            exact = values_and_gradients(implementation, fusion, features, jnp.float64)
            assert_close(exact, definition, 1e-10)
    for implementation in ctal.IMPLEMENTATIONS:
        single = values_and_gradients(implementation, fusion, features, jnp.float32)
        assert_close(single, definition, 2e-5)


@pytest.mark.parametrize("fusion", ctal.FUSIONS)
def test_every_gradient_is_compared(fusion):
    features = random_features(2, 3, 4)
    _, gradients = values_and_gradients("factorized", fusion, features, jnp.float32)
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(gradients), strict=True)
    names = {jax.tree_util.keystr(path, simple=True, separator="/") for path in paths}
    fusions = ["fusion"] if fusion == "shared" else ["fusion_t0", "fusion_t1"]
    modules = ["value_t0", "value_t1", *fusions]
    params = {f"0/params/{module}/{leaf}" for module in modules for leaf in ("kernel", "bias")}
    assert names == params | {"1/t0", "1/t1"}
    assert all(np.abs(leaf).max() > 0 for leaf in leaves)


def one_hot(features):
    x = {task: np.zeros_like(value) for task, value in features.items()}
    for value in x.values():
        value[:, 1, 2, 0] = 1
    return x


HARD = {
    "zeros": lambda x: jax.tree.map(np.zeros_like, x),
    "one-hot pixel": one_hot,
    "large": lambda x: jax.tree.map(lambda v: 1e6 * v, x),
    "small": lambda x: jax.tree.map(lambda v: 1e-8 * v, x),
    "one task zero": lambda x: {t: v * (t != "t1") for t, v in x.items()},
}


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize("fusion", ctal.FUSIONS)
@pytest.mark.parametrize("implementation", FAST)
def test_hard_inputs(hard, fusion, implementation):
    features = HARD[hard](random_features(3, 3, 4))
    with jax.enable_x64(True):
        definition = values_and_gradients("grouped_conv", fusion, features, jnp.float64)
        exact = values_and_gradients(implementation, fusion, features, jnp.float64)
        for x, y in zip(jax.tree.leaves(exact), jax.tree.leaves(definition), strict=True):
            assert np.isfinite(x).all()
            np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-10 * np.abs(y).max())
    values, gradients = values_and_gradients(implementation, fusion, features, jnp.float32)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))
    for x, y in zip(jax.tree.leaves(values), jax.tree.leaves(definition[0]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5 * np.abs(y).max())


@pytest.mark.parametrize("implementation", ctal.IMPLEMENTATIONS)
def test_bfloat16_stays_within_two_percent(implementation):
    """bfloat16 rounds to 0.4 %; values, unit vectors, weights and S are rounded once each."""
    features = random_features(3, 8, 8, c=16)
    module = CrossTaskAffinity(implementation=implementation, gamma=0.5, dtype=jnp.bfloat16)
    params = jax.tree.map(jnp.float32, random_params(module, features))
    with jax.enable_x64(True):
        exact = CrossTaskAffinity(implementation="grouped_conv", gamma=0.5).apply(
            jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params), features
        )
        exact = jax.tree.map(np.asarray, exact)
    half = module.apply(params, jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), features))
    assert {x.dtype for x in half.values()} == {jnp.dtype(jnp.bfloat16)}
    assert_close(jax.tree.map(lambda x: np.asarray(x, np.float64), half), exact, 2e-2)


@pytest.mark.parametrize("implementation", FAST)
def test_bfloat16_gradients_stay_within_three_percent(implementation):
    features = float32(random_features(3, 4, 6, c=16))
    module = CrossTaskAffinity(implementation=implementation, gamma=0.5, dtype=jnp.bfloat16)
    params = float32(random_params(module, features))

    def gradients(module, dtype):
        def loss(params):
            refined = module.apply(params, jax.tree.map(lambda x: x.astype(dtype), features))
            return sum(
                jnp.sum(jnp.sin(jnp.arange(x.size)).reshape(x.shape) * x) for x in refined.values()
            )

        return jax.jit(jax.grad(loss))(params)

    exact = gradients(CrossTaskAffinity(implementation="shifted", gamma=0.5), jnp.float32)
    assert_close(gradients(module, jnp.bfloat16), exact, 3e-2)


def test_task_order_is_explicit_and_survives_jit():
    features = {task: x for task, x in zip("zam", random_features(3, 3, 4).values(), strict=True)}
    module = CrossTaskAffinity(fusion="shared", gamma=0.5, tasks=("z", "a", "m"))
    features, params = float32((features, random_params(module, features)))
    eager, jitted = module.apply(params, features), jax.jit(module.apply)(params, features)
    assert_close(jitted, eager, 1e-6)

    def refined(tasks):
        return CrossTaskAffinity(fusion="shared", gamma=0.5, tasks=tasks).apply(params, features)

    assert_close(refined(None), refined(("a", "m", "z")), 1e-6)  # no order given: sorted
    assert np.abs(refined(None)["a"] - eager["a"]).max() > 1e-2


def compiled_gradient(implementation, n, c, h, w):
    """A compiled training step of the module alone."""
    features = jax.eval_shape(lambda: float32(random_features(n, h, w, c, b=1)))
    module = CrossTaskAffinity(implementation=implementation)
    params = jax.eval_shape(module.init, jax.random.key(0), features)

    def loss(params, features):
        return sum(jnp.sum(jnp.square(x)) for x in module.apply(params, features).values())

    options = compiler_options(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]))
    gradient = jax.jit(jax.grad(loss, (0, 1)), compiler_options=options)
    return gradient.lower(params, features).compile()


def largest_buffer(compiled):
    """Values in the largest array of a compiled program."""
    shapes = re.findall(r"[a-z]+\d+\[([\d,]+)\]", compiled.as_text())
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


def test_factorized_has_no_quadratic_array_at_full_size():
    """NYUv2's grid, and the network's channels."""
    pixels = 72 * 96
    compiled = compiled_gradient("factorized", n=3, c=128, h=72, w=96)
    assert largest_buffer(compiled) < pixels**2 / 8
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * pixels**2  # one P x P array


def test_the_search_finds_quadratic_arrays():
    assert largest_buffer(compiled_gradient("shifted", n=2, c=8, h=24, w=32)) >= (24 * 32) ** 2


def test_sharded_rows_exchange_only_halos_and_sums():
    mesh = jax.make_mesh((4,), ("spatial",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec(None, "spatial"))
    module = CrossTaskAffinity(implementation="factorized", gamma=0.5)
    features = float32(random_features(2, 16, 6, c=8))
    params = float32(random_params(module, features))
    alone = jax.jit(module.apply)(params, features)
    features = jax.device_put(features, rows)
    compiled = jax.jit(module.apply).lower(params, features).compile()
    assert_close(compiled(params, features), alone, 1e-5)
    assert "collective-permute" in compiled.as_text()
    assert "all-gather" not in compiled.as_text()


def test_auto_counts_operations_and_bytes(monkeypatch):
    choose = functools.partial(choose_implementation, 1, 3, 128, fusions=3, itemsize=4)
    assert choose(pixels=256)[0] == "shifted"  # P is far below 9 n c = 3456
    assert choose(pixels=6912)[0] == "factorized"
    monkeypatch.setattr(ctal, "QUADRATIC_BYTES", 2**20)
    choice, why = choose(pixels=256)  # 1.5 MiB of P x P arrays
    assert choice == "factorized"
    assert "more than 1 MiB" in why


def test_auto_logs_its_choice_once(caplog):
    module = CrossTaskAffinity()
    ctal._log_once.cache_clear()
    with caplog.at_level(logging.INFO):
        params = module.init(jax.random.key(0), float32(random_features(2, 3, 4, b=1)))
        assert not caplog.records
        for b in (2, 3):  # batches differ, the choice and its reason do not
            module.apply(params, float32(random_features(2, 3, 4, b=b)))
    assert len(caplog.records) == 1
    assert "CTAL runs factorized (2 tasks, 12 pixels" in caplog.text


def test_adapted_resolution_keeps_what_the_diffusion_means():
    """On maps that are the same everywhere, a fusion that is too diffuses the same at any size."""
    module = CrossTaskAffinity(gamma=1.0)
    old, new = (4, 6), (7, 9)

    def constant(hw):
        return {"a": jnp.ones((1, *hw, 2)), "b": jnp.full((1, *hw, 2), 3.0)}

    def centre_only(path, x):
        kernel = jnp.zeros(x.shape).at[1, 1].set(0.3) if x.ndim == 4 else jnp.full(x.shape, 0.1)
        return kernel

    params = module.init(jax.random.key(0), constant(old))["params"]
    params = jax.tree_util.tree_map_with_path(centre_only, params)
    adapted = adapt_resolution(params, old, new)
    before = module.apply({"params": params}, constant(old))
    after = module.apply({"params": adapted}, constant(new))
    for task in before:
        np.testing.assert_allclose(after[task][0, 0, 0], before[task][0, 0, 0], rtol=1e-5)
        np.testing.assert_allclose(after[task][0, -1, 3], before[task][0, 0, 0], rtol=1e-5)


def test_adapt_resolution_is_a_field_over_the_grid():
    old, new = (2, 3), (4, 6)
    field = np.arange(6.0).reshape(2, 3)
    tree = {
        "net": {"fusion_depth": {"bias": jnp.ravel(field)}, "value_depth": {"bias": jnp.ones(6)}}
    }
    adapted = adapt_resolution(tree, old, new)
    bias = np.asarray(adapted["net"]["fusion_depth"]["bias"]).reshape(new) * 24 / 6
    np.testing.assert_allclose(bias[0], [0, 0.25, 0.75, 1.25, 1.75, 2], rtol=1e-6)
    np.testing.assert_allclose(bias[:, 0], [0, 0.75, 2.25, 3], rtol=1e-6)
    assert adapted["net"]["value_depth"]["bias"] is tree["net"]["value_depth"]["bias"]


def test_adapt_resolution_to_the_same_size_is_the_identity():
    module = CrossTaskAffinity(fusion="shared")
    params = module.init(jax.random.key(0), float32(random_features(2, 3, 4)))["params"]
    same = adapt_resolution(params, (3, 4), (3, 4))
    assert all(jax.tree.leaves(jax.tree.map(lambda x, y: (x == y).all(), same, params)))


def test_errors_say_what_to_do():
    features = float32(random_features(2, 3, 4))
    module = CrossTaskAffinity()
    variables = module.init(jax.random.key(0), features)
    with pytest.raises(UserError, match=r"adapt_resolution.*\(3, 5\)"):
        module.apply(variables, random_features(2, 3, 5))
    with pytest.raises(UserError, match="fusion_t0"):
        adapt_resolution(variables["params"], (3, 5), (4, 4))
    with pytest.raises(UserError, match="task_specific, shared"):
        CrossTaskAffinity(fusion="both").init(jax.random.key(0), features)
    with pytest.raises(UserError, match="grouped_conv"):
        CrossTaskAffinity(implementation="fast").init(jax.random.key(0), features)
    with pytest.raises(UserError, match="t0, t1"):
        CrossTaskAffinity(tasks=("t0", "t9")).init(jax.random.key(0), features)
