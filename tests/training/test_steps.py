"""train_step and eval_step: four devices equal one, determinism, padding, what a step changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax.errors import UserError
from emanet_jax.network import IMAGE_STATISTICS, normalise
from emanet_jax.tasks import metrics
from emanet_jax.training import sharding, steps
from tests.helpers import TASKS, random_batch, tiny_model, tiny_training


@pytest.fixture(scope="module")
def training():
    state, step = tiny_training(tiny_model())
    return jax.device_get(state), step


@pytest.fixture(scope="module")
def on_one_device(training):
    """The jitted step, and what it makes of the fresh state and a batch."""
    state, step = training
    jitted = jax.jit(step)
    return jitted, *jax.device_get(jitted(state, random_batch(4)))


def in_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else x, tree)


@pytest.fixture(scope="module")
def exact_on_one_device(training):
    """A step in float64, where what differs between devices is a mistake and not noise."""
    start, step = training
    with jax.enable_x64(True):
        return jax.device_get(jax.jit(step)(in_float64(start), random_batch(4)))


@pytest.mark.parametrize("spatial", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_four_devices_equal_one(training, exact_on_one_device, spatial):
    mesh = sharding.make_mesh(spatial)
    assert dict(mesh.shape) == {"data": 4 // spatial, "spatial": spatial}
    start, step = training
    on_all = sharding.replicated(mesh)
    with jax.enable_x64(True):
        jitted = jax.jit(step, donate_argnums=0, out_shardings=on_all)
        batch = sharding.to_devices(random_batch(4), mesh)
        state, scalars = jax.device_get(jitted(jax.device_put(in_float64(start), on_all), batch))
    expected_state, expected_scalars = exact_on_one_device
    for name, value in expected_scalars.items():
        assert float(scalars[name]) == pytest.approx(float(value), rel=1e-9), name
    # The moments are the gradients themselves; Adam's step would turn noise around zero into +-1.
    for kind in ("batch_stats", "opt_state"):
        leaves = (jax.tree.leaves(getattr(s, kind)) for s in (expected_state, state))
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-12)


def test_a_step_moves_everything_and_again_gives_the_same_bits(training, on_one_device):
    start = training[0]
    jitted, end, _ = on_one_device
    again, _ = jax.device_get(jitted(start, random_batch(4)))
    for a, b in zip(jax.tree.leaves(end), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert end.step == 1 and np.array_equal(start.rng, end.rng)
    for kind in ("params", "batch_stats"):
        before, after = (
            jax.tree_util.tree_leaves_with_path(getattr(s, kind)) for s in (start, end)
        )
        unmoved = [
            jax.tree_util.keystr(path)
            for (path, a), (_, b) in zip(before, after, strict=True)
            if np.array_equal(a, b)
        ]
        assert not unmoved, f"{kind} that did not move: {unmoved}"


def test_a_state_is_the_seed_alone():
    a, _ = tiny_training(tiny_model("hps"))
    b, _ = tiny_training(tiny_model("hps"))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_loss_falls_on_one_batch(training, on_one_device):
    state, jitted = training[0], on_one_device[0]
    batch = random_batch(4)
    losses = []
    for _ in range(20):
        state, scalars = jitted(state, batch)
        losses.append(float(scalars["loss"]))
    assert losses[-1] < 0.95 * losses[0]


def test_a_batch_without_labels_leaves_finite_parameters(training, on_one_device):
    batch = random_batch(4)
    batch["labels"] = {t.name: np.full_like(batch["labels"][t.name], t.ignore) for t in TASKS}
    state, scalars = on_one_device[0](training[0], batch)
    assert scalars["loss"] == 0
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state.params))


def test_evaluation_ignores_padding_and_batch_size(training):
    state, _ = training
    evaluate = jax.jit(functools.partial(steps.eval_step, model=tiny_model(), tasks=TASKS))
    whole = random_batch(8)
    parts = []
    for start in (0, 3, 6):
        rows = np.arange(start, start + 3)
        part = jax.tree.map(lambda x, rows=rows: x[np.minimum(rows, 7)], whole)
        part["mask"] = rows < 8
        parts.append(evaluate(state, part)[0])
    total = metrics.total(parts)
    expected = metrics.total([evaluate(state, whole)[0]])
    for task in TASKS:
        ours, reference = total[task.name].compute(), expected[task.name].compute()
        assert ours == pytest.approx(reference, rel=1e-5)


def test_images_as_bytes_or_as_floats_are_the_same():
    image = random_batch(2)["image"]
    for statistics in IMAGE_STATISTICS:
        as_bytes = normalise(jnp.asarray(image), statistics)
        as_floats = normalise(jnp.asarray(image / np.float32(255)), statistics)
        np.testing.assert_allclose(as_bytes, as_floats, atol=1e-6)
    np.testing.assert_allclose(normalise(jnp.asarray(image), "unit"), image / 255, atol=1e-7)


def test_mesh_and_batch_sizes_that_do_not_fit_are_said():
    with pytest.raises(UserError, match=r"config.mesh.spatial is 3.*devices of a process, 4"):
        sharding.make_mesh(3)
    mesh = sharding.make_mesh()
    with pytest.raises(UserError, match=r"config.batch_size is 6.*multiple of 4"):
        sharding.check_batch_size("batch_size", 6, mesh)
    sharding.check_batch_size("batch_size", 8, mesh)
    sharding.check_spatial((96, 128), mesh)
    with pytest.raises(UserError, match=r"96 pixels high.*multiple of 128"):
        sharding.check_spatial((96, 128), sharding.make_mesh(2))
