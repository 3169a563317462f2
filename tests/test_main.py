"""The command line, as a user meets it: train, stop, go on, evaluate, and every wrong input."""

import functools
import json
import logging
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from emanet_jax.errors import UserError
from emanet_jax.network import at_size, resized_variables
from emanet_jax.training import evaluation, loop, sharding, workdir, writers
from emanet_jax.training.checkpoint import Checkpoints
from emanet_jax.training.experiment import make_experiment
from tests import tiny
from tests.commands import assert_same_state, run, saved_steps, start
from tests.conftest import ROOT
from tests.data.layouts import write_mtan

STEPS = 12  # of tests/tiny.py: 3 epochs of 16 images in batches of 4


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """A run that nobody disturbed: its directory and what it printed."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    status, out, err = run(
        "--config=tests/tiny.py",
        "--config.figure_every_steps=3",
        f"--workdir={directory}",
        f"--config.data.data_dir={data_dir}",
    )
    assert status == 0, err
    return directory, out


def tiny_config(data_dir):
    config = tiny.get_config()
    with config.unlocked():
        config.data.data_dir = str(data_dir)
    return config


def test_a_run_shows_progress_and_leaves_everything(finished):
    directory, out = finished
    assert f"step {STEPS}/{STEPS}  loss " in out
    for word in ("semseg", "depth", "normals", "images/s", "left", "best checkpoint: "):
        assert word in out
    best = out.split("best checkpoint: ")[1].split()[0]
    assert (epath.Path(best) / "state").is_dir()
    with Image.open(directory / workdir.FIGURE) as figure:
        assert figure.width > 7 * 200  # image, and a label and a prediction for three tasks
    results = json.loads((directory / workdir.RESULTS).read_text())
    assert results["step"] == STEPS and 0 <= results["semseg/miou_percent"] <= 100
    by_class = json.loads((directory / workdir.PER_CLASS).read_text())["semseg/iou_percent"]
    occurring = [x for x in by_class.values() if x is not None]
    assert np.mean(occurring) == pytest.approx(results["semseg/miou_percent"])
    (start,) = json.loads((directory / workdir.ENVIRONMENT).read_text())
    assert (start["step"], start["total_steps"]) == (0, STEPS)
    assert json.loads((directory / workdir.CONFIG).read_text())["batch_size"] == 4
    assert "kernel" in (directory / workdir.PARAMETERS).read_text()
    assert list((directory / workdir.TENSORBOARD).glob("events.out.tfevents.*"))
    evaluations = writers.read_evaluations(epath.Path(directory) / workdir.METRICS)
    assert list(evaluations) == [4, 8, 12]
    assert evaluations[12] == {k: v for k, v in results.items() if k != "step"}
    # The latest two checkpoints, and the best.
    kept = {int(p.name) for p in (directory / workdir.CHECKPOINTS).iterdir() if p.name.isdecimal()}
    best_step = max(evaluations, key=lambda step: evaluations[step]["semseg/miou_percent"])
    assert kept == {8, 12, best_step}
    assert int(best.rsplit("/", 1)[1]) == best_step


def test_tensorboard_holds_scalars_images_and_hyperparameters(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(finished[0] / workdir.TENSORBOARD), {"tensors": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["tensors"]
    for tag in ("loss/total", "loss/depth", "optimizer/learning_rate", "optimizer/grad_norm"):
        assert tag in tags
    for tag in ("depth/rmse_m", "speed/images_per_second"):
        assert tag in tags
    for tag in ("at_a_glance/depth_rmse_m", "at_a_glance/loss_total"):  # pictures
        assert accumulator.SummaryMetadata(tag).plugin_data.plugin_name == "images"
    for tag in ("semseg/confusion_matrix", "semseg/iou_percent_by_class"):
        assert [event.step for event in accumulator.Tensors(tag)] == [4, 8, 12]
    drawn = accumulator.Tensors("at_a_glance/figure")  # every 3 steps, and at evaluations
    assert [event.step for event in drawn] == [3, 4, 6, 8, 9, 12]
    summary = accumulator.SummaryMetadata("_hparams_/session_start_info")
    assert b"model.name" in summary.plugin_data.content


@pytest.mark.slow  # tests/test_kills.py stops and kills a smaller network
def test_stopped_by_sigterm_and_started_again_ends_in_the_same_bits(finished, tmp_path, data_dir):
    args = ("--config=tests/tiny.py", f"--workdir={tmp_path}", f"--config.data.data_dir={data_dir}")
    process = start(*args)
    for line in process.stdout:
        if line.startswith("step  6/"):  # between two evaluations
            process.send_signal(signal.SIGTERM)
            break
    out, err = process.communicate(timeout=300)
    assert process.returncode == os.EX_TEMPFAIL, err
    assert "Stopped by SIGTERM at step " in out
    stopped = int(out.split("at step ")[1].split("/")[0])
    assert 6 <= stopped < STEPS
    assert saved_steps(tmp_path)[-1] == stopped

    status, out, err = run(*args)
    assert status == 0, err
    assert f"Going on from {tmp_path}/checkpoints/{stopped}" in out
    assert saved_steps(tmp_path)[-1] == STEPS
    assert_same_state(tmp_path, finished[0])
    ours, theirs = (
        writers.read_evaluations(epath.Path(d) / workdir.METRICS) for d in (tmp_path, finished[0])
    )
    assert ours == theirs


@pytest.mark.slow
def test_a_run_from_its_own_config_json_ends_in_the_same_bits(finished, tmp_path, data_dir):
    theirs, ours = epath.Path(finished[0]), epath.Path(tmp_path)
    status, _, err = run(f"--config={theirs / workdir.CONFIG}", f"--workdir={ours}")
    assert status == 0, err
    assert (ours / workdir.CONFIG).read_text() == (theirs / workdir.CONFIG).read_text()
    assert saved_steps(ours)[-1] == STEPS
    assert_same_state(ours, theirs)
    rows = [writers.read_scalars(d / workdir.METRICS) for d in (ours, theirs)]
    numbers = [
        [{k: v for k, v in row.items() if not k.endswith("images_per_second")} for row in run]
        for run in rows
    ]
    assert numbers[0] == numbers[1]
    (started,) = json.loads((ours / workdir.ENVIRONMENT).read_text())
    assert started["step"] == 0 and f"--workdir={ours}" in started["command"]


def test_a_finished_run_has_nothing_left_to_do(finished, data_dir, caplog):
    names = (workdir.METRICS, workdir.CONFIG)
    before = [(finished[0] / name).read_text() for name in names]
    config = tiny_config(data_dir)
    with config.unlocked():
        config.figure_every_steps = 3
        config.model.pretrained = "gone.pth"  # needed at the very start alone
    with pytest.raises(UserError, match=r"config.model.pretrained = '', not 'gone.pth': "):
        loop.train_and_evaluate(config, finished[0])
    for epochs in (3.0, 1.0):  # further than this is done, too
        with config.unlocked():
            config.epochs = epochs
        caplog.clear()
        with caplog.at_level(logging.INFO, "emanet_jax"):
            assert loop.train_and_evaluate(config, finished[0], allow_config_change=True)
        assert f"This run is finished: it was to take {4 * epochs:.0f} steps." in caplog.text
    assert before == [(finished[0] / name).read_text() for name in names]


def test_the_report_needs_no_metrics_file(finished, data_dir, tmp_path, caplog):
    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    (copy / workdir.METRICS).unlink()
    with caplog.at_level(logging.INFO, "emanet_jax"):
        assert loop.train_and_evaluate(workdir.load_config(epath.Path(copy)), copy)
    evaluations = writers.read_evaluations(epath.Path(finished[0]) / workdir.METRICS)
    assert f"last ({STEPS})" in caplog.text
    (row,) = (line for line in caplog.text.splitlines() if line.startswith("depth/rmse_m "))
    assert row.endswith(f"{evaluations[STEPS]['depth/rmse_m']:.4g}")


def test_mode_eval_repeats_the_numbers_of_the_run(finished, caplog):
    evaluations = writers.read_evaluations(epath.Path(finished[0]) / workdir.METRICS)
    with caplog.at_level(logging.INFO, "emanet_jax"):
        loop.evaluate_workdir(finished[0], "latest")
    printed = caplog.text
    assert f"step {STEPS}" in printed
    for name, value in evaluations[STEPS].items():
        row = next(line for line in printed.splitlines() if line.startswith(f"{name} "))
        assert float(row.split()[1]) == pytest.approx(value, rel=2e-3)  # printed to 4 digits


@pytest.mark.parametrize("size", [(32, 64), (64, 96)])
def test_a_run_is_evaluated_at_another_size(finished, size, monkeypatch):
    # On one device, as the run had: on others single pixels may change their class.
    one = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", one)
    config = workdir.load_config(epath.Path(finished[0]))
    trained_at, resized = tuple(config.data.image_size), at_size(config, size)
    experiment = make_experiment(config)
    folder = epath.Path(finished[0]) / workdir.CHECKPOINTS
    with Checkpoints(folder, experiment.checkpoint_policy, read_only=True) as checkpoints:
        state = checkpoints.restore(STEPS, experiment.abstract_state())
    variables = {"params": state.params}
    adapted = resized_variables(variables, config.model.backbone, trained_at, size)
    found = evaluation.evaluate_split(
        make_experiment(resized), state.replace(params=adapted["params"])
    )
    expected = writers.read_evaluations(epath.Path(finished[0]) / workdir.METRICS)[STEPS]
    if size == trained_at:
        assert found.values == pytest.approx(expected, rel=1e-5)
    else:
        assert found.values.keys() == expected.keys()
        assert all(np.isfinite(value) for value in found.values.values())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nyuv2_trains_from_a_folder_of_npy_files(tmp_path, dtype):
    write_mtan(tmp_path / "nyuv2", 8, 3, dtype=dtype)
    arguments = [
        "--config=tests/tiny.py",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.dataset=nyuv2",
        "--config.data.layout=mtan",
        f"--config.data.manual_dir={tmp_path / 'nyuv2'}",
        f"--config.data.data_dir={tmp_path / 'records'}",
        "--config.epochs=1",
    ]
    status, out, err = run(*arguments)
    assert status == 0, err
    assert "step 2/2" in out and "best checkpoint: " in out


TINY = "--config=tests/tiny.py"
WRONG_COMMANDS = {
    "no config": (["--workdir=x"], "--mode=train needs --config"),
    "no workdir": ([TINY], "--workdir"),
    "config file": (
        ["--config=configs/nope.py"],
        "--config=configs/nope.py: there is no such file",
    ),
    "config argument": ([f"{TINY}:modle=hps"], "'modle=hps' is not understood"),
    "config key": ([TINY, "--config.data.sise=3"], "--config.data.sise=3: the config has no key"),
    "config value": ([TINY, "--config.batch_size=many"], "batch_size=many"),
    "flag": ([TINY, "--wrkdir=x"], "--wrkdir is no flag of this command"),
    "model": (
        [f"{TINY}:model=emanet", "--workdir=x"],
        "config.model.name is 'emanet'",
    ),
    "workdir without a run": (["--mode=eval", "--workdir=nowhere"], "nowhere holds no run"),
}


@pytest.mark.parametrize("args, sentence", WRONG_COMMANDS.values(), ids=WRONG_COMMANDS)
def test_a_wrong_command_is_one_line_and_status_1(args, sentence):
    status, _, err = run(*args)
    assert status == 1
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: ") and sentence in lines[0], err
    assert not (ROOT / "x").exists() and not (ROOT / "nowhere").exists()


WRONG_CONFIGS = {
    "backbone": ({"model.backbone": "vgg"}, "config.model.backbone is 'vgg'; choose from"),
    "pretrained": ({"model.pretrained": "no.pth"}, "is 'no.pth', but there is no such file"),
    "variant": ({"model.variant": "new"}, "config.model.variant is 'new'; choose from"),
    "task": ({"tasks": ("semseg", "sky")}, "choose one or more of semseg, depth, normals"),
    "task weight": ({"task_weights": {"semseg": 1.0}}, "no weight for task 'depth'"),
    "balancing": ({"balancing": "mean"}, "choose from equal, fixed, uncertainty, "),
    "data set": ({"data.dataset": "mars"}, "config.data.dataset is 'mars'"),
    "classes": ({"data.classes": 40}, "config.data.classes is 40 but synthrooms has 13 classes"),
    "host metrics": ({"host_metrics": "now"}, "config.host_metrics is 'now'; choose from"),
    "layout": ({"data.dataset": "nyuv2", "data.layout": "zip"}, "config.data.layout is 'zip'"),
    "image size": ({"data.image_size": (32, 50)}, "multiples of 32"),
    "epochs": ({"epochs": -1.0}, "config.epochs is -1.0; it must be positive"),
    "interval": ({"log_every_steps": 0}, "config.log_every_steps is 0; it must be positive"),
    "examples": ({"data.train_examples": 0}, "config.data.train_examples is 0"),
    "statistics": ({"image_statistics": "x"}, "config.image_statistics is 'x'"),
    "batch size": ({"batch_size": 6}, "config.batch_size is 6; it must be a multiple of 4"),
    "spatial": ({"mesh.spatial": 3}, "config.mesh.spatial is 3"),
    "precision": ({"precision": "half"}, "config.precision is 'half'; choose from float32"),
    "remat": ({"remat": "all"}, "config.remat is 'all'; choose from nothing, blocks, everything"),
    "micro-batches": ({"accumulate": 2}, "config.accumulate is 2, but config.batch_size, 4, is no"),
    "bad steps": ({"max_bad_steps": 0}, "config.max_bad_steps is 0; it must be positive"),
    "schedule": ({"optimizer.schedule": "x"}, "choose from cosine, "),
    "warm-up": ({"optimizer.warmup_steps": 99}, "config.optimizer.warmup_steps is 99"),
    "best metric": ({"checkpoint.best_metric": "sky/miou"}, "best_metric is 'sky/miou'"),
    "its name": ({"checkpoint.best_metric": "semseg/miou"}, "best_metric is 'semseg/miou'"),
    "reference": ({"checkpoint.best_metric": "delta_m"}, "config.checkpoint.reference"),
    "no folder": ({"data.dataset": "nyuv2", "data.layout": "mtan"}, "manual_dir is empty"),
    "folder": (
        {"data.dataset": "nyuv2", "data.layout": "mtan", "data.manual_dir": "/nowhere"},
        "there is no folder /nowhere",
    ),
}


@pytest.mark.parametrize("changes, sentence", WRONG_CONFIGS.values(), ids=WRONG_CONFIGS)
def test_a_wrong_config_is_one_sentence_and_leaves_nothing(changes, sentence, tmp_path, data_dir):
    config = tiny_config(data_dir)
    with config.unlocked():
        for key, value in changes.items():
            *path, last = key.split(".")
            holder = config[path[0]] if path else config
            holder[last] = value
    with pytest.raises(UserError) as error:
        loop.train_and_evaluate(config, tmp_path / "run")
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_workdir_of_another_run_is_refused_and_left_alone(finished, data_dir):
    before = (finished[0] / workdir.CONFIG).read_text()
    config = tiny_config(data_dir)
    with config.unlocked():
        config.model.name = "hps"
        config.model.overrides = {}
    with pytest.raises(UserError, match=r"config.model.name = 'ema_net', not 'hps'"):
        loop.train_and_evaluate(config, finished[0])
    assert (finished[0] / workdir.CONFIG).read_text() == before
