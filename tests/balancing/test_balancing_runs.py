"""Runs with every method of balancing: they train, log what tasks count for, and go on exactly."""

import math
import shutil

import pytest

from emanet_jax import balancing
from emanet_jax.training import workdir
from tests.commands import assert_same_metrics, assert_same_state, rows, run, saved_steps

TASKS = ("semseg", "depth", "normals")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


def trained(method, directory, data_dir, name="hps", overrides="{}"):
    """Four steps of a small network from the command line, each logged and saved."""
    status, out, err = run(
        f"--config=tests/tiny.py:model={name}",
        f"--config.model.overrides={overrides}",
        f"--config.balancing={method}",
        "--config.epochs=1",
        "--config.log_every_steps=1",
        "--config.checkpoint.every_steps=1",
        "--config.checkpoint.keep_latest=10",
        f"--config.data.data_dir={data_dir}",
        f"--workdir={directory}",
    )
    assert status == 0, err
    assert "step 4/4  loss " in out
    return [rows(directory)[step, "train"] for step in (1, 2, 3, 4)]


@pytest.mark.slow
def test_a_method_on_losses_trains_and_logs_its_weights(tmp_path, data_dir):
    logged = trained("famo", tmp_path / "run", data_dir)
    weights = [[row[f"train/weight_{task}"] for task in TASKS] for row in logged]
    assert all(sum(x) == pytest.approx(1, rel=1e-4) for x in weights)
    assert weights[0] != weights[-1]
    assert not any("cosine" in name for name in logged[0])


def test_a_method_on_gradients_goes_on_exactly_where_it_stopped(tmp_path, data_dir):
    finished, resumed = tmp_path / "finished", tmp_path / "resumed"
    logged = trained("db_mtl", finished, data_dir)
    cosines = [row["train/cosine_semseg_depth"] for row in logged]
    assert len(set(cosines)) == 4 and all(-1 < x < 1 for x in cosines)
    shutil.copytree(finished, resumed)
    for step in saved_steps(resumed)[1:]:
        shutil.rmtree(resumed / workdir.CHECKPOINTS / str(step))
    trained("db_mtl", resumed, data_dir)
    assert_same_state(resumed, finished)
    assert_same_metrics(resumed, finished)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, overrides",
    [("hps,backbone=hrnet_tiny", "{}"), ("ema_net", "{'features':16,'distilled':8}")],
)
@pytest.mark.parametrize("method", balancing.METHODS)
def test_every_method_trains_from_the_command_line(tmp_path, data_dir, method, name, overrides):
    *_, last = trained(method, tmp_path / "run", data_dir, name, overrides)
    assert last["train/skipped"] == 0
    found = [last[f"train/weight_{task}"] for task in TASKS]
    assert all(math.isfinite(x) for x in (*found, last["train/loss"]))
    assert ("train/cosine_semseg_depth" in last) == (method in balancing.methods_on("gradients"))
