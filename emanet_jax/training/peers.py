"""The end of a run that has lost one of its processes: one line, and a status to start it again by.

JAX notices within `DEAD_AFTER_SECONDS` that a process is gone, and aborts the others from C++, with
a stack and no way to answer it from Python (JAX 0.10 and 0.11). So where a run has several
processes, the work of each is done by a child, whose parent reads what it writes on standard error.
"""

import contextlib
import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Iterator

DEAD_AFTER_SECONDS = 30  # a process that was silent for so long is taken for dead by the others

# JAX's report of a lost process begins with one of these lines; all that follows belongs to it.
_REPORT = re.compile(
    rb"Use error polling to propagate|Polled an error from coordination service|"
    rb"Terminating process because the JAX distributed service"
)
_SILENT = re.compile(rb"stopped sending heartbeats\):\s*(?:\S*task:)?(\d+)")
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def work_in_a_child() -> None:
    """Goes on in a child; the parent ends as the child does, and does not return.

    A signal to stop is passed on. If JAX aborts the child because a process of the run is gone, the
    parent says so in one line and ends with `os.EX_TEMPFAIL`, as a run that was stopped.
    """
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child:
        os.close(writing)
        _wait(child, reading)
    # Ctrl-C reaches a whole group: the parent's alone, which passes it on once.
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before
        os._exit(os.EX_TEMPFAIL)
    os.dup2(writing, sys.stderr.fileno())
    os.close(reading)
    os.close(writing)


def _wait(child: int, source: int) -> None:
    """Waits for the child and ends this process."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(child, number))
    report = _relay(source)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if report and status == -signal.SIGABRT:
        silent = _SILENT.search(report)
        # The first process tells the others who is gone; if it is the first itself, nobody does.
        lost = silent.group(1).decode() if silent else "0"
        print(
            f"error: process {lost} of this run is gone; start the same command again on all of "
            "them, and it goes on from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(os.EX_TEMPFAIL)
    os.write(sys.stderr.fileno(), report)
    os._exit(status if status >= 0 else 128 - status)  # as shells show a signal


def _relay(source: int) -> bytes:
    """Passes on what the child writes, until JAX's report of a lost process, which it returns."""
    report = line = b""
    while chunk := os.read(source, 65536):
        line += chunk
        *lines, line = re.split(rb"(?<=[\r\n])", line)
        for whole in lines:
            if report or _REPORT.search(whole):
                report += whole
            else:
                os.write(sys.stderr.fileno(), whole)
    if report:
        return report + line
    os.write(sys.stderr.fileno(), line)
    return b""


@contextlib.contextmanager
def until_the_verdict() -> Iterator[None]:
    """Holds back an error of JAX in the `with` block until a lost process would have been noticed.

    A sum over processes fails as soon as one of them is gone, with an error that does not say so.
    """
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError:
        time.sleep(2 * DEAD_AFTER_SECONDS)
        raise
