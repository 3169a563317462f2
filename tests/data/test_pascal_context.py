"""PASCAL-Context's five tasks: read exactly, at sizes of their own, and nothing written back."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from emanet_jax.data import pascal_context, pipeline
from emanet_jax.errors import UserError
from emanet_jax.tasks import tasks_for
from tests.conftest import ROOT
from tests.data.layouts_pascal import (
    PART_IDS,
    VOC,
    WITHOUT_NORMALS,
    bands_of,
    config_of,
    image_name,
    paths_of,
    person,
    scene,
    structs,
    write_anno,
    write_pascal,
)
from tests.data.settings import make_augmentation

COUNTS = {"train": 4, "val": 3}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_pascal(tmp_path_factory.mktemp("pristine"), *COUNTS.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("folder")


@pytest.fixture(scope="module")
def sources(pristine, folder):
    before = _state(pristine)
    builder = pipeline.prepare(config_of(pristine, folder))
    assert _state(pristine) == before
    return {split: pipeline.load(builder, split) for split in COUNTS}


@pytest.fixture
def root(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "pascal")


def _state(root: pathlib.Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


@pytest.fixture(params=[("train", 0), ("train", 1), ("train", 2), ("train", 3), ("val", 1)])
def pair(request, sources):
    """An example and the scene that it shows, and its number."""
    split, i = request.param
    return sources[split][i], scene(split, i), i


def test_examples_are_the_files_sorted_by_id_at_their_own_sizes(sources, pristine):
    sizes = set()
    for split, count in COUNTS.items():
        source = sources[split]
        names = [source[i]["image_id"] for i in range(len(source))]
        assert names == [f"{split}/{image_name(split, i)}" for i in range(count)]
        for i in range(count):
            pixels = np.asarray(Image.open(paths_of(pristine, split, i)["image"]))
            assert np.array_equal(source[i]["image"], pixels)
            sizes.add(pixels.shape)
            for task in tasks_for("pascal_context"):
                label = source[i][task.name]
                assert label.shape == (*pixels.shape[:2], task.label_channels)
                assert label.dtype == task.label_dtype
    assert len(sizes) == 3


def test_batches_have_one_size(sources):
    tasks = tasks_for("pascal_context")
    batch = pipeline.train_dataset(
        sources["train"],
        tasks,
        batch_size=8,
        seed=0,
        augmentation=make_augmentation(flip=True, scale=(0.5, 2.0), max_class_share=0.75, hue=0.1),
        image_size=(64, 64),
    )[0]
    assert batch["image"].shape == (8, 64, 64, 3)
    for task in tasks:
        assert batch["labels"][task.name].shape == (8, 64, 64, task.label_channels)
    (first,) = pipeline.eval_batches(sources["val"], tasks, batch_size=3, image_size=(64, 64))
    for i in range(3):
        h, w, _ = sources["val"][i]["image"].shape
        for task in tasks:
            label = first["labels"][task.name][i]
            assert np.array_equal(label[:h, :w], sources["val"][i][task.name])
            assert not task.valid(label[h:]).any() and not task.valid(label[:, w:]).any()


_READ = """
import sys
sys.path.insert(0, {root!r})
from tests.data.test_pascal_context import config_of, pathlib, pipeline
config = config_of({source!r}, pathlib.Path({folder!r}))
source = pipeline.load(pipeline.prepare(config), "train")
print("shape", *source[1]["normals"].shape, "tensorflow" in sys.modules)
"""


def test_a_new_process_reads_them_without_tensorflow(sources, pristine, folder):
    program = _READ.format(root=str(ROOT), source=str(pristine), folder=str(folder))
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "shape 64 40 3 False" in run.stdout, run.stderr


def test_classes(pair):
    example, room, _ = pair
    expected = np.where(room["label"] == 12, 255, VOC[room["label"]])
    assert np.array_equal(example["semseg"][..., 0], expected)


def test_saliency_is_what_is_lighter_than_the_middle(pair):
    example, room, _ = pair
    assert np.array_equal(example["saliency"][..., 0], np.isin(room["label"], (3, 9)))


def test_edges_are_where_the_right_or_lower_neighbour_differs(pair):
    example, room, _ = pair
    label = room["label"]
    h, w = label.shape
    expected = np.zeros((h, w), np.uint8)
    for y in range(h):
        for x in range(w):
            right, below = label[y, min(x + 1, w - 1)], label[min(y + 1, h - 1), x]
            expected[y, x] = label[y, x] != right or label[y, x] != below
    assert np.array_equal(example["edge"][..., 0], expected)
    assert 0.01 < expected.mean() < 0.5


def test_normals_are_kept_on_classes_that_nyuv2_knows(pair):
    example, room, _ = pair
    normals = example["normals"]
    valid = ~np.isin(room["label"], WITHOUT_NORMALS)
    assert np.array_equal(normals.any(-1), valid)
    assert np.abs(np.linalg.norm(normals[valid], axis=-1) - 1).max() < 1e-6
    assert np.abs(normals - room["normals"])[valid].max() < 0.01  # 8 bits
    assert valid.any()


def test_persons_have_parts_and_images_without_a_person_are_ignored(pair):
    example, room, i = pair
    bands = bands_of(room["label"].shape)
    expected = np.array([*PART_IDS, 0])[bands] if i % 2 == 0 else np.full(bands.shape, 255)
    assert np.array_equal(example["human_parts"][..., 0], expected)


def test_every_part_of_a_person_has_its_group():
    groups = {
        1: "head leye reye lear rear lebrow rebrow nose mouth hair",
        2: "torso neck",
        3: "luarm ruarm",
        4: "llarm rlarm lhand rhand",
        5: "luleg ruleg",
        6: "llleg rlleg lfoot rfoot",
    }
    for group, names in groups.items():
        assert {pascal_context.PART_CLASSES[name] for name in names.split()} == {group}
    assert len(pascal_context.PART_CLASSES) == 24


def test_persons_of_many_kinds(tmp_path):
    """Two persons, one of a single part; one without parts; nobody; nothing at all."""
    size = (7, 6)
    left, right = np.full(size, -1), np.full(size, -1)
    left[:, :2] = np.arange(7)[:, None]
    right[2:4, 3:] = 0
    whole = {"class": "person", "class_ind": 15, "mask": np.ones(size, np.uint8)}
    bare = {**whole, "parts": structs([])}
    path = tmp_path / "a.mat"

    write_anno(path, [bare, person(left), person(right, names=("hair",))])
    expected = np.zeros(size)
    expected[:, :2] = np.array(PART_IDS)[:, None]
    expected[2:4, 3:] = 1
    assert np.array_equal(pascal_context.human_parts(path, size), expected)

    for objects in ([bare], [{**bare, "class": "dog"}], []):
        write_anno(path, objects)
        assert (pascal_context.human_parts(path, size) == 255).all()

    # Parts of animals are no parts of persons, whatever their names.
    write_anno(path, [{**person(left), "class": "cat"}, person(right, names=("torso",))])
    assert set(np.unique(pascal_context.human_parts(path, size))) == {0, 2}


NEEDED = {
    "semseg": ("semseg",),
    "normals": ("normals", "edge"),
    "saliency": ("saliency",),
    "edge": ("edge",),
    "human_parts": ("human_parts",),
}


@pytest.mark.parametrize("trained", NEEDED)
def test_only_the_trained_task_needs_its_files(root, sources, tmp_path, trained):
    for field in set(NEEDED) - set(NEEDED[trained]):
        paths_of(root, "train", 1)[field].unlink()
    config = config_of(root, tmp_path)
    example = pipeline.load(
        pipeline.prepare(config, tasks_for("pascal_context", [trained])), "train"
    )[0]
    assert set(example) == {"image", "image_id", *NEEDED[trained]}
    for field in NEEDED[trained]:
        assert np.array_equal(example[field], sources["train"][0][field])
    for field in NEEDED[trained]:
        path = paths_of(root, "val", 2)[field]
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(UserError, match=f"{path} cannot be read"):
            pipeline.prepare(config, tasks_for("pascal_context", [trained]))
        path.write_bytes(content)


def test_a_photo_is_turned_as_its_exif_data_say(root, tmp_path):
    """Labels must be drawn on the photo as it is shown."""
    path = paths_of(root, "train", 0)["image"]
    turned, orientation = Image.open(path).transpose(Image.Transpose.ROTATE_90), Image.Exif()
    orientation[0x0112] = 6  # turn it back
    turned.save(path, quality=95, exif=orientation)
    example = pipeline.load(pipeline.prepare(config_of(root, tmp_path)), "train")[0]
    assert np.abs(example["image"] - scene("train", 0)["image"].astype(int)).mean() < 9
    orientation[0x0112] = 1
    turned.save(path, exif=orientation)
    with pytest.raises(UserError, match=r"size \(48, 64\) .*jpg, is of the size \(64, 48\)"):
        pipeline.prepare(config_of(root, tmp_path))


def test_axes_of_normals_can_be_turned_round(pristine, sources, tmp_path):
    builder = pipeline.prepare(config_of(pristine, tmp_path, negate_normals="yz"))
    turned = pipeline.load(builder, "train")[0]["normals"]
    assert np.array_equal(turned, sources["train"][0]["normals"] * np.float32([1, -1, -1]))


def test_other_counts_are_a_warning(pristine, tmp_path, caplog):
    with caplog.at_level("WARNING", logger="absl"):
        pipeline.prepare(config_of(pristine, tmp_path))
    assert f"{pristine}: split 'train' of pascal_context has 4 images; " in caplog.text


def test_other_files_are_another_data_set(root, tmp_path):
    def name(**changes):
        data = config_of(root, tmp_path, **changes)
        return pascal_context.builder(data, tasks_for("pascal_context")).builder_config.name

    names = [name(), name(negate_normals="x")]
    assert name(image_size=(128, 128)) == names[0]
    os.utime(paths_of(root, "val", 0)["human_parts"])
    names.append(name())
    lists = root / "ImageSets" / "Context" / "train.txt"
    lists.write_text("\n".join(lists.read_text().split()[1:]))
    names.append(name())
    assert len(set(names)) == len(names)
