"""What a run records of its surroundings, and its config.json as a config; test_main.py runs it."""

import json
import math
import platform
import subprocess
import sys

import jax
import pytest
from etils import epath

from emanet_jax.config import check_config, default_config, read_config
from emanet_jax.errors import UserError
from emanet_jax.training import environment, workdir
from tests import tiny
from tests.conftest import ROOT
from tests.test_configs import CONFIGS, load


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_config_is_the_config_and_of_its_types(name, tmp_path):
    config = load(name, "model=ema_net")
    path = tmp_path / "config.json"
    path.write_text(workdir.to_json(config))
    again = read_config(epath.Path(path), str(path))
    assert again.is_locked and workdir.to_json(again) == workdir.to_json(config)
    ours, theirs = (c.eq_as_configdict(config) for c in (again, config))
    assert ours and theirs  # tuples as tuples, too
    with again.unlocked():
        again.optimizer.clip_norm = 3.5  # None may become a number, as in the file


# A command that prints some values of its config.
COMMAND = """
from emanet_jax import cli
CONFIG = cli.define_config()
def command():
    config = CONFIG.value
    print(config.batch_size, config.optimizer.clip_norm, config.data.image_size, config.is_locked)
cli.run(command)
"""


def command(*args):
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_command_line_takes_a_config_json_and_overrides(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(workdir.to_json(tiny.get_config()))
    changes = ("--config.batch_size=8", "--config.optimizer.clip_norm=2")
    assert command(f"--config={path}", *changes) == "8 2.0 (32, 64) True\n"
    assert command("--config", str(path)) == "4 None (32, 64) True\n"


def test_a_config_file_runs_once(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from tests.tiny import get_config\nprint('running')\n")
    assert command(f"--config={path}:model=hps") == "running\n4 None (32, 64) True\n"


def test_another_versions_config_is_one_sentence(tmp_path):
    path = tmp_path / "config.json"
    values = json.loads(workdir.to_json(default_config()))
    del values["optimizer"]["l2"]
    values["optimizer"]["weight_decay"] = 1.0
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"lacks optimizer.l2 and has optimizer.weight_decay"):
        read_config(epath.Path(path), "the file")
    path.write_text("{")
    with pytest.raises(UserError, match=r"is no config.json of a run"):
        read_config(epath.Path(path), "the file")


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": {"clip_norm": math.inf}},
        {"model": {"overrides": {"gamma": math.nan}}},
        {"balancing_settings": {"powers": (1.0, -math.inf)}},
    ],
)
def test_numbers_that_config_json_has_no_words_for_are_one_sentence(change):
    config = tiny.get_config().copy_and_resolve_references()
    with config.unlocked():
        config.update(change)
    with pytest.raises(UserError, match=r"config\.\S+ is -?(inf|nan); it must be .*finite"):
        check_config(config)


def test_every_start_is_recorded(tmp_path):
    directory = epath.Path(tmp_path)
    environment.record(directory, tiny.get_config(), 0, 12)
    environment.record(directory, tiny.get_config(), 8, 12)
    first, second = json.loads((directory / workdir.ENVIRONMENT).read_text())
    assert (first["step"], second["step"], first["seed"]) == (0, 8, 0)
    assert first["python"] == platform.python_version() and first["jax"] == jax.__version__
    assert (first["devices"], first["processes"]) == (4, 1)
    git = ["git", "rev-parse", "HEAD"]
    head = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    assert (first["commit"] or "").removesuffix("-dirty") == head  # "" outside a git checkout
