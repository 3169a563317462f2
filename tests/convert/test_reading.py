"""Files of weights, written by hand: every number arrives, nothing in them runs."""

import argparse
import datetime
import enum
import itertools
import logging
import os
import pathlib
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from emanet_jax.errors import UserError
from emanet_jax.models.weights.reading import read_state_dict, without_wrappers
from tests.torch_files import (
    STORAGES,
    Built,
    Call,
    Global,
    Parameter,
    Raw,
    Stored,
    View,
    save_torch,
)

FORMS = pytest.mark.parametrize("old", [False, True], ids=["zip", "stream"])
WEIGHTS = {"conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), "bias": np.ones(2)}


def array(dtype, shape=(3, 4)):
    r = np.random.RandomState(0)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    return (100 * r.random_sample(shape)).astype(kind)


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        assert actual[name].dtype == x.dtype and actual[name].shape == x.shape, name
        np.testing.assert_array_equal(actual[name], x, err_msg=name)


@FORMS
def test_torch_files_keep_every_type_and_shape(tmp_path, old):
    expected = {dtype: array(dtype) for dtype in STORAGES}
    expected |= {"scalar": np.array(3), "empty": np.zeros((0, 3), np.float32)}
    save_torch(tmp_path / "x.pth", OrderedDict(expected), old)
    assert_same(read_state_dict(tmp_path / "x.pth"), expected)


@FORMS
def test_torch_views(tmp_path, old):
    base = np.arange(48, dtype=np.float32)
    grid = base.reshape(6, 8)
    content = {
        "whole": View(base, 0, (6, 8), (8, 1)),
        "transposed": View(base, 0, (8, 6), (1, 8)),
        "part": View(base, 10, (2, 5), (16, 1)),
        "repeated": View(base, 3, (4, 2), (0, 1)),
        "parameter": Parameter(np.ones((2, 2), np.float32)),
    }
    save_torch(tmp_path / "x.pt", content, old)
    expected = {"whole": grid, "transposed": grid.T, "part": grid[1:5:2, 2:7]}
    expected |= {"repeated": np.tile(base[3:5], (4, 1)), "parameter": np.ones((2, 2), np.float32)}
    assert_same(read_state_dict(tmp_path / "x.pt"), expected)


@FORMS
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (7,), (1,)), (1, (2, 3), (3, 1)), (0, (2,), (6,)), (-1, (2,), (1,)), (0, (2,), (-1,))],
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, old, offset, shape, strides):
    view = View(np.zeros(6, np.float32), offset, shape, strides)
    save_torch(tmp_path / "x.pth", {"x": view}, old)
    with pytest.raises(
        UserError, match="incompatible with shape of requested array and size of buffer"
    ):
        read_state_dict(tmp_path / "x.pth")


def test_safetensors_and_npz(tmp_path):
    kinds = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
    expected = {kind: array(kind) for kind in kinds} | {"scalar": np.array(3.0)}
    save_file(expected, tmp_path / "x.safetensors")
    assert_same(read_state_dict(tmp_path / "x.safetensors"), expected)
    np.savez(tmp_path / "x.npz", **expected)
    assert_same(read_state_dict(tmp_path / "x.npz"), expected)


def test_bfloat16_in_safetensors(tmp_path):
    header = b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    data = len(header).to_bytes(8, "little") + header + bytes.fromhex("803f20c0")
    (tmp_path / "x.safetensors").write_bytes(data)
    expected = np.array([1, -2.5], ml_dtypes.bfloat16)
    assert_same(read_state_dict(tmp_path / "x.safetensors"), {"x": expected})


@FORMS
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_training_scripts_file(tmp_path, old, key, caplog):
    others = {
        "epoch": 3,
        "best": 0.5,
        "optimizer": {"state": {0: {"exp_avg": np.ones(2, np.float32)}}, "param_groups": [None]},
        "scheduler": {"milestones": Call("collections", "Counter", ({3: 1},))},
        "size": Call("torch", "Size", ((2, 3),)),
    }
    caplog.set_level(logging.INFO)
    save_torch(tmp_path / "model.pth.tar", {**others, key: OrderedDict(WEIGHTS)}, old)
    assert_same(read_state_dict(tmp_path / "model.pth.tar"), WEIGHTS)
    logged = f"took '{key}'; left out: best, epoch, optimizer, scheduler, size."
    assert logged in caplog.text


