"""PyTorch's files (.pth) without PyTorch, and without running anything that they hold.

Such a file is a pickle, which describes Python objects, and the raw numbers of every tensor's
storage. A pickle may name any function of any module and have it called. The reader here knows the
few names that weights need and refuses all others, so that a file from anywhere can be read; what
it makes of tensors are records (`Tensor`), and numbers are read for the tensors that are wanted.

Both forms are read: the zip archive of PyTorch 1.6 and later, and the stream of pickles before it.
"""

import functools
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from emanet_jax.errors import UserError

_DTYPES = {
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "BoolStorage": np.dtype(bool),
    "ByteStorage": np.dtype(np.uint8),
    "CharStorage": np.dtype(np.int8),
    "ComplexDoubleStorage": np.dtype(np.complex128),
    "ComplexFloatStorage": np.dtype(np.complex64),
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "IntStorage": np.dtype(np.int32),
    "LongStorage": np.dtype(np.int64),
    "ShortStorage": np.dtype(np.int16),
}
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # how the two forms begin
_OLD_MAGIC, _OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

# What reading a truncated, damaged or hostile file can raise, in one of Python's own readers.
FAULTS = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
)


class Storage(NamedTuple):
    """Numbers in a file: `elements` of them under a key."""

    dtype: np.dtype
    key: str
    elements: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch(path: Path, choose: Callable[[Any], Mapping[str, Tensor]]) -> dict[str, np.ndarray]:
    """The arrays of a PyTorch file, of the types that they are stored in (bfloat16 by ml_dtypes).

    Args:
      path: of the file.
      choose: from what was saved, its tensors as `Tensor`, to the ones that are wanted.

    Raises:
      UserError: the file cannot be read, is none of PyTorch's, or needs a Python object that is
        neither a tensor nor a plain container.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_ZIP))
            file.seek(0)
            if start == _ZIP:
                return _read_zip(path, file, choose)
            if start.startswith(_PICKLE):
                return _read_stream(path, file, choose)
    except UserError:
        raise
    except FAULTS as error:
        raise unreadable(path, "PyTorch file", error) from error
    raise UserError(f"{path} is no PyTorch file: it is neither a zip archive nor a pickle.")


def unreadable(path: Path, kind: str, error: Exception) -> UserError:
    """The one sentence about a file that is not of its kind or was damaged."""
    said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return UserError(
        f"{path} cannot be read as a {kind}: it is truncated, damaged or of another kind ({said})."
    )


def _read_zip(
    path: Path, file: BinaryIO, choose: Callable[[Any], Mapping[str, Tensor]]
) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        root = next(
            (name.removesuffix("data.pkl") for name in names if name.endswith("data.pkl")), None
        )
        if root is None:
            raise UserError(f"{path} is a zip archive but no PyTorch file: it holds no data.pkl.")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise UserError(f"{path} was saved on a big-endian machine; save it on another one.")
        with archive.open(f"{root}data.pkl") as stream:
            content = _Unpickler(path, stream).load()

        @functools.cache
        def numbers(key: str) -> bytes:
            return archive.read(f"{root}data/{key}")  # checks the CRC

        return {name: _array(tensor, numbers) for name, tensor in choose(content).items()}


def _read_stream(
    path: Path, file: BinaryIO, choose: Callable[[Any], Mapping[str, Tensor]]
) -> dict[str, np.ndarray]:
    """The form before PyTorch 1.6: five pickles (the third tells of the machine), then storages."""
    for expected in (_OLD_MAGIC, _OLD_PROTOCOL):
        if _Unpickler(path, file).load() != expected:
            raise UserError(f"{path} is a pickle but no PyTorch file.")
    if not _Unpickler(path, file).load()["little_endian"]:
        raise UserError(f"{path} was saved on a big-endian machine; save it on another one.")
    unpickler = _Unpickler(path, file)
    content = unpickler.load()
    numbers = {}
    for key in _Unpickler(path, file).load():
        (elements,) = struct.unpack("<q", file.read(8))
        numbers[key] = file.read(elements * unpickler.storages[key].dtype.itemsize)
    return {name: _array(tensor, numbers.__getitem__) for name, tensor in choose(content).items()}


class _Unpickler(pickle.Unpickler):
    """Makes records of tensors; refuses every global name that it does not know.

    Nothing that `find_class` returns can be changed by a pickle: types of C, strings, and methods.
    """

    def __init__(self, path: Path, file: BinaryIO):
        super().__init__(file, encoding="utf-8")
        self._path = path
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return name
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("collections", "Counter"): dict,
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
        }
        if (module, name) not in known:
            raise UserError(
                f"{self._path} asks for the Python object {module}.{name}, which could run code "
                "and is not loaded; save the state dict alone, as torch.save(model.state_dict(), "
                "...) does."
            )
        return known[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, type_name, key, _, elements, *view = pid
        if kind != "storage" or any(view):
            raise UserError(f"{self._path} holds {pid!r}, which is no plain storage of numbers.")
        self.storages[key] = Storage(_DTYPES[type_name], key, elements)
        return self.storages[key]

    def _tensor(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        *_: Any,
    ) -> Tensor:
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        return Tensor(storage, offset, tuple(shape), tuple(strides))

    def _parameter(self, data: Tensor, *_: Any) -> Tensor:
        return data


def _array(tensor: Tensor, numbers: Callable[[str], bytes]) -> np.ndarray:
    """The tensor's numbers in row-major order; ValueError if it reaches beyond its storage."""
    storage, offset, shape, strides = tensor
    flat = np.frombuffer(numbers(storage.key), storage.dtype)
    if len(flat) != storage.elements:
        raise ValueError(f"storage {storage.key} has {len(flat)} of {storage.elements} values")
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if min(offset, *shape, *strides, 0) < 0 or last >= len(flat):
        raise ValueError(f"a tensor reaches beyond storage {storage.key}")
    steps = [step * flat.itemsize for step in strides]
    view = np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)
    return np.asarray(view, order="C")
