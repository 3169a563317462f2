"""Exports: what is loaded back gives the network's outputs, in every format, or nothing is left."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from etils import epath

from emanet_jax import inference
from emanet_jax.errors import UserError
from emanet_jax.export import artefact, formats
from emanet_jax.export.formats import FORMATS
from emanet_jax.export.onnx_graph import to_onnx
from emanet_jax.export.onnx_operators import RULES
from emanet_jax.training import workdir
from emanet_jax.training.checkpoint import Checkpoints
from emanet_jax.training.experiment import checkpoint_policy, first_state, make_network
from tests import menu, tiny
from tests.conftest import ROOT

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
    network = artefact.network_of(trained, batch)
    return artefact.write(network, trained, format_name, output)


def assert_same_outputs(trained, loaded, b):
    """Of other images than the export was checked with."""
    images = images_of(trained, b)
    wanted = jax.device_get(inference.predictor(trained)(images))
    found = {name: np.asarray(x) for name, x in loaded(images).items()}
    artefact.compare(found, wanted, trained.config.precision)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "hps", "hps", "segnet_tiny")


@pytest.fixture(scope="module")
def trained(run):
    return inference.load(run)


@pytest.mark.parametrize("format_name", FORMATS)
def test_an_export_takes_any_number_of_images(trained, tmp_path, format_name):
    metadata = export(trained, format_name, tmp_path / "out")
    assert_same_outputs(trained, FORMATS[format_name].load(tmp_path / "out"), 3)
    assert json.loads((tmp_path / "out" / "metadata.json").read_text()) == metadata
    assert metadata["input"]["shape"] == [None, 32, 64, 3]
    assert metadata["outputs"]["depth"]["unit"] == "m"
    assert metadata["outputs"]["semseg"]["shape"] == [None, 32, 64, 1]
    assert len(metadata["outputs"]["semseg"]["classes"]) == 13


def test_ctal_exports_to_onnx(tmp_path):
    """On the backbone that compiles fastest, unrolled loops and all."""
    overrides = {"implementation": "factorized"}
    run = make_run(tmp_path / "run", "ema_net", "resnet_tiny", overrides=overrides)
    trained = inference.load(run)
    export(trained, "onnx", tmp_path / "out")
    assert_same_outputs(trained, FORMATS["onnx"].load(tmp_path / "out"), 1)


def test_a_fixed_batch_takes_no_other(trained, tmp_path):
    metadata = export(trained, "onnx", tmp_path / "out", batch=2)
    assert metadata["outputs"]["depth"]["shape"] == [2, 32, 64, 1]
    loaded = FORMATS["onnx"].load(tmp_path / "out")
    assert_same_outputs(trained, loaded, 2)
    with pytest.raises(Exception, match="Got: 3 Expected: 2"):
        loaded(images_of(trained, 3))


def test_the_command_writes_what_jax_alone_loads(run, tmp_path):
    output = tmp_path / "out"
    flags = [f"--workdir={run}", "--format=stablehlo", f"--output={output}", "--size=64x32"]
    done = subprocess.run(
        [sys.executable, "-m", "emanet_jax.export", *flags, "--platforms=cpu,tpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
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
    """What is loaded back gives other depths: the older export stays as it is."""
    old = tmp_path / "out"
    old.mkdir()
    (old / artefact.METADATA).write_text("{}")
    wrong = FORMATS["stablehlo"]._replace(
        write=lambda network, folder: (folder / "model").write_bytes(b"x"),
        load=lambda folder: (
            lambda images: {
                **inference.predictor(trained)(images),
                "depth": jnp.ones((2, 32, 64, 1)),
            }
        ),
    )
    monkeypatch.setitem(formats.FORMATS, "stablehlo", wrong)
    network = artefact.network_of(trained, None)
    with pytest.raises(UserError, match=r"depth differs .* in 100\.00% of"):
        artefact.write(network, trained, "stablehlo", old, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (old / artefact.METADATA).read_text() == "{}"


def test_differences_by_hand():
    ids = np.zeros((1, 50, 50, 1), np.int32)
    depth = np.full((1, 50, 50, 1), 4.0, np.float32)
    other_ids, other_depth = ids.copy(), depth + np.float32(1e-3)
    other_ids[0, 0, :2] = 3  # 2 of 2500 pixels: a tie
    wanted = {"semseg": ids, "depth": depth}
    found = artefact.compare({"depth": other_depth, "semseg": other_ids}, wanted, "float32")
    assert found == pytest.approx({"semseg": 2 / 2500, "depth": 1e-3}, rel=1e-3)
    other_ids[0, 0, 2] = 1
    with pytest.raises(UserError, match=r"semseg differs .* 0\.12% of the pixels, by up to 3"):
        artefact.compare({"depth": depth, "semseg": other_ids}, wanted, "float32")
    with pytest.raises(UserError, match=r"depth differs .* 100\.00% of the pixels, by up to 0\.02"):
        artefact.compare({"depth": depth * 1.005, "semseg": ids}, wanted, "float32")
    with pytest.raises(UserError, match="depth differs"):
        artefact.compare({"depth": depth * np.nan, "semseg": ids}, wanted, "float32")
    for odd in ({"depth": depth}, {"depth": depth, "semseg": ids.astype(np.int64)}):
        with pytest.raises(UserError, match="the export gives"):
            artefact.compare(odd, wanted, "float32")


def _looped(x):
    """A loop with what it carries and what it leaves, from the last turn to the first."""

    def turn(total, row):
        return total + row, total * 2

    rows = jnp.stack([x, x * 2, x + 1])
    total, seen = jax.lax.scan(turn, x * 0, rows, reverse=True)
    return total + seen[0] * 3 + seen[2]


def _window(x):
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 2, 1), (1, 2, 1, 1), [(0, 0), (1, 1), (0, 1), (0, 0)]
    )


OPERATIONS = {
    "strided rows and columns": lambda x: x[:, 1::2, ::3],
    "a channel": lambda x: x[..., 1],
    "the last channels": lambda x: x[..., 1:],
    "a loop": _looped,
    "a pool": _window,
    "padding": lambda x: jnp.pad(x, [(0, 0), (1, 2), (0, 0), (0, 1)], constant_values=3),
    "classes of a tie": lambda x: jnp.argmax(x * 0, -1, keepdims=True).astype(jnp.float32),
    "a choice": lambda x: jnp.where(x > 0.5, x, jnp.arange(3.0)),
    "what is not equal": lambda x: jnp.where(x * 0 != jnp.arange(3.0), x, 0),
    "small integers": lambda x: (jnp.argmax(x, -1).astype(jnp.uint8) == 2) * x[..., 0],
    "products of a batch": lambda x: jnp.einsum("bhwc,bhvc->bhwv", x, x + 1),
    "the batch's size": lambda x: x * jnp.broadcast_to(jnp.arange(3.0), (x.shape[0], 6, 6, 3)),
    "windows": lambda x: x.reshape(-1, 3, 2, 6, 3).swapaxes(1, 3).sum(2),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "grouped convolution": lambda x: jax.lax.conv_general_dilated(
        x,
        jnp.arange(27.0).reshape(3, 3, 1, 3),
        (2, 1),
        [(0, 1), (1, 1)],
        rhs_dilation=(1, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    ),
    "a constant": lambda x: jnp.ones((2, 2)),
}


def onnx_of(function):
    """The function of x (b, 6, 6, 3) in ONNX Runtime."""
    (b,) = jax.export.symbolic_shape("b")
    spec = jax.ShapeDtypeStruct((b, 6, 6, 3), jnp.float32)
    model = to_onnx(lambda x: {"y": function(x)}, spec, RULES, "")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return lambda x: session.run(None, {"image": x})[0]


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_in_onnx(name):
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    wanted = jax.jit(OPERATIONS[name])(x)
    found = onnx_of(OPERATIONS[name])(x)
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


LACKING = {
    "'sort'": jnp.sort,
    "'gather' with places that depend on the image": lambda x: x[:, jnp.argmax(x[0, 0, :, 0])],
    "'dynamic_slice' with a place that depends": lambda x: jax.lax.dynamic_slice_in_dim(
        x, jnp.argmax(x[0, 0, :, 0]), 2, axis=1
    ),
    "'gather' with places that are no grid": lambda x: x[
        :, np.array([[0, 1], [2, 3]]), np.array([[0, 0], [1, 2]])
    ],
    "'pad' with padding between": lambda x: jax.lax.pad(
        x, 0.0, [(0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0)]
    ),
}


@pytest.mark.parametrize("words", LACKING)
def test_what_onnx_lacks_is_named(words):
    with pytest.raises(UserError, match=words):
        onnx_of(LACKING[words])


@pytest.mark.slow
@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("name, backbone", menu.NETWORKS)
def test_the_whole_menu(tmp_path, name, backbone, format_name):
    overrides = [{"implementation": x} for x in IMPLEMENTATIONS] if "ema" in name else [{}]
    for i, override in enumerate(overrides):
        run = make_run(tmp_path / f"run{i}", name, backbone, overrides=override)
        trained = inference.load(run)
        export(trained, format_name, tmp_path / f"out{i}")
        assert_same_outputs(trained, FORMATS[format_name].load(tmp_path / f"out{i}"), 3)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", [name for name, x in FORMATS.items() if x.on_xla])
def test_half_precision(tmp_path, format_name):
    run = make_run(tmp_path / "run", "ema_net", "resnet_tiny", precision="bfloat16")
    trained = inference.load(run)
    export(trained, format_name, tmp_path / "out")
    assert_same_outputs(trained, FORMATS[format_name].load(tmp_path / "out"), 3)
