"""NYUv2's own file, laid out as MATLAB 7.3 writes it: read exactly; errors are one sentence."""

import logging
import os
import shutil

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from emanet_jax.data import geometry, nyuv2, pipeline
from emanet_jax.data.normals import normals_from_depth
from emanet_jax.errors import UserError
from emanet_jax.tasks import tasks_for
from tests.data.kinect import angles
from tests.data.layouts import write_labeled
from tests.data.settings import SIZE, data_config

# Of the first twelve frames, from 1.
FRAMES = {"train": [3, 4, 5, 6, 7, 8, 10, 11, 12], "val": [1, 2, 9]}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    path = tmp_path_factory.mktemp("pristine") / nyuv2.LABELED_FILE
    return path, write_labeled(path, 12, SIZE)


@pytest.fixture
def path(pristine, tmp_path):
    return shutil.copy(pristine[0], tmp_path / nyuv2.LABELED_FILE)


def config_of(place, tmp_path, **changes):
    settings = {"dataset": "nyuv2", "layout": "labeled", "manual_dir": str(place), **changes}
    return data_config(tmp_path / "built", **settings)


def test_examples_are_the_files_frames_in_order(pristine, tmp_path):
    path, written = pristine
    builder = pipeline.prepare(config_of(path.parent, tmp_path))
    for split, frames in FRAMES.items():
        source = pipeline.load(builder, split)
        assert [source[i]["image_id"] for i in range(len(source))] == [
            f"{split}/{frame}" for frame in frames
        ]
        for i, frame in enumerate(frames):
            example, raw = source[i], {key: values[frame - 1] for key, values in written.items()}
            assert example["image"].dtype == np.uint8
            assert np.array_equal(example["image"], raw["images"])
            assert np.array_equal(example["depth"][..., 0], raw["depths"])
            assert example["semseg"].dtype == np.uint8
            assert np.array_equal(example["semseg"][..., 0], raw["ids"])
            assert (example["semseg"] == 255).any()
            assert not example["normals"][raw["rawDepths"] == 0].any()


def test_normals_are_those_of_the_rooms(tmp_path):
    path = tmp_path / nyuv2.LABELED_FILE
    written = write_labeled(path, 3, (96, 128))
    builder = pipeline.prepare(config_of(path, tmp_path, image_size=(96, 128)))
    example = pipeline.load(builder, "train")[0]
    valid = example["normals"].any(-1)
    assert valid.mean() > 0.8
    assert np.median(angles(example["normals"], written["normals"][2])[valid]) < 0.1


@pytest.mark.parametrize("image_size", [(32, 64), (64, 96), (96, 160)])
def test_other_sizes(tmp_path, image_size):
    path = tmp_path / nyuv2.LABELED_FILE
    written = write_labeled(path, 3, (64, 96))
    builder = pipeline.prepare(config_of(path, tmp_path, image_size=image_size))
    example, raw = pipeline.load(builder, "val")[1], {k: v[1] for k, v in written.items()}
    assert np.array_equal(example["image"], geometry.resize_image(raw["images"], image_size))
    h, w = image_size
    rows = np.floor((np.arange(h) + 0.5) * 64 / h).astype(int)
    columns = np.floor((np.arange(w) + 0.5) * 96 / w).astype(int)
    chosen = np.ix_(rows, columns)
    assert np.array_equal(example["semseg"][..., 0], raw["ids"][chosen])
    assert np.array_equal(example["depth"][..., 0], raw["depths"][chosen])
    normals = normals_from_depth(raw["depths"], raw["rawDepths"] > 0)
    assert np.array_equal(example["normals"], normals[chosen])


