"""What a run records of its surroundings, and its config.json as a config; test_main.py runs it."""

import json
import platform
import subprocess

import jax
import pytest
from absl import flags
from etils import epath

from emanet_jax import cli
from emanet_jax.config import default_config, get_config
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
    again = get_config(str(path))
    assert again.is_locked and workdir.to_json(again) == workdir.to_json(config)
    ours, theirs = (c.eq_as_configdict(config) for c in (again, config))
    assert ours and theirs  # tuples as tuples, too
    with again.unlocked():
        again.optimizer.clip_norm = 3.5  # None may become a number, as in the file


def test_the_command_line_takes_a_config_json_and_overrides(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text(workdir.to_json(tiny.get_config()))
    argv = ["main", f"--config={path}", "--config.batch_size=8", "--config.optimizer.clip_norm=2"]
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
    holder = cli.config_flags.DEFINE_config_file("config", flag_values=flags.FLAGS)
    cli._parse_flags(argv)
    assert holder.value.batch_size == 8 and holder.value.optimizer.clip_norm == 2.0
    assert holder.value.data.image_size == tiny.get_config().data.image_size


def test_another_versions_config_is_one_sentence(tmp_path):
    path = tmp_path / "config.json"
    values = json.loads(workdir.to_json(default_config()))
    del values["optimizer"]["l2"]
    values["optimizer"]["weight_decay"] = 1.0
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"lacks optimizer.l2 and has optimizer.weight_decay"):
        get_config(str(path))
    path.write_text("{")
    with pytest.raises(UserError, match=r"is no config.json of a run"):
        get_config(str(path))


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
