"""NYUv2 in the layout `labeled`: nyu_depth_v2_labeled.mat as it is downloaded, 13 or 40 classes.

A MATLAB 7.3 file is HDF5 with the axes reversed, so h5py sees images (n, 3, w, h). The file has
2.8 GB and is read image by image.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ml_collections import ConfigDict

from emanet_jax.data import files, nyuv2_tables, resize
from emanet_jax.data.normals import normals_from_depth
from emanet_jax.errors import UserError

FILE = "nyu_depth_v2_labeled.mat"
SPLITS = ("train", "val")

# What h5py makes of a damaged file.
_HDF5_FAULTS = (OSError, RuntimeError, LookupError, TypeError, ValueError, MemoryError)

# Data set of each field: type, and shape with n images of h x w pixels.
FIELDS = {
    "images": (np.uint8, "(n, 3, w, h)"),
    "depths": (np.float32, "(n, w, h)"),
    "rawDepths": (np.float32, "(n, w, h)"),
    "labels": (np.uint16, "(n, w, h)"),
}


@dataclasses.dataclass(frozen=True)
class LabeledFile:
    """A file in this layout; see `nyuv2.Layout`."""

    place: Path
    name: str
    image_size: tuple[int, int]
    classes: int
    listing: dict[str, list[int]] = dataclasses.field(repr=False)  # TFDS logs the whole layout
    image_dtype: str = "uint8"

    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        """Reads and checks a split's images, one at a time; `image_id` ends in the frame, from 1.

        Raises:
            UserError: the file is damaged or holds impossible values.
        """
        with _open(self.place) as content:
            for frame in self.listing[split]:
                example = make_example(self._read(content, frame), self.image_size, self.classes)
                yield {**example, "image_id": f"{split}/{frame}"}

    def _read(self, content: h5py.File, frame: int) -> dict[str, np.ndarray]:
        """The fields of a frame (h, w[, 3]), checked."""
        fields = {}
        for field in FIELDS:
            try:
                fields[field] = content[field][frame - 1].T
            except _HDF5_FAULTS as error:
                raise UserError(
                    f"{self.place}: '{field}' of frame {frame} is damaged ({_said(error)}); "
                    "download the file again."
                ) from error

        def check(field: str, fine: np.ndarray, rule: str) -> None:
            what = f"'{field}' of frame {frame}"
            files.check(self.place, what, fields[field], fine, rule)

        for field in ("depths", "rawDepths"):
            values = fields[field]
            check(field, np.isfinite(values) & (values >= 0), "finite and at least 0 (metres)")
        highest = nyuv2_tables.RAW_CLASSES
        check("labels", fields["labels"] <= highest, f"at most {highest}")
        return fields


def find(data: ConfigDict) -> LabeledFile:
    """The file config.data.manual_dir, or in this folder.

    Raises:
        UserError: there is none, it is not the expected kind of file, or a setting does not fit.
    """
    classes = data.classes or 13
    if classes not in (13, 40):
        raise UserError(f"config.data.classes is {classes} but nyuv2 has 13 or 40 (0: 13).")
    if data.negate_normals:
        raise UserError(
            f"config.data.negate_normals is '{data.negate_normals}' but layout 'labeled' computes "
            "its normals and needs no change of sign: leave it empty."
        )
    path = _path(data.manual_dir)
    with _open(path) as content:
        count = check_layout(path, content)
    frames = {
        split: [frame for frame in nyuv2_tables.frames(split) if frame <= count] for split in SPLITS
    }
    if not all(frames.values()):
        raise UserError(f"{path} holds {count} images but needs at least 3, one of each split.")
    h, w = data.image_size
    mark = files.fingerprint(path.parent, [path])
    return LabeledFile(path, f"labeled{classes}_{h}x{w}_{mark}", (h, w), classes, frames)


def check_layout(path: Path, content: h5py.File) -> int:
    """The number of images in a file.

    Raises:
        UserError: a data set is missing or has another shape or type than `FIELDS` says.
    """
    try:
        _check_fields(path, content)
        return len(content["images"])
    except UserError:
        raise
    except _HDF5_FAULTS as error:
        raise UserError(f"{path} is damaged ({_said(error)}); download the file again.") from error


def _check_fields(path: Path, content: h5py.File) -> None:
    for field in FIELDS:
        if not isinstance(content.get(field), h5py.Dataset):
            known = ", ".join(sorted(set(content) - {"#refs#", "#subsystem#"})) or "nothing"
            raise UserError(f"{path} holds no array '{field}', which {FILE} has; it has: {known}.")
    shape = content["images"].shape
    n, _, w, h = shape if len(shape) == 4 else (0, 0, 0, 0)
    for field, (dtype, axes) in FIELDS.items():
        found = content[field]
        expected = (n, 3, w, h) if field == "images" else (n, w, h)
        # NYUv2's images lie on their side, so an upright copy is one with its axes turned.
        if found.shape != expected or not n or w < h:
            raise UserError(
                f"{path}: '{field}' has the shape {found.shape} but must have {axes}, the same n, "
                "h and w as the others, w at least h: (1449, 3, 640, 480) in NYUv2's images."
            )
        if found.dtype != dtype:
            raise UserError(
                f"{path}: '{field}' is of type {found.dtype} but must be {np.dtype(dtype)}."
            )


def make_example(
    fields: dict[str, np.ndarray], image_size: tuple[int, int], classes: int
) -> dict[str, np.ndarray]:
    """Labels and their sizes as the networks want them, from the arrays of one image.

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
    semseg = nyuv2_tables.class_ids(classes)[fields["labels"]]
    return {
        "image": resize.smooth(fields["images"], image_size),
        "semseg": resize.nearest(semseg, image_size)[..., None],
        "depth": resize.nearest(depth, image_size)[..., None],
        "normals": resize.nearest(normals, image_size),
    }


def _path(manual_dir: str) -> Path:
    if not manual_dir:
        raise UserError(
            f"config.data.manual_dir is empty; give {FILE} or the folder that holds it."
        )
    path = Path(manual_dir).expanduser().resolve()
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"config.data.manual_dir: there is no file {path}.")
    return path


def _open(path: Path) -> h5py.File:
    start = b""
    try:
        with path.open("rb") as file:
            start = file.read(10)
        # Room for chunks that hold several images, so that none is unpacked twice in a row.
        return h5py.File(path, "r", rdcc_nbytes=64 * 2**20)
    except OSError as error:
        reason = "it is a MATLAB 5 file" if start == b"MATLAB 5.0" else _said(error)
        raise UserError(
            f"{path} cannot be read as HDF5, which {FILE} is ({reason}); is the download complete?"
        ) from error


def _said(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
