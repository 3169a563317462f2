"""A workdir takes one run, one at a time, and says in one sentence what it cannot take."""

import errno
import json
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


@pytest.mark.parametrize("key", OTHERS)
def test_a_run_of_another_config_is_refused_and_left_alone(tmp_path, key):
    with workdir.claimed(epath.Path(tmp_path), tiny.get_config()):
        pass
    before = (tmp_path / workdir.CONFIG).read_bytes()
    with pytest.raises(UserError, match=rf"{tmp_path} holds a run with {key} = ") as error:
        workdir.check(epath.Path(tmp_path), changed(key, OTHERS[key]))
    assert "\n" not in str(error.value)
    assert (tmp_path / workdir.CONFIG).read_bytes() == before
    assert not workdir.check(epath.Path(tmp_path), changed("epochs", 9.0))


def test_a_workdir_takes_one_run_at_a_time(tmp_path):
    place, config = epath.Path(tmp_path), tiny.get_config()
    with workdir.claimed(place, config):
        with (
            pytest.raises(UserError, match=f"is in use by process {os.getpid()} on "),
            workdir.claimed(place, changed("epochs", 9.0)),
        ):
            pass
        assert json.loads((tmp_path / workdir.CONFIG).read_text())["epochs"] == 3.0
    with workdir.claimed(place, config):
        pass


HOLD = """
import sys, time
from etils import epath
from emanet_jax.training import workdir
from tests import tiny
with workdir.claimed(epath.Path(sys.argv[1]), tiny.get_config()):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_run_leaves_the_workdir_free(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=f"in use by process {holder.pid} on "),
            workdir.claimed(epath.Path(tmp_path), tiny.get_config()),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
    with workdir.claimed(epath.Path(tmp_path), tiny.get_config()):
        pass


def test_a_workdir_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("mine")
    place = epath.Path(tmp_path / "file" / "run")
    with (
        pytest.raises(UserError, match=rf"--workdir={place} cannot be written: Not a directory"),
        workdir.claimed(place, tiny.get_config()),
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
        workdir.claimed(epath.Path(tmp_path), tiny.get_config()),
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
        workdir.claimed(epath.Path(tmp_path), tiny.get_config()),
    ):
        raise error
    assert raised.value is error
