"""Exports: loaded back, each format gives the network's outputs, or nothing is left."""

import functools
import importlib.util
import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from emanet_jax import inference
from emanet_jax.errors import UserError
from emanet_jax.export import formats, writing
from emanet_jax.export.formats import FORMATS
from emanet_jax.network import make_network
from emanet_jax.training import workdir
from emanet_jax.training.checkpoint import Checkpoints
from emanet_jax.training.experiment import checkpoint_policy, first_state
from tests import forks, menu, tiny
from tests.conftest import ROOT

HAS_JAX2ONNX = importlib.util.find_spec("jax2onnx") is not None
needs_jax2onnx = pytest.mark.skipif(
    not HAS_JAX2ONNX, reason="test_onnx_in_an_environment_of_its_own runs it"
)
EVERY_FORMAT = pytest.mark.parametrize(
    "format_name",
    [pytest.param(x, marks=needs_jax2onnx) if x == "onnx" else x for x in FORMATS],
)
IMPLEMENTATIONS = ("factorized", "shifted", "grouped_conv")


def make_run(directory, name, backbone, **settings):
    """A run that has a checkpoint of its first state."""
    config = tiny.get_config(f"model={name},backbone={backbone}")
    with config.unlocked():
        config.model.overrides = menu.widths(name, backbone) | settings.pop("overrides", {})
        config.update(settings)
    tasks, model = make_network(config)
    image = jnp.zeros((1, *config.data.image_size, 3))
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), image)
    state = first_state(config, tasks, {"batch_stats": {}} | dict(variables))
    directory = epath.Path(directory)
    directory.mkdir(parents=True)
    workdir.write(directory / workdir.CONFIG, workdir.to_json(config))
    policy = checkpoint_policy(config, tasks)
    with Checkpoints(directory / workdir.CHECKPOINTS, policy) as checkpoints:
        checkpoints.save(state, 0)
    return directory


def images_of(trained, b, seed=1):
    size = trained.config.data.image_size
    return np.random.default_rng(seed).integers(0, 256, (b, *size, 3), np.uint8)


def export(trained, format_name, output, batch=None):
    network = writing.network_of(trained, batch)
    return writing.write(network, trained, format_name, output)


def assert_same_outputs(trained, loaded, b):
    """On other images than the export was checked with."""
    images = images_of(trained, b)
    expected = jax.device_get(inference.predictor(trained)(images))
    actual = {name: np.asarray(x) for name, x in loaded(images).items()}
    writing.compare(actual, expected, trained.config.precision)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "hps", "hps", "segnet_tiny")


@pytest.fixture(scope="module")
def trained(run):
    return inference.load_trained(run)


@EVERY_FORMAT
def test_an_export_takes_any_number_of_images(trained, tmp_path, format_name):
    metadata = export(trained, format_name, tmp_path / "out")
    loaded = FORMATS[format_name].load(tmp_path / "out")
    assert_same_outputs(trained, loaded, 3)
    if FORMATS[format_name].ordered:
        assert list(loaded(images_of(trained, 1))) == metadata["output_order"]
    text = (tmp_path / "out" / "metadata.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == metadata
    assert metadata["input"]["shape"] == [None, 32, 64, 3]
    assert metadata["output_order"] == list(metadata["outputs"]) == ["semseg", "depth", "normals"]
    assert metadata["outputs"]["depth"]["unit"] == "m"
    assert metadata["outputs"]["semseg"]["shape"] == [None, 32, 64, 1]
    assert len(metadata["outputs"]["semseg"]["classes"]) == 13


@needs_jax2onnx
def test_ctal_and_padded_pooling_in_onnx(tmp_path):
    """On the backbone that compiles fastest, loops and all; outputs by position, as in metadata."""
    overrides = {"implementation": "factorized"}
    run = make_run(tmp_path / "run", "ema_net", "resnet_tiny", overrides=overrides)
    trained = inference.load_trained(run)
    metadata = export(trained, "onnx", tmp_path / "out")
    assert_same_outputs(trained, FORMATS["onnx"].load(tmp_path / "out"), 1)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "out" / formats.ONNX_FILE))
    images = images_of(trained, 1)
    maps = session.run(None, {"image": images})
    described = [(x["shape"][1:], x["dtype"]) for x in metadata["outputs"].values()]
    assert described == [(list(x.shape[1:]), str(x.dtype)) for x in maps]
    assert metadata["output_order"] == ["semseg", "depth", "normals"]  # not alphabetical
    expected = jax.device_get(inference.predictor(trained)(images))
    writing.compare(dict(zip(metadata["output_order"], maps, strict=True)), expected, "float32")


