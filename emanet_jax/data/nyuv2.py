"""NYUv2: 13 or 40 classes, depth and normals, from either of two layouts of files.

`mtan` reads the folder of arrays that MTAN's authors share (Liu et al., "End-to-End Multi-Task
Learning with Attention", 2019): ROOT/{train,val}/{image,label,depth,normal}/{i}.npy, 288x384.

`labeled` reads the data set's own file, nyu_depth_v2_labeled.mat (Silberman et al., "Indoor
Segmentation and Support Inference from RGBD Images", 2012), 480x640. A MATLAB 7.3 file is HDF5 with
the axes reversed, so h5py sees images (n, 3, w, h). It has 2.8 GB and is read image by image.
"""

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ml_collections import ConfigDict

from emanet_jax import menu
from emanet_jax.data import files, geometry, records
from emanet_jax.data.normals import normals_from_depth
from emanet_jax.errors import UserError
from emanet_jax.tasks import tasks_for
from emanet_jax.types import Task

SPLITS = ("train", "val")
IGNORE = 255
VERSION = "1.0.0"
LAYOUTS = menu.LAYOUTS["nyuv2"]

# Layout `mtan`: the folder of each field.
MTAN_FOLDERS = {"image": "image", "semseg": "label", "depth": "depth", "normals": "normal"}

# Layout `labeled`: type of each array, its shape with n images of h x w pixels, and the arrays that
# a task's label is made of.
LABELED_FILE = LAYOUTS["labeled"]
LABELED_FIELDS = {
    "images": (np.uint8, "(n, 3, w, h)"),
    "depths": (np.float32, "(n, w, h)"),
    "rawDepths": (np.float32, "(n, w, h)"),
    "labels": (np.uint16, "(n, w, h)"),
}
LABELED_NEEDS = {
    "semseg": ("labels",),
    "depth": ("depths",),
    "normals": ("depths", "rawDepths"),
}
RAW_CLASSES = 894
_DAMAGED = " is damaged (download the file again)"


def builder(data: ConfigDict, trained: Sequence[Task]) -> records.RecordsBuilder:
    """The builder for config.data: layout, manual_dir, image_size, classes, negate_normals.

    Raises:
        UserError: the files are not what the layout asks for, or a setting does not fit them.
    """
    return {"mtan": _mtan_builder, "labeled": _labeled_builder}[data.layout](data, trained)


# --- tables ---------------------------------------------------------------------------------------


@functools.cache
def _tables() -> dict[str, list[int]]:
    """The 894 classes' numbers among 40 and these among 13, from 1; the frames of each split."""
    return json.loads(Path(__file__).with_name("nyuv2_tables.json").read_text())


@functools.cache
def class_ids(classes: int) -> np.ndarray:
    """The id (895,) uint8 of each raw label, 0 (unlabelled) to 894; 255 = ignore.

    Args:
        classes: 13 or 40.
    """
    numbers = np.array(_tables()["forty_of_894"])
    if classes == 13:
        numbers = thirteen_of_forty()[numbers]
    return np.concatenate([[IGNORE], numbers - 1]).astype(np.uint8)


def thirteen_of_forty() -> np.ndarray:
    """The number (41,) among 13 classes of each number among 40; both start from 1, 0 = none."""
    return np.array([0, *_tables()["thirteen_of_40"]])


def frames(split: str) -> list[int]:
    """The frames, 1 to 1449 in order, of a split, "train" (795) or "val" (654, the test set)."""
    return _tables()[split]


# --- layout `mtan` --------------------------------------------------------------------------------


def _mtan_builder(data: ConfigDict, trained: Sequence[Task]) -> records.RecordsBuilder:
    if data.classes not in (0, 13):
        raise UserError(
            f"config.data.classes is {data.classes} but layout 'mtan' knows 13 classes; "
            "layout 'labeled' knows 13 and 40."
        )
    image_size = tuple(data.image_size)
    signs = files.signs(data.negate_normals)
    root = files.manual_dir(data.manual_dir, LAYOUTS["mtan"])
    needed = ("image", *(task.name for task in trained if task.name in MTAN_FOLDERS))
    listing = {split: files.numbered(root, split, MTAN_FOLDERS, needed) for split in SPLITS}
    files.check_npy_size(listing["train"][0].paths["image"], image_size)
    return records.builder_of_files(
        "nyuv2",
        version=VERSION,
        settings=f"mtan_negated-{data.negate_normals}" if data.negate_normals else "mtan",
        root=root,
        data_dir=data.data_dir,
        listing=listing,
        read=functools.partial(read_mtan, image_size=image_size, signs=signs),
        image_size=image_size,
        image_dtype="float32",
        tasks=tasks_for("nyuv2", classes=13),
        trained=trained,
    )


