"""Source files that people have, read and checked: a fault is one sentence that names the file."""

import hashlib
import logging
import os
import tokenize
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emanet_jax.errors import UserError

_LOG = logging.getLogger(__name__)

# What a damaged .npy file can raise: its header is parsed as Python.
_NPY_FAULTS = (
    OSError,
    ValueError,
    EOFError,
    SyntaxError,
    tokenize.TokenError,
    TypeError,
    ArithmeticError,
    MemoryError,
)


class Entry(NamedTuple):
    """The files of one example.

    Attributes:
        name: the example's `image_id`.
        paths: by field.
    """

    name: str
    paths: dict[str, Path]


def manual_dir(value: str, holds: str) -> Path:
    """The folder that config.data.manual_dir names; `holds` says what must lie in it.

    Raises:
        UserError: it is not set or not there.
    """
    if not value:
        raise UserError(f"config.data.manual_dir is empty; give the folder that holds {holds}.")
    root = Path(value).expanduser().resolve()
    if not os.path.isdir(root):  # False for whatever the system says against the name
        raise UserError(f"config.data.manual_dir: there is no folder {root}.")
    return root


def check_multiples(image_size: tuple[int, int]) -> None:
    """Raises UserError for a configured (h, w) that the networks cannot take."""
    if any(n < 32 or n % 32 for n in image_size):
        raise UserError(f"config.data.image_size is {image_size} but needs multiples of 32.")


def signs(negate_normals: str) -> np.ndarray:
    """The factors (3,) float32 that turn round the axes of config.data.negate_normals, as "yz".

    Raises:
        UserError: it names something else.
    """
    if not set(negate_normals) <= set("xyz"):
        raise UserError(
            f"config.data.negate_normals is '{negate_normals}' but names axes: some of 'xyz'."
        )
    return np.array([-1 if axis in negate_normals else 1 for axis in "xyz"], np.float32)


def warn_of_counts(
    name: str, root: Path, found: Mapping[str, int], official: Mapping[str, int]
) -> None:
    """Logs a warning for every split that has not the official number of images."""
    for split, count in official.items():
        if found[split] != count:
            _LOG.warning("%s/%s has %d images; %s has %d.", root, split, found[split], name, count)


def counts(listing: Mapping[str, Sequence[Entry]]) -> dict[str, int]:
    """The number of examples by split."""
    return {split: len(entries) for split, entries in listing.items()}


def fingerprint(root: Path, paths: Iterable[Path]) -> str:
    """12 hexadecimal digits that change with the folder or its files' names, sizes and times.

    Raises:
        UserError: a file is missing.
    """
    digest = hashlib.sha256(str(root).encode())
    for path in paths:
        try:
            state = path.stat()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error}).") from error
        line = f"{path.relative_to(root)} {state.st_size} {state.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()[:12]


def numbered(root: Path, split: str, fields: Sequence[str]) -> list[int]:
    """The numbers of the files ROOT/split/field/{i}.npy in natural order, the same in all fields.

    Raises:
        UserError: a folder is missing or empty, or two of them hold different numbers.
    """
    found = {}
    for field in fields:
        folder = root / split / field
        if not folder.is_dir():
            raise UserError(f"config.data.manual_dir: the folder {folder} is missing.")
        names = [path.stem for path in folder.glob("*.npy")]
        odd = sorted(name for name in names if not name.isdecimal() or str(int(name)) != name)
        if odd:
            raise UserError(f"{folder / odd[0]}.npy: the name must be a number such as 0.npy.")
        found[field] = {int(name) for name in names}
        if not found[field]:
            raise UserError(f"{folder} holds no .npy files; it must hold 0.npy, 1.npy, ....")
    first = fields[0]
    for field, numbers in found.items():
        different = sorted(numbers ^ found[first])
        if different:
            missing = first if different[0] in numbers else field
            raise UserError(
                f"{root / split / missing / str(different[0])}.npy is missing: the folders "
                f"{', '.join(fields)} of a split must hold the same numbers."
            )
    return sorted(found[first])


def load_npy(path: Path, shape: tuple[int, ...], *, integers: bool = False) -> np.ndarray:
    """A .npy file's array as float32, of this shape and finite.

    Args:
        path: of the file.
        shape: that it must have.
        integers: accept integer types beside float32 and float64.

    Raises:
        UserError: the file cannot be read or holds something else.
    """
    array = open_npy(path)
    if array.shape != shape:
        raise UserError(f"{path} has the shape {array.shape} but must have {shape}.")
    if array.dtype.kind not in ("fiu" if integers else "f") or array.dtype == np.float16:
        wanted = "float32 or float64" + (" or an integer type" if integers else "")
        raise UserError(f"{path} is of type {array.dtype} but must be {wanted}.")
    with np.errstate(over="ignore"):  # what float32 cannot hold is found below
        array = array.astype(np.float32)
    check(path, "values", array, np.isfinite(array), "finite")
    return array


def open_npy(path: Path, mmap_mode: str | None = None) -> np.ndarray:
    """A .npy file's array as it is; UserError if it is none."""
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)  # np.load would also take archives and pickles
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except _NPY_FAULTS as error:
        raise UserError(f"{path} cannot be read as a NumPy array file: {_said(error)}.") from error


def load_picture(path: Path, modes: Sequence[str], what: str) -> np.ndarray:
    """The pixels (h, w[, 3]) of a PNG or JPEG file, a palette's as its indices.

    Args:
        path: of the file.
        modes: Pillow's names of the pixel formats that will do: "L" and "P" have 8 bits, "I;16" has
            16 and "RGB" three times 8.
        what: must be in the file, in words, for the error message.

    Raises:
        UserError: the file cannot be read or has another pixel format.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            mode, pixels = picture.mode, np.asarray(picture)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        raise UserError(f"{path} cannot be read as a picture: {_said(error)}.") from error
    if mode not in modes:
        raise UserError(
            f"{path} has pixels of the format {mode} but must hold {what} ({' or '.join(modes)})."
        )
    return pixels


def load_mat(path: Path, name: str) -> Any:
    """The variable `name` of a MATLAB file (up to version 7.2), structs as objects.

    Raises:
        UserError: the file cannot be read or has no such variable.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        variables = loadmat(path, struct_as_record=False, squeeze_me=True, variable_names=[name])
    except (OSError, ValueError, TypeError, LookupError, zlib.error, MatReadError) as error:
        raise UserError(f"{path} cannot be read as a MATLAB file: {_said(error)}.") from error
    except NotImplementedError as error:  # SciPy's word for version 7.3
        raise UserError(
            f"{path} is a MATLAB 7.3 file (HDF5), but an older version is expected here."
        ) from error
    if name not in variables:
        raise UserError(f"{path} holds no variable '{name}'.")
    return variables[name]


def check(path: Path, what: str, values: np.ndarray, fine: np.ndarray, rule: str) -> None:
    """Raises UserError with the first of a file's `values` that is not `fine`."""
    if not fine.all():
        where = np.argwhere(~fine)[0]
        raise UserError(
            f"{path}: {what} must be {rule}, but the one at {tuple(map(int, where))} is "
            f"{values[tuple(where)]:g}."
        )


def _said(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
