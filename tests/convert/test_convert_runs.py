"""Runs from files of weights and files from runs, as `python -m emanet_jax.convert` makes them."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from emanet_jax import convert
from emanet_jax.convert import runs
from emanet_jax.errors import UserError
from emanet_jax.models.ctal import adapt_resolution
from emanet_jax.models.weights import reading
from emanet_jax.network import make_network
from emanet_jax.training import loop, workdir
from emanet_jax.training.checkpoint import Checkpoints
from emanet_jax.training.experiment import make_experiment
from tests import forks, menu, tiny
from tests.conftest import ROOT
from tests.torch_files import save_torch

# A network on a backbone of every kind; test_convert has all of them, in files.
KINDS = [
    ("hps", "hrnet_tiny"),
    ("hps", "resnet_tiny"),
    ("hps", "swin_v2_tiny"),
    ("mtan", "segnet_tiny"),
]


def make_config(name="hps", backbone="hrnet_tiny", size=(32, 64), **model):
    config = tiny.get_config(f"model={name},backbone={backbone}")
    with config.unlocked():
        config.model.overrides = menu.widths(name, backbone)
        config.model.update(model)
        config.data.image_size = size
    return config


@functools.cache
def random_variables(name="hps", backbone="hrnet_tiny", size=(32, 64), variant="paper"):
    _, model = make_network(make_config(name, backbone, size, variant=variant))
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    init = functools.partial(model.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), images)
    r = np.random.RandomState(0)
    return jax.tree.map(lambda x: r.random_sample(x.shape).astype(np.float32), shapes)


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        assert actual[name].dtype == x.dtype and actual[name].shape == x.shape, name
        np.testing.assert_array_equal(actual[name], x, err_msg=name)


@pytest.mark.parametrize(("name", "backbone"), KINDS)
def test_file_to_run_to_file_is_bit_exact(name, backbone, tmp_path):
    state_dict = convert.export_torch(random_variables(name, backbone), name)
    assert all(x.flags.c_contiguous for x in state_dict.values())
    save_torch(tmp_path / "theirs.pth", state_dict)
    read = reading.read_state_dict(tmp_path / "theirs.pth")
    runs.write_run(make_config(name, backbone), read, tmp_path / "run")
    config, exported = runs.read_run(tmp_path / "run", "best")
    runs.write_weights(config, exported, tmp_path / "ours.safetensors")
    assert_same(reading.read_state_dict(tmp_path / "ours.safetensors"), state_dict)
    assert {path.name for path in tmp_path.iterdir()} == {"theirs.pth", "run", "ours.safetensors"}


def test_files_say_what_they_are_of(tmp_path):
    state_dict = convert.export_torch(random_variables(), "hps")
    runs.write_weights(make_config(), state_dict, tmp_path / "new" / "x.safetensors")
    with safe_open(tmp_path / "new" / "x.safetensors", "np") as file:
        metadata = file.metadata()
    assert metadata["model"] == "hps" and metadata["backbone"] == "hrnet_tiny"
    assert metadata["tasks"] == "semseg,depth,normals" and metadata["image_size"] == "32x64"
    runs.write_weights(make_config(), state_dict, tmp_path / "x.npz")
    assert_same(reading.read_state_dict(tmp_path / "x.npz"), state_dict)


def test_nothing_is_overwritten_unasked(tmp_path):
    config, run, file = make_config(), tmp_path / "run", tmp_path / "x.npz"
    state_dict = convert.export_torch(random_variables(), "hps")
    other = {name: x * 2 for name, x in state_dict.items()}
    runs.write_run(config, state_dict, run)
    runs.write_weights(config, state_dict, file)
    with pytest.raises(UserError, match="run is there already; --overwrite"):
        runs.write_run(config, other, run)
    with pytest.raises(UserError, match=r"x\.npz is there already; --overwrite"):
        runs.write_weights(config, other, file)
    assert_same(runs.read_run(run, "latest")[1], state_dict)
    assert_same(reading.read_state_dict(file), state_dict)

    runs.write_run(config, other, run, overwrite=True)
    runs.write_weights(config, other, file, overwrite=True)
    assert_same(runs.read_run(run, "latest")[1], other)
    assert_same(reading.read_state_dict(file), other)

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("dear to me")
    with pytest.raises(UserError, match="only a run is replaced"):
        runs.write_run(config, state_dict, mine, overwrite=True)
    assert (mine / "thesis.txt").exists()


def test_a_failed_import_leaves_what_was_there(tmp_path):
    config, run = make_config(), tmp_path / "run"
    state_dict = convert.export_torch(random_variables(), "hps")
    runs.write_run(config, state_dict, run)
    broken = {**state_dict, "stray.weight": np.zeros(2)}
    with pytest.raises(UserError, match="surplus"):
        runs.write_run(config, broken, run, overwrite=True)
    with pytest.raises(UserError, match="surplus"):
        runs.write_run(config, broken, tmp_path / "new")
    assert_same(runs.read_run(run, "latest")[1], state_dict)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_imported_run_is_evaluated_and_can_be_trained(tmp_path, caplog):
    config = tiny.get_config("model=hps,backbone=hrnet_tiny")
    with config.unlocked():
        config.model.overrides = {}
        config.data.data_dir = str(tmp_path / "records")
    variables = random_variables("hps")
    runs.write_run(config, convert.export_torch(variables, "hps"), tmp_path / "run")
    with caplog.at_level("INFO", logger="emanet_jax"):
        loop.evaluate_workdir(tmp_path / "run", "best")
    printed = caplog.text
    assert "No checkpoint has been evaluated yet: this is the latest." in caplog.text
    assert "step 0" in printed and "semseg/miou_percent" in printed

    experiment = make_experiment(config)
    folder = tmp_path / "run" / workdir.CHECKPOINTS
    with Checkpoints(folder, experiment.checkpoint_policy) as checkpoints:
        state = checkpoints.restore(0, experiment.abstract_state())
    expected = experiment.init().replace(**variables)
    assert state.step == 0 and jax.tree.structure(state) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_fusions_of_another_size_are_resized(tmp_path):
    theirs = random_variables("ema_net", size=(64, 64), variant="released")
    state_dict = convert.export_torch(theirs, "ema_net")
    config = make_config("ema_net", variant="released")
    with pytest.raises(UserError, match="--trained_at=HEIGHTxWIDTH"):
        runs.write_run(config, state_dict, tmp_path / "run")
    runs.write_run(config, state_dict, tmp_path / "run", trained_at=(64, 64))
    _, exported = runs.read_run(tmp_path / "run", "latest")
    params = adapt_resolution(theirs["params"], (16, 16), (8, 16))
    assert_same(exported, convert.export_torch(theirs | {"params": params}, "ema_net"))
    with pytest.raises(UserError, match="fusion"):
        runs.write_run(config, state_dict, tmp_path / "x", trained_at=(64, 96))


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        runs.read_run(tmp_path, "best")
    (tmp_path / workdir.CONFIG).write_text(workdir.to_json(make_config()))
    with pytest.raises(UserError, match="holds no checkpoint"):
        runs.read_run(tmp_path, "best")
    assert [path.name for path in tmp_path.iterdir()] == [workdir.CONFIG]


def run(*args):
    """Exit status, standard output and standard error of the command."""
    done = forks.python("-m", "emanet_jax.convert", *args, environment={"XLA_FLAGS": ""})
    return done.returncode, done.stdout, done.stderr


def test_the_command(tmp_path):
    """A file of a training script to a run, and back."""
    state_dict = convert.export_torch(random_variables(), "hps")
    wrapped = {f"module.model.{name}": x for name, x in state_dict.items()}
    wrapped["module.loss.log_vars"] = np.zeros(3, np.float32)
    save_torch(tmp_path / "x.pth", {"epoch": 7, "state_dict": wrapped})

    config = "configs/synthrooms.py:model=hps,backbone=hrnet_tiny,variant=released"
    size = "--config.data.image_size=(32,64)"
    of = (f"--config={config}", size, "--config.image_statistics=unit")
    to = (f"--from={tmp_path / 'x.pth'}", f"--to={tmp_path / 'run'}")
    status, _, err = run(*of, *to)
    assert status == 1 and err.startswith("error: ") and "module.loss" not in err
    assert "holds weights of its loss beside the network's: loss.log_vars;" in err
    status, out, err = run(*of, *to, "--leave_out=loss.*")
    assert status == 0, err
    assert "took 'state_dict'; left out: epoch." in out
    assert "left out, as asked for: loss.log_vars (3,)." in out
    logged = "hps (released) on hrnet_tiny for synthrooms at 32x64"
    assert logged in out and "images with unit statistics" in out
    written = json.loads((tmp_path / "run" / workdir.CONFIG).read_text())
    assert written["model"]["variant"] == "released" and written["model"]["pretrained"] == ""

    status, out, err = run(f"--from={tmp_path / 'run'}", f"--to={tmp_path / 'x.safetensors'}")
    assert status == 0, err
    assert f"{tmp_path / 'run'}/checkpoints/0" in out
    assert_same(reading.read_state_dict(tmp_path / "x.safetensors"), state_dict)


NEW = ["--from=x.pth", "--to=y", "--config=configs/synthrooms.py"]
WRONG_COMMANDS = {
    "no config": (NEW[:2], "give --config"),
    "no file": (NEW, "there is no file x.pth"),
    "size": ([*NEW, "--trained_at=64*64"], "--trained_at=64*64 is no size"),
    "ending": (["--from=tests", "--to=y.pth"], "--to=y.pth must end in .safetensors or .npz"),
    "pattern": ([*NEW, "--leave_out=("], "--leave_out=( is no regular expression"),
    "config of a run": (
        ["--from=tests", "--to=y.npz", NEW[2]],
        "has its own config: leave --config out",
    ),
}


@pytest.mark.parametrize(("args", "sentence"), WRONG_COMMANDS.values(), ids=WRONG_COMMANDS)
def test_a_wrong_command_is_one_line_and_status_1(args, sentence):
    status, _, err = run(*args)
    assert status == 1
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: ") and sentence in lines[0], err
    assert not (ROOT / "y").exists()