def read_mtan(
    paths: dict[str, Path], image_size: tuple[int, int], signs: np.ndarray
) -> dict[str, np.ndarray]:
    """Reads and checks the files of one image.

    Args:
        paths: by field; a label's may be left out.
        image_size: (h, w) that all must have.
        signs: factors (3,) of the normals' axes.

    Returns:
        image (h, w, 3) float32 in [0, 1]; of the labels that have a path, semseg (h, w, 1) uint8,
        255 = ignore; depth (h, w, 1) float32 metres, 0 = invalid; normals (h, w, 3) float32, unit
        or zero = invalid.

    Raises:
        UserError: a file cannot be read or holds something else.
    """
    example = {"image": files.load_unit_image(paths["image"], image_size)}
    if "semseg" in paths:
        example["semseg"] = files.load_classes(paths["semseg"], image_size, 13)
    if "depth" in paths:
        depth = files.load_npy(paths["depth"], (*image_size, 1), missing=0)
        rule = "at least 0 (metres)"
        example["depth"] = files.clip(paths["depth"], "depths", depth, 0, rule=rule)
    if "normals" in paths:
        normal = files.load_npy(paths["normals"], (*image_size, 3))
        inside = np.abs(normal) <= 1 + files.ROUNDING
        files.check(paths["normals"], "components", normal, inside, "between -1 and 1")
        length = np.linalg.norm(normal, axis=-1, keepdims=True)
        unit = np.divide(signs * normal, length, out=np.zeros_like(normal), where=length > 0)
        example["normals"] = unit
    return example


# --- layout `labeled` -----------------------------------------------------------------------------


def _labeled_builder(data: ConfigDict, trained: Sequence[Task]) -> records.RecordsBuilder:
    classes = data.classes or 13
    tasks = tasks_for("nyuv2", classes=classes)
    if data.negate_normals:
        raise UserError(
            f"config.data.negate_normals is '{data.negate_normals}' but layout 'labeled' computes "
            "its normals and needs no change of sign: leave it empty."
        )
    path = _labeled_path(data.manual_dir)
    with _open_labeled(path) as content:
        there = _array_names(path, content)
        stored = records.stored_tasks(
            tasks, trained, lambda task: there.issuperset(LABELED_NEEDS.get(task.name, ()))
        )
        needed = {field for task in stored for field in LABELED_NEEDS.get(task.name, ())}
        fields = [field for field in LABELED_FIELDS if field == "images" or field in needed]
        count = check_labeled(path, content, fields)
    listing = {split: [frame for frame in frames(split) if frame <= count] for split in SPLITS}
    if not all(listing.values()):
        raise UserError(f"{path} holds {count} images but needs at least 3, one of each split.")
    h, w = data.image_size

    def examples(split: str) -> Iterator[dict[str, Any]]:
        with _open_labeled(path) as content:
            for frame in listing[split]:
                arrays = read_labeled(path, content, frame, fields)
                example = make_example(arrays, (h, w), classes)
                yield {**example, "image_id": f"{split}/{frame}"}

    settings = f"labeled{classes}_{h}x{w}{records.suffix(tasks, stored)}"
    config = records.RecordsConfig(
        dataset="nyuv2",
        version=VERSION,
        name=f"{settings}_{files.fingerprint(path.parent, [path])}",
        counts={split: len(numbers) for split, numbers in listing.items()},
        examples=examples,
        image_size=(h, w),
        image_dtype="uint8",
        tasks=stored,
    )
    return records.RecordsBuilder(config=config, data_dir=data.data_dir)


def _labeled_path(manual_dir: str) -> Path:
    if not manual_dir:
        raise UserError(
            f"config.data.manual_dir is empty; give {LABELED_FILE} or the folder that holds it."
        )
    path = Path(manual_dir).expanduser().resolve()
    path = path / LABELED_FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"config.data.manual_dir: there is no file {path}.")
    return path


