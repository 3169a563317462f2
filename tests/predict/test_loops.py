"""Images of any size through a network, and the files that come of photos."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from emanet_jax import inference
from emanet_jax.errors import UserError
from emanet_jax.network import abstract_variables, make_network
from emanet_jax.ops import bilinear
from emanet_jax.predict import figures, loops, photos
from emanet_jax.training import workdir
from emanet_jax.training.checkpoint import Checkpoints
from emanet_jax.training.experiment import checkpoint_policy, first_state
from tests import tiny
from tests.helpers import TASKS

SIZE = (32, 64)
PICTURE = np.random.default_rng(0).integers(0, 256, (24, 36, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run that has not been trained."""
    directory = epath.Path(tmp_path_factory.mktemp("run"))
    config = tiny.get_config("model=hps")
    with config.unlocked():
        config.model.overrides = {}
    tasks, model = make_network(config)
    (directory / workdir.CONFIG).write_text(workdir.to_json(config))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: rng.uniform(0.01, 0.2, x.shape).astype(x.dtype), abstract_variables(model, SIZE)
    )
    policy = checkpoint_policy(config, tasks)
    with Checkpoints(directory / workdir.CHECKPOINTS, policy) as checkpoints:
        checkpoints.save(first_state(config, tasks, variables), 0)
    return directory


@pytest.mark.parametrize("size", [(70, 100), (33, 500), SIZE])
def test_maps_are_resized_before_their_activation(linear, size, monkeypatch):
    rng = np.random.default_rng(2)
    before = {t.name: rng.normal(size=(*SIZE, t.channels)).astype(np.float32) for t in TASKS}
    raw = {t.name: (before[t.name], np.asarray(t.activation(before[t.name]))) for t in TASKS}
    expected = {
        t.name: t.activation(bilinear(jnp.array(before[t.name][None]), size)) for t in TASKS
    }
    found = [inference.Predictor(linear, 1).maps(raw, size)]
    monkeypatch.setattr(inference, "_PIECE", 320)  # several bands, and rows that are longer
    found.append(inference.Predictor(linear, 1).maps(raw, size))
    for maps in found:
        assert maps["semseg"].dtype == np.uint8 and maps["depth"].dtype == np.float32
        np.testing.assert_allclose(maps["depth"], expected["depth"][0], atol=1e-4)
        np.testing.assert_allclose(maps["normals"], expected["normals"][0], atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(maps["normals"], axis=-1), 1, atol=1e-5)
        assert (maps["semseg"] == expected["semseg"][0]).mean() > 0.999


def test_a_map_shrinks_by_means(linear):
    raw = {t.name: (np.ones((*SIZE, t.channels), np.float32), None) for t in TASKS}
    raw["depth"][0][:, ::2] = 3.0
    maps = inference.Predictor(linear, 1).maps(raw, (4, 4))
    np.testing.assert_allclose(maps["depth"], 2, atol=0.1)


def test_batches_mix_sizes_and_nothing_is_compiled_anew(linear):
    traced = []

    def counted(task):
        def activation(prediction):
            traced.append(task.name)
            return task.activation(prediction)

        return dataclasses.replace(task, activation=activation)

    network = inference.Predictor(linear._replace(tasks=tuple(map(counted, TASKS))), 3)
    images = [np.full((*size, 3), k, np.uint8) for k, size in enumerate([(9, 70), (64, 64), SIZE])]
    together, alone = network.raw(images), [network.raw([image])[0] for image in images]
    for k, image in enumerate(images):
        np.testing.assert_array_equal(together[k]["depth"][0], alone[k]["depth"][0])
        value = np.full(3, k / 255) @ linear.variables["depth"]
        maps = network.maps(together[k], image.shape[:2])
        assert maps["depth"].shape == (*image.shape[:2], 1)
        np.testing.assert_allclose(maps["depth"], value[0], atol=1e-6)
    # Once in the network, once by itself.
    assert sorted(traced) == sorted(2 * [task.name for task in TASKS])


