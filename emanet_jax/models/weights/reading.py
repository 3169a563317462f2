"""Read files of weights into {name: array}: .pth (without PyTorch), .safetensors and .npz.

A .pth file is a pickle, which describes Python objects, beside the numbers of every tensor's
storage. Of the objects only tensors and what holds them are made (`pickles`), so nothing in a file
is ever executed, and settings, counters or dates that a script saved beside them do no harm. Both
kinds are read, the zip archive of PyTorch 1.6 and later and the stream of pickles before it.

Sizes that a file states are compared with those that it has before they are believed: reading takes
about as much memory as the file has bytes, or as its tensors state where the file is compressed.
"""

import functools
import io
import logging
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from emanet_jax.errors import UserError, listed
from emanet_jax.models.weights.pickles import Opaque, load

_LOG = logging.getLogger(__name__)

# Keys under which training scripts keep the state dict among what else they save.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
# Prefixes that wrappers of a network give its names: DataParallel, torch.compile, and the authors'
# training script, whose loss is beside the network and may have weights of its own.
WRAPPERS = ("module.", "_orig_mod.", "model.")
BESIDE_THE_NETWORK = ("loss", "criterion")

_DTYPES = {
    "BFloat16Storage": ml_dtypes.bfloat16,
    "BoolStorage": np.bool_,
    "ByteStorage": np.uint8,
    "CharStorage": np.int8,
    "ComplexDoubleStorage": np.complex128,
    "ComplexFloatStorage": np.complex64,
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "ShortStorage": np.int16,
    # Of these, no tensor is made; their sizes say where the next storage of an old file begins.
    "UntypedStorage": np.uint8,
    "QInt8Storage": np.int8,
    "QUInt8Storage": np.uint8,
    "QInt32Storage": np.int32,
}
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # the first bytes of the two kinds of .pth
_STREAM_MAGIC, _STREAM_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

# Errors of the libraries that read a truncated, damaged or hostile file.
_READ_ERRORS = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    safetensors.SafetensorError,
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


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Read the state dict in a file, in the dtypes that it is stored in (bfloat16 by ml_dtypes).

    A file of a training script may hold more: then the state dict is what it keeps under the first
    of `STATE_DICT_KEYS`, and the log lists what is left out. A wrapper's prefix (`WRAPPERS`) is
    taken off where every name has it but those of the loss (`loss...`, `criterion...`), which stay:
    a strict import names them.

    Args:
      path: a file that ends in one of `READERS`.

    Raises:
      UserError: there is no such file, it cannot be read, or it holds no state dict.
    """
    path = Path(path).expanduser()
    if path.suffix not in READERS:
        raise UserError(
            f"{path} has no known ending; weights are read from {', '.join(READERS)} files."
        )
    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    try:
        state_dict = READERS[path.suffix](path)
    except UserError:
        raise
    except _READ_ERRORS as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(
            f"{path} cannot be read: it is truncated, damaged or no {path.suffix} file ({reason})."
        ) from error
    return without_wrappers(state_dict)


def without_wrappers(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Take off the prefixes that wrappers of the network gave its names, in whichever order."""
    state_dict = dict(state_dict)
    for prefix in WRAPPERS * len(WRAPPERS):
        inside = {name for name in state_dict if name.startswith(prefix)}
        beside = {name for name in state_dict if name.startswith(BESIDE_THE_NETWORK)}
        if inside and inside | beside == state_dict.keys():
            _LOG.info("Took '%s' off %d names of the state dict.", prefix, len(inside))
            state_dict = {name.removeprefix(prefix): x for name, x in state_dict.items()}
    return state_dict


def _archive(file: Path | IO[bytes]) -> zipfile.ZipFile:
    """Open a zip archive whose entries take no more memory than they say they hold."""
    archive = zipfile.ZipFile(file)
    for entry in archive.infolist():
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile(f"{listed([entry.filename])} is compressed unusually")
    return archive


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with _archive(path) as archive:
        entries = archive.infolist()
        return {x.filename.removesuffix(".npy"): _read_npy(archive, x) for x in entries}


def _read_npy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """Read an array once its header has stated the entry's size: NumPy believes the header."""
    with archive.open(entry) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):  # later ones are for structures' fields
            raise ValueError(f"{listed([entry.filename])} is no plain array")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        size = stream.tell() + math.prod(shape) * dtype.itemsize
    if size != entry.file_size and not dtype.hasobject:
        raise ValueError(f"{listed([entry.filename])} states another size than it has")
    with archive.open(entry) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