def _open_labeled(path: Path) -> h5py.File:
    start = b""
    try:
        with path.open("rb") as file:
            start = file.read(10)
        # Room for chunks that hold several images, so that none is unpacked twice in a row.
        return h5py.File(path, "r", rdcc_nbytes=64 * 2**20)
    except OSError as error:
        reason = "it is a MATLAB 5 file" if start == b"MATLAB 5.0" else files.one_line(error)
        raise UserError(
            f"{path} cannot be read as HDF5, which {LABELED_FILE} is ({reason}); is the download "
            "complete?"
        ) from error


def _array_names(path: Path, content: h5py.File) -> set[str]:
    with files.reading(path, _DAMAGED):
        return {field for field in LABELED_FIELDS if isinstance(content.get(field), h5py.Dataset)}


def check_labeled(path: Path, content: h5py.File, fields: Sequence[str]) -> int:
    """The number of images in a file.

    Args:
        path: of the file.
        content: of it.
        fields: the arrays that it must have, "images" among them.

    Raises:
        UserError: one is missing or has another shape or type than `LABELED_FIELDS` says.
    """
    there = _array_names(path, content)
    with files.reading(path, _DAMAGED):
        for field in fields:
            if field not in there:
                known = ", ".join(sorted(set(content) - {"#refs#", "#subsystem#"})) or "nothing"
                raise UserError(
                    f"{path} holds no array '{field}', which {LABELED_FILE} has; it has: {known}."
                )
        shape = content["images"].shape
        n, _, w, h = shape if len(shape) == 4 else (0, 0, 0, 0)
        for field in fields:
            dtype, axes = LABELED_FIELDS[field]
            array = content[field]
            expected = (n, 3, w, h) if field == "images" else (n, w, h)
            # NYUv2's images lie on their side, so an upright copy is one with its axes turned.
            if array.shape != expected or not n or w < h:
                raise UserError(
                    f"{path}: '{field}' has the shape {array.shape} but must have {axes}, the same "
                    "n, h and w as the others, w at least h: (1449, 3, 640, 480) in NYUv2's images."
                )
            if array.dtype != dtype:
                raise UserError(
                    f"{path}: '{field}' is of type {array.dtype} but must be {np.dtype(dtype)}."
                )
        return n


def read_labeled(
    path: Path, content: h5py.File, frame: int, fields: Sequence[str]
) -> dict[str, np.ndarray]:
    """The fields (h, w[, 3]) of a frame, counted from 1; NaN, where nothing is known, as 0.

    Raises:
        UserError: the file is damaged or holds impossible values.
    """
    arrays = {}
    for field in fields:
        with files.reading(path, f": '{field}' of frame {frame}{_DAMAGED}"):
            values = content[field][frame - 1].T
        what = f"'{field}' of frame {frame}"
        if field in ("depths", "rawDepths"):
            values = np.where(np.isnan(values), np.float32(0), values)
            values = files.clip(path, what, values, 0, rule="finite and at least 0 (metres)")
        if field == "labels":
            files.check(path, what, values, values <= RAW_CLASSES, f"at most {RAW_CLASSES}")
        arrays[field] = values
    return arrays


def make_example(
    fields: dict[str, np.ndarray], image_size: tuple[int, int], classes: int
) -> dict[str, np.ndarray]:
    """Image and labels at the size and in the coding of the networks, from the arrays of one image.

    The depth is the filled one, valid wherever it is positive. Normals are fitted to it where the
    sensor measured, at the file's own resolution; they are invalid elsewhere and at steps.

    Args:
        fields: images (h, w, 3) and, of depths, rawDepths and labels (h, w), those that the tasks
            need.
        image_size: of the result: the image by area (bilinear to enlarge), labels by the nearest.
        classes: 13 or 40.

    Returns:
        image (h, w, 3) uint8; of the labels whose fields are there, semseg (h, w, 1) uint8, 255 =
        ignore; depth (h, w, 1) float32 metres, 0 = invalid; normals (h, w, 3) float32, unit or
        zero = invalid.
    """
    labels = {}
    if "labels" in fields:
        labels["semseg"] = class_ids(classes)[fields["labels"]][..., None]
    if "depths" in fields:
        labels["depth"] = fields["depths"][..., None]
    if "rawDepths" in fields:
        labels["normals"] = normals_from_depth(fields["depths"], measured=fields["rawDepths"] > 0)
    resized = {task: geometry.resize_label(label, image_size) for task, label in labels.items()}
    return {"image": geometry.resize_image(fields["images"], image_size), **resized}
