"""NYUv2 in MTAN's layout: read exactly; an error is one sentence that names the file."""

import hashlib
import os
import pathlib
import shutil

import numpy as np
import pytest

from emanet_jax.data import nyuv2, pipeline
from emanet_jax.errors import UserError
from emanet_jax.tasks import tasks_for
from tests.data.layouts import write_mtan
from tests.data.settings import SIZE, data_config


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_mtan(tmp_path_factory.mktemp("pristine"), 12, 2, SIZE)


@pytest.fixture
def root(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "nyuv2")


def config_of(root, tmp_path, **changes):
    settings = {"dataset": "nyuv2", "manual_dir": str(root), **changes}
    return data_config(tmp_path / "built", **settings)


@pytest.mark.parametrize(
    ("dtype", "label_dtype"),
    [("float32", None), ("float64", None), ("float32", "int64"), ("float64", "int8")],
)
def test_examples_are_the_files_in_natural_order(tmp_path, dtype, label_dtype):
    root = write_mtan(tmp_path / "nyuv2", 12, 2, SIZE, dtype, label_dtype)
    builder = pipeline.prepare(config_of(root, tmp_path))
    for split, count in (("train", 12), ("val", 2)):
        source = pipeline.load(builder, split)
        assert [source[i]["image_id"] for i in range(len(source))] == [
            f"{split}/{i}" for i in range(count)
        ]
        for i in (0, count - 1):
            raw = {f: np.load(root / split / f / f"{i}.npy") for f in nyuv2.MTAN_FOLDERS.values()}
            example = source[i]
            assert example["image"].dtype == np.float32
            assert np.array_equal(example["image"], raw["image"].astype(np.float32))
            assert np.array_equal(example["depth"], raw["depth"].astype(np.float32))
            assert np.allclose(example["normals"], raw["normal"], atol=1e-6)
            label = raw["label"].astype(np.int64)
            label[label == -1] = 255
            assert example["semseg"].dtype == np.uint8
            assert np.array_equal(example["semseg"][..., 0], label)
            assert (example["semseg"] == 255).any()
            invalid = ~raw["normal"].any(-1)
            assert invalid.any()
            assert not example["normals"][invalid].any()


def test_normals_become_unit_vectors_and_axes_can_be_negated(root, tmp_path):
    path = root / "train" / "normal" / "0.npy"
    normal = np.zeros((*SIZE, 3), np.float32)
    normal[:16] = (0.1, 0.2, -0.2)
    np.save(path, normal)
    for axes, expected in (("", (1, 2, -2)), ("z", (1, 2, 2)), ("xy", (-1, -2, -2))):
        builder = pipeline.prepare(config_of(root, tmp_path, negate_normals=axes))
        stored = pipeline.load(builder, "train")[0]["normals"]
        assert np.allclose(stored[:16], np.array(expected) / 3, atol=1e-6)
        assert not stored[16:].any()


def test_another_image_size(tmp_path):
    root = write_mtan(tmp_path / "nyuv2", 2, 1, (64, 96))
    builder = pipeline.prepare(config_of(root, tmp_path, image_size=(64, 96)))
    assert pipeline.load(builder, "val")[0]["image"].shape == (64, 96, 3)


def test_other_counts_than_nyus_are_a_warning(root, tmp_path, caplog):
    with caplog.at_level("WARNING", logger="absl"):
        pipeline.prepare(config_of(root, tmp_path))
    assert f"{root}: split 'train' of nyuv2 has 12 images; officially there are 795" in caplog.text


def _name(root, tmp_path, *names) -> str:
    tasks = tasks_for("nyuv2", names or None)
    return nyuv2.builder(config_of(root, tmp_path), tasks).builder_config.name


def test_changed_or_other_folders_are_other_data_sets(root, pristine, tmp_path):
    names = [_name(root, tmp_path)]
    assert names[0].startswith("mtan_")
    assert _name(root, tmp_path) == names[0]
    names.append(_name(pristine, tmp_path))
    path = root / "train" / "depth" / "3.npy"
    np.save(path, np.load(path) + 1)
    names.append(_name(root, tmp_path))
    os.utime(path, ns=(0, 0))
    names.append(_name(root, tmp_path))
    for field in nyuv2.MTAN_FOLDERS.values():
        (root / "val" / field / "1.npy").unlink()
    names.append(_name(root, tmp_path))
    assert len(set(names)) == len(names)


def test_a_changed_folder_is_built_anew(root, tmp_path):
    first = pipeline.load(pipeline.prepare(config_of(root, tmp_path)), "train")[3]["depth"]
    path = root / "train" / "depth" / "3.npy"
    np.save(path, np.load(path) * 2)
    second = pipeline.load(pipeline.prepare(config_of(root, tmp_path)), "train")[3]["depth"]
    assert np.array_equal(second, 2 * first)


