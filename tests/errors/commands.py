"""Runs command lines in forks of one process that has imported the libraries already.

A command in a process of its own imports for seconds; a fork is there at once, with fresh flags and
no devices yet.
"""

import multiprocessing
import os
import resource
import runpy
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

ADDRESS_SPACE = 24 * 2**30  # bytes: a size that nobody checks ends in MemoryError, not in swapping

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.errors.preloaded"])


class Ended(NamedTuple):
    """The end of a command; status None: it had to be killed."""

    status: int | None
    out: str
    err: str


def run(
    module: str,
    *arguments: str,
    folder: Path,
    streams: Path,
    seconds: float = 60,
    largest_file: int | None = None,
) -> Ended:
    """Runs `python -m module arguments`.

    Args:
        module: such as "emanet_jax.main".
        arguments: of the command line.
        folder: that it runs in.
        streams: folder for its output.
        seconds: after which it hangs.
        largest_file: bytes after which the system refuses to write on, as on a full disk.
    """
    target = (module, arguments, folder, streams, largest_file)
    process = _CONTEXT.Process(target=_become, args=target)
    process.start()
    process.join(seconds)
    status = process.exitcode
    process.kill()
    process.join()
    return Ended(status, (streams / "out").read_text(), (streams / "err").read_text())


def _become(
    module: str, arguments: tuple[str, ...], folder: Path, streams: Path, largest_file: int | None
) -> None:
    os.chdir(folder)
    for number, path in enumerate(["/dev/null", streams / "out", streams / "err"]):
        mode = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(path, mode), number)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE,) * 2)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file,) * 2)
    sys.argv = [module, *arguments]
    status: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as exit_:
        status = exit_.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    sys.exit(status)