class _Storage(NamedTuple):
    """Numbers in a .pth file, under a key."""

    dtype: np.dtype
    key: str
    elements: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.elements * self.dtype.itemsize


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.storage.dtype.itemsize


_ReadStorage = Callable[[_Storage], bytes]


class _File(io.BufferedReader):
    """A file whose reads take no memory for bytes that it does not have."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self.size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def _read_pth(path: Path) -> dict[str, np.ndarray]:
    with _File(path) as file:
        start = file.peek(len(_ZIP))
        if start.startswith(_ZIP):
            content, read_storage = _open_zip(path, file)
        elif start.startswith(_PICKLE):
            content, read_storage = _read_stream(path, file)
        else:
            raise UserError(f"{path} is no PyTorch file: it is neither a zip archive nor a pickle.")
        tensors = _find_state_dict(path, content)
        needed = sum(storage.size for storage in {x.storage for x in tensors.values()})
        stated = sum(x.size for x in tensors.values())
        if needed > max(file.size, stated):
            raise UserError(
                f"{path} has {file.size:,} bytes and tensors of {stated:,}, but numbers that would "
                f"fill {needed:,}: torch.save writes no such file, choose another."
            )
        return {name: _to_array(tensor, read_storage) for name, tensor in tensors.items()}


def _open_zip(path: Path, file: _File) -> tuple[Any, _ReadStorage]:
    """PyTorch 1.6 and later: data.pkl, and a file for every storage."""
    archive = _archive(file)
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("data.pkl")]
    if not pickles:
        raise UserError(f"{path} is a zip archive but no PyTorch file: it holds no data.pkl.")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in names:
        with archive.open(f"{root}byteorder") as stream:
            _check_byte_order(path, stream.read(len("little")) == b"little")
    entry = archive.getinfo(pickles[0])
    if entry.file_size > file.size:  # compressed, with far less to say than it is long
        raise pickle.UnpicklingError(f"its pickle is of {entry.file_size:,} bytes")
    content = _Unpickler(path).load(io.BytesIO(archive.read(entry)))

    def read(storage: _Storage) -> bytes:
        entry = archive.getinfo(f"{root}data/{storage.key}")
        _check_storage(storage, entry.file_size)
        return archive.read(entry)  # checks the CRC

    return content, functools.cache(read)


def _read_stream(path: Path, file: _File) -> tuple[Any, _ReadStorage]:
    """Before PyTorch 1.6: five pickles (the third describes the machine), then the storages."""
    unpickler = _Unpickler(path)
    for expected in (_STREAM_MAGIC, _STREAM_PROTOCOL):
        if unpickler.load(file) != expected:
            raise UserError(f"{path} is a pickle but no PyTorch file.")
    _check_byte_order(path, unpickler.load(file)["little_endian"])
    content = unpickler.load(file)
    places = {}
    for key in unpickler.load(file):
        if not isinstance(key, str):
            raise pickle.UnpicklingError("a storage's key is no string")
        storage = unpickler.storages[key]
        (elements,) = struct.unpack("<q", file.read(8))
        _check_storage(storage, elements * storage.dtype.itemsize)
        places[storage.key] = file.tell()
        if file.seek(storage.size, io.SEEK_CUR) > file.size:
            raise EOFError(f"storage {listed([storage.key])} ends early")

    def read(storage: _Storage) -> bytes:
        _check_storage(storage, unpickler.storages[storage.key].size)
        file.seek(places[storage.key])
        return file.read(storage.size)

    return content, functools.cache(read)


def _check_byte_order(path: Path, little: bool) -> None:
    if not little:
        raise UserError(f"{path} was saved on a big-endian machine; save it on another one.")


def _check_storage(storage: _Storage, size: int) -> None:
    if size != storage.size:
        raise pickle.UnpicklingError(
            f"storage {listed([storage.key])} has {size:,} bytes in place of {storage.size:,}"
        )


class _Unpickler:
    """Makes `_Tensor` records of tensors, and remembers their storages by key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.storages: dict[str, _Storage] = {}

    def load(self, file: IO[bytes]) -> Any:
        return load(self._path, file, _MAKERS, self._storage)

    def _storage(self, identity: Any) -> Any:
        """Read ("storage", type, key, device, elements), after which old files have a None."""
        if not (isinstance(identity, tuple) and len(identity) in (5, 6)):
            return Opaque("torch", "persistent id")
        kind, of, key, _, elements, *view = identity
        is_plain = kind == "storage" and view in ([], [None]) and isinstance(of, Opaque)
        if not (is_plain and of.module in ("torch", "torch.storage") and of.name in _DTYPES):
            return of if isinstance(of, Opaque) else Opaque("torch", "persistent id")
        if not (isinstance(key, str) and _is_size(elements) and elements >= 0):
            raise pickle.UnpicklingError("a storage without a key or a number of elements")
        self.storages[key] = _Storage(np.dtype(_DTYPES[of.name]), key, elements)
        return self.storages[key]


