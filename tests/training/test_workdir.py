"""A workdir takes one run, one at a time, and says in one sentence what it cannot take."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from etils import epath

from emanet_jax.errors import UserError
from emanet_jax.training import workdir
from tests import tiny
from tests.conftest import ROOT

OTHERS = {
    "model.name": "hps",
    "model.backbone": "resnet_tiny",
    "model.variant": "released",
    "model.overrides": {"features": 8},
    "data.dataset": "nyuv2",
    "data.image_size": (64, 64),
    "data.classes": 13,
    "tasks": ("depth",),
    "balancing": "dwa",
}


def changed(key, value):
    config = tiny.get_config()
    *group, last = key.split(".")
    with config.unlocked():
        (config[group[0]] if group else config)[last] = value
    return config


@pytest.fixture
def run(tmp_path):
    """The workdir of a run with a checkpoint."""
    workdir.save_config(epath.Path(tmp_path), tiny.get_config())
    (tmp_path / workdir.CHECKPOINTS / "4").mkdir(parents=True)
    return epath.Path(tmp_path)


@pytest.mark.parametrize("key", OTHERS)
@pytest.mark.parametrize("allowed", [False, True])
def test_a_run_of_another_network_is_refused(run, key, allowed):
    with pytest.raises(UserError, match=rf"{run} holds a run with config.{key}") as error:
        workdir.check(run, changed(key, OTHERS[key]), allowed)
    assert "\n" not in str(error.value) and "--allow_config_change" not in str(error.value)


SETTINGS = {
    "batch_size": 8,
    "epochs": 9.0,
    "optimizer.learning_rate": 0.25,
    "optimizer.schedule": "constant",
    "optimizer.l2": 0.0,
    "optimizer.clip_norm": 1.0,
    "seed": 7,
    "augment.flip": False,
    "task_weights": {"semseg": 2.0, "depth": 1.0, "normals": 1.0},
    "precision": "bfloat16",
    "image_statistics": "unit",
    "data.data_dir": "/elsewhere",
    "balancing_settings": {"temperature": 1.0},
}


@pytest.mark.parametrize("key", SETTINGS)
def test_other_settings_are_named_with_both_values_unless_they_are_allowed(run, key):
    config = changed(key, SETTINGS[key])
    with pytest.raises(UserError, match=rf"holds a run with config.{key}.* = .*, not ") as error:
        workdir.check(run, config)
    assert "\n" not in str(error.value) and "--allow_config_change" in str(error.value)
    (found, values), *others = workdir.check(run, config, allow_change=True).items()
    assert found.startswith(key) and values[0] != values[1] and not others
    assert all(f"{value!r}" in str(error.value) for value in values)
    assert workdir.load_config(run) == tiny.get_config()


def test_all_differences_are_named_at_once(run):
    config = changed("batch_size", 8)
    with config.unlocked():
        config.optimizer.learning_rate = 0.25
    with pytest.raises(UserError, match=r"batch_size = 4, not 8; config.optimizer.learning_rate"):
        workdir.check(run, config)
    assert workdir.check(run, tiny.get_config()) == {}


def test_without_a_checkpoint_there_is_nothing_to_differ_from(run):
    (run / workdir.CHECKPOINTS / "4").rmdir()
    assert workdir.check(run, changed("model.name", "hps")) is None


def test_a_workdir_takes_one_run_at_a_time(tmp_path):
    place = epath.Path(tmp_path)
    with (
        workdir.claimed(place),
        pytest.raises(UserError, match=f"is in use by process {os.getpid()} on "),
        workdir.claimed(place),
    ):
        pass
    with workdir.claimed(place):
        pass


HOLD = """
import sys, time
from etils import epath
from emanet_jax.training import workdir
with workdir.claimed(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_run_leaves_the_workdir_free(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=f"in use by process {holder.pid} on "),
            workdir.claimed(epath.Path(tmp_path)),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
    with workdir.claimed(epath.Path(tmp_path)):
        pass


def test_a_workdir_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("mine")
    place = epath.Path(tmp_path / "file" / "run")
    with (
        pytest.raises(UserError, match=rf"--workdir={place} cannot be written: Not a directory"),
        workdir.claimed(place),
    ):
        pass
    assert (tmp_path / "file").read_text() == "mine"


FAULTS = [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes: No space left on device [28]"),
    OSError(errno.EROFS, os.strerror(errno.EROFS), "/elsewhere"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_one_sentence_however_it_arrives(tmp_path, fault, wrapped):
    with (
        pytest.raises(UserError, match=f"--workdir={tmp_path} cannot be written: ") as error,
        workdir.claimed(epath.Path(tmp_path)),
    ):
        try:
            raise fault
        except (OSError, ValueError) as cause:
            if not wrapped:
                raise
            raise RuntimeError("a thread died") from cause
    assert "\n" not in str(error.value) and "run again to go on" in str(error.value)


@pytest.mark.parametrize(
    "error", [ValueError("wrong shape"), OSError(errno.EACCES, "denied", "/data/image.npy")]
)
def test_other_errors_stay_what_they_are(tmp_path, error):
    with (
        pytest.raises(type(error)) as raised,
        workdir.claimed(epath.Path(tmp_path)),
    ):
        raise error
    assert raised.value is error
