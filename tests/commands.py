"""The command line in processes of its own, and what a run has left on disk."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import orbax.checkpoint as ocp

from emanet_jax.training import workdir
from tests import forks
from tests.conftest import QUICK_COMPILATION, ROOT

# The cheapest run: one task; every step logged and saved.
CHEAP = (
    "--config=tests/tiny.py:model=hps",
    "--config.tasks=('depth',)",
    "--config.checkpoint.best_metric=depth/rmse_m",
    "--config.checkpoint.every_steps=1",
    "--config.log_every_steps=1",
    "--config.writers=jsonl",
)


def start(
    *args: str, devices: int = 1, merge: bool = False, largest_file: int | None = None
) -> subprocess.Popen:
    """A training or evaluation that a test talks to, in a process of its own.

    Args:
        args: flags.
        devices: of the process.
        merge: standard error in standard output.
        largest_file: as in `run`.
    """
    environment = {
        **os.environ,
        "XLA_FLAGS": xla_flags(devices),
        "PYTHONUNBUFFERED": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "emanet_jax.main", *args],
        cwd=ROOT,
        env=environment,
        preexec_fn=largest_file
        and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merge else subprocess.PIPE,
        text=True,
    )


def run(*args: str, devices: int = 1, largest_file: int | None = None) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a training or evaluation.

    Args:
        args: flags.
        devices: of the process.
        largest_file: bytes after which the system refuses to write on, as on a full disk.
    """
    if largest_file:  # in a fork, errors of threads would run into the one line
        process = start(*args, devices=devices, largest_file=largest_file)
        out, err = process.communicate(timeout=600)
        return process.returncode, out, err
    done = forks.python(
        "-m",
        "emanet_jax.main",
        *args,
        environment={"XLA_FLAGS": xla_flags(devices)},
    )
    return done.returncode, done.stdout, done.stderr


def xla_flags(devices: int) -> str:
    """XLA_FLAGS of a process with so many fake devices; one is the real one."""
    fakes = f"--xla_force_host_platform_device_count={devices} " if devices > 1 else ""
    return f"{fakes}{QUICK_COMPILATION}"


def saved_steps(directory) -> list[int]:
    """The steps of a run's checkpoints."""
    folder = directory / workdir.CHECKPOINTS
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


def last_state(directory) -> dict[str, np.ndarray]:
    """Every array of the latest checkpoint, by path."""
    import jax

    folder = directory / workdir.CHECKPOINTS / str(saved_steps(directory)[-1])
    with ocp.PyTreeCheckpointer() as checkpointer:
        structure = checkpointer.metadata(folder / "state").item_metadata.tree
        arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), structure)
        state = checkpointer.restore(folder / "state", restore_args=arrays)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): value for path, value in leaves}


def assert_same_state(directory, expected, rtol=0.0, atol=0.0):
    """The latest checkpoints of two runs hold the same numbers: the same bits by default."""
    ours, theirs = last_state(directory), last_state(expected)
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=rtol, atol=atol, err_msg=name)


def rows(directory) -> dict[tuple[int, str], dict[str, float]]:
    """The lines of metrics.jsonl by (step, kind); a line that is there twice is an error."""
    found = {}
    for line in (directory / workdir.METRICS).read_text().splitlines():
        row = json.loads(line)
        step = row.pop("step")
        kind = next(iter(row)).split("/")[0]
        assert (step, kind) not in found, f"two lines {kind} of step {step}"
        found[step, kind] = row
    return found


def assert_same_metrics(directory, expected):
    """Losses and evaluations of two runs are the same bits, every step there once."""
    ours, theirs = rows(directory), rows(expected)
    for kind in ("train", "eval"):
        steps = [step for step, k in theirs if k == kind]
        assert [step for step, k in ours if k == kind] == steps
        for step in steps:
            for name, value in theirs[step, kind].items():
                if not name.endswith("_per_second"):
                    assert ours[step, kind][name] == value, f"{name} at step {step}"
