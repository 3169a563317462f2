"""A workdir on gs://, on a folder that stands for a bucket: the same run as on a disk."""

import logging

import pytest
from etils import epath

from emanet_jax import inference
from emanet_jax.config import read_config
from emanet_jax.errors import UserError
from emanet_jax.training import bad_steps, loop, workdir
from tests import bucket, tiny
from tests.commands import assert_same_metrics, assert_same_state, saved_steps

RUN = "gs://bucket/runs/one"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the bucket is on this disk; nothing may be written beside it."""
    (tmp_path / "buckets" / "bucket").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    bucket.install(monkeypatch, tmp_path / "buckets")
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "buckets" / "bucket"
    assert not list((tmp_path / "here").iterdir())


def config(tmp_path, epochs=1.0):
    config = tiny.get_config("model=hps")
    with config.unlocked():
        config.data.data_dir = str(tmp_path / "records")
        config.model.overrides = {}
        config.tasks = ("depth",)
        config.checkpoint.best_metric = "depth/rmse_m"
        config.checkpoint.every_steps = 1
        config.log_every_steps = 1
        config.epochs = epochs
    return config


@pytest.mark.slow
def test_a_run_on_a_bucket_is_the_run_on_a_disk(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, "emanet_jax")
    run = folder / "runs" / "one"
    for epochs in (1.0, 2.0):
        for place in (tmp_path / "disk", RUN):
            loop.train_and_evaluate(config(tmp_path, epochs), place)
    assert f"Going on from {RUN}/checkpoints/4." in caplog.text
    assert f"tensorboard --logdir={RUN}/tensorboard" in caplog.text
    assert_same_state(run, tmp_path / "disk")
    assert_same_metrics(run, tmp_path / "disk")
    names = {path.name for path in (tmp_path / "disk").iterdir()} - {workdir.LOCK}
    assert {path.name for path in run.iterdir()} == names
    assert list((run / workdir.TENSORBOARD).iterdir())
    assert saved_steps(run) == saved_steps(tmp_path / "disk")  # older ones are deleted

    # A damaged checkpoint is moved away, and the run goes on from the one before.
    steps_before = saved_steps(run)
    array = max((run / "checkpoints" / "8" / "state").rglob("*"), key=lambda p: p.stat().st_size)
    array.write_bytes(array.read_bytes()[:-1] + b"?")
    loop.train_and_evaluate(config(tmp_path, 2.0), RUN)
    assert f"moved to {RUN}/damaged" in caplog.text
    assert f"Going on from {RUN}/checkpoints/7." in caplog.text
    assert saved_steps(run) == steps_before
    assert_same_state(run, tmp_path / "disk")

    loop.evaluate_workdir(RUN, "best")
    assert f"checkpoint: {RUN}/checkpoints/" in caplog.text
    assert inference.load_trained(RUN, "latest").checkpoint == epath.Path(RUN) / "checkpoints" / "8"
    other = config(tmp_path)
    with other.unlocked():
        other.balancing = "dwa"
    with pytest.raises(UserError, match=f"{RUN} holds a run with balancing = "):
        loop.train_and_evaluate(other, RUN)


@pytest.mark.slow
def test_a_bad_step_is_kept_on_a_bucket(folder, tmp_path):
    settings = config(tmp_path)
    with settings.unlocked():
        settings.task_weights.depth = 1e39
        settings.max_bad_steps = 2
    with pytest.raises(UserError, match=f"debug_nan --workdir={RUN}"):
        loop.train_and_evaluate(settings, RUN)
    found = bad_steps.debug(RUN)
    assert found.step == 2 and found.not_finite["gradients"] and not found.not_finite["batch"]


def test_the_config_of_a_run_on_a_bucket_starts_the_same_run(folder, tmp_path):
    path = epath.Path(RUN) / workdir.CONFIG
    path.parent.mkdir(parents=True)
    workdir.write(path, workdir.to_json(config(tmp_path)))
    assert read_config(path, str(path)) == workdir.load_config(path.parent) == config(tmp_path)


def test_records_in_a_bucket_are_refused(folder, tmp_path):
    settings = config(tmp_path)
    with settings.unlocked():
        settings.data.data_dir = "gs://bucket/records"
    with pytest.raises(UserError, match="data_dir is gs://bucket/records, but"):
        loop.train_and_evaluate(settings, RUN)
    assert not (folder / "runs").exists()
