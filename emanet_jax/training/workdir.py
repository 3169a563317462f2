"""The files of a run, and the check that a workdir is this run's own."""

import contextlib
import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_collections
from etils import epath

from emanet_jax.config import read_config, to_json
from emanet_jax.errors import UserError
from emanet_jax.locks import file_lock

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULTS = "results.json"
PER_CLASS = "per_class.json"
PARAMETERS = "parameters.txt"
ENVIRONMENT = "environment.json"
BAD_STEPS = "bad_steps.jsonl"
BAD_STEP = "bad_step.msgpack"
FIGURE = "figure.png"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
LOCK = ".lock"
WEIGHTS = "model.safetensors"  # of a folder that is no run, but made by save_pretrained

# The settings that a checkpoint's arrays depend on: a run can only go on with these unchanged.
_IDENTITY = (
    *("model.name", "model.backbone", "model.variant", "model.overrides"),
    *("data.dataset", "data.image_size", "data.classes", "tasks", "balancing"),
)


# Errors of a full or protected disk; recognised by their words where a library passes on the text.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def absolute(directory: epath.PathLike) -> epath.Path:
    """The folder's whole name; gs://BUCKET/FOLDER is one already (epath would put it below ".")."""
    path = epath.Path(directory)
    return path if "://" in str(path) else path.absolute()


def is_saved(folder: epath.Path) -> bool:
    """Whether a folder is no run, but one that `save_pretrained` has made."""
    return (folder / WEIGHTS).exists()


def write(path: epath.Path, content: str | bytes) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)


def check(
    workdir: epath.Path, config: ml_collections.ConfigDict, allow_change: bool = False
) -> dict[str, list[Any]] | None:
    """Compares a config with that of the run in the workdir.

    Args:
        workdir: of the run.
        config: to start with.
        allow_change: whether the run may go on with other settings, if they leave it its arrays.

    Returns:
        What is allowed to differ, {key: [value of the run, value of the config]}; None if there is
        no checkpoint to go on from.

    Raises:
        UserError: the run differs in something else, or its config cannot be read.
    """
    files = (PARAMETERS, FIGURE, RESULTS, PER_CLASS, BAD_STEPS, LOCK)
    for name in (CHECKPOINTS, TENSORBOARD, *files):
        path, is_folder = workdir / name, name in (CHECKPOINTS, TENSORBOARD)
        if path.exists() and path.is_dir() != is_folder:
            words = ("a file", "a folder") if is_folder else ("a folder", "a file")
            raise UserError(f"{path} is {words[0]} but must be {words[1]}; move it away to go on.")
    checkpoints = workdir / CHECKPOINTS
    if not (checkpoints.exists() and any(x.name.isdecimal() for x in checkpoints.iterdir())):
        return None
    changes = differences(load_config(workdir), config)
    fixed = [x for x in changes if any(f"{x}.".startswith(f"{key}.") for key in _IDENTITY)]
    for keys, advice in (
        (fixed, f"choose another --workdir, or --config={workdir / CONFIG}."),
        (
            [] if allow_change else list(changes),
            f"--config={workdir / CONFIG} goes on with that, --allow_config_change with the new "
            "values.",
        ),
    ):
        if keys:
            values = (f"config.{x} = {changes[x][0]!r}, not {changes[x][1]!r}" for x in keys)
            raise UserError(f"{workdir} holds a run with {'; '.join(values)}: {advice}")
    return changes


def differences(a: ml_collections.ConfigDict, b: ml_collections.ConfigDict) -> dict[str, list[Any]]:
    """{key: [value in a, value in b]} of the settings that differ; None for a missing one."""
    theirs, ours = (dict(_leaves(json.loads(to_json(x)))) for x in (a, b))
    return {
        key: [theirs.get(key), ours.get(key)]
        for key in theirs | ours
        if theirs.get(key) != ours.get(key)
    }


