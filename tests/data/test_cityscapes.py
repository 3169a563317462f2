"""Cityscapes in both layouts: read exactly, in order, with the classes of its tables."""

import os
import shutil

import numpy as np
import pytest

from emanet_jax.data import cityscapes, pipeline
from emanet_jax.errors import UserError
from emanet_jax.tasks import tasks_for
from tests.data.layouts_cityscapes import (
    CATEGORIES,
    FULL,
    LABEL_IDS,
    categories,
    config_of,
    official_name,
    street,
    write_mtan_streets,
    write_official,
)
from tests.data.settings import SIZE


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine")
    write_official(folder / "official", 4, 2, FULL)
    write_mtan_streets(folder / "mtan", 12, 2, SIZE)
    return folder


@pytest.fixture(params=["official", "mtan"])
def layout(request):
    return request.param


@pytest.fixture
def roots(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "cityscapes")


def expected_label(train_ids, classes):
    return (train_ids if classes in (0, 19) else categories(train_ids))[..., None]


@pytest.mark.parametrize("classes", [0, 19, 7])
def test_official_files_are_read_by_city_and_name(pristine, tmp_path, classes):
    config = config_of(pristine / "official", tmp_path, classes=classes)
    builder = pipeline.prepare(config)
    for split, order, first in (("train", (0, 2, 1, 3), 0), ("val", (0, 1), 1000)):
        source = pipeline.load(builder, split)
        assert len(source) == len(order)
        for k, i in enumerate(order):
            example, scene = source[k], street(first + i, FULL)
            assert example["image_id"] == f"{split}/{official_name(split, i)}"
            assert np.array_equal(example["image"], scene["image"])
            assert np.array_equal(example["semseg"], expected_label(scene["train_ids"], classes))
            assert np.array_equal(example["depth"][..., 0], np.float32(scene["code"] / 65535))
            assert (example["depth"] == 0).any()
            assert (example["semseg"] == 255).any()
    for task in tasks_for("cityscapes", classes=classes):
        assert example[task.name].dtype == task.label_dtype


