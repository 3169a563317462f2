"""The data check: a good data set passes, and every problem is named by its own line."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from emanet_jax.config import default_config
from emanet_jax.data import inspection
from emanet_jax.errors import UserError
from emanet_jax.synthetic import render_room
from emanet_jax.tasks import tasks_for
from tests import forks
from tests.data.layouts import write_mtan
from tests.data.settings import data_config

TASKS = tasks_for("synthrooms")
SIZE = (64, 96)
COUNTS = {"train": 10, "val": 4}


@pytest.fixture(scope="module")
def rooms():
    return {
        "train": [render_room(0, i, SIZE) for i in range(COUNTS["train"])],
        "val": [render_room(0, 100 + i, SIZE) for i in range(COUNTS["val"])],
    }


def problems_of(examples, tasks=TASKS, expected=COUNTS):
    splits = {split: inspection.inspect(split, source, tasks) for split, source in examples.items()}
    return inspection.problems(splits, expected)


def planted(rooms, change):
    """The rooms after `change` of every example's fields."""
    return {
        split: [{**room, **change(i, room)} for i, room in enumerate(examples)]
        for split, examples in rooms.items()
    }


def test_nothing_is_wrong_with_good_rooms(rooms):
    assert problems_of(rooms) == []


def shuffled(field):
    return lambda i, room: {field: render_room(0, 90 + i, SIZE)[field]}


