"""PyTorch's files without PyTorch: pickles written opcode by opcode, harmless and hostile."""

import struct
import zipfile
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np

STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}


class View(NamedTuple):
    """A tensor that shows part of a storage, or claims to."""

    storage: np.ndarray
    offset: int
    shape: tuple
    strides: tuple


class Stored(NamedTuple):
    """A storage of a type of its own, without a tensor."""

    numbers: np.ndarray
    kind: "Global"


class Parameter(NamedTuple):
    data: np.ndarray


class Global(NamedTuple):
    """A name that is looked up when the pickle is read."""

    module: str
    name: str


class Call(NamedTuple):
    """A global name that is called when the pickle is read."""

    module: str
    name: str
    arguments: tuple


class Built(NamedTuple):
    """An object whose attributes are set when the pickle is read."""

    target: Any
    state: Any


class Raw(NamedTuple):
    """Opcodes as they are."""

    opcodes: bytes


def save_torch(path, content, old=False):
    """Writes what torch.save writes, as a zip or as the old stream of pickles."""
    writer = _Writer(old)
    body = writer.pickle(content)
    if old:
        keys = [str(key) for key in writer.keys]
        parts = [writer.pickle(x) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        parts += [body, writer.pickle(keys)]
        for storage in writer.storages:
            parts.append(struct.pack("<q", storage.size) + storage.tobytes())
        path.write_bytes(b"".join(parts))
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/byteorder", "little")
        for key, storage in zip(writer.keys, writer.storages, strict=True):
            archive.writestr(f"archive/data/{key}", storage.tobytes())
        archive.writestr("archive/version", "3\n")


class _Writer:
    def __init__(self, old):
        self.old = old
        self.storages: list[np.ndarray] = []

    @property
    def keys(self):
        return range(len(self.storages))

    def pickle(self, x):
        return b"\x80\x02" + self.write(x) + b"."

    def write(self, x: Any) -> bytes:
        match x:
            case Raw():
                return x.opcodes
            case Global():
                return f"c{x.module}\n{x.name}\n".encode()
            case Call():
                return self.write(Global(x.module, x.name)) + self.write(tuple(x.arguments)) + b"R"
            case Built():
                return self.write(x.target) + self.write(x.state) + b"b"
            case Parameter():
                arguments = (x.data, True, OrderedDict())
                return self.write(Call("torch._utils", "_rebuild_parameter", arguments))
            case Stored():
                return self._storage(x.numbers, x.kind)
            case View():
                return self._tensor(*x)
            case np.ndarray():
                base = np.frombuffer(x.tobytes(), x.dtype)
                steps = np.cumprod([1, *x.shape[:0:-1]])[::-1] if x.ndim else []
                return self._tensor(base, 0, x.shape, tuple(map(int, steps)))
            case None:
                return b"N"
            case bool():
                return b"\x88" if x else b"\x89"
            case int():
                size = x.bit_length() // 8 + 1
                return b"\x8a" + bytes([size]) + x.to_bytes(size, "little", signed=True)
            case float():
                return b"G" + struct.pack(">d", x)
            case str():
                return b"X" + struct.pack("<I", len(x.encode())) + x.encode()
            case tuple():
                return b"(" + b"".join(map(self.write, x)) + b"t"
            case list():
                return b"](" + b"".join(map(self.write, x)) + b"e"
            case OrderedDict():
                return self.write(Call("collections", "OrderedDict", ())) + self._items(x)
            case dict():
                return b"}" + self._items(x)
        raise TypeError(type(x))

    def _items(self, x):
        return b"".join(self.write(k) + self.write(v) + b"s" for k, v in x.items())

    def _tensor(self, storage, offset, shape, strides):
        opcodes = self._storage(storage, Global("torch", STORAGES[storage.dtype.name]))
        arguments = (Raw(opcodes), offset, shape, strides, False, OrderedDict())
        return self.write(Call("torch._utils", "_rebuild_tensor_v2", arguments))

    def _storage(self, storage, kind):
        keys = [key for key, known in enumerate(self.storages) if known is storage]
        key = keys[0] if keys else len(self.storages)
        if not keys:
            self.storages.append(storage)
        pid = ("storage", kind, str(key), "cpu", storage.size) + ((None,) if self.old else ())
        return self.write(pid) + b"Q"
