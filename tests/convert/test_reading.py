"""Files of weights, written by hand: every number arrives, nothing in them runs."""

import logging
import os
import pickle
import sys
import types
from collections import Counter, OrderedDict

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from emanet_jax.errors import UserError
from emanet_jax.models.weights.reading import read_state_dict, without_wrappers
from tests.torch_files import STORAGES, Call, Global, Parameter, Raw, View, save_torch

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


def test_what_wrappers_add_to_names_is_taken_off():
    inside = {"model.head.weight": 0, "stem.weight": 1}
    assert without_wrappers({f"module.{name}": x for name, x in inside.items()}) == inside
    names = ["backbone.weight", "head.bias"]
    for prefix in ("model.", "module.model.", "_orig_mod.", "model.module."):
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
    content = {"state_dict": WEIGHTS, "x": HOSTILE[kind](marker)}
    save_torch(tmp_path / "x.pth", content, old)
    with pytest.raises(UserError) as error:
        read_state_dict(tmp_path / "x.pth")
    assert f"asks for the Python object {ASKED_FOR[kind]}," in str(error.value)
    assert str(tmp_path / "x.pth") in str(error.value)
    assert not marker.exists()


@FORMS
@pytest.mark.parametrize("name", ["_rebuild_tensor_v2", "_rebuild_parameter"])
def test_a_file_cannot_change_the_reader(tmp_path, old, name):
    """The opcode BUILD sets attributes, such as the defaults of a function."""
    save_torch(tmp_path / "plain.pth", WEIGHTS, old)
    state = (None, {"__defaults__": (1, 2), "marked": 3})
    opcodes = f"ctorch._utils\n{name}\n".encode() + pickle.dumps(state, 2)[2:-1] + b"b"
    save_torch(tmp_path / "x.pth", {"x": Raw(opcodes), **WEIGHTS}, old)
    with pytest.raises(UserError, match="cannot be read"):
        read_state_dict(tmp_path / "x.pth")
    assert_same(read_state_dict(tmp_path / "plain.pth"), WEIGHTS)


def test_the_hostile_pickle_would_run(tmp_path):
    """So that the test above can fail."""
    pickle.loads(pickle.dumps(Hostile(tmp_path / "marker"), 2))
    assert (tmp_path / "marker").exists()


@FORMS
@pytest.mark.parametrize("name", ["OrderedDict", "Counter"])
def test_a_file_cannot_change_a_class(tmp_path, old, name):
    before = [Counter.update, OrderedDict.update]
    state = {"update": "changed"}
    build = _opcodes(Global("collections", name)) + _opcodes((None, state)) + b"b"
    save_torch(tmp_path / "x.pth", {"x": Raw(build)}, old)
    with pytest.raises(UserError):
        read_state_dict(tmp_path / "x.pth")
    assert [Counter.update, OrderedDict.update] == before


def _opcodes(x):
    from tests import torch_files

    return torch_files._Writer(False).write(x)


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
    "no tensors": (_write("x.pth", {"epoch": 3, "net": {}}), r"only the keys \['epoch', 'net'\]"),
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
