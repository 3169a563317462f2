"""Runs Python in forks of one process that has imported the libraries already.

A process of its own imports for seconds; a fork is there at once, with fresh flags and no devices
yet.
"""

import multiprocessing
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import traceback
import types
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import ROOT

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded"])


def python(
    *arguments: str,
    folder: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    seconds: float = 600,
    limits: Mapping[int, int] | None = None,
) -> subprocess.CompletedProcess:
    """Runs `python -m MODULE ARGUMENT ...` or `python -c CODE ARGUMENT ...`.

    Args:
        arguments: of Python.
        folder: that it runs in.
        environment: variables beside the tests' own.
        seconds: after which it is killed.
        limits: by resource, such as {resource.RLIMIT_FSIZE: 1000} for a disk that is full.
    """
    with tempfile.TemporaryDirectory() as streams:
        target = (arguments, folder, Path(streams), environment or {}, limits or {})
        process = _CONTEXT.Process(target=_become, args=target)
        process.start()
        process.join(seconds)
        status = process.exitcode
        process.kill()
        process.join()
        out, err = (Path(streams, name).read_text() for name in ("out", "err"))
    if status is None:
        raise subprocess.TimeoutExpired(arguments, seconds, out, err)
    return subprocess.CompletedProcess(arguments, status, out, err)


def _become(
    arguments: tuple[str, ...],
    folder: Path,
    streams: Path,
    environment: Mapping[str, str],
    limits: Mapping[int, int],
) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    for number, path in enumerate(["/dev/null", streams / "out", streams / "err"]):
        mode = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(path, mode), number)
    for limited, value in limits.items():
        resource.setrlimit(limited, (value, value))
    kind, program, *rest = arguments
    sys.argv = [program if kind == "-m" else kind, *rest]
    status: object = 0
    try:
        if kind == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(program, main.__dict__)
    except SystemExit as exit_:
        status = exit_.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    sys.exit(status)