@needs_jax2onnx
def test_the_command_writes_onnx_of_a_fixed_batch(run, trained, tmp_path):
    command = [sys.executable, "-m", "emanet_jax.export", f"--workdir={run}", "--format=onnx"]
    command += [f"--output={tmp_path / 'out'}", "--batch=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "image uint8 (2, 32, 64, 3)" in done.stdout
    loaded = FORMATS["onnx"].load(tmp_path / "out")
    assert_same_outputs(trained, loaded, 2)
    with pytest.raises(Exception, match="Got: 3 Expected: 2"):
        loaded(images_of(trained, 3))


def in_the_environment_of_onnx(*command):
    """Runs a command as the pages say, with the packages of the tests beside it."""
    uv = [
        sys.executable,
        "-m",
        "uv",
        "run",
        "--no-project",
        "--isolated",
        "--with",
        "pytest",
        "--with",
        "beartype",
    ]
    return subprocess.run(
        [*uv, "--with-requirements", "requirements-onnx.txt", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow  # installs, and compiles three networks
@pytest.mark.skipif(HAS_JAX2ONNX, reason="this is the environment of ONNX")
def test_onnx_in_an_environment_of_its_own():
    """The tests above, which need jax2onnx; skipped where no environment can be made, offline."""
    done = in_the_environment_of_onnx("python", "-c", "import jax2onnx, onnxruntime")
    if done.returncode:  # a requirement that cannot be met is a failure, no network is not
        assert re.search("Failed to fetch|dns error|error sending request", done.stderr), (
            done.stderr
        )
        pytest.skip("no package registry can be reached")
    tests = ("pytest", "-q", "-o", "addopts=", "-m", "not slow", "-k", "onnx", __file__)
    done = in_the_environment_of_onnx("python", "-m", *tests)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


@pytest.mark.skipif(HAS_JAX2ONNX, reason="this is the environment of ONNX")
def test_onnx_without_its_environment_is_one_sentence(run, tmp_path):
    command = [sys.executable, "-m", "emanet_jax.export", f"--workdir={run}", "--format=onnx"]
    command += [f"--output={tmp_path / 'out'}"]
    done = forks.python(*command[1:])
    assert done.returncode == 1
    assert done.stderr.startswith("error: --format=onnx needs jax2onnx")
    assert "--with-requirements requirements-onnx.txt" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_writes_what_jax_alone_loads(run, tmp_path):
    output = tmp_path / "out"
    flags = [f"--workdir={run}", "--format=stablehlo", f"--output={output}", "--size=64x32"]
    done = forks.python("-m", "emanet_jax.export", *flags, "--platforms=cpu,tpu")
    assert done.returncode == 0, done.stderr
    assert "image uint8 (batch, 64, 32, 3)" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    recipe = done.stdout.rpartition("To load it: ")[2]
    assert str(output) in recipe
    code = (
        "import sys, jax, jax.export, numpy as np; images = np.zeros((5, 64, 32, 3), np.uint8); "
        f"print({{k: v.shape for k, v in {recipe.strip()}.items()}}); "
        "assert not any('emanet' in name for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"'normals': (5, 64, 32, 3)" in done.stdout


def test_another_network_leaves_nothing(trained, tmp_path, monkeypatch):
    """The export that is loaded back gives other depths: the older one stays as it is."""
    old = tmp_path / "out"
    old.mkdir()
    (old / writing.METADATA).write_text("{}")

    def other_depths(images):
        maps = inference.predictor(trained)(images) | {"depth": jnp.ones((2, 32, 64, 1))}
        return {task.name: maps[task.name] for task in trained.tasks}

    wrong = FORMATS["stablehlo"]._replace(
        write=lambda network, folder: (folder / "model").write_bytes(b"x"),
        load=lambda folder: other_depths,
    )
    monkeypatch.setitem(formats.FORMATS, "stablehlo", wrong)
    network = writing.network_of(trained, None)
    with pytest.raises(UserError, match=r"depth differs .* in 100\.00% of"):
        writing.write(network, trained, "stablehlo", old, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (old / writing.METADATA).read_text() == "{}"


def test_another_order_of_the_outputs_leaves_nothing(trained, tmp_path, monkeypatch):
    wrong = FORMATS["stablehlo"]._replace(
        write=lambda network, folder: None,
        load=lambda folder: (
            lambda images: dict(sorted(inference.predictor(trained)(images).items()))
        ),
    )
    monkeypatch.setitem(formats.FORMATS, "stablehlo", wrong)
    with pytest.raises(UserError, match="depth, normals, semseg, which is another order than"):
        export(trained, "stablehlo", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_differences_by_hand():
    ids = np.zeros((1, 50, 50, 1), np.int32)
    depth = np.full((1, 50, 50, 1), 4.0, np.float32)
    other_ids, other_depth = ids.copy(), depth + np.float32(1e-3)
    other_ids[0, 0, :2] = 3  # 2 of 2500 pixels: a tie
    expected = {"depth": depth, "semseg": ids}
    largest = writing.compare({"depth": other_depth, "semseg": other_ids}, expected, "float32")
    assert largest == pytest.approx({"semseg": 2 / 2500, "depth": 1e-3}, rel=1e-3)
    other_ids[0, 0, 2] = 1
    with pytest.raises(UserError, match=r"semseg differs .* 0\.12% of the pixels, by up to 3"):
        writing.compare({"depth": depth, "semseg": other_ids}, expected, "float32")
    with pytest.raises(UserError, match=r"depth differs .* 100\.00% of the pixels, by up to 0\.02"):
        writing.compare({"depth": depth * 1.005, "semseg": ids}, expected, "float32")
    with pytest.raises(UserError, match="depth differs"):
        writing.compare({"depth": depth * np.nan, "semseg": ids}, expected, "float32")
    others = (
        {"depth": depth},
        {"depth": depth, "semseg": ids.astype(np.int64)},
        {"depth": depth, "semseg": ids, "normals": depth},
    )
    for other in others:
        with pytest.raises(UserError, match="the export gives"):
            writing.compare(other, expected, "float32")


@pytest.mark.slow
@EVERY_FORMAT
@pytest.mark.parametrize("name, backbone", menu.NETWORKS)
def test_the_whole_menu(tmp_path, name, backbone, format_name):
    overrides = [{"implementation": x} for x in IMPLEMENTATIONS] if "ema" in name else [{}]
    for i, override in enumerate(overrides):
        run = make_run(tmp_path / f"run{i}", name, backbone, overrides=override)
        trained = inference.load_trained(run)
        export(trained, format_name, tmp_path / f"out{i}")
        assert_same_outputs(trained, FORMATS[format_name].load(tmp_path / f"out{i}"), 3)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", [name for name, x in FORMATS.items() if x.on_xla])
def test_half_precision(tmp_path, format_name):
    run = make_run(tmp_path / "run", "ema_net", "resnet_tiny", precision="bfloat16")
    trained = inference.load_trained(run)
    export(trained, format_name, tmp_path / "out")
    assert_same_outputs(trained, FORMATS[format_name].load(tmp_path / "out"), 3)
