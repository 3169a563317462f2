"""NYUv2: 13 or 40 classes, depth and normals, from either of two layouts of files.

`mtan` reads the folder of arrays that MTAN's authors share (Liu et al., "End-to-End Multi-Task
Learning with Attention", 2019): ROOT/{train,val}/{image,label,depth,normal}/{i}.npy, 288x384.

`labeled` reads the data set's own file, nyu_depth_v2_labeled.mat (Silberman et al., "Indoor
Segmentation and Support Inference from RGBD Images", 2012), 480x640. A MATLAB 7.3 file is HDF5 with
the axes reversed, so h5py sees images (n, 3, w, h). It has 2.8 GB and is read image by image.
"""

import functools
import json
from collections.abc import Iterator
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

SPLITS = ("train", "val")
IGNORE = 255
VERSION = "1.0.0"
LAYOUTS = menu.LAYOUTS["nyuv2"]

# Layout `mtan`: the folder of each field and the number of its channels; 0: no channel axis.
MTAN_FIELDS = {"image": 3, "label": 0, "depth": 1, "normal": 3}

# Layout `labeled`: type of each field's array, and its shape with n images of h x w pixels.
LABELED_FILE = LAYOUTS["labeled"]
LABELED_FIELDS = {
    "images": (np.uint8, "(n, 3, w, h)"),
    "depths": (np.float32, "(n, w, h)"),
    "rawDepths": (np.float32, "(n, w, h)"),
    "labels": (np.uint16, "(n, w, h)"),
}
RAW_CLASSES = 894
# Raised by h5py for a damaged file.
_HDF5_ERRORS = (OSError, RuntimeError, LookupError, TypeError, ValueError, MemoryError)


def builder(data: ConfigDict) -> records.RecordsBuilder:
    """The builder for config.data: layout, manual_dir, image_size, classes, negate_normals.

    Raises:
        UserError: the files are not what the layout asks for, or a setting does not fit them.
    """
    return {"mtan": _mtan_builder, "labeled": _labeled_builder}[data.layout](data)


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


def _mtan_builder(data: ConfigDict) -> records.RecordsBuilder:
    if data.classes not in (0, 13):
        raise UserError(
            f"config.data.classes is {data.classes} but layout 'mtan' knows 13 classes; "
            "layout 'labeled' knows 13 and 40."
        )
    image_size = tuple(data.image_size)
    signs = files.signs(data.negate_normals)
    root = files.manual_dir(data.manual_dir, LAYOUTS["mtan"])
    listing = {
        split: files.numbered(root, split, {field: field for field in MTAN_FIELDS})
        for split in SPLITS
    }
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
    )


def read_mtan(
    paths: dict[str, Path], image_size: tuple[int, int], signs: np.ndarray
) -> dict[str, np.ndarray]:
    """Reads and checks the four files of one image.

    Args:
        paths: by field.
        image_size: (h, w) that all must have.
        signs: factors (3,) of the normals' axes.

    Returns:
        image (h, w, 3) float32 in [0, 1]; semseg (h, w, 1) uint8, 255 = ignore; depth (h, w, 1)
        float32 metres, 0 = invalid; normals (h, w, 3) float32, unit or zero = invalid.

    Raises:
        UserError: a file cannot be read or holds something else.
    """
    image, label, depth, normal = (
        files.load_npy(
            paths[field],
            (*image_size, channels) if channels else image_size,
            integers=field == "label",
        )
        for field, channels in MTAN_FIELDS.items()
    )
    files.check(paths["image"], "values", image, (image >= 0) & (image <= 1), "between 0 and 1")
    known = (label == np.floor(label)) & (label >= -1) & (label < 13)
    files.check(paths["label"], "classes", label, known, "whole, -1 (ignored) to 12")
    files.check(paths["depth"], "depths", depth, depth >= 0, "at least 0 (metres)")
    inside = np.abs(normal) <= 1.001
    files.check(paths["normal"], "components", normal, inside, "between -1 and 1")

    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    unit = np.divide(signs * normal, length, out=np.zeros_like(normal), where=length > 0)
    return {
        "image": image,
        "semseg": np.where(label < 0, IGNORE, label)[..., None].astype(np.uint8),
        "depth": depth,
        "normals": unit,
    }


# --- layout `labeled` -----------------------------------------------------------------------------


