"""Numbers that are not finite change nothing; micro-batches add up to the batch; precision."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax import balancing
from emanet_jax.errors import UserError
from emanet_jax.models.layers import BatchNorm
from emanet_jax.network import NormalisedImages, make_network, normalise
from emanet_jax.training import logs, optim, sharding, steps
from emanet_jax.training.experiment import make_experiment
from emanet_jax.types import Predictions
from tests import tiny
from tests.helpers import SIZE, TASKS, WEIGHTS, random_batch


class Linear(nn.Module):
    """The smallest network there is, which compiles in a second."""

    norm: bool = True

    @nn.compact
    def __call__(self, images, train):
        x = BatchNorm(train, name="bn")(images) if self.norm else images
        final = {task.name: nn.Dense(task.channels, name=task.name)(x) for task in TASKS}
        return Predictions(final, ({k: v[:, ::2, ::2] for k, v in final.items()},))


class OutOfTraining:
    """A network whose batch norms keep to their running statistics while it is trained."""

    def __init__(self, network):
        self.network, self.init = network, network.init

    def apply(self, variables, images, train, mutable, rngs):
        del train, mutable, rngs
        predictions = self.network.apply(variables, images, train=False)
        return predictions, {"batch_stats": variables["batch_stats"]}


def normalised(network):
    return NormalisedImages(network, "imagenet")


def training(network, method="fixed", accumulate=1, learning_rate=1e-3, **changes):
    """A fresh state and the jitted step."""
    optimizer = optim.make_optimizer(
        optim.make_schedule("cosine", learning_rate, 100), 1e-4, clip_norm=1.0
    )
    network = normalised(network)
    balance = balancing.make_balancing(method, WEIGHTS, 2)
    create = functools.partial(steps.create_state, network, optimizer, balance, SIZE, 0)
    state = jax.jit(create)()  # op by op it would compile each of them
    step = functools.partial(
        steps.train_step,
        model=network,
        tasks=TASKS,
        balancing=balance,
        optimizer=optimizer,
        grads_fn=balancing.grads_fn_for(balance, TASKS, accumulate=accumulate),
    )
    return jax.device_get(state), jax.jit(functools.partial(step, **changes))


def equal(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def kept(state):
    return (state.params, state.batch_stats, state.balancing, state.opt_state, state.rng)


def with_infinite_depth(batch):
    batch["labels"]["depth"][0, 3, 5] = np.inf
    return batch


# In every run one of each kind: trained parameters, a state of losses, losses after the step,
# a state of gradients.
KINDS = ("fixed", "uncertainty", "dwa", "famo", "db_mtl")
METHODS = [
    pytest.param(name, marks=[] if name in KINDS else pytest.mark.slow)
    for name in balancing.METHODS
]


@pytest.mark.parametrize("method", METHODS)
def test_a_bad_step_changes_nothing_but_counts(method):
    start, step = training(Linear(), method)
    one, _ = step(start, random_batch(4))
    bad, scalars = step(one, with_infinite_depth(random_batch(4, 1)))
    assert not np.isfinite(scalars["loss"]) and np.isinf(scalars["loss_depth"])
    assert np.isfinite(scalars["loss_semseg"])
    assert equal(kept(bad), kept(one)) and not equal(kept(one), kept(start))
    assert (bad.step, bad.bad_in_row, bad.skipped) == (2, 1, 1)
    assert (scalars["bad_in_row"], scalars["skipped"]) == (1, 1)
    bad, _ = step(bad, with_infinite_depth(random_batch(4, 2)))
    assert (bad.step, bad.bad_in_row, bad.skipped) == (3, 2, 2)
    # The next good step is the one that would have followed, but for the counts.
    good, _ = step(bad, random_batch(4, 3))
    without, _ = step(one.replace(step=bad.step), random_batch(4, 3))
    assert equal(kept(good), kept(without))
    assert (good.step, good.bad_in_row, good.skipped) == (4, 0, 2)


def test_bad_gradients_or_statistics_alone_are_a_bad_step():
    class Root(Linear):
        """Adds sqrt(0 * x): 0, with a gradient of infinity times 0."""

        @nn.compact
        def __call__(self, images, train):
            predictions = Linear(name="linear")(images, train)
            factor = self.param("factor", nn.initializers.zeros, ())
            final = {k: v + jnp.sqrt(0 * factor) for k, v in predictions.final.items()}
            return predictions._replace(final=final)

    class Overflowing(Linear):
        """A running statistic that nothing reads becomes infinite."""

        @nn.compact
        def __call__(self, images, train):
            unread = self.variable("batch_stats", "unread", jnp.ones, ())
            unread.value = unread.value / 0 if train else unread.value
            return Linear(name="linear")(images, train)

    start, step = training(Root())
    end, scalars = step(start, random_batch(2))
    assert np.isfinite(scalars["loss"]) and np.isnan(scalars["grad_norm"])
    assert equal(kept(end), kept(start)) and end.skipped == 1

    start, step = training(Overflowing())
    end, scalars = step(start, random_batch(2))
    assert np.isfinite(scalars["loss"]) and np.isfinite(scalars["grad_norm"])
    assert equal(kept(end), kept(start)) and end.skipped == 1


@pytest.mark.parametrize("method", KINDS)
def test_parameters_that_outgrow_float32_are_a_bad_step(method):
    start, step = training(Linear(), method, learning_rate=1e38)
    end, scalars = step(start, random_batch(2))
    assert np.isfinite(scalars["grad_norm"]) and not np.isfinite(scalars["param_norm"])
    assert equal(kept(end), kept(start)) and (end.skipped, end.bad_in_row) == (1, 1)


@pytest.mark.parametrize("method, skipped", [("famo", 1), ("fixed", 0)])
def test_losses_after_the_step_count_where_a_method_looks_at_them(method, skipped):
    class Steep(Linear):
        """Scales predictions by a number that overflows once its parameter has moved."""

        @nn.compact
        def __call__(self, images, train):
            final, auxiliary = Linear(name="linear")(images, train)
            factor = self.param("factor", nn.initializers.constant(0.1), ())
            return Predictions({k: v * jnp.cosh(factor) for k, v in final.items()}, auxiliary)

    start, step = training(Steep(), method, learning_rate=200.0)
    end, scalars = step(start, random_batch(2))
    assert all(np.isfinite(x) for x in scalars.values())
    assert end.skipped == skipped and equal(kept(end), kept(start)) == bool(skipped)


def test_four_devices_agree_on_a_bad_step():
    start, step = training(Linear())
    mesh = sharding.make_mesh()
    on_all = sharding.replicated(mesh)
    batch = sharding.to_devices(with_infinite_depth(random_batch(4)), mesh)
    end, _ = step(jax.device_put(start, on_all), batch)
    assert end.skipped == 1 and equal(kept(end), kept(start))


def test_logged_means_leave_out_bad_steps():
    rows = [
        {"loss": 1.0, "bad_in_row": 0, "skipped": 2},
        {"loss": np.nan, "bad_in_row": 1, "skipped": 3},
        {"loss": 3.0, "bad_in_row": 0, "skipped": 3},
    ]
    assert logs.mean_scalars(rows) == {"loss": 2.0, "bad_in_row": 0, "skipped": 3}
    assert np.isnan(logs.mean_scalars(rows[1:2])["loss"])


def in_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else x, tree)


def uneven_batch(b):
    """Valid pixels differ from image to image, and one image is padding."""
    batch = random_batch(b)
    for task in TASKS:
        for i in range(b):
            batch["labels"][task.name][i, : 15 * i] = task.ignore
    batch["mask"][2] = False
    return batch


@functools.lru_cache(maxsize=1)
def whole_batch_step(method):
    """The state before and after a step, and its scalars."""
    start, _ = training(Linear(), method)
    start = in_float64(start)
    network = OutOfTraining(normalised(Linear()))
    _, whole = training(Linear(), method, model=network)
    return start, *whole(start, uneven_batch(8))


@pytest.mark.parametrize("accumulate", [2, 4])
@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_add_up_to_the_batch(method, accumulate):
    with jax.enable_x64(True):
        start, expected, expected_scalars = whole_batch_step(method)
        network = OutOfTraining(normalised(Linear()))
        _, parts = training(Linear(), method, model=network, accumulate=accumulate)
        batch = uneven_batch(8)
        end, scalars = parts(start, batch)
        # In another order they are other micro-batches of the same batch.
        turned = jax.tree.map(lambda x: x[::-1], batch)
        other, _ = parts(start, turned)
    for name, value in expected_scalars.items():
        assert float(scalars[name]) == pytest.approx(float(value), rel=1e-10), name
    for tree in (end, other):
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(tree), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_batch_norm_sees_micro_batches_one_after_the_other():
    start, step = training(Linear(), accumulate=2)
    batch = random_batch(4)
    end, _ = step(start, batch)
    mean = np.zeros(3)
    for part in (batch["image"][0::2], batch["image"][1::2]):
        mean = 0.9 * mean + 0.1 * normalise(jnp.asarray(part), "imagenet").mean((0, 1, 2))
    np.testing.assert_allclose(end.batch_stats["bn"]["mean"], mean, rtol=1e-5)


def test_micro_batches_stay_on_their_devices():
    mesh = sharding.make_mesh()
    on_all = sharding.replicated(mesh)
    start, step = training(Linear(), accumulate=2)
    batch = sharding.to_devices(random_batch(8), mesh)
    state = jax.device_put(start, on_all)
    text = step.lower(state, batch).compile().as_text()
    assert "all-reduce" in text  # gradients and statistics
    for moved in ("all-gather", "all-to-all", "collective-permute"):
        assert moved not in text
    one, _ = step(start, random_batch(8))
    four, _ = step(state, batch)
    for a, b in zip(jax.tree.leaves(one.opt_state), jax.tree.leaves(four.opt_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_batch_that_does_not_split_is_said():
    with pytest.raises(UserError, match=r"config.accumulate is 2, but config.batch_size, 4, .* 8"):
        sharding.check_accumulate(4, 2, sharding.make_mesh())


def test_a_step_in_bfloat16_recomputed_and_in_micro_batches(tmp_path):
    config = tiny.get_config("model=hps")
    with config.unlocked():
        config.data.data_dir = str(tmp_path)
        config.model.overrides = {}
        config.precision, config.remat, config.accumulate = "bfloat16", "blocks", 2
        config.batch_size = 8
    experiment = make_experiment(config)
    start = experiment.init()
    params = jax.device_get(start.params)
    batch = sharding.to_devices(experiment.data.batch_at(0), experiment.mesh)
    state, scalars = experiment.train_step(start, batch)  # the state is donated
    assert np.isfinite(scalars["loss"]) and state.skipped == 0
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
    assert not equal(params, state.params)


def test_an_unknown_precision_is_said():
    config = tiny.get_config()
    with config.unlocked():
        config.precision = "float16"
    with pytest.raises(UserError, match=r"config.precision is 'float16'; .* float32, bfloat16"):
        make_network(config)
