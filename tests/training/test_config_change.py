"""A run goes on with other settings only if that is allowed, and then at the same sample."""

import json

import numpy as np
import pytest
from etils import epath

from emanet_jax.config import from_argument
from emanet_jax.errors import UserError
from emanet_jax.training import loop, workdir
from emanet_jax.training.checkpoint import Checkpoints
from emanet_jax.training.experiment import make_experiment
from tests import tiny


def cheap(data_dir, **changes):
    """One task on the smallest backbone: 16 images, in batches of 4 an epoch of 4 steps."""
    config = tiny.get_config("model=hps")
    with config.unlocked():
        config.model.overrides = {}
        config.tasks = ("depth",)
        config.data.data_dir = str(data_dir)
        config.writers = "jsonl"
        for key, value in changes.items():
            config[key] = value
    return config


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


def test_another_batch_size_goes_on_at_the_same_sample(tmp_path, data_dir):
    run = epath.Path(tmp_path / "run")
    first = cheap(data_dir, epochs=1.0)
    assert loop.train_and_evaluate(first, run)
    changed = cheap(data_dir, epochs=3.0, batch_size=8)
    with pytest.raises(
        UserError, match=r"config.epochs = 1.0, not 3.0; config.batch_size = 4, not 8"
    ):
        loop.train_and_evaluate(changed, run)
    assert workdir.load_config(run) == first
    assert loop.train_and_evaluate(changed, run, allow_config_change=True)

    # 4 steps of 4 samples, and 4 steps of 8: 3 epochs of 16.
    experiment = make_experiment(changed, sample_offset=4 * 4 - 4 * 8)
    assert experiment.total_steps == 8
    with Checkpoints(run / workdir.CHECKPOINTS, experiment.checkpoint_policy) as checkpoints:
        assert checkpoints.latest_step() == 8
        state = checkpoints.restore(8, experiment.abstract_state())
    assert (int(state.step), int(state.samples)) == (8, 48)
    assert workdir.load_config(run) == changed
    starts = json.loads((run / workdir.ENVIRONMENT).read_text())
    assert "config_changes" not in starts[0]
    assert starts[-1]["config_changes"] == {"batch_size": [4, 8], "epochs": [1.0, 3.0]}
    assert (starts[-1]["step"], starts[-1]["total_steps"]) == (4, 8)


def test_batches_schedule_and_end_are_those_of_the_samples(data_dir):
    small, large = (make_experiment(cheap(data_dir, batch_size=size)) for size in (4, 8))
    step = 6  # in batches of 4: 24 samples
    changed = make_experiment(cheap(data_dir, batch_size=8), sample_offset=24 - step * 8)
    assert (small.total_steps, large.total_steps) == (12, 6)
    ids = [small.data.image_ids(i) for i in range(12)]
    for i in range(step, 9):
        sample = 24 + (i - step) * 8
        expected = ids[sample // 4] + ids[sample // 4 + 1]
        assert changed.data.image_ids(i) == expected
        assert float(changed.schedule(i)) == pytest.approx(float(large.schedule(sample / 8)))
    assert changed.total_steps == step + (48 - 24) // 8
    # The batches themselves, not their names alone.
    with changed.data.train_batches(step) as batches:
        for i in (step, step + 1):
            batch, whole = next(batches), changed.data.batch_at(i)
            np.testing.assert_array_equal(batch["image"], whole["image"])
    halves = [small.data.batch_at(i)["image"] for i in (6, 7)]
    np.testing.assert_array_equal(changed.data.batch_at(6)["image"], np.concatenate(halves))


def test_defaults_know_no_difference(tmp_path):
    assert not workdir.differences(from_argument(None), from_argument(None))
