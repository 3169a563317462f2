"""Image files of any format: finding them, reading them, names for their outputs."""

import collections
import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from emanet_jax.data import files
from emanet_jax.errors import UserError


def find(values: Sequence[str]) -> list[Path]:
    """The files that --images names, each once: files, folders and globs, separated by commas.

    A folder stands for its files with the ending of a picture, a glob for all files, both in the
    order of their names and without hidden files. A value that is a file itself is taken whole,
    with commas and brackets.

    Raises:
        UserError: one of them stands for no file.
    """
    found = []
    for value in values:
        for part in [value] if os.path.exists(value) else value.split(","):
            paths = _matches(part)
            if not paths:
                raise UserError(
                    f"--images={part} stands for no picture; give a file, a folder or a quoted "
                    "glob such as 'photos/*.jpg', or several of them with commas between."
                )
            found += paths
    return [Path(path) for path in dict.fromkeys(map(os.path.abspath, found))]


def _matches(name: str) -> list[str]:
    name = os.path.expanduser(name)
    if os.path.isfile(name):
        return [name]
    if os.path.isdir(name):
        inside = [x for x in files.listing(Path(name)) if x.suffix.lower() in files.PICTURES]
    else:
        inside = [Path(x) for x in sorted(glob.glob(name, recursive=True))]
    return [str(path) for path in inside if path.is_file() and not files.is_hidden(path.name)]


def names(paths: Sequence[Path]) -> list[str]:
    """A name without ending for each file's outputs; all differ.

    It is the file's path below the folder that all share; with the ending where files differ in
    nothing else.
    """
    root = os.path.commonpath([path.parent for path in paths])
    whole = [str(path.relative_to(root)) for path in paths]
    stems = [os.path.splitext(name)[0] for name in whole]
    count = collections.Counter(stems)
    short = [stem if count[stem] == 1 else name for stem, name in zip(stems, whole, strict=True)]
    return short if len(set(short)) == len(short) else whole


def read(path: Path) -> np.ndarray:
    """Reads an image file, the first frame of several: (h, w, 3) uint8.

    Oriented by its EXIF data; transparent parts are white; 16 bits a channel become 8, and
    floating-point numbers are taken as 0 to 1.

    Raises:
        UserError: the file cannot be read, or holds more pixels than Pillow takes for a picture.
    """
    return files.read_picture(path, lambda picture: np.asarray(_rgb(picture)))


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.float64) / (1 if picture.mode == "F" else 65535)
        if not (values.min() >= -files.ROUNDING and values.max() <= 1 + files.ROUNDING):
            raise ValueError(
                f"its numbers are {values.min():.6g} to {values.max():.6g} of the largest, no grey"
            )
        picture = Image.fromarray(np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8))
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
