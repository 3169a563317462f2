"""Cityscapes as its site gives it: leftImg8bit, gtFine and disparity (Cordts et al., 2016).

ROOT/leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, ROOT/gtFine/SPLIT/CITY/*_gtFine_labelIds.png and
ROOT/disparity/SPLIT/CITY/*_disparity.png (16 bits), SPLIT being train or val, 1024x2048 pixels.
"""

from pathlib import Path

import numpy as np

from emanet_jax.data import files, resize
from emanet_jax.data.files import Entry
from emanet_jax.errors import UserError

HOLDS = "leftImg8bit/{train,val}, gtFine/{train,val} and disparity/{train,val}"
SPLITS = ("train", "val")
IMAGE_DTYPE = "uint8"
# Folder and end of name of each field's files.
FIELDS = {
    "image": ("leftImg8bit", "_leftImg8bit.png"),
    "semseg": ("gtFine", "_gtFine_labelIds.png"),
    "depth": ("disparity", "_disparity.png"),
}

# The ids of the 19 classes that Cityscapes evaluates, in their order, and the category of each. All
# other ids up to 33 (ground, parking, bridge, trailer, ...) are ignored, among 7 classes too.
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CATEGORIES = (0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6, 6, 6, 6, 6, 6)
_LARGEST_ID = 33
_COLOURS = (("RGB",), "colours of 8 bits")


def listing(root: Path, classes: int) -> dict[str, list[Entry]]:
    """The files of every split's examples, by city and name; `classes` does not matter.

    Raises:
        UserError: a folder is missing or empty, or a file of one kind has none of another.
    """
    del classes
    return {split: _entries(root, split) for split in SPLITS}


def check_size(path: Path, image_size: tuple[int, int]) -> None:
    """Raises UserError if the configured size is larger than this image."""
    _check_covers(path, files.load_picture(path, *_COLOURS), image_size)


def read(
    paths: dict[str, Path], image_size: tuple[int, int], classes: int
) -> dict[str, np.ndarray]:
    """Reads and checks the three files of one image and brings them to the size asked for.

    The image is averaged over areas, labels are taken at the nearest pixel.

    Depth is p / 65535, p being the file's uint16 code, as in MTAN's layout. With the disparity
    d = (p - 1) / 256 in pixels of the full width, baseline 0.209 m and focal length 2262 pixels
    that is close to d / 256 or 1.85 m / z: an inverse depth. It belongs to the scene, so that it
    stays as it is when the picture is resized, other than a disparity in pixels.

    Args:
        paths: by field.
        image_size: (h, w) of the result, up to that of the files.
        classes: 7 or 19.

    Returns:
        image (h, w, 3) uint8; semseg (h, w, 1) uint8, 255 = ignore; depth (h, w, 1) float32, the
        `disparity` of the data set, 0 = invalid.

    Raises:
        UserError: a file cannot be read or holds something else.
    """
    image = files.load_picture(paths["image"], *_COLOURS)
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
        "image": resize.smooth(image, image_size),
        "semseg": train_ids(classes)[resize.nearest(ids, image_size)][..., None],
        "depth": (resize.nearest(code, image_size) / np.float32(65535))[..., None],
    }


def train_ids(classes: int) -> np.ndarray:
    """The class of every label id, uint8 (256,): 19 classes or 7 categories; 255 = ignored."""
    table = np.full(256, 255, np.uint8)
    table[list(LABEL_IDS)] = range(19) if classes == 19 else CATEGORIES
    return table


def _check_covers(path: Path, image: np.ndarray, image_size: tuple[int, int]) -> None:
    if image.shape[0] < image_size[0] or image.shape[1] < image_size[1]:
        raise UserError(
            f"{path} has {image.shape[0]}x{image.shape[1]} pixels but config.data.image_size is "
            f"{image_size}: choose a size up to that of the files."
        )


def _entries(root: Path, split: str) -> list[Entry]:
    found = {}
    for field, (folder, end) in FIELDS.items():
        place = root / folder / split
        if not place.is_dir():
            raise UserError(f"config.data.manual_dir: the folder {place} is missing.")
        found[field] = {
            f"{path.parent.name}/{path.name.removesuffix(end)}": path
            for path in place.glob(f"*/*{end}")
        }
        if not found[field]:
            raise UserError(f"{place} holds no CITY/*{end} files.")
    for field, paths in found.items():
        different = sorted(paths.keys() ^ found["image"].keys())
        if different:
            missing = "image" if different[0] in paths else field
            folder, end = FIELDS[missing]
            raise UserError(
                f"{root / folder / split / different[0]}{end} is missing: every image needs its "
                "labels and its disparity, and they their image."
            )
    return [
        Entry(f"{split}/{name}", {field: paths[name] for field, paths in found.items()})
        for name in sorted(found["image"])
    ]