class Colour(enum.Enum):
    RED = 1


class Settings(dict):
    """A dictionary with attributes, as nodes of configs are."""

    def __init__(self, **values):
        super().__init__(**values)
        self.frozen = True


def _recursive(kind):
    content = []
    content.append((content, 1, 2, 3) if kind is tuple else content)
    return content[0] if kind is tuple else content


METADATA = {
    "namespace": argparse.Namespace(lr=0.1, tasks=["depth"]),
    "NumPy scalar": np.float64(0.5),
    "NumPy type": np.dtype(np.float32),
    "NumPy array": np.arange(6).reshape(2, 3),
    "random state": np.random.RandomState(0).get_state(),
    "time": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
    "path": pathlib.PurePosixPath("/runs/1"),
    "enumeration": Colour.RED,
    "config": Settings(lr=0.1, deep=Settings(x=[1, 2])),
    "defaultdict": defaultdict(list, {"loss": [0.5]}),
    "counter": Counter({3: 1}),
    "deque": deque([1, 2], maxlen=3),
    "sets": [{1, 2}, frozenset({3})],
    "bytes": [b"ab", bytearray(b"cd")],
    "numbers": [True, None, 2**40, -(2**70), 1.5, 1j],
    "keys": {1: 2, (1, 2): 3, None: 4},
    "class": OrderedDict,
    "recursive list": _recursive(list),
    "recursive tuple": _recursive(tuple),
}


@FORMS
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", METADATA)
def test_what_a_script_saves_beside_the_weights_does_no_harm(tmp_path, old, protocol, kind):
    opcodes = pickle.dumps(METADATA[kind], protocol)[2 if protocol > 1 else 0 : -1]
    save_torch(tmp_path / "x.pth", {"args": Raw(opcodes), "model": OrderedDict(WEIGHTS)}, old)
    assert_same(read_state_dict(tmp_path / "x.pth"), WEIGHTS)


DEVICE = Call("torch", "device", ("cuda", 0))


@FORMS
def test_torchs_own_objects_beside_the_weights_do_no_harm(tmp_path, old):
    others = {
        "device": DEVICE,
        "dtype": Global("torch", "float32"),
        "sparse": Call("torch._utils", "_rebuild_sparse_tensor", (1, (np.ones(2), DEVICE))),
        "untyped": Stored(np.zeros(7, np.uint8), Global("torch.storage", "UntypedStorage")),
        "quantized": Stored(np.zeros(3, np.int32), Global("torch", "QInt32Storage")),
        "node": Built(Call("omegaconf", "DictConfig", ()), {"a": 1}),
    }
    save_torch(tmp_path / "x.pth", {**others, "model": WEIGHTS}, old)
    assert_same(read_state_dict(tmp_path / "x.pth"), WEIGHTS)


@FORMS
def test_attributes_of_a_state_dict_are_left_out(tmp_path, old):
    """PyTorch gives a state dict versions of its modules."""
    metadata = {"_metadata": OrderedDict({"": {"version": 1}})}
    save_torch(tmp_path / "x.pth", Built(OrderedDict(WEIGHTS), metadata), old)
    assert_same(read_state_dict(tmp_path / "x.pth"), WEIGHTS)


PARTS = {
    "storage": (DEVICE, 0, (2,), (1,)),
    "offset": (np.ones(2), DEVICE, (2,), (1,)),
    "shape": (np.ones(2), 0, DEVICE, (1,)),
    "size": (np.ones(2), 0, (DEVICE,), (1,)),
    "strides": (np.ones(2), 0, (2,), [1]),
    "bool": (np.ones(2), 0, (True,), (1,)),
    "huge": (np.ones(2), 0, (2**64,), (0,)),
}


@FORMS
@pytest.mark.parametrize("part", PARTS)
def test_a_tensor_of_other_things_is_refused(tmp_path, old, part):
    storage, *others = PARTS[part]
    if isinstance(storage, Call):
        tensor = Call("torch._utils", "_rebuild_tensor_v2", (storage, *others))
    else:
        tensor = View(storage, *others)
    save_torch(tmp_path / "x.pth", {"x": tensor}, old)
    sentence = "without a storage, of torch.device" if part == "storage" else "are no sizes"
    with pytest.raises(UserError, match=sentence):
        read_state_dict(tmp_path / "x.pth")