def test_all_files_are_one_data_set_whatever_is_trained(root, tmp_path):
    """Its name is of the folder and of all files, example by example."""
    digest = hashlib.sha256(str(root).encode())
    for split, count in (("train", 12), ("val", 2)):
        for i in range(count):
            for field in ("image", "label", "depth", "normal"):
                name = f"{split}/{field}/{i}.npy"
                state = (root / name).stat()
                digest.update(f"{name} {state.st_size} {state.st_mtime_ns}\n".encode())
    assert _name(root, tmp_path) == f"mtan_{digest.hexdigest()[:12]}"
    assert _name(root, tmp_path, "depth") == _name(root, tmp_path)


def test_only_the_trained_tasks_need_their_files(root, tmp_path):
    (root / "val" / "normal" / "1.npy").unlink()  # one file alone: its task cannot be trained
    shutil.rmtree(root / "train" / "depth")
    config = config_of(root, tmp_path)
    builder = pipeline.prepare(config, tasks_for("nyuv2", ["semseg"]))
    assert builder.builder_config.name.startswith("mtan_semseg_")
    example = pipeline.load(builder, "val")[1]
    assert set(example) == {"image", "semseg", "image_id"}
    assert np.array_equal(example["image"], np.load(root / "val" / "image" / "1.npy"))
    with pytest.raises(UserError, match="train/depth is missing"):
        pipeline.prepare(config)
    with pytest.raises(UserError, match=r"val/normal/1\.npy is missing"):
        pipeline.prepare(config, tasks_for("nyuv2", ["semseg", "normals"]))


def test_records_of_fewer_tasks_are_not_taken_for_those_of_more(root, tmp_path):
    config, aside = config_of(root, tmp_path), tmp_path / "aside"
    for split in ("train", "val"):
        (root / split / "normal").rename(aside.with_suffix(f".{split}"))
    fewer = pipeline.prepare(config, tasks_for("nyuv2", ["depth"]))
    assert {"semseg", "depth"} <= set(fewer.info.features)
    for split in ("train", "val"):
        aside.with_suffix(f".{split}").rename(root / split / "normal")
    for names in (["depth"], None, ["normals"]):
        builder = pipeline.prepare(config, tasks_for("nyuv2", names))
        assert set(pipeline.load(builder, "train")[0]) >= {"semseg", "depth", "normals"}
    assert builder.data_dir != fewer.data_dir


def test_hidden_files_are_no_data(root, tmp_path):
    name = _name(root, tmp_path)
    for field in nyuv2.MTAN_FOLDERS.values():
        for hidden in ("._0.npy", ".DS_Store", "Thumbs.db"):
            (root / "train" / field / hidden).write_bytes(b"Mac OS X")
    assert _name(root, tmp_path) == name


def test_rounding_is_clipped_and_nan_and_255_are_unknown(root, tmp_path):
    def change(field, dtype, *values):
        path = root / "train" / field / "0.npy"
        array = np.load(path).astype(dtype)
        array[0, : len(values)] = np.reshape(values, (-1, *[1] * (array.ndim - 2)))
        np.save(path, array)

    change("image", np.float32, 1.0000001, -0.0000001)
    change("label", np.uint8, 255, 3)
    change("depth", np.float64, np.nan, -1e-7, 2)
    example = pipeline.load(pipeline.prepare(config_of(root, tmp_path)), "train")[0]
    assert (example["image"][0, 0] == 1).all() and (example["image"][0, 1] == 0).all()
    assert example["semseg"][0, :2, 0].tolist() == [255, 3]
    assert example["depth"][0, :3, 0].tolist() == [0, 0, 2]


# Errors of one file: the content saved in its place, and words of the message.
LABEL, IMAGE = np.zeros(SIZE, np.float32), np.full((*SIZE, 3), 0.5, np.float32)


def _with(array, value):
    changed = array.copy()
    changed[(3, 5, 0)[: array.ndim]] = value
    return changed