def _labeled_builder(data: ConfigDict) -> records.RecordsBuilder:
    classes = data.classes or 13
    tasks = tasks_for("nyuv2", classes=classes)
    if data.negate_normals:
        raise UserError(
            f"config.data.negate_normals is '{data.negate_normals}' but layout 'labeled' computes "
            "its normals and needs no change of sign: leave it empty."
        )
    path = _labeled_path(data.manual_dir)
    with _open_labeled(path) as content:
        count = check_labeled(path, content)
    listing = {split: [frame for frame in frames(split) if frame <= count] for split in SPLITS}
    if not all(listing.values()):
        raise UserError(f"{path} holds {count} images but needs at least 3, one of each split.")
    h, w = data.image_size

    def examples(split: str) -> Iterator[dict[str, Any]]:
        with _open_labeled(path) as content:
            for frame in listing[split]:
                example = make_example(read_labeled(path, content, frame), (h, w), classes)
                yield {**example, "image_id": f"{split}/{frame}"}

    config = records.RecordsConfig(
        dataset="nyuv2",
        version=VERSION,
        name=f"labeled{classes}_{h}x{w}_{files.fingerprint(path.parent, [path])}",
        counts={split: len(numbers) for split, numbers in listing.items()},
        examples=examples,
        image_size=(h, w),
        image_dtype="uint8",
        tasks=tasks,
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


def check_labeled(path: Path, content: h5py.File) -> int:
    """The number of images in a file.

    Raises:
        UserError: an array is missing or has another shape or type than `LABELED_FIELDS` says.
    """
    try:
        for field in LABELED_FIELDS:
            if not isinstance(content.get(field), h5py.Dataset):
                known = ", ".join(sorted(set(content) - {"#refs#", "#subsystem#"})) or "nothing"
                raise UserError(
                    f"{path} holds no array '{field}', which {LABELED_FILE} has; it has: {known}."
                )
        shape = content["images"].shape
        n, _, w, h = shape if len(shape) == 4 else (0, 0, 0, 0)
        for field, (dtype, axes) in LABELED_FIELDS.items():
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
    except UserError:
        raise
    except _HDF5_ERRORS as error:
        reason = files.one_line(error)
        raise UserError(f"{path} is damaged ({reason}); download the file again.") from error
    return n


def read_labeled(path: Path, content: h5py.File, frame: int) -> dict[str, np.ndarray]:
    """The fields (h, w[, 3]) of a frame, counted from 1.

    Raises:
        UserError: the file is damaged or holds impossible values.
    """
    fields = {}
    for field in LABELED_FIELDS:
        try:
            fields[field] = content[field][frame - 1].T
        except _HDF5_ERRORS as error:
            raise UserError(
                f"{path}: '{field}' of frame {frame} is damaged ({files.one_line(error)}); "
                "download the file again."
            ) from error

    def check(field: str, valid: np.ndarray, rule: str) -> None:
        files.check(path, f"'{field}' of frame {frame}", fields[field], valid, rule)

    for field in ("depths", "rawDepths"):
        values = fields[field]
        check(field, np.isfinite(values) & (values >= 0), "finite and at least 0 (metres)")
    check("labels", fields["labels"] <= RAW_CLASSES, f"at most {RAW_CLASSES}")
    return fields


def make_example(
    fields: dict[str, np.ndarray], image_size: tuple[int, int], classes: int
) -> dict[str, np.ndarray]:
    """Image and labels at the size and in the coding of the networks, from the arrays of one image.

    The depth is the filled one, valid wherever it is positive. Normals are fitted to it where the
    sensor measured, at the file's own resolution; they are invalid elsewhere and at steps.

    Args:
        fields: images (h, w, 3), depths, rawDepths and labels (h, w).
        image_size: of the result: the image by area (bilinear to enlarge), labels by the nearest.
        classes: 13 or 40.

    Returns:
        image (h, w, 3) uint8; semseg (h, w, 1) uint8, 255 = ignore; depth (h, w, 1) float32 metres,
        0 = invalid; normals (h, w, 3) float32, unit or zero = invalid.
    """
    depth = fields["depths"]
    normals = normals_from_depth(depth, measured=fields["rawDepths"] > 0)
    semseg = class_ids(classes)[fields["labels"]]
    return {
        "image": geometry.resize_image(fields["images"], image_size),
        "semseg": geometry.resize_label(semseg, image_size)[..., None],
        "depth": geometry.resize_label(depth, image_size)[..., None],
        "normals": geometry.resize_label(normals, image_size),
    }