def test_official_files_at_a_smaller_size(pristine, tmp_path):
    """Means of colours, labels of centres; disparities keep their unit, which is the scene's."""
    config = config_of(pristine / "official", tmp_path, image_size=(32, 64))
    example = pipeline.load(pipeline.prepare(config), "train")[0]
    scene = street(0, FULL)
    means = scene["image"].reshape(32, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(example["image"] - means).max() <= 0.5
    assert np.array_equal(example["semseg"][..., 0], scene["train_ids"][1::2, 1::2])
    depth = (scene["code"] / 65535)[1::2, 1::2].astype(np.float32)
    assert np.array_equal(example["depth"][..., 0], depth)


def test_every_label_id_has_the_class_of_the_table():
    ignored = set(range(34)) - set(LABEL_IDS)
    for classes, expected in ((19, range(19)), (7, CATEGORIES)):
        table = cityscapes.train_ids(classes)
        assert [int(table[k]) for k in LABEL_IDS] == list(expected)
        assert {int(table[k]) for k in ignored} == {255}


@pytest.mark.parametrize(
    ("dtype", "label_dtype"),
    [("float32", "float32"), ("float64", "float64"), ("float32", "int64"), ("float64", "int8")],
)
@pytest.mark.parametrize("classes", [0, 7])
def test_mtan_files_are_read_in_natural_order(tmp_path, dtype, label_dtype, classes):
    root = write_mtan_streets(tmp_path / "mtan", 11, 2, SIZE, dtype, label_dtype)
    builder = pipeline.prepare(config_of(root, tmp_path, classes=classes))
    for split, count, first in (("train", 11, 0), ("val", 2, 1000)):
        source = pipeline.load(builder, split)
        names = [source[i]["image_id"] for i in range(len(source))]
        assert names == [f"{split}/{i}" for i in range(count)]
        for i in (0, count - 1):
            scene, example = street(first + i, SIZE), source[i]
            assert example["image"].dtype == np.float32
            assert np.array_equal(example["image"], np.float32(scene["image"] / 255))
            assert np.array_equal(example["semseg"], expected_label(scene["train_ids"], classes))
            assert np.array_equal(example["depth"][..., 0], np.float32(scene["code"] / 65535))


def test_both_forms_give_the_same_labels(pristine, tmp_path):
    root = write_mtan_streets(tmp_path / "mtan", 1, 1, FULL)
    one = pipeline.load(pipeline.prepare(config_of(root, tmp_path, image_size=FULL)), "train")[0]
    config = config_of(pristine / "official", tmp_path)
    other = pipeline.load(pipeline.prepare(config), "train")[0]
    for field in ("semseg", "depth"):
        assert np.array_equal(one[field], other[field])
    assert np.abs(one["image"] - other["image"] / 255).max() < 1e-6


def test_seven_classes_may_lie_in_a_folder_named_label(tmp_path):
    root = write_mtan_streets(tmp_path / "mtan", 2, 1, SIZE, folders=("label",))
    example = pipeline.load(pipeline.prepare(config_of(root, tmp_path, classes=7)), "val")[0]
    expected = categories(street(1000, SIZE)["train_ids"])
    assert np.array_equal(example["semseg"][..., 0], expected)
    with pytest.raises(UserError, match="label_19 is missing"):
        pipeline.prepare(config_of(root, tmp_path, classes=19))


def test_labels_ignored_as_255_are_read_too(roots, tmp_path):
    path = roots / "mtan" / "train" / "label_19" / "0.npy"
    before = np.load(path)
    np.save(path, np.where(before == -1, 255, before))
    example = pipeline.load(pipeline.prepare(config_of(roots / "mtan", tmp_path)), "train")[0]
    assert np.array_equal(example["semseg"][..., 0], street(0, SIZE)["train_ids"])


def test_only_the_trained_tasks_need_their_files(roots, layout, tmp_path):
    root = roots / layout
    config, all_tasks = config_of(root, tmp_path), tasks_for("cityscapes")
    expected = pipeline.load(pipeline.prepare(config), "train")[1]
    complete = pipeline.prepare(config, all_tasks[:1]).data_dir
    assert complete == pipeline.prepare(config, all_tasks).data_dir
    for split in ("train", "val"):
        shutil.rmtree(root / (f"disparity/{split}" if layout == "official" else f"{split}/depth"))
    builder = pipeline.prepare(config, all_tasks[:1])
    assert builder.data_dir != complete
    example = pipeline.load(builder, "train")[1]
    assert set(example) == {"image", "semseg", "image_id"}
    for field in ("image", "semseg"):
        assert np.array_equal(example[field], expected[field])
    for tasks in (all_tasks, all_tasks[1:]):
        with pytest.raises(UserError, match=r"(disparity|depth).* is missing"):
            pipeline.prepare(config, tasks)


def test_hidden_files_are_no_data(roots, layout, tmp_path):
    root = roots / layout

    def name():
        tasks = tasks_for("cityscapes")
        return cityscapes.builder(config_of(root, tmp_path), tasks).builder_config.name

    before = name()
    for folder in [path for path in root.rglob("*") if path.is_dir()]:
        for path in list(folder.iterdir()):
            (folder / f"._{path.name}").write_bytes(b"Mac OS X")
    assert name() == before


def test_unknown_disparities_may_be_nan_and_rounding_is_clipped(roots, tmp_path):
    path = roots / "mtan" / "train" / "depth" / "0.npy"
    depth = np.load(path)
    depth[0, :3, 0] = np.nan, 1.0000001, -0.0000001
    np.save(path, depth)
    example = pipeline.load(pipeline.prepare(config_of(roots / "mtan", tmp_path)), "train")[0]
    assert example["depth"][0, :3, 0].tolist() == [0, 1, 0]


def test_other_counts_are_a_warning(pristine, layout, tmp_path, caplog):
    root = pristine / layout
    with caplog.at_level("WARNING", logger="absl"):
        pipeline.prepare(config_of(root, tmp_path))
    count = {"official": 4, "mtan": 12}[layout]
    assert f"{root}: split 'train' of cityscapes has {count} images; " in caplog.text


def test_other_settings_or_files_are_other_data_sets(roots, layout, tmp_path):
    root = roots / layout

    def name(**changes):
        data = config_of(root, tmp_path, **changes)
        tasks = tasks_for("cityscapes", classes=data.classes)
        return cityscapes.builder(data, tasks).builder_config.name

    names = [name(), name(classes=7)]
    if layout == "official":
        names.append(name(image_size=(32, 64)))
    assert name(classes=19) == names[0]
    os.utime(sorted(root.rglob("*depth/3.npy" if layout == "mtan" else "*_disparity.png"))[0])
    names.append(name())
    assert len(set(names)) == len(names)
