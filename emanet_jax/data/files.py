"""Finds, reads and checks source files; an error is one sentence that names the file."""

import contextlib
import hashlib
import os
import struct
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from ml_collections import ConfigDict
from PIL import ExifTags, Image

from emanet_jax import menu
from emanet_jax.errors import UserError

_T = TypeVar("_T")

Image.init()  # loads all of Pillow's readers
# Formats of photographs and screenshots; some other readers of Pillow start programs.
_FORMATS = [
    *("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "SGI", "TGA"),
    *("TIFF", "WEBP"),
]
_FORMATS = [name for name in _FORMATS if name in Image.OPEN]  # Pillow can be built without some
# Endings of their files' names, in lower case.
PICTURES = {end for end, name in Image.registered_extensions().items() if name in _FORMATS}
_TURNS = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ERRORS = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, OSError, SyntaxError, TypeError),
    *(ValueError, struct.error),
)
_HEADERS = threading.Lock()  # CPython 3.11's parser, which reads a .npy header, bears no threads
_WARNINGS = threading.Lock()  # held to change their filters, which are the whole process's

# What values may leave their range by, as a step of half precision at 1; they are clipped.
ROUNDING = 1e-3
_LARGEST = float(np.finfo(np.float32).max)


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


def is_hidden(name: str) -> bool:
    """Whether a system keeps files of this name for itself: .DS_Store, ._0.png, Thumbs.db."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")


def listing(folder: Path, ending: str = "") -> list[Path]:
    """What lies in a folder under names that end so, sorted; hidden files are left out.

    Raises:
        UserError: the folder is missing or cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"config.data.manual_dir: the folder {folder} is missing.")
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read: {error.strerror}.") from error
    return [folder / name for name in names if name.endswith(ending) and not is_hidden(name)]


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
            raise UserError(f"{path} cannot be read: {one_line(error, path)}.") from error
        line = f"{path.relative_to(root)} {state.st_size} {state.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()[:12]


def numbered(
    root: Path, split: str, folders: Mapping[str, str], needed: Sequence[str]
) -> list[Entry]:
    """The examples whose files are ROOT/SPLIT/FOLDER/{i}.npy, in the order of their numbers.

    Args:
        root: folder of the data set.
        split: name of the split.
        folders: name of the folder by field.
        needed: the fields whose files must be there; paths of others may lead nowhere.

    Raises:
        UserError: a needed folder is missing or empty, or two of them hold different numbers.
    """
    numbers: dict[str, set[int]] = {}
    for field in needed:
        folder = root / split / folders[field]
        names = [path.stem for path in listing(folder, ".npy")]
        odd = sorted(name for name in names if not name.isdecimal() or str(int(name)) != name)
        if odd:
            raise UserError(f"{folder / odd[0]}.npy: the name must be a number such as 0.npy.")
        if not names:
            raise UserError(f"{folder} holds no .npy files; it must hold 0.npy, 1.npy, ....")
        numbers[field] = {int(name) for name in names}
    first = needed[0]
    for field in needed:
        different = sorted(numbers[field] ^ numbers[first])
        if different:
            missing = folders[first if different[0] in numbers[field] else field]
            raise UserError(
                f"{root / split / missing / str(different[0])}.npy is missing: the folders "
                f"{', '.join(folders[x] for x in needed)} of a split must hold the same numbers."
            )
    return [
        Entry(
            f"{split}/{i}",
            {field: root / split / name / f"{i}.npy" for field, name in folders.items()},
        )
        for i in sorted(numbers[first])
    ]


def load_npy(
    path: Path, shape: tuple[int, ...], *, integers: bool = False, missing: float | None = None
) -> np.ndarray:
    """A .npy file's array as float32, of this shape and finite.

    Args:
        path: of the file.
        shape: that it must have.
        integers: accept integer types beside float32 and float64.
        missing: the value in place of NaN; None: NaN is an error.

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
    if missing is not None:
        array = np.where(np.isnan(array), np.float32(missing), array)
    check(path, "values", array, np.isfinite(array), "finite")
    return array


def load_unit_image(path: Path, image_size: tuple[int, int]) -> np.ndarray:
    """The image (h, w, 3) float32 in [0, 1] in a .npy file; UserError if it holds another."""
    image = load_npy(path, (*image_size, 3))
    return clip(path, "values", image, 0, 1, rule="between 0 and 1")


def load_classes(path: Path, image_size: tuple[int, int], classes: int) -> np.ndarray:
    """Class ids (h, w, 1) uint8, 255 = ignore, from a .npy file with (h, w) whole numbers.

    Args:
        path: of the file, which may have -1 as well as 255 for ignored pixels.
        image_size: (h, w).
        classes: how many there are.

    Raises:
        UserError: the file cannot be read or holds something else.
    """
    label = load_npy(path, image_size, integers=True)
    ignored = (label == -1) | (label == 255)
    known = (label == np.floor(label)) & (label >= 0) & (label < classes)
    rule = f"whole, 0 to {classes - 1} or ignored (-1 or 255)"
    check(path, "classes", label, ignored | known, rule)
    return np.where(ignored, 255, label)[..., None].astype(np.uint8)


def open_npy(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """The array in a .npy file as it is; UserError if the file is none."""
    with reading(path, " cannot be read as a NumPy array file"):
        with path.open("rb") as file:
            np.lib.format.read_magic(file)  # np.load would also take archives and pickles
        with _HEADERS:
            return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)


def check_npy_size(path: Path, image_size: tuple[int, int]) -> None:
    """Raises UserError unless the image in a .npy file has the configured size."""
    shape = open_npy(path, mmap_mode="r").shape  # reads the header alone
    if shape[:2] != image_size:
        raise UserError(
            f"{path} has the shape {shape} but config.data.image_size is {image_size}: "
            "the two must agree."
        )


def read_picture(path: Path, take: Callable[[Image.Image], _T]) -> _T:
    """What `take` makes of a picture, the first frame of several, turned as its EXIF data say.

    Raises:
        UserError: the file cannot be read, is of no usual format, or holds more pixels than Pillow
            takes for a picture.
    """
    with reading(path, " cannot be read as a picture"):
        with _quiet():
            opened = Image.open(path, formats=_FORMATS)
        with opened:
            return take(_upright(opened))


def read_photo(path: Path) -> np.ndarray:
    """Reads an image file, the first frame of several: (h, w, 3) uint8.

    Oriented by its EXIF data; transparent parts are white; 16 bits a channel become 8, and
    floating-point numbers are taken as 0 to 1.

    Raises:
        UserError: the file cannot be read, or holds more pixels than Pillow takes for a picture; or
            it is a folder.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder without a picture.")
    return read_picture(path, lambda picture: np.asarray(_rgb(picture)))


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.float64) / (1 if picture.mode == "F" else 65535)
        if not (values.min() >= -ROUNDING and values.max() <= 1 + ROUNDING):
            raise ValueError(
                f"its numbers are {values.min():.6g} to {values.max():.6g} of the largest, no grey"
            )
        picture = Image.fromarray(np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8))
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Makes Pillow silent about odd metadata, and strict about too many pixels."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Without it, what is up to twice as large as a picture may be is a warning alone.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _upright(picture: Image.Image) -> Image.Image:
    """Turns a picture as its EXIF data say; where these cannot be read, it is upright."""
    picture.load()  # Pillow turns a TIFF file itself, and then forgets its orientation
    turn = None
    # Pillow's own function writes the data back without the orientation, which can fail as well.
    with contextlib.suppress(*_EXIF_ERRORS), _quiet():
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    return picture if turn is None else picture.transpose(turn)


