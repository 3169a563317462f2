"""Read files of weights into {name: array}: .pth (without PyTorch), .safetensors and .npz.

A .pth file is a pickle, which describes Python objects, beside the numbers of every tensor's
storage. A pickle may name any function of any module and have it called, so the unpickler here
knows the few names that weights need and refuses all others: nothing in a file is ever executed.
Both kinds are read, the zip archive of PyTorch 1.6 and later and the stream of pickles before it.
"""

import functools
import logging
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from emanet_jax.errors import UserError

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
    """Take off the prefixes that wrappers of the network gave its names."""
    state_dict, stripped = dict(state_dict), True
    while stripped:
        stripped = False
        for prefix in WRAPPERS:
            inside = {name for name in state_dict if name.startswith(prefix)}
            beside = {name for name in state_dict if name.startswith(BESIDE_THE_NETWORK)}
            if inside and inside | beside == state_dict.keys():
                state_dict = {name.removeprefix(prefix): x for name, x in state_dict.items()}
                stripped = True
    return state_dict


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


class _Storage(NamedTuple):
    """Numbers in a .pth file, under a key."""

    dtype: np.dtype
    key: str
    elements: int


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_ReadStorage = Callable[[str], bytes]  # a storage's numbers by its key


def _read_pth(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        start = file.peek(len(_ZIP))
        if start.startswith(_ZIP):
            content, read_storage = _open_zip(path, file)
        elif start.startswith(_PICKLE):
            content, read_storage = _read_stream(path, file)
        else:
            raise UserError(f"{path} is no PyTorch file: it is neither a zip archive nor a pickle.")
        tensors = _find_state_dict(path, content)
        return {name: _to_array(tensor, read_storage) for name, tensor in tensors.items()}


def _open_zip(path: Path, file: IO[bytes]) -> tuple[Any, _ReadStorage]:
    """PyTorch 1.6 and later: data.pkl, and a file for every storage."""
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("data.pkl")]
    if not pickles:
        raise UserError(f"{path} is a zip archive but no PyTorch file: it holds no data.pkl.")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise UserError(f"{path} was saved on a big-endian machine; save it on another one.")
    with archive.open(pickles[0]) as stream:
        content = _Unpickler(path, stream).load()
    return content, functools.cache(lambda key: archive.read(f"{root}data/{key}"))  # checks the CRC


def _read_stream(path: Path, file: IO[bytes]) -> tuple[Any, _ReadStorage]:
    """Before PyTorch 1.6: five pickles (the third describes the machine), then the storages."""
    for expected in (_STREAM_MAGIC, _STREAM_PROTOCOL):
        if _Unpickler(path, file).load() != expected:
            raise UserError(f"{path} is a pickle but no PyTorch file.")
    if not _Unpickler(path, file).load()["little_endian"]:
        raise UserError(f"{path} was saved on a big-endian machine; save it on another one.")
    unpickler = _Unpickler(path, file)
    content = unpickler.load()
    storages = {}
    for key in _Unpickler(path, file).load():
        (elements,) = struct.unpack("<q", file.read(8))
        size = elements * unpickler.storages[key].dtype.itemsize
        storages[key] = file.read(size)
        if len(storages[key]) < size:
            raise EOFError(f"storage {key} ends early")
    return content, storages.__getitem__


class _Unpickler(pickle.Unpickler):
    """Makes `_Tensor` records of tensors; refuses every global name that it does not know.

    Whatever `find_class` returns is a C type, a string or a bound method: a pickle cannot set
    attributes of these.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")
        self._path = path
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return name
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("collections", "Counter"): dict,
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor_v2"): self._rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): self._rebuild_parameter,
        }
        if (module, name) not in known:
            raise UserError(
                f"{self._path} asks for the Python object {module}.{name}, which could run code "
                "and is not loaded; save the state dict alone, as torch.save(model.state_dict(), "
                "...) does."
            )
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, type_name, key, _, elements, *view = pid
        if kind != "storage" or any(view):
            raise UserError(f"{self._path} holds {pid!r}, which is no plain storage of numbers.")
        self.storages[key] = _Storage(np.dtype(_DTYPES[type_name]), key, elements)
        return self.storages[key]

    def _rebuild_tensor(
        self, storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
    ) -> _Tensor:
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        return _Tensor(storage, offset, tuple(shape), tuple(strides))

    def _rebuild_parameter(self, data: _Tensor, *_: Any) -> _Tensor:
        return data


def _find_state_dict(path: Path, content: Any) -> Mapping[str, _Tensor]:
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds no state dict but an object of type {_kind(content)}.")
    for key in STATE_DICT_KEYS:
        if _has_tensors(content.get(key)):
            others = sorted(map(str, content.keys() - {key}))
            _LOG.info("%s: took '%s'; left out: %s.", path, key, ", ".join(others) or "nothing")
            content = content[key]
            break
    if not _has_tensors(content):
        raise UserError(
            f"{path} holds no state dict: there are no tensors at its top nor under one of "
            f"{', '.join(STATE_DICT_KEYS)}, only the keys {sorted(map(str, content))}."
        )
    others = [f"{name} ({_kind(x)})" for name, x in content.items() if not isinstance(x, _Tensor)]
    if others:
        raise UserError(f"{path}: in its state dict, these are no tensors: {', '.join(others)}.")
    return content


def _has_tensors(content: Any) -> bool:
    return isinstance(content, Mapping) and any(isinstance(x, _Tensor) for x in content.values())


def _kind(content: Any) -> str:
    return type(content).__name__.removeprefix("_")


def _to_array(tensor: _Tensor, read_storage: _ReadStorage) -> np.ndarray:
    """Copy a tensor's numbers in row-major order.

    Raises:
      ValueError: it reaches beyond its storage, as NumPy notices.
    """
    storage, offset, shape, strides = tensor
    size = storage.dtype.itemsize
    view: np.ndarray = np.ndarray(
        shape,
        storage.dtype,
        read_storage(storage.key),
        offset * size,
        [stride * size for stride in strides],
    )
    return np.asarray(view, order="C")


READERS: Mapping[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".pth": _read_pth,
    ".pt": _read_pth,
    ".bin": _read_pth,
    ".ckpt": _read_pth,
    ".tar": _read_pth,  # model.pth.tar, as many scripts name what is no archive of tar
    ".safetensors": safetensors.numpy.load_file,
    ".npz": _read_npz,
}