def test_pickles_of_python_2_and_of_early_torch(tmp_path):
    """Pairs in a list in place of a dictionary's items, strings of bytes, the first `_rebuild`."""
    expected = {"a": np.arange(6, dtype=np.float32), "b": np.ones(2)}
    pairs = [[Raw(b"U\x01" + name.encode()), x] for name, x in expected.items()]
    content = Call("collections", "OrderedDict", (pairs,))
    save_torch(tmp_path / "x.pth", content, old=True)
    early = (tmp_path / "x.pth").read_bytes().replace(b"_rebuild_tensor_v2", b"_rebuild_tensor")
    (tmp_path / "x.pth").write_bytes(early)
    assert_same(read_state_dict(tmp_path / "x.pth"), expected)


def test_what_wrappers_add_to_names_is_taken_off():
    inside = {"model.head.weight": 0, "stem.weight": 1}
    assert without_wrappers({f"module.{name}": x for name, x in inside.items()}) == inside
    names = ["backbone.weight", "head.bias"]
    orders = itertools.permutations(("model.", "module.", "_orig_mod."))
    for prefix in ("model.", "module.model.", "_orig_mod.", "model.module.", *map("".join, orders)):
        assert list(without_wrappers({prefix + name: 0 for name in names})) == names


def test_weights_of_the_loss_are_kept_under_their_names():
    actual = without_wrappers({"module.model.head.bias": 0, "module.loss.log_vars": 1})
    assert actual == {"head.bias": 0, "loss.log_vars": 1}
    actual = without_wrappers({"model.head.bias": 0, "criterion.s": 1})
    assert actual == {"head.bias": 0, "criterion.s": 1}
    other = {"model.head.bias": 0, "ema.head.bias": 1}  # neither a wrapper nor a loss
    assert without_wrappers(other) == other


