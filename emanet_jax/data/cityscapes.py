"""Cityscapes: 19 or 7 classes and disparity, from either of two layouts of files.

`mtan` reads the folder of arrays that MTAN's authors share (Liu et al., "End-to-End Multi-Task
Learning with Attention", 2019): ROOT/{train,val}/{image,label_7,label_19,depth}/{i}.npy, 128x256.

`official` reads what the data set's site gives (Cordts et al., 2016), 1024x2048 pixels:
ROOT/leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, ROOT/gtFine/SPLIT/CITY/*_gtFine_labelIds.png and
ROOT/disparity/SPLIT/CITY/*_disparity.png (16 bits), SPLIT being train or val.

In both, `depth` is p / 65535, p being the disparity file's uint16 code. With the disparity
d = (p - 1) / 256 in pixels of the full width, baseline 0.209 m and focal length 2262 pixels that is
close to d / 256 or 1.85 m / z: an inverse depth. It belongs to the scene, so that it stays as it is
when the picture is resized, other than a disparity in pixels.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from emanet_jax import menu
from emanet_jax.data import files, geometry, records
from emanet_jax.data.files import Entry
from emanet_jax.errors import UserError
from emanet_jax.tasks import tasks_for
from emanet_jax.types import Task

SPLITS = ("train", "val")

# Layout `official`: the folder and the end of the name of each field's files.
OFFICIAL_FIELDS = {
    "image": ("leftImg8bit", "_leftImg8bit.png"),
    "semseg": ("gtFine", "_gtFine_labelIds.png"),
    "depth": ("disparity", "_disparity.png"),
}
_PIXELS = {
    "image": (("RGB",), "colours of 8 bits"),
    "semseg": (("L",), "label ids of 8 bits"),
    "depth": (("I;16",), "disparities of 16 bits"),
}
# The ids of the 19 classes that Cityscapes evaluates, in their order, and the category of each. All
# other ids up to 33 (ground, parking, bridge, trailer, ...) are ignored, among 7 classes too.
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CATEGORIES = (0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6, 6, 6, 6, 6, 6)
_LARGEST_ID = 33


def builder(data: ConfigDict, trained: Sequence[Task]) -> records.RecordsBuilder:
    """The builder for config.data: its keys layout, manual_dir, image_size, classes (0: 19).

    Raises:
        UserError: the folder is not laid out as it should be, or has no images of this size.
    """
    layout, image_size = data.layout, tuple(data.image_size)
    tasks = tasks_for("cityscapes", classes=data.classes)
    classes = tasks[0].channels
    root = files.manual_dir(data.manual_dir, menu.LAYOUTS["cityscapes"][layout])
    needed = ("image", *(task.name for task in trained if task.name in OFFICIAL_FIELDS))
    if layout == "mtan":
        listing = {split: _mtan_entries(root, split, classes, needed) for split in SPLITS}
        files.check_npy_size(listing["train"][0].paths["image"], image_size)
    else:
        listing = {split: _official_entries(root, split, needed) for split in SPLITS}
        first = listing["train"][0].paths["image"]
        _check_covers(first, _load("image", first), image_size)
    read = read_mtan if layout == "mtan" else read_official
    h, w = image_size
    return records.builder_of_files(
        "cityscapes",
        version="1.0.0",
        settings=f"{layout}_{h}x{w}_{classes}classes",
        root=root,
        data_dir=data.data_dir,
        listing=listing,
        read=functools.partial(read, image_size=image_size, classes=classes),
        image_size=image_size,
        image_dtype="float32" if layout == "mtan" else "uint8",
        tasks=tasks,
        trained=trained,
    )


def _mtan_entries(root: Path, split: str, classes: int, needed: Sequence[str]) -> list[Entry]:
    label = f"label_{classes}"
    if classes == 7 and not (root / split / label).exists():
        label = "label"  # as some copies call the folder of 7 classes
    folders = {"image": "image", "semseg": label, "depth": "depth"}
    return files.numbered(root, split, folders, needed)


def read_mtan(
    paths: dict[str, Path], image_size: tuple[int, int], classes: int
) -> dict[str, np.ndarray]:
    """Reads and checks the files of one image.

    Args:
        paths: by field; a label's may be left out.
        image_size: (h, w) that all must have.
        classes: 7 or 19.

    Returns:
        image (h, w, 3) float32 in [0, 1]; of the labels that have a path, semseg (h, w, 1) uint8,
        255 = ignore; depth (h, w, 1) float32, 0 = invalid.

    Raises:
        UserError: a file cannot be read or holds something else.
    """
    example = {"image": files.load_unit_image(paths["image"], image_size)}
    if "semseg" in paths:
        example["semseg"] = files.load_classes(paths["semseg"], image_size, classes)
    if "depth" in paths:
        depth = files.load_npy(paths["depth"], (*image_size, 1), missing=0)
        rule = "between 0 and 1 (the disparity file's code / 65535)"
        example["depth"] = files.clip(paths["depth"], "disparities", depth, 0, 1, rule=rule)
    return example


def _official_entries(root: Path, split: str, needed: Sequence[str]) -> list[Entry]:
    """The examples of a split, by city and name."""

    def place(field: str, name: str = "") -> Path:
        folder, end = OFFICIAL_FIELDS[field]
        return root / folder / split / (name and f"{name}{end}")

    names = {field: _official_names(place(field), OFFICIAL_FIELDS[field][1]) for field in needed}
    for field in needed:
        different = sorted(names[field] ^ names["image"])
        if different:
            missing = "image" if different[0] in names[field] else field
            raise UserError(
                f"{place(missing, different[0])} is missing: every image needs its files of all "
                "tasks in config.tasks, and they their image."
            )
    return [
        Entry(f"{split}/{name}", {field: place(field, name) for field in OFFICIAL_FIELDS})
        for name in sorted(names["image"])
    ]


def _official_names(place: Path, end: str) -> set[str]:
    """The images, as CITY/NAME, of which a folder CITY/ in `place` holds a file NAME and `end`."""
    cities = [city for city in files.listing(place) if city.is_dir()]
    paths = [path for city in cities for path in files.listing(city, end)]
    if not paths:
        raise UserError(f"{place} holds no CITY/*{end} files.")
    return {f"{path.parent.name}/{path.name.removesuffix(end)}" for path in paths}


def read_official(
    paths: dict[str, Path], image_size: tuple[int, int], classes: int
) -> dict[str, np.ndarray]:
    """Reads and checks the files of one image and brings them to the size asked for.

    The image is averaged over areas, labels are taken at the nearest pixel.

    Args:
        paths: by field; a label's may be left out.
        image_size: (h, w) of the result, up to that of the files.
        classes: 7 or 19.

    Returns:
        image (h, w, 3) uint8; of the labels that have a path, semseg (h, w, 1) uint8, 255 = ignore;
        depth (h, w, 1) float32, 0 = invalid.

    Raises:
        UserError: a file cannot be read or holds something else.
    """
    pixels = {field: _load(field, path) for field, path in paths.items()}
    files.check_sizes(paths, pixels)
    _check_covers(paths["image"], pixels["image"], image_size)
    example = {"image": geometry.resize_image(pixels["image"], image_size)}
    if "semseg" in pixels:
        ids = pixels["semseg"]
        # 255 is not ignored: it is of files with train ids, whose other values mean other classes.
        rule = f"label ids, no train ids, between 0 and {_LARGEST_ID}"
        files.check(paths["semseg"], "values", ids, ids <= _LARGEST_ID, rule)
        ids = geometry.resize_label(ids, image_size)
        example["semseg"] = train_ids(classes)[ids][..., None]
    if "depth" in pixels:
        code = geometry.resize_label(pixels["depth"], image_size)
        example["depth"] = (code / np.float32(65535))[..., None]
    return example


def train_ids(classes: int) -> np.ndarray:
    """The class of every label id, uint8 (256,): 19 classes or 7 categories; 255 = ignored."""
    table = np.full(256, 255, np.uint8)
    table[list(LABEL_IDS)] = range(19) if classes == 19 else CATEGORIES
    return table


def _load(field: str, path: Path) -> np.ndarray:
    return files.load_picture(path, *_PIXELS[field])


def _check_covers(path: Path, image: np.ndarray, image_size: tuple[int, int]) -> None:
    if image.shape[0] < image_size[0] or image.shape[1] < image_size[1]:
        raise UserError(
            f"{path} has {image.shape[0]}x{image.shape[1]} pixels but config.data.image_size is "
            f"{image_size}: choose a size up to that of the files."
        )
