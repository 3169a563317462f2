"""The files of a run, and the check that a workdir is this run's own."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from types import TracebackType

import ml_collections
from etils import epath

from emanet_jax.config import read_config
from emanet_jax.errors import UserError
from emanet_jax.training import sharding

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULTS = "results.json"
PER_CLASS = "per_class.json"
PARAMETERS = "parameters.txt"
ENVIRONMENT = "environment.json"
BAD_STEPS = "bad_steps.jsonl"
BAD_STEP = "bad_step.msgpack"
PANEL = "panel.png"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
LOCK = ".lock"

# What a checkpoint's arrays depend on: a run can only go on with these unchanged.
_IDENTITY = (
    ("model", "name"),
    ("model", "backbone"),
    ("model", "variant"),
    ("model", "overrides"),
    ("data", "dataset"),
    ("data", "image_size"),
    ("data", "classes"),
    ("tasks",),
    ("balancing",),
)


# What a full or protected disk answers; found by its words where a library passes on the text.
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # answers of some network disks

_LOG = logging.getLogger(__name__)


def absolute(directory: epath.PathLike) -> epath.Path:
    """The folder's whole name; gs://BUCKET/FOLDER is one already (epath would put it below ".")."""
    path = epath.Path(directory)
    return path if "://" in str(path) else path.absolute()


def write(path: epath.Path, content: str | bytes) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)


def check(workdir: epath.Path, config: ml_collections.ConfigDict) -> bool:
    """Whether the workdir is free of runs, so that one may start there.

    Raises:
        UserError: it holds a run that differs in network, tasks or sizes, or cannot be read.
    """
    files = (PARAMETERS, PANEL, RESULTS, PER_CLASS, BAD_STEPS, LOCK)
    for name in (CHECKPOINTS, TENSORBOARD, *files):
        path, is_folder = workdir / name, name in (CHECKPOINTS, TENSORBOARD)
        if path.exists() and path.is_dir() != is_folder:
            words = ("a file", "a folder") if is_folder else ("a folder", "a file")
            raise UserError(f"{path} is {words[0]} but must be {words[1]}; move it away to go on.")
    path = workdir / CONFIG
    if not path.exists():
        return True
    theirs, ours = (json.loads(to_json(x)) for x in (load_config(workdir), config))
    for keys in _IDENTITY:
        there, here = theirs, ours
        for key in keys:
            there, here = there[key], here[key]
        if there != here:
            raise UserError(
                f"{workdir} holds a run with {'.'.join(keys)} = {there!r}, not {here!r}; "
                "choose another --workdir, or the config of that run."
            )
    return False


@contextlib.contextmanager
def claimed(workdir: epath.Path, config: ml_collections.ConfigDict) -> Iterator[None]:
    """Makes the workdir with its config.json; nobody else trains in it until the `with` block ends.

    Raises:
        UserError: the workdir is in use or, now or while the block runs, cannot be written.
    """
    with contextlib.ExitStack() as held:

        def take() -> None:
            with _DiskFaults(workdir):
                workdir.mkdir(parents=True, exist_ok=True)
                held.enter_context(_alone(workdir))
                write(workdir / CONFIG, to_json(config))

        sharding.on_first(take)
        with _DiskFaults(workdir):
            yield


@contextlib.contextmanager
def _alone(workdir: epath.Path) -> Iterator[None]:
    if not os.path.isdir(workdir):  # a bucket, which knows no locks
        yield
        return
    with open(workdir / LOCK, "a+") as lock:
        try:
            # The system frees the lock when its holder ends, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise UserError(
                f"--workdir={workdir} is in use by {lock.read().strip()}; wait for its end, or "
                "choose another."
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _LOG.info("%s is on a disk without locks: start only one run in it.", workdir)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield


class _DiskFaults:
    """Turns what a full or protected disk makes of the `with` block into a `UserError`.

    Libraries pass such faults on from their threads, late and wrapped in errors of their own.
    """

    def __init__(self, workdir: epath.Path) -> None:
        self._workdir = str(workdir)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        words = "" if isinstance(error, UserError) else disk_fault(error, self._workdir)
        if words:
            raise UserError(
                f"--workdir={self._workdir} cannot be written: {words}; what was saved before is "
                "intact: mend this and run again to go on."
            ) from error


def disk_fault(error: BaseException | None, place: str) -> str:
    """The system's words for a fault of a disk, from an error or what caused it; "" for others.

    Args:
        error: perhaps a library's, which wraps the system's.
        place: folder where any fault counts; elsewhere only those of a full or protected disk do.
    """
    while error is not None:
        name = str(getattr(error, "filename", None) or "")
        if isinstance(error, OSError) and name.startswith(place):
            return (error.strerror or str(error)) + (f" ({name})" if name != place else "")
        words = next((w for w in map(os.strerror, _DISK_FAULTS) if w in str(error)), "")
        if words:
            return words
        error = error.__cause__ or error.__context__
    return ""


def load_config(workdir: epath.Path) -> ml_collections.ConfigDict:
    """The locked config of the run in a workdir.

    Raises:
        UserError: there is no run, or its config cannot be read or is of another version.
    """
    path = workdir / CONFIG
    if not path.exists():
        raise UserError(f"{workdir} holds no run: there is no {CONFIG} in it.")
    return read_config(path, str(path))


def to_json(config: ml_collections.ConfigDict) -> str:
    """The whole config as JSON text."""
    return json.dumps(json.loads(config.to_json()), indent=2) + "\n"


def flat(config: ml_collections.ConfigDict) -> dict[str, str | int | float | bool]:
    """The config as {"model.name": "ema_net", ...}, with text for what is no plain value."""
    rows = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            rows.update({f"{key}.{inner}": x for inner, x in flat(value).items()})
        else:
            rows[key] = value if isinstance(value, (str, int, float, bool)) else str(value)
    return rows
