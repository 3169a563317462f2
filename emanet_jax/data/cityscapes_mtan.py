"""Cityscapes in MTAN's layout: ROOT/{train,val}/{image,label_7,label_19,depth}/{i}.npy.

The copy that MTAN's authors share (Liu et al., "End-to-End Multi-Task Learning with Attention",
2019), 128x256 pixels. Its depth is the official disparity file's uint16 code / 65535.
"""

from pathlib import Path

import numpy as np

from emanet_jax.data import files
from emanet_jax.data.files import Entry
from emanet_jax.errors import UserError

HOLDS = "{train,val}/{image,label_7,label_19,depth}/0.npy, 1.npy, ..."
SPLITS = ("train", "val")
IMAGE_DTYPE = "float32"


def listing(root: Path, classes: int) -> dict[str, list[Entry]]:
    """The files of every split's examples in natural order.

    Raises:
        UserError: a folder is missing or empty, or two of them hold different numbers.
    """
    return {
        split: [
            Entry(
                f"{split}/{index}",
                {
                    field: root / split / folder / f"{index}.npy"
                    for field, folder in (("image", "image"), ("semseg", label), ("depth", "depth"))
                },
            )
            for index in files.numbered(root, split, ("image", label, "depth"))
        ]
        for split in SPLITS
        for label in [_label_folder(root / split, classes)]
    }


def check_size(path: Path, image_size: tuple[int, int]) -> None:
    """Raises UserError unless this image has the configured size; only its header is read."""
    shape = files.open_npy(path, mmap_mode="r").shape
    if shape[:2] != image_size:
        raise UserError(
            f"{path} has the shape {shape} but config.data.image_size is {image_size}: "
            "the two must agree."
        )


def read(
    paths: dict[str, Path], image_size: tuple[int, int], classes: int
) -> dict[str, np.ndarray]:
    """Reads and checks the three files of one image.

    Args:
        paths: by field.
        image_size: (h, w) that all must have.
        classes: 7 or 19.

    Returns:
        image (h, w, 3) float32 in [0, 1]; semseg (h, w, 1) uint8, 255 = ignore; depth (h, w, 1)
        float32, the `disparity` of the data set, 0 = invalid.

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


def _label_folder(folder: Path, classes: int) -> str:
    """Some copies call the folder of 7 classes `label`."""
    name = f"label_{classes}"
    return "label" if classes == 7 and not (folder / name).exists() else name