def _leaves(values: dict[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested dictionary by keys such as "model.name"."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{group}{key}.")
        else:
            yield group + key, value


def save_config(workdir: epath.Path, config: ml_collections.ConfigDict) -> None:
    """Writes the run's config.json."""
    write(workdir / CONFIG, to_json(config))


@contextlib.contextmanager
def claimed(workdir: epath.Path) -> Iterator[None]:
    """Makes the workdir; nobody else trains in it until the `with` block ends.

    Raises:
        UserError: the workdir is in use or, now or while the block runs, cannot be written.
    """
    from emanet_jax.training import sharding  # loads JAX, which reading a run's config can spare

    with contextlib.ExitStack() as held:

        def take() -> None:
            with _disk_errors(workdir):
                workdir.mkdir(parents=True, exist_ok=True)
                held.enter_context(_lock(workdir))

        sharding.on_first(take)
        with _disk_errors(workdir):
            yield


@contextlib.contextmanager
def _lock(workdir: epath.Path) -> Iterator[None]:
    """Holds the workdir's lock; UserError if another process does."""
    if not os.path.isdir(workdir):  # a bucket, which knows no locks
        yield
        return
    path = Path(workdir / LOCK)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(file_lock(path, wait=False))
        except BlockingIOError as error:
            raise UserError(
                f"--workdir={workdir} is in use by {path.read_text().strip()}; wait for its end, "
                "or choose another."
            ) from error
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield


@contextlib.contextmanager
def _disk_errors(workdir: epath.Path) -> Iterator[None]:
    """Turns what a full or protected disk makes of the `with` block into a `UserError`.

    Libraries pass such errors on from their threads, late and wrapped in errors of their own.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of any library's type; raised again unless a disk is behind it
        words = disk_error(error, str(workdir))
        if not words:
            raise
        raise UserError(
            f"--workdir={workdir} cannot be written: {words}; what was saved before is intact: "
            "make room or give the rights, and run again to go on."
        ) from error


def disk_error(error: BaseException | None, place: str) -> str:
    """The system's words for an error of a disk, from an error or its cause; "" for others.

    Args:
        error: perhaps a library's, which wraps the system's.
        place: folder where any error counts; elsewhere only those of a full or protected disk do.
    """
    while error is not None:
        name = str(getattr(error, "filename", None) or "")
        if isinstance(error, OSError) and name.startswith(place):
            return (error.strerror or str(error)) + (f" ({name})" if name != place else "")
        words = next((w for w in map(os.strerror, _DISK_ERRORS) if w in str(error)), "")
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


def check_new_directory(
    name: str, directory: Path, kind: str, marker: str, overwrite: bool
) -> None:
    """Checks that `new_directory` may make this directory.

    Args:
        name: the flag or the argument that named it, as "--to" or "folder".
        directory: the directory.
        kind: the only one that is overwritten: "run", "export" or "saved network".
        marker: the file by which such a directory is known.
        overwrite: whether it may be.

    Raises:
        UserError: something is there that is not to be replaced.
    """
    if not os.path.lexists(directory):  # a link to nowhere is there, too
        return
    overwriting = "--overwrite" if name.startswith("--") else "overwrite=True"
    if not overwrite:
        raise UserError(f"{name}={directory} is there already; {overwriting} replaces it.")
    if not (directory / marker).is_file():
        raise UserError(
            f"{name}={directory} is no {kind}, and only a {kind} is replaced by {overwriting}."
        )


@contextlib.contextmanager
def new_directory(name: str, directory: Path) -> Iterator[Path]:
    """Makes a directory whole or not at all: gives an empty one for the block to fill.

    At the block's end it takes the place of what is at `directory`; if the block fails, it is
    removed, and what is there stays.

    Raises:
        UserError: it cannot be written.
    """
    part, old = (directory.with_name(f".{directory.name}.{end}") for end in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        shutil.rmtree(old, ignore_errors=True)
        if directory.exists():
            directory.rename(old)
        part.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        reason = disk_error(error, str(directory.parent))
        if not reason:
            raise
        raise UserError(f"{name}={directory} cannot be written: {reason}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