class Hostile:
    """An object whose class tells pickle which function rebuilds it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


SYSTEM = {"nt": "nt", "posix": "posix"}[os.name]
HOSTILE = {
    "os.system": lambda marker: Raw(pickle.dumps(Hostile(marker), 2)[2:-1]),
    "eval": lambda marker: Call("builtins", "eval", (f"open({str(marker)!r}, 'w')",)),
    "getattr": lambda _: Call("builtins", "getattr", (Global("os", "path"), "join")),
    "attribute": lambda _: Global("collections", "OrderedDict.fromkeys"),
    "torch.load": lambda marker: Call("torch", "load", (str(marker),)),
    "storage by name": lambda marker: Call("torch.storage", "_load_from_bytes", (str(marker),)),
    "instance": lambda marker: Raw(f"(S'touch {marker}'\ni{SYSTEM}\nsystem\n".encode()),
    "module": lambda _: Call("torch.nn.modules.conv", "Conv2d", ()),
}
ASKED_FOR = {
    "os.system": f"{SYSTEM}.system",
    "eval": "builtins.eval",
    "getattr": "builtins.getattr",
    "attribute": "collections.OrderedDict.fromkeys",
    "torch.load": "torch.load",
    "storage by name": "torch.storage._load_from_bytes",
    "instance": f"{SYSTEM}.system",
    "module": "torch.nn.modules.conv.Conv2d",
}


@FORMS
@pytest.mark.parametrize("installed", [False, True], ids=["no torch", "torch"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_that_a_file_asks_for_is_run(tmp_path, old, installed, kind, monkeypatch):
    marker = tmp_path / "marker"
    torch = types.ModuleType("torch")
    torch.load = lambda *_, **__: marker.write_text("torch.load was used")
    monkeypatch.setitem(sys.modules, "torch", torch if installed else None)
    x, path = HOSTILE[kind](marker), tmp_path / "x.pth"
    save_torch(path, {"state_dict": WEIGHTS, "x": x}, old)
    assert_same(read_state_dict(path), WEIGHTS)
    save_torch(path, {"state_dict": {**WEIGHTS, "x": x}}, old)
    with pytest.raises(UserError) as error:
        read_state_dict(path)
    assert f"these are no tensors: x ({ASKED_FOR[kind]})." in str(error.value)
    assert str(path) in str(error.value)
    assert not marker.exists()


@FORMS
@pytest.mark.parametrize("name", ["_rebuild_tensor_v2", "_rebuild_parameter"])
def test_a_file_cannot_change_the_reader(tmp_path, old, name):
    """The opcode BUILD sets attributes, such as the defaults of a function."""
    save_torch(tmp_path / "plain.pth", WEIGHTS, old)
    x = Built(Global("torch._utils", name), (None, {"__defaults__": (1, 2), "marked": 3}))
    save_torch(tmp_path / "x.pth", {"x": x, "model": WEIGHTS}, old)
    assert_same(read_state_dict(tmp_path / "x.pth"), WEIGHTS)
    assert_same(read_state_dict(tmp_path / "plain.pth"), WEIGHTS)


def test_the_hostile_pickle_would_run(tmp_path):
    """So that the test above can fail."""
    pickle.loads(pickle.dumps(Hostile(tmp_path / "marker"), 2))
    assert (tmp_path / "marker").exists()


@FORMS
@pytest.mark.parametrize("name", ["OrderedDict", "Counter"])
def test_a_file_cannot_change_a_class(tmp_path, old, name):
    before = [Counter.update, OrderedDict.update]
    x = Built(Global("collections", name), (None, {"update": "changed"}))
    save_torch(tmp_path / "x.pth", {"x": x, "model": WEIGHTS}, old)
    assert_same(read_state_dict(tmp_path / "x.pth"), WEIGHTS)
    assert [Counter.update, OrderedDict.update] == before


@pytest.mark.parametrize("kind", ["zip.pth", "stream.pth", "x.safetensors", "x.npz"])
def test_truncated_files(tmp_path, kind):
    path = tmp_path / kind
    weights = {"a": np.ones((4, 4), np.float32), "b": np.ones(3, np.float32)}
    if path.suffix == ".pth":
        save_torch(path, weights, old=kind == "stream.pth")
    elif path.suffix == ".npz":
        np.savez(path, **weights)
    else:
        save_file(weights, path)
    whole = path.read_bytes()
    assert_same(read_state_dict(path), weights)
    for kept in (0, 1, 4, 9, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(UserError) as error:
            read_state_dict(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["x.pth", "x.npz"])
def test_a_flipped_byte_in_a_zip_is_noticed(tmp_path, kind):
    path = tmp_path / kind
    weights = {"a": np.full(50, 3.0, np.float32)}
    save_torch(path, weights) if path.suffix == ".pth" else np.savez(path, **weights)
    data = bytearray(path.read_bytes())
    data[data.index(weights["a"].tobytes()) + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="CRC"):
        read_state_dict(path)


def _write(name, content):
    def write(folder):
        path = folder / name
        path.write_bytes(content) if isinstance(content, bytes) else save_torch(path, content)
        return path

    return write


def _zip_without_pickle(folder):
    np.savez(folder / "x.npz", x=np.ones(3))
    return (folder / "x.npz").rename(folder / "x.pth")


def _npy_as_npz(folder):
    np.save(folder / "x.npy", np.ones(3))
    return (folder / "x.npy").rename(folder / "x.npz")


def _objects(folder):
    np.savez(folder / "x.npz", x=np.array([{}], dtype=object))
    return folder / "x.npz"


WRONG_FILES = {
    "missing": (lambda folder: folder / "no.pth", "there is no file"),
    "folder": (lambda folder: folder, "has no known ending"),
    "ending": (_write("x.h5", b"x"), "read from .pth, .pt"),
    "text": (_write("x.pth", b"hello, this is no pickle"), "neither a zip archive nor a pickle"),
    "other pickle": (_write("x.pth", pickle.dumps({"x": 1})), "a pickle but no PyTorch file"),
    "other zip": (_zip_without_pickle, "it holds no data.pkl"),
    "safetensors": (
        _write("x.safetensors", b"x" * 100),
        r"cannot be read: .* no \.safetensors file",
    ),
    "npz": (_write("x.npz", b"x" * 100), r"cannot be read: .* no \.npz file"),
    "npy": (_npy_as_npz, r"cannot be read: .* no \.npz file"),
    "objects": (_objects, "Object arrays cannot be loaded"),
    "tensor": (_write("x.pth", np.ones(2)), "holds no state dict but an object of type Tensor"),
    "list": (_write("x.pth", [1, 2]), "an object of type list"),
    "no tensors": (
        _write("x.pth", {"epoch": 3, "net": {}, 1: 2}),
        r"only the keys epoch \(int\), net \(dict\)\.",
    ),
    "module": (_write("x.pth", Call("mine", "Net", ())), r"of type mine\.Net; save the state dict"),
    "many": (
        _write("x.pth", {f"epoch_{i}": i for i in range(1000)}),
        r"only the keys epoch_0 \(int\), epoch_1 \(int\), .* and 995 more\.",
    ),
    "mixed": (_write("x.pth", {**WEIGHTS, "epoch": 3}), r"no tensors: epoch \(int\)"),
    "no storage": (
        _write("x.pth", {"x": Call("torch._utils", "_rebuild_tensor_v2", (1, 0, (1,), (1,)))}),
        "a tensor without a storage",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_wrong_files_are_one_sentence(tmp_path, make, sentence):
    path = make(tmp_path)
    with pytest.raises(UserError, match=sentence) as error:
        read_state_dict(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def _peak(path) -> tuple[int, dict]:
    """Bytes that reading took at its height, and what it gave."""
    tracemalloc.start()
    try:
        content = read_state_dict(path)
        return tracemalloc.get_traced_memory()[1], content
    finally:
        tracemalloc.stop()


def _peak_of_refusal(path, sentence) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=sentence):
            read_state_dict(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def repacked(path, compression=zipfile.ZIP_DEFLATED, **changes):
    """The zip archive with its entries compressed, and some of other contents."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents |= {name.replace("__", "/"): x for name, x in changes.items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


