"""NYUv2 in the layout `mtan`: ROOT/{train,val}/{image,label,depth,normal}/{i}.npy, 13 classes.

The copy that MTAN's authors share (Liu et al., "End-to-End Multi-Task Learning with Attention",
2019), 288 x 384.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from emanet_jax.data import files
from emanet_jax.errors import UserError
from emanet_jax.tasks.palettes import NYU13

# Folder of each field and the number of its channels; 0: the files have no channel axis.
FIELDS = {"image": 3, "label": 0, "depth": 1, "normal": 3}
SPLITS = ("train", "val")


@dataclasses.dataclass(frozen=True)
class MtanFolder:
    """A folder in this layout; see `nyuv2.Layout`."""

    place: Path
    name: str
    image_size: tuple[int, int]
    listing: dict[str, list[int]] = dataclasses.field(repr=False)  # TFDS logs the whole layout
    negate_normals: str
    image_dtype: str = "float32"
    classes: int = len(NYU13)

    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        """Reads and checks a split's images, one at a time.

        Raises:
            UserError: a file cannot be read or holds something else.
        """
        for index in self.listing[split]:
            paths = {field: _path(self.place, split, field, index) for field in FIELDS}
            example = read_example(paths, self.image_size, self.negate_normals)
            yield {**example, "image_id": f"{split}/{index}"}


def find(data: ConfigDict) -> MtanFolder:
    """The folder config.data.manual_dir.

    Raises:
        UserError: it is not laid out as it should be.
    """
    if data.classes not in (0, len(NYU13)):
        raise UserError(
            f"config.data.classes is {data.classes} but layout 'mtan' knows 13 classes; "
            "layout 'labeled' knows 13 and 40."
        )
    files.signs(data.negate_normals)
    root = files.manual_dir(
        data.manual_dir, "{train,val}/{image,label,depth,normal}/0.npy, 1.npy, ..."
    )
    numbers = {split: files.numbered(root, split, tuple(FIELDS)) for split in SPLITS}
    paths = (
        _path(root, split, field, index)
        for split in SPLITS
        for index in numbers[split]
        for field in FIELDS
    )
    negated = f"_negated-{data.negate_normals}" if data.negate_normals else ""
    name = f"mtan{negated}_{files.fingerprint(root, paths)}"
    image_size = tuple(data.image_size)
    _check_image_size(_path(root, "train", "image", numbers["train"][0]), image_size)
    return MtanFolder(root, name, image_size, numbers, data.negate_normals)


def read_example(
    paths: dict[str, Path], image_size: tuple[int, int], negate_normals: str = ""
) -> dict[str, np.ndarray]:
    """Reads and checks the four files of one image.

    Args:
        paths: by field.
        image_size: (h, w) that all must have.
        negate_normals: axes, some of "xyz", whose sign is to be changed to ours.

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
        for field, channels in FIELDS.items()
    )
    classes = len(NYU13)

    files.check(paths["image"], "values", image, (image >= 0) & (image <= 1), "between 0 and 1")
    whole = (label == np.floor(label)) & (label >= -1) & (label < classes)
    rule = f"whole, -1 (ignored) to {classes - 1}"
    files.check(paths["label"], "classes", label, whole, rule)
    files.check(paths["depth"], "depths", depth, depth >= 0, "at least 0 (metres)")
    inside = np.abs(normal) <= 1.001
    files.check(paths["normal"], "components", normal, inside, "between -1 and 1")

    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    unit = np.divide(
        files.signs(negate_normals) * normal, length, out=np.zeros_like(normal), where=length > 0
    )
    return {
        "image": image,
        "semseg": np.where(label < 0, 255, label)[..., None].astype(np.uint8),
        "depth": depth,
        "normals": unit,
    }


def _path(root: Path, split: str, field: str, index: int) -> Path:
    return root / split / field / f"{index}.npy"


def _check_image_size(path: Path, image_size: tuple[int, int]) -> None:
    """Compares the configured size with that of an image, whose header alone is read."""
    shape = files.open_npy(path, mmap_mode="r").shape
    if shape[:2] != image_size:
        raise UserError(
            f"{path} has the shape {shape} but config.data.image_size is {image_size}: "
            f"the two must agree."
        )