def load_picture(path: Path, modes: Sequence[str], what: str) -> np.ndarray:
    """The pixels (h, w[, 3]) of a picture, turned as its EXIF data say; a palette's as its indices.

    Args:
        path: of the file.
        modes: Pillow's names of the pixel formats that will do: "L" and "P" have 8 bits, "I;16" has
            16 and "RGB" three times 8.
        what: must be in the file, in words, for the error message.

    Raises:
        UserError: the file cannot be read or has another pixel format.
    """
    mode, pixels = read_picture(path, lambda picture: (picture.mode, np.asarray(picture)))
    if mode not in modes:
        raise UserError(
            f"{path} has pixels of the format {mode} but must hold {what} ({' or '.join(modes)})."
        )
    return pixels


def check_sizes(paths: Mapping[str, Path], pixels: Mapping[str, np.ndarray]) -> None:
    """Raises UserError unless an example's fields, before any resize, are of its image's size.

    Args:
        paths: of the example, by field.
        pixels: "image" and others of its fields, each (h, w, ...).
    """
    size = pixels["image"].shape[:2]
    for field, values in pixels.items():
        if values.shape[:2] != size:
            raise UserError(
                f"{paths[field]} is of the size {values.shape[:2]} but its image, "
                f"{paths['image']}, is of the size {size}: they must agree when both are turned as "
                "their EXIF data say."
            )


def load_mat(path: Path, name: str) -> Any:
    """The variable `name` of a MATLAB file (up to version 7.2), structs as objects.

    Raises:
        UserError: the file cannot be read or has no such variable.
    """
    from scipy.io import loadmat

    with reading(path, " cannot be read as a MATLAB file"):
        try:
            variables = loadmat(
                path, struct_as_record=False, squeeze_me=True, variable_names=[name]
            )
        except NotImplementedError as error:  # SciPy's answer to version 7.3, which h5py reads
            raise UserError(
                f"{path} is a MATLAB 7.3 file (HDF5), but an older version is expected here."
            ) from error
    if name not in variables:
        raise UserError(f"{path} holds no variable '{name}'.")
    return variables[name]


@contextlib.contextmanager
def reading(path: Path, words: str) -> Iterator[None]:
    """Turns all errors of the `with` block, which reads a file, into a `UserError`: PATH WORDS."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged files make libraries raise any type: it is in the sentence
        raise UserError(f"{path}{words}: {one_line(error, path)}.") from error


def clip(
    path: Path,
    what: str,
    values: np.ndarray,
    low: float,
    high: float = _LARGEST,
    *,
    rule: str,
) -> np.ndarray:
    """A file's `values` (float32) in [low, high], those up to `ROUNDING` outside being clipped.

    Raises:
        UserError: one is further outside, or NaN.
    """
    inside = (values >= low - ROUNDING) & (values <= high + ROUNDING)
    check(path, what, values, inside, rule)
    return np.clip(values, low, high)


def check(path: Path, what: str, values: np.ndarray, valid: np.ndarray, rule: str) -> None:
    """Raises UserError with the first of a file's `values` that is not `valid`."""
    if not valid.all():
        where = np.argwhere(~valid)[0]
        value = str(values[tuple(where)]).removesuffix(".0")  # as many digits as tell it apart
        raise UserError(
            f"{path}: {what} must be {rule}, but the one at {tuple(map(int, where))} is {value}."
        )


def one_line(error: Exception, path: Path | None = None) -> str:
    """The message of an error, to be quoted within a sentence that names the path itself."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).replace(f" '{path}'", "").rstrip(".")