MB = 2**20
ZEROS = bytes(8 * MB)


@FORMS
def test_a_view_that_repeats_its_numbers_takes_no_memory(tmp_path, old):
    view = View(np.ones(1, np.float32), 0, (2**15, 2**14), (0, 0))
    save_torch(tmp_path / "x.pth", {"x": view}, old)
    peak, content = _peak(tmp_path / "x.pth")
    assert content["x"].nbytes == 2**31 and content["x"][-1, -1] == 1
    assert peak < MB


@FORMS
def test_many_views_of_a_storage_take_it_once(tmp_path, old):
    storage = np.arange(MB, dtype=np.float32).reshape(1024, 1024)
    base = storage.ravel()
    views = {f"x{i}": View(base, 0, (1024, 1024), (1, 1024)) for i in range(8)}
    save_torch(tmp_path / "x.pth", views, old)
    peak, content = _peak(tmp_path / "x.pth")
    np.testing.assert_array_equal(content["x7"], storage.T)
    assert peak < 1.5 * storage.nbytes


@FORMS
def test_what_is_beside_the_weights_is_not_read(tmp_path, old):
    optimizer = {0: {"exp_avg": np.zeros(4 * MB, np.float32)}}
    save_torch(tmp_path / "x.pth", {"model": WEIGHTS, "optimizer": optimizer}, old)
    peak, content = _peak(tmp_path / "x.pth")
    assert_same(content, WEIGHTS)
    assert peak < MB


def test_a_compressed_archive_is_read(tmp_path):
    save_torch(tmp_path / "x.pth", {"a": np.zeros((3, MB), np.float32)})
    repacked(tmp_path / "x.pth")
    peak, content = _peak(tmp_path / "x.pth")
    assert content["a"].shape == (3, MB) and peak < 40 * MB