def test_arrays_of_a_run_are_what_steps_predict_gives(run, tmp_path):
    trained = inference.load_trained(run)
    source, out = tmp_path / "photos", tmp_path / "out"
    rng = np.random.default_rng(3)
    pictures = {
        "exact": rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8),
        "large": rng.integers(0, 256, (50, 90, 3)).astype(np.uint8),
        "tall": rng.integers(0, 256, (90, 20, 3)).astype(np.uint8),
    }
    source.mkdir()
    for name, picture in pictures.items():
        Image.fromarray(picture).save(source / f"{name}.png")
    (source / "bad.png").write_bytes(b"bad")
    out.mkdir()
    (out / "large.npz").write_text("of an earlier start")
    (out / "mine.txt").write_text("mine")

    network = inference.Predictor(trained, 2)
    paths = photos.find([str(source)])
    assert loops.write_photos(network, paths, out) == [source / "bad.png"]
    names = [f"{name}.{ending}" for name in pictures for ending in ("npz", "png")]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "mine.txt"])

    batch = np.stack([pictures["exact"], np.zeros((*SIZE, 3), np.uint8)])  # without bad.png
    expected = inference.predictor(trained)(batch)
    for name, picture in pictures.items():
        h, w = picture.shape[:2]
        with np.load(out / f"{name}.npz") as arrays:
            assert set(arrays) == {"semseg", "depth", "normals"}
            assert [arrays[x].shape for x in arrays] == [(h, w), (h, w), (h, w, 3)]
            assert [str(arrays[x].dtype) for x in arrays] == ["uint8", "float32", "float32"]
            if name == "exact":
                for task, values in expected.items():
                    values = np.asarray(values)[0].reshape(arrays[task].shape)
                    np.testing.assert_allclose(arrays[task], values, rtol=2**-13)
                    if values.dtype == np.float32:  # the other digits are zeros
                        assert not (arrays[task].view(np.uint32) & (2**11 - 1)).any()
        with Image.open(out / f"{name}.png") as figure:
            assert max(figure.size) > 560


def test_photos_are_never_written_over(linear, tmp_path):
    photo = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(photo)
    before = photo.read_bytes()
    network = inference.Predictor(linear, 1)
    with pytest.raises(UserError, match="would write over the photo"):
        loops.write_photos(network, [photo], tmp_path)
    assert loops.write_photos(network, [photo], tmp_path, ["npz"]) == []
    assert photo.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "a.png"]


def test_plain_maps_and_overlays_are_the_arrays(linear, tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    weights = linear.variables | {"depth": np.array([[150.0], [-100.0], [0.0]], np.float32)}
    network = inference.Predictor(linear._replace(variables=weights), 1)
    out = tmp_path / "out"
    loops.write_photos(network, [tmp_path / "a.png"], out, ["png", "overlay", "npz"])
    files = ["a.npz", "a_depth.png", "a_semseg.png", "a_semseg_overlay.png"]
    assert sorted(path.name for path in out.iterdir()) == files
    pictures = {}
    for name in files[1:]:
        with Image.open(out / name) as picture:
            pictures[name] = np.asarray(picture)
    with np.load(out / "a.npz") as arrays:
        ids, metres = arrays["semseg"], arrays["depth"]
    np.testing.assert_array_equal(pictures["a_semseg.png"], ids)
    assert pictures["a_semseg.png"].dtype == np.uint8
    millimetres = pictures["a_depth.png"]
    assert millimetres.dtype == np.uint16 and metres.max() > 66 > 0 > metres.min()
    expected = np.clip(metres.astype(np.float64) * 1000, 0, 65535)
    assert (abs(millimetres - expected) <= 0.5 + expected * 2**-13).all()  # arrays are rounded
    overlay = figures.overlay(PICTURE, ids[..., None], TASKS[0])
    np.testing.assert_array_equal(pictures["a_semseg_overlay.png"], overlay)


def test_what_leaves_nothing_to_write_or_writes_twice_is_one_sentence(linear, tmp_path):
    for name in ("a.png", "a_semseg.png"):
        Image.fromarray(PICTURE).save(tmp_path / name)
    paths = photos.find([str(tmp_path)])
    network = inference.Predictor(linear, 1)
    with pytest.raises(UserError, match=r"would get .*out/a_semseg\.png from two photos"):
        loops.write_photos(network, paths, tmp_path / "out", ["figure", "png"])
    normals = [task for task in TASKS if task.name == "normals"]
    network = inference.Predictor(linear._replace(tasks=tuple(normals)), 1)
    with pytest.raises(
        UserError, match=r"--save=png,overlay leaves nothing to write: .*, normals,"
    ):
        loops.write_photos(network, paths, tmp_path / "out", ["png", "overlay"])
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_is_one_sentence(linear, tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    network = inference.Predictor(linear, 1)
    (tmp_path / "out" / "a.npz").mkdir(parents=True)
    with pytest.raises(UserError, match=r"out/a\.npz cannot be written: .*irectory"):
        loops.write_photos(network, [tmp_path / "a.png"], tmp_path / "out", ["npz"])
    assert not list(tmp_path.rglob("*.part"))
    with pytest.raises(UserError, match=r"a\.png cannot be made: File exists"):
        loops.write_photos(network, [tmp_path / "a.png"], tmp_path / "a.png", ["npz"])