FILE_ERRORS = {
    "label of another shape": ("label", LABEL[..., None], r"shape \(32, 64, 1\) .* \(32, 64\)"),
    "image too small": ("image", IMAGE[:16], r"shape \(16, 64, 3\) .* \(32, 64, 3\)"),
    "channels first": ("normal", IMAGE.transpose(2, 0, 1), r"shape \(3, 32, 64\)"),
    "depth without channel": ("depth", LABEL, r"shape \(32, 64\) .* \(32, 64, 1\)"),
    "image of bytes": ("image", IMAGE.astype(np.uint8), "type uint8 .* float32 or float64"),
    "half precision": ("depth", LABEL[..., None].astype(np.float16), "type float16"),
    "text": ("label", np.full(SIZE, "a"), "type <U1 .* integer"),
    "booleans": ("label", np.zeros(SIZE, bool), "type bool"),
    "class 13": ("label", _with(LABEL, 13), r"whole, 0 to 12 or .*, but .* \(3, 5\) is 13"),
    "class -2": ("label", _with(LABEL, -2), "is -2"),
    "class 1.5": ("label", _with(LABEL, 1.5), "is 1.5"),
    "class 254": ("label", np.full(SIZE, 254, np.uint8), "is 254"),
    "NaN label": ("label", _with(LABEL, np.nan), r"finite, .* \(3, 5\) is nan"),
    "NaN image": ("image", _with(IMAGE, np.nan), r"finite, .* \(3, 5, 0\) is nan"),
    "infinite depth": ("depth", _with(LABEL[..., None], np.inf), "finite, .* is inf"),
    "depth beyond float32": ("depth", np.full((*SIZE, 1), 1e60), "finite"),
    "negative depth": ("depth", _with(LABEL[..., None], -1), "at least 0 .* is -1"),
    "NaN normal": ("normal", _with(IMAGE, np.nan), "finite"),
    "long normal": ("normal", _with(IMAGE, 1.5), "between -1 and 1, .* is 1.5"),
    "image up to 255": ("image", IMAGE * 510, r"between 0 and 1, .* is 255\."),
    "image up to 1.002": ("image", _with(IMAGE, 1.002), r"between 0 and 1, .* is 1\.002\."),
    "negative image": ("image", _with(IMAGE, -0.1), "between 0 and 1, .* is -0.1"),
}


@pytest.mark.parametrize("error", FILE_ERRORS)
def test_errors_in_a_file(root, tmp_path, error):
    field, content, words = FILE_ERRORS[error]
    path = root / "train" / field / "10.npy"
    np.save(path, content)
    _refused(root, tmp_path, str(path), words)


@pytest.mark.parametrize("kind", ["truncated", "empty", "garbage", "pickle", "archive", "folder"])
@pytest.mark.parametrize("index", [0, 7])
def test_files_that_are_no_arrays(root, tmp_path, kind, index):
    path = root / "train" / "image" / f"{index}.npy"
    if kind == "truncated":
        os.truncate(path, path.stat().st_size - 10)
    elif kind == "pickle":
        np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    elif kind == "archive":
        np.savez(path.with_suffix(".npz"), image=IMAGE)
        path.with_suffix(".npz").rename(path)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "garbage": b"not an array at all"}[kind])
    _refused(root, tmp_path, str(path), "cannot be read as a NumPy array file")


def _remove_field(root):
    shutil.rmtree(root / "val" / "depth")
    return str(root / "val" / "depth"), "is missing"


def _remove_split(root):
    shutil.rmtree(root / "val")
    return str(root / "val" / "image"), "is missing"


def _empty_field(root):
    for path in (root / "train" / "image").iterdir():
        path.unlink()
    return str(root / "train" / "image"), "holds no .npy files"


def _remove_file(root):
    path = root / "train" / "normal" / "4.npy"
    path.unlink()
    return str(path), "must hold the same numbers"


def _remove_image(root):
    path = root / "train" / "image" / "4.npy"
    path.unlink()
    return str(path), "must hold the same numbers"


def _odd_name(root):
    path = root / "train" / "label" / "0007.npy"
    np.save(path, LABEL)
    return str(path), "must be a number such as 0.npy"


@pytest.mark.parametrize(
    "error",
    [_remove_field, _remove_split, _empty_field, _remove_file, _remove_image, _odd_name],
    ids=lambda error: error.__name__,
)
def test_errors_in_the_folder(root, tmp_path, error):
    place, words = error(root)
    _refused(root, tmp_path, place, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"manual_dir": ""}, "manual_dir is empty; give the folder"),
        ({"manual_dir": "/no/such/folder"}, "there is no folder /no/such/folder"),
        ({"image_size": (288, 384)}, r"\(32, 64, 3\) but config.data.image_size is \(288, 384\)"),
        ({"negate_normals": "w"}, "negate_normals is 'w'"),
        ({"layout": "labelled"}, "layout is 'labelled'; choose from mtan, labeled"),
        ({"classes": 40}, "classes is 40 but layout 'mtan' knows 13 classes"),
    ],
)
def test_errors_in_the_config(root, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        pipeline.prepare(config_of(root, tmp_path, **changes))


def test_a_size_that_no_network_takes(tmp_path):
    root = write_mtan(tmp_path / "nyuv2", 1, 1, (40, 64))
    with pytest.raises(UserError, match="multiples of 32"):
        pipeline.prepare(config_of(root, tmp_path, image_size=(40, 64)))


def _refused(root: pathlib.Path, tmp_path: pathlib.Path, place: str, words: str) -> None:
    """The build ends with one sentence that names the place, and leaves nothing behind."""
    with pytest.raises(UserError, match=words) as error:
        pipeline.prepare(config_of(root, tmp_path))
    assert place in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")
    assert not list((tmp_path / "built").rglob("*.array_record*"))
    assert not list((tmp_path / "built").rglob("incomplete*"))