def test_forty_classes(tmp_path):
    path = tmp_path / nyuv2.LABELED_FILE
    written = write_labeled(path, 3, SIZE, classes=40)
    builder = pipeline.prepare(config_of(path, tmp_path, classes=40))
    example = pipeline.load(builder, "train")[0]
    assert np.array_equal(example["semseg"][..., 0], written["ids"][2])
    assert (example["semseg"][example["semseg"] != 255] > 12).any()
    assert tasks_for("nyuv2", classes=40)[0].channels == 40
    thirteen = pipeline.prepare(config_of(path, tmp_path, classes=13))
    expected = nyuv2.class_ids(13)[written["labels"][2]]
    assert np.array_equal(pipeline.load(thirteen, "train")[0]["semseg"][..., 0], expected)


def test_the_whole_file_has_the_official_split(path, tmp_path, monkeypatch):
    monkeypatch.setattr(nyuv2, "check_labeled", lambda *_: 1449)
    builder = nyuv2.builder(config_of(path, tmp_path), tasks_for("nyuv2"))
    assert builder.builder_config.counts == {"train": 795, "val": 654}


def test_a_part_of_the_file_is_a_warning(path, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        pipeline.prepare(config_of(path, tmp_path))
    assert "'train' of nyuv2 has 9 images; officially there are 795." in caplog.text
    assert "'val' of nyuv2 has 3 images; officially there are 654." in caplog.text


def test_other_files_and_settings_are_other_data_sets(path, tmp_path):
    def name(place=path, **changes):
        data = config_of(place, tmp_path, **changes)
        tasks = tasks_for("nyuv2", classes=data.classes)
        return nyuv2.builder(data, tasks).builder_config.name

    names = [name()]
    assert names[0].startswith("labeled13_32x64_")
    assert name(tmp_path) == name(classes=13) == names[0]
    names += [name(classes=40), name(image_size=(64, 64))]
    names.append(name(shutil.copy(path, tmp_path / "copy.mat")))
    os.utime(path, ns=(0, 0))
    names.append(name())
    assert len(set(names)) == len(names)


def _change(path, field, value, dtype=None):
    """Replaces the array `field`, or one value of it, in its twelfth frame."""
    with h5py.File(path, "r+") as file:
        if dtype is None:
            file[field][(11, *(5, 3, 2)[-(file[field].ndim - 1) :])] = value
        else:
            values = file[field][:]
            del file[field]
            file[field] = value(values).astype(dtype)


def test_only_the_trained_tasks_need_their_arrays(path, pristine, tmp_path):
    with h5py.File(path, "r+") as file:
        del file["rawDepths"]
    config = config_of(path, tmp_path)
    builder = pipeline.prepare(config, tasks_for("nyuv2", ["semseg"]))
    assert builder.builder_config.name.startswith("labeled13_32x64_semseg-depth_")
    example = pipeline.load(builder, "train")[0]
    assert set(example) == {"image", "semseg", "depth", "image_id"}
    assert np.array_equal(example["depth"][..., 0], pristine[1]["depths"][2])
    with pytest.raises(UserError, match="holds no array 'rawDepths'"):
        pipeline.prepare(config, tasks_for("nyuv2", ["normals"]))


@pytest.mark.parametrize("field", ["depths", "rawDepths"])
def test_nan_is_an_unknown_depth(path, tmp_path, field):
    _change(path, field, np.nan)
    example = pipeline.load(pipeline.prepare(config_of(path, tmp_path)), "train")[8]
    assert (example["depth"][2, 3, 0] == 0) == (field == "depths")
    assert not example["normals"][2, 3].any()


VALUE_ERRORS = {
    "label 895": ("labels", 895, r"'labels' of frame 12 must be at most 894, .* \(2, 3\) is 895"),
    "negative depth": ("depths", -1.0, r"finite and at least 0 \(metres\), .* is -1"),
    "infinite raw depth": ("rawDepths", np.inf, r"'rawDepths' of frame 12 .* is inf"),
}


@pytest.mark.parametrize("error", VALUE_ERRORS)
def test_impossible_values(path, tmp_path, error):
    field, value, words = VALUE_ERRORS[error]
    _change(path, field, value)
    _refused(path, tmp_path, words)


LAYOUT_ERRORS = {
    "upright images": (
        "images",
        lambda x: x.swapaxes(2, 3),
        "u1",
        r"'images' has the shape \(12, 3, 32, 64\)",
    ),
    "channels last": ("images", lambda x: np.moveaxis(x, 1, 3), "u1", r"'images' has the shape"),
    "grey images": ("images", lambda x: x[:, 0], "u1", r"'images' has the shape \(12, 64, 32\)"),
    "fewer depths": ("depths", lambda x: x[:3], "f4", r"'depths' has the shape \(3, 64, 32\)"),
    "no image": ("images", lambda x: x[:0], "u1", r"'images' has the shape \(0, 3, 64, 32\)"),
    "images in [0, 1]": ("images", lambda x: x / 255, "f4", "'images' is of type float32 but"),
    "depth in mm": ("depths", lambda x: x * 1000, "u2", "'depths' is of type uint16 but must be f"),
    "labels of 8 bits": ("labels", lambda x: x, "u1", "'labels' is of type uint8 but must be uint"),
}


@pytest.mark.parametrize("error", LAYOUT_ERRORS)
def test_other_shapes_and_types(path, tmp_path, error):
    field, change, dtype, words = LAYOUT_ERRORS[error]
    _change(path, field, change, dtype)
    _refused(path, tmp_path, words)


def test_a_turned_copy(path, tmp_path):
    for field in nyuv2.LABELED_FIELDS:
        dtype = nyuv2.LABELED_FIELDS[field][0]
        _change(path, field, lambda x: x.swapaxes(-1, -2), dtype)
    _refused(path, tmp_path, r"'images' has the shape \(12, 3, 32, 64\) .* w at least h")


def test_a_missing_array(path, tmp_path):
    with h5py.File(path, "r+") as file:
        del file["rawDepths"]
    words = r"no array 'rawDepths', .* it has: depths, images, instances, labels, names\."
    _refused(path, tmp_path, words)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "truncated file.*is the download complete"),
        ("beginning", "is the download complete"),
        ("empty", "is the download complete"),
        ("web page", "cannot be read as HDF5"),
        ("MATLAB 5", "it is a MATLAB 5 file"),
    ],
)
def test_files_of_another_kind(path, tmp_path, kind, words):
    if kind == "MATLAB 5":
        savemat(path, {"images": np.zeros((2, 2))})
    elif kind == "web page":
        path.write_text("<!DOCTYPE html><title>Not found</title>")
    else:
        size = {"truncated": path.stat().st_size // 2, "beginning": 300, "empty": 0}[kind]
        os.truncate(path, size)
    _refused(path, tmp_path, words)


def test_damage_inside_the_file(path, tmp_path):
    with h5py.File(path) as file:
        chunk = file["depths"].id.get_chunk_info(7)
    with open(path, "r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)
    _refused(path, tmp_path, "'depths' of frame 8 is damaged .*download the file again")


def test_too_few_images(tmp_path):
    path = tmp_path / nyuv2.LABELED_FILE
    write_labeled(path, 2, SIZE)
    _refused(path, tmp_path, "holds 2 images but needs at least 3")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"manual_dir": ""}, "manual_dir is empty; give nyu_depth_v2_labeled.mat or the folder"),
        ({"manual_dir": "/no/such/place"}, "there is no file /no/such/place"),
        ({"manual_dir": "/usr"}, r"there is no file /usr/nyu_depth_v2_labeled.mat"),
        ({"image_size": (48, 64)}, r"image_size is \(48, 64\) but needs multiples of 32"),
        ({"classes": 41}, "classes is 41"),
        ({"negate_normals": "z"}, "negate_normals is 'z' but layout 'labeled'"),
    ],
)
def test_errors_in_the_config(path, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        pipeline.prepare(config_of(path, tmp_path, **changes))


def _refused(path, tmp_path, words):
    """The build ends with one sentence that names the file, and leaves nothing behind."""
    with pytest.raises(UserError, match=words) as error:
        pipeline.prepare(config_of(path, tmp_path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "built").rglob("*.array_record*"))
    assert not list((tmp_path / "built").rglob("incomplete*"))