BOMBS = {
    "storage": ({"archive__data__0": ZEROS}, "storage 0 has 8,388,608 bytes in place of 24"),
    "pickle": ({"archive__data.pkl": b"\x80\x02" + b"N0" * 4 * MB}, "its pickle is of 8,388,610"),
    "byte order": ({"archive__byteorder": b"little" + ZEROS}, None),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_entries_larger_than_they_should_be_are_not_unpacked(tmp_path, kind):
    expected = {"a": np.arange(6, dtype=np.float32)}
    changes, sentence = BOMBS[kind]
    save_torch(tmp_path / "x.pth", expected)
    repacked(tmp_path / "x.pth", **changes)
    if sentence:
        assert _peak_of_refusal(tmp_path / "x.pth", sentence) < 2 * MB
    else:
        peak, content = _peak(tmp_path / "x.pth")
        assert_same(content, expected)
        assert peak < 2 * MB


def test_a_storage_larger_than_the_file_and_its_tensors_is_not_unpacked(tmp_path):
    storage = np.zeros(2 * MB, np.float32)
    save_torch(tmp_path / "x.pth", {"a": View(storage, 0, (6,), (1,))})
    repacked(tmp_path / "x.pth")
    sentence = "tensors of 24, but numbers that would fill 8,388,608"
    assert _peak_of_refusal(tmp_path / "x.pth", sentence) < 2 * MB


@pytest.mark.parametrize("ending", ["pth", "npz"])
def test_other_compressions_are_refused(tmp_path, ending):
    """Their decoders take as much memory as a file asks for."""
    save_torch(tmp_path / f"x.{ending}", WEIGHTS)
    repacked(tmp_path / f"x.{ending}", zipfile.ZIP_LZMA)
    with pytest.raises(UserError, match=r"archive/data\.pkl is compressed unusually"):
        read_state_dict(tmp_path / f"x.{ending}")


def test_the_old_forms_sizes_are_compared(tmp_path):
    save_torch(tmp_path / "x.pth", WEIGHTS, old=True)
    content = (tmp_path / "x.pth").read_bytes()
    for elements in (2**40, -1, 23, 25):
        place = content.index(struct.pack("<q", 24) + WEIGHTS["conv.weight"].tobytes())
        changed = content[:place] + struct.pack("<q", elements) + content[place + 8 :]
        (tmp_path / "x.pth").write_bytes(changed)
        sentence = rf"storage 0 has {4 * elements:,} bytes in place of 96"
        assert _peak_of_refusal(tmp_path / "x.pth", sentence) < MB
    storage = Raw(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NM\x00\x7fNtQ")
    call = Call("torch._utils", "_rebuild_tensor_v2", (storage, 0, (2,), (1,)))
    save_torch(tmp_path / "x.pth", {"x": call}, old=True)
    content = (tmp_path / "x.pth").read_bytes()
    keys = b"](X\x01\x00\x00\x000e."
    content = content[: content.rindex(b"\x80\x02")] + b"\x80\x02" + keys
    (tmp_path / "x.pth").write_bytes(content + struct.pack("<q", 0x7F00))
    assert _peak_of_refusal(tmp_path / "x.pth", "storage 0 ends early") < MB


def test_compressed_arrays_are_read(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", **WEIGHTS, f=np.ones((2, 3), order="F"))
    assert_same(read_state_dict(tmp_path / "x.npz"), {**WEIGHTS, "f": np.ones((2, 3))})


def _npy(shape, version=b"\x01\x00", length="<H"):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack(length, len(header)) + header


ARRAYS = {
    "header": (_npy((2**28,)) + bytes(24), "a states another size than it has"),
    "more": (_npy((6,)) + ZEROS, "a states another size than it has"),
    "no array": (ZEROS, "magic string is not correct"),
    "header's length": (
        b"\x93NUMPY\x02\x00" + struct.pack("<I", len(ZEROS)) + ZEROS,
        "a is no plain array",
    ),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_that_state_another_size_are_not_read(tmp_path, kind):
    content, sentence = ARRAYS[kind]
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", content)
    assert _peak_of_refusal(tmp_path / "x.npz", sentence) < 2 * MB


def test_a_header_of_safetensors_that_nothing_stands_behind(tmp_path):
    for size in (2**26, 2**40, 2**63):
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", size) + b"{}")
        assert _peak_of_refusal(tmp_path / "x.safetensors", "cannot be read") < MB


def test_names_in_messages_are_few_and_in_one_line(tmp_path):
    content = {**WEIGHTS, **{f"{'x' * 300}\n{i}": i for i in range(1000)}}
    save_torch(tmp_path / "x.pth", content)
    with pytest.raises(UserError, match=r"these are no tensors: .* and 995 more\.") as error:
        read_state_dict(tmp_path / "x.pth")
    assert len(str(error.value)) < 1500 and "\n" not in str(error.value)