PROBLEMS = {
    "millimetres": (
        lambda _, room: {"depth": 1000 * room["depth"]},
        "depth: its median is ",
        "these look like millimetres, not metres",
    ),
    "too near": (
        lambda _, room: {"depth": room["depth"] / 100},
        "depth: its median is ",
        "too near",
    ),
    "shifted labels": (
        lambda _, room: {"semseg": np.roll(room["semseg"], (3, -4), (0, 1))},
        "semseg: shifted against the image",
        "moved -3 pixels down and 4 to the right",
    ),
    "shifted depth": (
        lambda _, room: {"depth": np.roll(room["depth"], 5, 1)},
        "depth: shifted against the image",
        "moved 0 pixels down and -5 to the right",
    ),
    "flipped normals": (
        lambda _, room: {"normals": room["normals"] * np.array([1, -1, -1], np.float32)},
        "normals: the sign of yz is opposite",
        "config.data.negate_normals=yz",
    ),
    "mirrored normals": (
        lambda _, room: {"normals": room["normals"] * np.array([-1, 1, 1], np.float32)},
        "normals: the sign of x is opposite",
        "config.data.negate_normals=x",
    ),
    "swapped axes": (
        lambda _, room: {"normals": room["normals"][..., [2, 0, 1]]},
        "normals: ",
        "normals from depth",
    ),
    "constant field": (
        lambda _, room: {"depth": np.full_like(room["depth"], 2.5)},
        "depth: all pixels of all images have the same value, 2.5",
        "",
    ),
    "constant image": (
        lambda _, room: {"image": np.full_like(room["image"], 7)},
        "image: all pixels of all images have the same colour, (7, 7, 7)",
        "",
    ),
    "all invalid": (
        lambda _, room: {"normals": np.zeros_like(room["normals"])},
        "normals: no pixel of any image is valid",
        "",
    ),
    "label above the classes": (
        lambda _, room: {"semseg": np.where(room["semseg"] == 11, 40, room["semseg"])},
        "semseg: ",
        "have the label 40, but there are 13 classes: 0 to 12",
    ),
    "normals not of length 1": (
        lambda _, room: {"normals": 0.8 * room["normals"]},
        "normals: 100 % of the valid vectors do not have the length 1",
        "",
    ),
    "not finite": (
        lambda i, room: {"depth": np.where(room["depth"] > 3, np.float32("nan"), room["depth"])},
        "depth: ",
        "pixels are NaN or infinite",
    ),
    "dark image": (lambda _, room: {"image": room["image"] // 255}, "image: ", "black"),
    "image range": (
        lambda _, room: {"image": room["image"].astype(np.float32)},
        "image: values lie between ",
        "not between 0 and 1",
    ),
}


@pytest.mark.parametrize("change, start, end", PROBLEMS.values(), ids=PROBLEMS)
def test_a_problem_is_named_by_its_own_line_and_no_other_field_is_blamed(rooms, change, start, end):
    lines = problems_of(planted(rooms, change))
    field = start.partition(":")[0]
    assert lines
    assert all(line.split("/")[1].startswith(f"{field}: ") for line in lines), lines
    hits = [line for line in lines if line.startswith(f"train/{start}") and end in line]
    assert len(hits) == 1, lines


def test_labels_of_other_images_are_found(rooms):
    lines = problems_of(planted(rooms, shuffled("semseg")))
    assert any(line.startswith("train/semseg: ") for line in lines), lines
    assert not any("depth" in line for line in lines)


def test_swapped_splits_and_missing_images(rooms):
    swapped = {"train": rooms["val"], "val": rooms["train"]}
    assert problems_of(swapped) == [
        "the splits are exchanged: train 4 and val 10 instead of train 10 and val 4"
    ]
    assert problems_of({**rooms, "train": rooms["train"][:9]}) == [
        "train: there are 9 images where 10 are expected"
    ]


def test_normals_without_depth_are_judged_by_the_floor_and_the_camera(rooms):
    tasks = tuple(task for task in TASKS if task.name != "depth")
    assert problems_of(rooms, tasks) == []
    signs = np.array([1, -1, -1], np.float32)
    lines = problems_of(planted(rooms, lambda _, room: {"normals": signs * room["normals"]}), tasks)
    assert any("looks away from the camera" in line for line in lines)
    assert any("the floor's mean is" in line for line in lines)


def test_disparity_is_no_distance_and_other_tasks_have_two_values(rooms):
    tasks = tasks_for("cityscapes")
    examples = planted(rooms, lambda _, room: {"depth": (room["depth"] > 0) / (1 + room["depth"])})
    assert problems_of(examples, tasks) == []
    edges = tuple(task for task in tasks_for("pascal_context") if task.name == "edge")
    lines = problems_of(planted(rooms, lambda _, room: {"edge": room["semseg"]}), edges)
    assert any("there are 2 classes: 0 to 1" in line for line in lines)


def test_colours_may_leave_their_range_by_rounding(rooms):
    def scaled(highest):
        return planted(rooms, lambda _, room: {"image": np.float32(highest / 255) * room["image"]})

    assert problems_of(scaled(1.0000002)) == []
    lines = problems_of(scaled(1.1))
    assert lines and all("image: values lie between " in line for line in lines)


def test_labels_that_are_there_are_checked_and_others_need_not_be(folder, tmp_path, capsys):
    root = shutil.copytree(folder, tmp_path / "nyuv2")
    for split in COUNTS:
        shutil.rmtree(root / split / "normal")
    config = default_config()
    config.data.update(data_config(tmp_path, dataset="nyuv2", manual_dir=str(root)))
    config.data.image_size, config.tasks = SIZE, ("semseg",)
    inspection.check(config, tmp_path / "figures", 1, ["train=6", "val=3"])
    shown = capsys.readouterr().out
    assert "  semseg " in shown and "  depth " in shown and "  normals " not in shown
    config.tasks = ("semseg", "normals")
    with pytest.raises(UserError, match="train/normal is missing"):
        inspection.check(config, tmp_path / "figures", 1)


def test_images_of_any_size_fit_into_one_figure():
    sizes = ((64, 96), (96, 64), (80, 80), (64, 64))
    examples = [render_room(0, i, size) for i, size in enumerate(sizes)]
    assert inspection.figure(examples, TASKS, 3).shape[1] > 4 * 96
    sums = inspection.inspect("train", examples, TASKS)
    assert sums.problems() == []
    assert "and 3 others" in inspection.report("train", sums)


def test_expected_counts():
    rooms = data_config("x", dataset="synthrooms", layout="")
    assert inspection.expected_counts(rooms, []) == {"train": 10, "val": 3}
    nyuv2 = data_config("x", dataset="nyuv2", train_examples=0, val_examples=0)
    assert inspection.expected_counts(nyuv2, []) == {"train": 795, "val": 654}
    assert inspection.expected_counts(nyuv2, ["val=3"]) == {"train": 795, "val": 3}
    for wrong in ("test=3", "val", "val=few"):
        with pytest.raises(UserError, match=f"--expect={wrong} is not understood"):
            inspection.expected_counts(nyuv2, [wrong])


def test_a_figure_has_at_least_one_row(tmp_path):
    config = default_config()
    config.data.update(data_config(tmp_path, layout=""))
    with pytest.raises(UserError, match="--images=0"):
        inspection.check(config, tmp_path, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_mtan(tmp_path_factory.mktemp("nyuv2"), 6, 3, SIZE)


def command(*args: str) -> subprocess.CompletedProcess:
    """The command line in its own process."""
    return forks.python("-m", "emanet_jax.data.check", *args)


def arguments(folder, place):
    return [
        "--config=configs/nyuv2.py",
        f"--config.data.manual_dir={folder}",
        f"--config.data.image_size={SIZE}",
        f"--config.data.data_dir={place / 'records'}",
        f"--output={place / 'figures'}",
    ]


def test_the_command_passes_a_good_folder(folder, tmp_path):
    done = command(*arguments(folder, tmp_path), "--expect=train=6,val=3", "--images=2")
    assert done.returncode == 0, done.stdout + done.stderr
    for word in (
        "train: 6 images",
        "val: 3 images",
        "64x96x3",
        "mean normal of floor: (",
        "mean normal of wall: (",
        "median angle 0.",
        "floor 1",
        "Nothing looks wrong.",
    ):
        assert word in done.stdout
    for split in COUNTS:
        with Image.open(tmp_path / "figures" / f"{split}.png") as picture:
            assert picture.width > 4 * 200  # image, semseg, depth, normals


def test_the_command_names_what_is_wrong_and_exits_with_1(folder, tmp_path):
    for split in COUNTS:
        for path in (folder / split / "depth").iterdir():
            place = tmp_path / split / "depth"
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / path.name, 1000 * np.load(path))
        for field in ("image", "label", "normal"):
            (tmp_path / split / field).symlink_to(folder / split / field)
    done = command(*arguments(tmp_path, tmp_path))
    assert done.returncode == 1
    wrong = [line for line in done.stdout.splitlines() if line.startswith("wrong: ")]
    assert len(wrong) == 4
    assert wrong[0] == "wrong: train: there are 6 images where 795 are expected."
    assert wrong[2].startswith("wrong: train/depth: ")
    assert wrong[2].endswith("these look like millimetres, not metres.")


@pytest.mark.parametrize(
    "args, sentence",
    [
        ([], "--config is missing"),
        (["--config=configs/nyuv2.py"], "config.data.manual_dir is empty"),
    ],
)
def test_a_wrong_command_is_one_line(args, sentence):
    done = command(*args)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert sentence in lines[0]
