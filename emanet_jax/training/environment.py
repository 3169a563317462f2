"""Command, versions and devices of a run, recorded in its workdir at every start."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from etils import epath

from emanet_jax import strict_json
from emanet_jax.errors import UserError
from emanet_jax.training import workdir

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # that change what is computed


def record(
    directory: epath.Path,
    config: ml_collections.ConfigDict,
    step: int,
    total_steps: int,
    config_changes: Mapping[str, Any] | None = None,
) -> None:
    """Adds this start, at `step` of `total_steps`, to the list in the run's environment.json.

    Args:
        directory: of the run.
        config: of this start.
        step: that it goes on from.
        total_steps: of the run.
        config_changes: {key: [value of the run so far, value from now on]}.
    """
    path, starts = directory / workdir.ENVIRONMENT, read(directory)
    changes = {"config_changes": dict(config_changes)} if config_changes else {}
    starts.append({"step": step, "total_steps": total_steps, **changes, **describe(config)})
    workdir.write(path, strict_json.dumps(starts, indent=2) + "\n")


def read(directory: epath.Path) -> list[dict[str, Any]]:
    """The starts of the run in a workdir so far.

    Raises:
        UserError: its environment.json cannot be read or holds something else.
    """
    path = directory / workdir.ENVIRONMENT
    try:
        starts = json.loads(path.read_text()) if path.exists() else []
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); move it away to go on.") from error
    if not isinstance(starts, list):
        raise UserError(f"{path} is no list of the run's starts; move it away to go on.")
    return starts


def describe(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Command, seeds, versions and devices of this process's run."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": config.seed,
        "data_seed": config.data.seed,
        "commit": commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        **{name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def commit() -> str | None:
    """The package's git commit, "-dirty" behind it if files differ; None outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git
        return None
    return done.stdout.strip() or None
