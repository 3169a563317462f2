"""Reads and checks source files; an error is one sentence that names the file."""

import hashlib
import os
import tokenize
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from emanet_jax import menu
from emanet_jax.errors import UserError

# Raised for a damaged .npy file: its header is parsed as Python.
_NPY_ERRORS = (
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
    if not os.path.isdir(root):  # False for any name that the system refuses
        raise UserError(f"config.data.manual_dir: there is no folder {root}.")
    return root


def check_source(data: ConfigDict) -> None:
    """Looks for the folder or file that config.data.manual_dir names, not into it.

    Raises:
        UserError: it is not set or not there, but the data set is built from files.
    """
    holds = menu.LAYOUTS.get(data.dataset, {}).get(data.layout)
    if holds and not os.path.isfile(os.path.expanduser(data.manual_dir)):
        manual_dir(data.manual_dir, holds)


def signs(negate_normals: str) -> np.ndarray:
    """Factors (3,) float32 of the normals' axes: -1 for those in config.data.negate_normals.

    Raises:
        UserError: it names something else.
    """
    if not set(negate_normals) <= set("xyz"):
        raise UserError(
            f"config.data.negate_normals is '{negate_normals}' but names axes: some of 'xyz'."
        )
    return np.array([-1 if axis in negate_normals else 1 for axis in "xyz"], np.float32)


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


def numbered(root: Path, split: str, folders: Mapping[str, str]) -> list[Entry]:
    """The examples whose files are ROOT/SPLIT/FOLDER/{i}.npy, in the order of their numbers.

    Args:
        root: folder of the data set.
        split: name of the split.
        folders: name of the folder by field.

    Raises:
        UserError: a folder is missing or empty, or two of them hold different numbers.
    """
    numbers: dict[str, set[int]] = {}
    for field, name in folders.items():
        folder = root / split / name
        if not folder.is_dir():
            raise UserError(f"config.data.manual_dir: the folder {folder} is missing.")
        names = [path.stem for path in folder.glob("*.npy")]
        odd = sorted(name for name in names if not name.isdecimal() or str(int(name)) != name)
        if odd:
            raise UserError(f"{folder / odd[0]}.npy: the name must be a number such as 0.npy.")
        if not names:
            raise UserError(f"{folder} holds no .npy files; it must hold 0.npy, 1.npy, ....")
        numbers[field] = {int(name) for name in names}
    first = next(iter(folders))
    for field in folders:
        different = sorted(numbers[field] ^ numbers[first])
        if different:
            missing = folders[first if different[0] in numbers[field] else field]
            raise UserError(
                f"{root / split / missing / str(different[0])}.npy is missing: the folders "
                f"{', '.join(folders.values())} of a split must hold the same numbers."
            )
    return [
        Entry(
            f"{split}/{i}",
            {field: root / split / name / f"{i}.npy" for field, name in folders.items()},
        )
        for i in sorted(numbers[first])
    ]


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
    with np.errstate(over="ignore"):  # values beyond float32 are refused below
        array = array.astype(np.float32)
    check(path, "values", array, np.isfinite(array), "finite")
    return array


def open_npy(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """The array in a .npy file as it is; UserError if the file is none."""
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)  # np.load would also take archives and pickles
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except _NPY_ERRORS as error:
        raise UserError(
            f"{path} cannot be read as a NumPy array file: {one_line(error)}."
        ) from error


def check_npy_size(path: Path, image_size: tuple[int, int]) -> None:
    """Raises UserError unless the image in a .npy file has the configured size."""
    shape = open_npy(path, mmap_mode="r").shape  # reads the header alone
    if shape[:2] != image_size:
        raise UserError(
            f"{path} has the shape {shape} but config.data.image_size is {image_size}: "
            "the two must agree."
        )


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
        raise UserError(f"{path} cannot be read as a picture: {one_line(error)}.") from error
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
        raise UserError(f"{path} cannot be read as a MATLAB file: {one_line(error)}.") from error
    except NotImplementedError as error:  # SciPy's answer to version 7.3, which h5py reads
        raise UserError(
            f"{path} is a MATLAB 7.3 file (HDF5), but an older version is expected here."
        ) from error
    if name not in variables:
        raise UserError(f"{path} holds no variable '{name}'.")
    return variables[name]


def check(path: Path, what: str, values: np.ndarray, valid: np.ndarray, rule: str) -> None:
    """Raises UserError with the first of a file's `values` that is not `valid`."""
    if not valid.all():
        where = np.argwhere(~valid)[0]
        raise UserError(
            f"{path}: {what} must be {rule}, but the one at {tuple(map(int, where))} is "
            f"{values[tuple(where)]:g}."
        )


def one_line(error: Exception) -> str:
    """The message of an error, to be quoted within a sentence."""
    return " ".join(str(error).split()).rstrip(".")