def _is_size(x: Any) -> bool:
    """Whether it is a number that PyTorch can write; NumPy judges how such numbers fit together."""
    return type(x) is int and abs(x) < 2**63


def _rebuild_tensor(arguments: tuple[Any, ...]) -> _Tensor:
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError(f"a tensor without a storage, of {_kind(storage)}")
    for sizes in ((offset,), shape, strides):
        if not (isinstance(sizes, tuple) and len(sizes) <= 64 and all(map(_is_size, sizes))):
            raise pickle.UnpicklingError("a tensor whose offset, shape or strides are no sizes")
    return _Tensor(storage, offset, shape, strides)


def _ordered_dict(arguments: tuple[Any, ...]) -> Any:
    """An empty dictionary, or in Python 2's pickles one of pairs, which are moved: see `load`."""
    pairs = arguments[0] if arguments else []
    if not isinstance(pairs, list):
        return Opaque("collections", "OrderedDict")
    content = {pair[0]: pair[1] for pair in pairs if isinstance(pair[0], str)}
    pairs.clear()
    return content


_MAKERS = {
    Opaque("collections", "OrderedDict"): _ordered_dict,
    Opaque("torch", "Size"): lambda arguments: arguments[0],
    Opaque("torch._utils", "_rebuild_tensor"): _rebuild_tensor,  # before PyTorch 0.4
    Opaque("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    Opaque("torch._utils", "_rebuild_parameter"): lambda arguments: arguments[0],
}


def _find_state_dict(path: Path, content: Any) -> Mapping[str, _Tensor]:
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds no state dict but an object of type {_kind(content)}; save the state "
            "dict alone, as torch.save(model.state_dict(), ...) does."
        )
    for key in STATE_DICT_KEYS:
        if _has_tensors(content.get(key)):
            others = sorted(content.keys() - {key})
            _LOG.info("%s: took '%s'; left out: %s.", path, key, listed(others, most=20))
            content = content[key]
            break
    if not _has_tensors(content):
        keys = [f"{key} ({_kind(content[key])})" for key in sorted(content)]
        raise UserError(
            f"{path} holds no state dict: there are no tensors at its top nor under one of "
            f"{', '.join(STATE_DICT_KEYS)}, only the keys {listed(keys)}."
        )
    others = [f"{name} ({_kind(x)})" for name, x in content.items() if not isinstance(x, _Tensor)]
    if others:
        raise UserError(f"{path}: in its state dict, these are no tensors: {listed(others)}.")
    return content


def _has_tensors(content: Any) -> bool:
    return isinstance(content, dict) and any(isinstance(x, _Tensor) for x in content.values())


def _kind(content: Any) -> str:
    if isinstance(content, Opaque):
        return f"{listed([content.module])}.{listed([content.name])}"
    return type(content).__name__.removeprefix("_")


def _to_array(tensor: _Tensor, read_storage: _ReadStorage) -> np.ndarray:
    """A tensor's numbers, as a view of its storage: one that repeats them takes no more memory.

    Raises:
      ValueError: it reaches beyond its storage, as NumPy notices.
    """
    storage, offset, shape, strides = tensor
    size = storage.dtype.itemsize
    return np.ndarray(
        shape,
        storage.dtype,
        read_storage(storage),
        offset * size,
        [stride * size for stride in strides],
    )


READERS: Mapping[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".pth": _read_pth,
    ".pt": _read_pth,
    ".bin": _read_pth,
    ".ckpt": _read_pth,
    ".tar": _read_pth,  # model.pth.tar, as many scripts name what is no archive of tar
    ".safetensors": safetensors.numpy.load_file,
    ".npz": _read_npz,
}
