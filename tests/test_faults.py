"""Whatever a user does wrong, in every command: one line, status 1, and nothing is left or changed.

`tests/faults` lists what is done wrong and what must be said; commands run in forks of one process.
"""

import hashlib
import re
import shutil
from pathlib import Path

import pytest

from tests.faults import commands, comparisons, data_files, exports, values, workdirs
from tests.faults.builders import Fault
from tests.faults.server import Server

_TABLES = {
    "flags": commands.FLAGS,
    "config file": commands.CONFIG_FILES,
    "output": commands.OUTPUTS,
    "predict": commands.PREDICT,
    "export": exports.EXPORTS,
    "value": {fault.arguments[-1].partition("--config.")[2]: fault for fault in values.VALUES},
    "workdir": workdirs.WORKDIRS,
    "compare": comparisons.COMPARISONS,
    "sweep": comparisons.SWEEPS,
    "data": data_files.DATA_FILES,
    "weights": data_files.WEIGHTS,
}
FAULTS: dict[str, Fault] = {
    f"{table}: {name}": fault for table, faults in _TABLES.items() for name, fault in faults.items()
}
# TFDS's progress bars, which end when the builder's generator does.
_BAR = re.compile(r"(Generating|Shuffling) .*\d+%\|.*")
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def pristine(server, tmp_path_factory):
    """A folder with one of everything."""
    root, streams = tmp_path_factory.mktemp("pristine"), tmp_path_factory.mktemp("streams")
    status, _, err = server.run("tests.faults.files", str(root), folder=root, streams=streams)
    assert status == 0, err
    return root


def listing(root: Path) -> dict[str, str]:
    """What each file below a folder holds; empty folders and the locks of records left out."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file() and path.name != ".lock":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def lines_of(err: str) -> list[str]:
    """The lines of standard error, progress bars left out."""
    lines = (_COLOURS.sub("", line).strip() for line in err.splitlines())
    return [line for line in lines if line and not _BAR.fullmatch(line)]


_said: dict[str, str] = {}  # the message of every fault, by its name


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line_and_leaves_nothing(server, pristine, tmp_path, name):
    fault = FAULTS[name]
    folder, streams = tmp_path / "here", tmp_path / "streams"
    shutil.copytree(pristine, folder)
    streams.mkdir()
    fault.damage(folder)
    before = listing(folder)
    status, out, err = server.run(
        fault.module,
        *fault.arguments,
        folder=folder,
        streams=streams,
        largest_file=fault.largest_file,
    )
    assert status == 1, (status, out, err)
    lines = lines_of(err)
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert "Traceback" not in out + err
    for words in fault.words:
        assert re.search(words, lines[0]), (words, lines[0])
    after = listing(folder)
    if "--output" in lines[0]:  # what had been built by then is whole and stays
        after = {name: what for name, what in after.items() if not name.startswith("data/nyuv2/")}
    assert after == before
    assert not (folder / "new").exists() and not (folder / "imported").exists()
    assert not list(folder.rglob("incomplete*")) and not list(folder.rglob("*.part*"))
    message = lines[0].replace(str(folder), "")
    assert message not in _said.values(), "another fault is said in the same words"
    _said[name] = message


def test_there_are_enough_faults():
    modules = {fault.module for fault in FAULTS.values()}
    assert len(FAULTS) >= 60
    commands_ = (
        "main",
        "convert",
        "models",
        "data.check",
        "training.debug_nan",
        "predict",
        "compare",
    )
    commands_ += ("export",)
    assert modules == {"launch.sweep", *(f"emanet_jax.{x}" for x in commands_)}
