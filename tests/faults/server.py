"""Runs command lines in forks of one process that has imported the libraries already.

A command of its own process imports for seconds; a fork is there at once, with fresh flags and no
devices yet. `python -m tests.faults.server` reads a JSON object a line and answers with one.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

IMPORTED = (
    "emanet_jax.training.loop",
    "emanet_jax.predict.loops",
    "emanet_jax.convert.runs",
    "emanet_jax.export.writing",
    "emanet_jax.models.weights.reading",
    "emanet_jax.data.records",
    "emanet_jax.data.nyuv2",
    "emanet_jax.data.cityscapes",
    "emanet_jax.data.pascal_context",
    "emanet_jax.data.synthrooms",
    "emanet_jax.models.cost",
    "scipy.io",
    "PIL.Image",
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
    "tensorflow",
)
ADDRESS_SPACE = 24 * 2**30  # bytes: a size that nobody checks ends in MemoryError, not in swapping


def serve() -> None:
    """Answers requests until standard input ends; returns in forks, with the module to run."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # or every fork copies what its own collections touch
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            _become(request)
            return
        print(json.dumps({"status": _status(pid, request["seconds"])}), flush=True)
    os._exit(0)


def _become(request: dict[str, Any]) -> None:
    """Makes this fork the process that the request asks for, up to running its module."""
    os.setsid()
    os.chdir(request["folder"])
    for number, path in enumerate(["/dev/null", request["out"], request["err"]]):
        mode = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(path, mode), number)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE,) * 2)
    if request["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
    sys.argv = [request["module"], *request["arguments"]]


def _status(pid: int, seconds: float) -> int | None:
    """The exit status of a fork, minus the signal that ended it; None: it had to be killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


class Server:
    """The process, for the tests: a `with` block starts and ends it."""

    def __enter__(self) -> "Server":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout.readline() == "ready\n"
        return self

    def run(
        self,
        module: str,
        *arguments: str,
        folder: Path,
        streams: Path,
        seconds: float = 60,
        largest_file: int | None = None,
    ) -> tuple[int | None, str, str]:
        """Exit status (None: killed after `seconds`), standard output and standard error.

        Args:
            module: what `python -m` would run.
            arguments: of the command line.
            folder: that it runs in.
            streams: folder for what it prints.
            seconds: after which it hangs.
            largest_file: bytes after which the system refuses to write on, as on a full disk.
        """
        out, err = streams / "out", streams / "err"
        request = {"module": module, "arguments": arguments, "folder": str(folder)}
        request |= {"out": str(out), "err": str(err), "seconds": seconds}
        request |= {"largest_file": largest_file}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        status = json.loads(self._process.stdout.readline())["status"]
        return status, out.read_text(), err.read_text()

    def __exit__(self, *_: Any) -> None:
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()


def _run_module() -> int:
    """Runs the module that `_become` chose; the exit status, its words printed as Python does."""
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as exit_:
        if isinstance(exit_.code, str):
            print(exit_.code, file=sys.stderr)
            return 1
        return exit_.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve()
    status = _run_module()
    # As the interpreter ends, but for the freeing of all that was imported, which takes longest.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
