"""A run whose numbers go wrong stops, names the images, and leaves a step that can be repeated."""

import json

import jax
import numpy as np
import pytest
from etils import epath

from emanet_jax.errors import UserError
from emanet_jax.training import bad_steps, loop, workdir
from emanet_jax.training.experiment import make_experiment
from tests import tiny

# The weight of a task at 1e39.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run on which depth's loss overflows at every step."""
    config = tiny.get_config("model=hps")
    with config.unlocked():
        config.data.data_dir = str(tmp_path_factory.mktemp("records"))
        config.model.overrides = {}
        config.augment.flip = False
        config.task_weights.depth = 1e39
        config.max_bad_steps = 3
    return config


@pytest.fixture(scope="module")
def stopped(config, tmp_path_factory):
    """Its workdir, and the sentence that it stopped with."""
    directory = epath.Path(tmp_path_factory.mktemp("stopped")) / "run"
    with pytest.raises(UserError) as error:
        loop.train_and_evaluate(config, directory)
    return directory, str(error.value)


def test_the_run_stops_after_too_many_bad_steps_and_lists_them(config, stopped):
    directory, sentence = stopped
    # Looked at every 2 steps: after 4, the third bad step has been seen.
    assert "not finite at 4 steps in a row (config.max_bad_steps is 3)" in sentence
    assert f"python -m emanet_jax.training.debug_nan --workdir={directory}" in sentence
    assert "\n" not in sentence
    lines = (directory / workdir.BAD_STEPS).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["loss"] == "inf" and float(row["loss_depth"]) < 100 for row in rows)
    # The images are those of the batches.
    experiment = make_experiment(config)
    examples = {example["image_id"]: example for example in experiment_source(config)}
    for row in rows:
        batch = experiment.data.batch_at(row["step"] - 1)
        for image, name in zip(batch["image"], row["images"], strict=True):
            np.testing.assert_array_equal(image, examples[name]["image"])


def experiment_source(config):
    from emanet_jax.data import pipeline

    source = pipeline.load(pipeline.prepare(config.data), "train")
    return [source[i] for i in range(len(source))]


def test_the_kept_step_is_the_last_one(config, stopped):
    experiment = make_experiment(config)
    state, batch = bad_steps.load(stopped[0], experiment.abstract_state())
    assert state.step == 3  # so that the step is the fourth
    for a, b in zip(*map(jax.tree.leaves, (batch, experiment.data.batch_at(3))), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(*map(jax.tree.leaves, (state.params, experiment.init().params)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_losses_are_repeated(stopped):
    report = bad_steps.debug(stopped[0])
    row = json.loads((stopped[0] / workdir.BAD_STEPS).read_text().splitlines()[-1])
    assert report.step == row["step"] == 4
    assert set(report.scalars) <= set(row)
    for name, value in report.scalars.items():
        assert value == pytest.approx(float(row[name]), rel=1e-4, nan_ok=True), name
    bad = report.not_finite
    assert not bad["batch"] and not bad["modules"]  # only the weight is at fault
    assert any(name.startswith("head_depth/") for name in bad["gradients"])
    assert "modules:   none" in str(report)


def test_the_first_module_that_is_not_finite_is_named(config, stopped, tmp_path):
    directory = epath.Path(tmp_path)
    workdir.write(directory / workdir.CONFIG, workdir.to_json(config))
    experiment = make_experiment(config)
    kept = bad_steps.load(stopped[0], experiment.abstract_state())
    state, batch = jax.tree.map(np.array, kept)
    state.params["backbone"]["last"]["conv"]["kernel"][0, 0, 0, 0] = np.inf
    batch["labels"]["normals"][1, 2, 3] = np.nan
    bad_steps.save(directory, state, 7, batch)
    report = bad_steps.debug(directory)
    assert report.step == 7 and report.not_finite["batch"] == ["labels/normals"]
    modules = report.not_finite["modules"]
    assert modules[:2] == ["backbone/last/conv", "backbone/last/bn"]
    assert modules[-1] == "the network" and "backbone/stem" not in modules
    assert "backbone/last/conv and" in str(report)


def test_a_run_without_a_bad_step_is_said(config, tmp_path):
    directory = epath.Path(tmp_path)
    workdir.write(directory / workdir.CONFIG, workdir.to_json(config))
    with pytest.raises(UserError, match=r"bad_step.msgpack does not exist"):
        bad_steps.debug(directory)
    with pytest.raises(UserError, match=r"holds no run"):
        bad_steps.debug(directory / "nowhere")


def test_a_run_that_recovers_goes_on(tmp_path, caplog):
    class Data:
        def image_ids(self, index):
            return [f"image {index}"]

        def batch_at(self, index):
            raise AssertionError("nothing is kept")

    rows = [(5, {"loss": np.inf, "bad_in_row": 3.0}), (6, {"loss": 1.0, "bad_in_row": 0.0})]
    bad_steps.watch(rows, 3, Data(), state=None, directory=epath.Path(tmp_path))
    assert caplog.messages == ["step 5 skipped: loss not finite; images image 4"]
    assert json.loads((tmp_path / workdir.BAD_STEPS).read_text())["images"] == ["image 4"]
    assert not (tmp_path / workdir.BAD_STEP).exists()
