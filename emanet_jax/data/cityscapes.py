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
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from emanet_jax import menu
from emanet_jax.data import files, geometry, records
from emanet_jax.data.files import Entry
from emanet_jax.errors import UserError
from emanet_jax.tasks import tasks_for

SPLITS = ("train", "val")

# Layout `official`: the folder and the end of the name of each field's files.
OFFICIAL_FIELDS = {
    "image": ("leftImg8bit", "_leftImg8bit.png"),
    "semseg": ("gtFine", "_gtFine_labelIds.png"),
    "depth": ("disparity", "_disparity.png"),
}
# The ids of the 19 classes that Cityscapes evaluates, in their order, and the category of each. All
# other ids up to 33 (ground, parking, bridge, trailer, ...) are ignored, among 7 classes too.
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CATEGORIES = (0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6, 6, 6, 6, 6, 6)
_LARGEST_ID = 33


def builder(data: ConfigDict) -> records.RecordsBuilder:
    """The builder for config.data: its keys layout, manual_dir, image_size, classes (0: 19).

    Raises:
        UserError: the folder is not laid out as it should be, or has no images of this size.
    """
    layout, image_size = data.layout, tuple(data.image_size)
    tasks = tasks_for("cityscapes", classes=data.classes)
    classes = tasks[0].channels
    root = files.manual_dir(data.manual_dir, menu.LAYOUTS["cityscapes"][layout])
    if layout == "mtan":
        listing = {split: _mtan_entries(root, split, classes) for split in SPLITS}
        files.check_npy_size(listing["train"][0].paths["image"], image_size)
    else:
        listing = {split: _official_entries(root, split) for split in SPLITS}
        first = listing["train"][0].paths["image"]
        _check_covers(first, _load_image(first), image_size)
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
    )


def _mtan_entries(root: Path, split: str, classes: int) -> list[Entry]:
    label = f"label_{classes}"
    if classes == 7 and not (root / split / label).exists():
        label = "label"  # as some copies call the folder of 7 classes
    return files.numbered(root, split, {"image": "image", "semseg": label, "depth": "depth"})


def read_mtan(
    paths: dict[str, Path], image_size: tuple[int, int], classes: int
) -> dict[str, np.ndarray]:
    """Reads and checks the three files of one image.

    Args:
        paths: by field.
        image_size: (h, w) that all must have.
        classes: 7 or 19.

    Returns:
        image (h, w, 3) float32 in [0, 1]; semseg (h, w, 1) uint8, 255 = ignore; depth (h, w, 1)
        float32, 0 = invalid.

    Raises:
        UserError: a file cannot be read or holds something else.
    """
    h, w = image_size
    image = files.load_npy(paths["image"], (h, w, 3))
    files.check(paths["image"], "values", image, (image >= 0) & (image <= 1), "between 0 and 1")

    label = files.load_npy(paths["semseg"], (h, w), integers=True)
    ignored = (label == -1) | (label == 255)
    known = (label == np.floor(label)) & (label >= 0) & (label < classes)
    rule = f"whole, 0 to {classes - 1} or ignored (-1 or 255)"
    files.check(paths["semseg"], "classes", label, ignored | known, rule)

    depth = files.load_npy(paths["depth"], (h, w, 1))
    rule = "between 0 and 1 (the disparity file's code / 65535)"
    files.check(paths["depth"], "disparities", depth, (depth >= 0) & (depth <= 1), rule)
    return {
        "image": image,
        "semseg": np.where(ignored, 255, label)[..., None].astype(np.uint8),
        "depth": depth,
    }


def _official_entries(root: Path, split: str) -> list[Entry]:
    """The examples of a split, by city and name."""
    paths_of: dict[str, dict[str, Path]] = {}
    for field, (folder, end) in OFFICIAL_FIELDS.items():
        place = root / folder / split
        if not place.is_dir():
            raise UserError(f"config.data.manual_dir: the folder {place} is missing.")
        paths_of[field] = {
            f"{path.parent.name}/{path.name.removesuffix(end)}": path
            for path in place.glob(f"*/*{end}")
        }
        if not paths_of[field]:
            raise UserError(f"{place} holds no CITY/*{end} files.")
    for field, paths in paths_of.items():
        different = sorted(paths.keys() ^ paths_of["image"].keys())
        if different:
            folder, end = OFFICIAL_FIELDS["image" if different[0] in paths else field]
            raise UserError(
                f"{root / folder / split / different[0]}{end} is missing: every image needs its "
                "labels and its disparity, and they their image."
            )
    return [
        Entry(f"{split}/{name}", {field: paths[name] for field, paths in paths_of.items()})
        for name in sorted(paths_of["image"])
    ]


def read_official(
    paths: dict[str, Path], image_size: tuple[int, int], classes: int
) -> dict[str, np.ndarray]:
    """Reads and checks the three files of one image and brings them to the size asked for.

    The image is averaged over areas, labels are taken at the nearest pixel.

    Args:
        paths: by field.
        image_size: (h, w) of the result, up to that of the files.
        classes: 7 or 19.

    Returns:
        image (h, w, 3) uint8; semseg (h, w, 1) uint8, 255 = ignore; depth (h, w, 1) float32, 0 =
        invalid.

    Raises:
        UserError: a file cannot be read or holds something else.
    """
    image = _load_image(paths["image"])
    ids = files.load_picture(paths["semseg"], ("L",), "label ids of 8 bits")
    code = files.load_picture(paths["depth"], ("I;16",), "disparities of 16 bits")
    for field, values in (("semseg", ids), ("depth", code)):
        if values.shape != image.shape[:2]:
            raise UserError(
                f"{paths[field]} has {values.shape[0]}x{values.shape[1]} pixels but its image, "
                f"{paths['image']}, has {image.shape[0]}x{image.shape[1]}."
            )
    _check_covers(paths["image"], image, image_size)
    known = ids <= _LARGEST_ID
    files.check(paths["semseg"], "label ids", ids, known, f"between 0 and {_LARGEST_ID}")
    return {
        "image": geometry.resize_image(image, image_size),
        "semseg": train_ids(classes)[geometry.resize_label(ids, image_size)][..., None],
        "depth": (geometry.resize_label(code, image_size) / np.float32(65535))[..., None],
    }


def train_ids(classes: int) -> np.ndarray:
    """The class of every label id, uint8 (256,): 19 classes or 7 categories; 255 = ignored."""
    table = np.full(256, 255, np.uint8)
    table[list(LABEL_IDS)] = range(19) if classes == 19 else CATEGORIES
    return table


def _load_image(path: Path) -> np.ndarray:
    return files.load_picture(path, ("RGB",), "colours of 8 bits")


def _check_covers(path: Path, image: np.ndarray, image_size: tuple[int, int]) -> None:
    if image.shape[0] < image_size[0] or image.shape[1] < image_size[1]:
        raise UserError(
            f"{path} has {image.shape[0]}x{image.shape[1]} pixels but config.data.image_size is "
            f"{image_size}: choose a size up to that of the files."
        )
