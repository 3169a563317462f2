"""Pickles made to hang or to fill the memory: what they ask for is never given."""

import datetime
import io
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from emanet_jax.errors import UserError
from emanet_jax.models.weights import pickles
from emanet_jax.models.weights.reading import read_state_dict
from tests.conftest import ROOT
from tests.torch_files import Raw, save_torch

FORMS = pytest.mark.parametrize("old", [False, True], ids=["zip", "stream"])
WEIGHTS = {"w": np.arange(6, dtype=np.float32)}
HUGE = 2**40


def load(opcodes: bytes):
    return pickles.load(Path("x"), io.BytesIO(opcodes), {}, lambda identity: identity)


def peak_of(function) -> int:
    """Bytes that a call took at its height; what it raises is the caller's to see."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"x\.pth cannot be read"):
            function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Instructions with a size or an index that nothing stands behind.
SIZES = {
    "memo": b"Nr\xff\xff\xff\xff",
    "memo in decimals": b"Np%d\n" % 10**40,
    "bytes": b"\x8e" + HUGE.to_bytes(8, "little"),
    "string": b"\x8d" + HUGE.to_bytes(8, "little"),
    "bytearray": b"\x96" + HUGE.to_bytes(8, "little"),
    "old string": b"T\xff\xff\xff\x7f",
    "integer": b"\x8b\xff\xff\xff\x7f",
}


@FORMS
@pytest.mark.parametrize("kind", SIZES)
def test_a_size_that_nothing_stands_behind_takes_no_memory(tmp_path, old, kind):
    save_torch(tmp_path / "x.pth", {"model": WEIGHTS, "x": Raw(SIZES[kind])}, old)
    assert (tmp_path / "x.pth").stat().st_size < 2000
    assert peak_of(lambda: read_state_dict(tmp_path / "x.pth")) < 2**20


def test_the_measurement_sees_what_the_standard_unpickler_takes():
    """So that the test above can fail."""
    tracemalloc.start()
    try:
        pickle.loads(b"Nr\x00\x00\x40\x00.")
        assert tracemalloc.get_traced_memory()[1] > 2**22
    finally:
        tracemalloc.stop()


# Values whose hash, representation or comparison takes as good as forever, or too deep a recursion.
_TWINS = b"N" + b"2\x86" * 100  # every tuple holds the one before twice
_DEEP = b"N" + b"\x85" * 100_000
_COLLIDING = b"".join(
    b"\x8a\x10" + (i * (2**61 - 1)).to_bytes(16, "little") + b"N" for i in range(1, 200_000)
)
ENDLESS = {
    "key": b"}" + _TWINS + b"Ns",
    "deep key": b"}" + _DEEP + b"Ns",
    "keys that share a hash": b"}(" + _COLLIDING + b"u",
    "set": b"\x8f(" + _TWINS + b"\x90",
    "frozenset": b"(" + _TWINS + b"\x91",
    "persistent id": _TWINS + b"Q",
    "call": _TWINS + b")R",
    "name": b"X\x01\x00\x00\x00x" + _TWINS + b"0\x93",
    "storage key": b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + _TWINS + b"NK\x01tQ",
    "indices that share a hash": b"N"
    + b"".join(b"p%d\n" % (i * (2**61 - 1)) for i in range(1, 200_000)),
}


def test_nothing_hangs(tmp_path):
    """In a process of its own, which can be ended; it takes two seconds."""
    for kind, opcodes in ENDLESS.items():
        save_torch(tmp_path / f"{kind}.pth", {"model": {**WEIGHTS, "x": Raw(opcodes)}})
    save_torch(tmp_path / "wrappers.pth", {"module." * 2**20 + "w": WEIGHTS["w"]})  # can be read
    save_torch(tmp_path / "old.pth", WEIGHTS, old=True)
    content = (tmp_path / "old.pth").read_bytes()
    keys = b"](X\x01\x00\x00\x000e."
    assert content.count(keys) == 1
    (tmp_path / "old.pth").write_bytes(content.replace(keys, b"](" + _TWINS + b"e."))
    code = (
        "import pathlib, sys\n"
        "from emanet_jax.errors import UserError\n"
        "from emanet_jax.models.weights.reading import read_state_dict\n"
        "for path in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    try: read_state_dict(path)\n"
        "    except UserError as error: print(len(str(error)))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )
    lengths = [int(line) for line in done.stdout.split()]
    assert len(lengths) == len(ENDLESS) + 1 and max(lengths) < 600


def test_the_length_is_limited(monkeypatch):
    monkeypatch.setattr(pickles, "INSTRUCTIONS", 100)
    assert load(b"]" + b"]0" * 49 + b".") == []  # 100 instructions
    with pytest.raises(UserError, match="x holds a pickle of more than 100 instructions"):
        load(b"]" + b"]0" * 49 + b"N.")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_as_the_standard_unpickler_makes_it(protocol):
    shared = ["x", 1.5]
    content = {
        "numbers": [0, 1, -1, 255, 2**16, 2**40, -(2**70), 0.1, True, False, None],
        "strings": ["", "x", "ü\n", "y" * 300, b"", b"ab", b"z" * 300],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "shared": [shared, shared, (shared, {})],
        "many": list(range(3000)),
        "deep": {"a": {"b": {"c": [[]]}}},
    }
    if protocol < 3:
        content["strings"] = content["strings"][:4]  # bytes are calls there
    loaded = load(pickle.dumps(content, protocol))
    assert loaded == content and repr(loaded) == repr(content)
    assert loaded["shared"][0] is loaded["shared"][1]


def test_an_object_has_its_name_alone():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        loaded = load(pickle.dumps([datetime.date, Path], protocol))
        assert loaded == [("datetime", "date"), ("pathlib", "Path")]
    assert load(pickle.dumps(1j, 2)) == ("__builtin__", "complex")
    assert load(b"c__main__\nNet\n)\x81}b.") == ("__main__", "Net")
    assert load(b"(c__main__\nNet\nK\x01o.") == ("__main__", "Net")
    assert load(b"(K\x01i__main__\nNet\n.") == ("__main__", "Net")
    assert load(b"c__main__\nNet\n)}\x92.") == ("__main__", "Net")


@pytest.mark.parametrize(
    "opcodes",
    [b"", b"N", b"0.", b"e.", b"h\x05.", b"\xff.", b"a.", b"NNa.", b"N(NNu.", b"K\x01K\x02\x93."],
)
def test_what_is_no_pickle_is_refused(opcodes):
    with pytest.raises((pickle.UnpicklingError, ValueError, LookupError)):
        load(opcodes)
