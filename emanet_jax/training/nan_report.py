"""Steps whose loss or gradients are not finite: reported, and after too many in a row kept.

The step itself leaves parameters, statistics and the optimiser as they were and counts on
(`steps.train_step`). The counts reach the host with the scalars, at every log interval, so that the
loop never waits for a device; what was in a batch is worked out from its position in the data.
"""

import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import msgpack
import numpy as np
from etils import epath
from flax import serialization, traverse_util

from emanet_jax.errors import UserError
from emanet_jax.training import workdir
from emanet_jax.training.logs import Rows, say
from emanet_jax.types import TrainState

if TYPE_CHECKING:
    from emanet_jax.training.experiment import Experiment

BATCH, STATE = "batch.npz", "state.msgpack"
# What reading a truncated or damaged file can raise.
_FAULTS = (
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    msgpack.UnpackException,
)


def watch(
    rows: Rows, limit: int, experiment: "Experiment", state: TrainState, directory: epath.Path
) -> None:
    """Looks at the steps of a log interval; call with the state after the last of them.

    Every bad step is said, and becomes a line of `workdir.BAD_STEPS`. If the interval ends in
    `limit` bad steps in a row, or more, the last of them is kept in `workdir.BAD_STEP`; a run that
    has recovered before the interval's end goes on.

    Raises:
        UserError: the run must stop.
    """
    for step, scalars in rows:
        if scalars["bad_in_row"]:
            images = experiment.image_ids(step - 1)
            say(_describe(step, scalars, images))
            if jax.process_index() == 0:
                _note(directory / workdir.BAD_STEPS, step, scalars, images)
    if rows and rows[-1][1]["bad_in_row"] >= limit:
        step, scalars = rows[-1]
        if jax.process_index() == 0:
            save(directory, state, step, experiment.batch_at(step - 1))
        raise UserError(
            f"numbers were not finite at {scalars['bad_in_row']:.0f} steps in a row "
            f"(config.max_bad_steps is {limit}), the last of them step {step}, which "
            f"'python -m emanet_jax.replay --workdir={directory}' repeats: mend its images "
            f"({workdir.BAD_STEPS} lists them) or lower config.optimizer.learning_rate."
        )


def _describe(step: int, scalars: Mapping[str, float], images: Sequence[str]) -> str:
    wrong = [name for name, value in scalars.items() if not math.isfinite(value)]
    what = ", ".join(wrong) or "running statistics"
    return f"step {step} skipped: {what} not finite; images {', '.join(images)}"


def _note(path: epath.Path, step: int, scalars: Mapping[str, float], images: Sequence[str]) -> None:
    """Adds a line; numbers are text, since JSON has no word for NaN."""
    values = {name: str(value) for name, value in scalars.items()}
    before = path.read_text() if path.exists() else ""
    workdir.write(path, before + json.dumps({"step": step, "images": images, **values}) + "\n")


def save(directory: epath.Path, state: TrainState, step: int, batch: Mapping[str, Any]) -> None:
    """Keeps a bad step: its whole batch, and the state that it found.

    Args:
        directory: of the run.
        state: after any of the bad steps since `step`: they differ in their counts alone.
        step: the bad step, from 1.
        batch: of all processes, on the host.
    """
    state = jax.device_get(state).replace(step=np.int32(step - 1))
    folder = directory / workdir.BAD_STEP
    folder.mkdir(exist_ok=True)
    workdir.write(folder / STATE, serialization.to_bytes(state))
    content = io.BytesIO()  # files of a bucket are written from their start to their end
    np.savez_compressed(content, **traverse_util.flatten_dict(dict(batch), sep="/"))
    workdir.write(folder / BATCH, content.getvalue())


def load(directory: epath.Path, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The state and the batch of the bad step that a run has kept; `like` has the state's shapes.

    Raises:
        UserError: the run has kept none, or its files are damaged.
    """
    folder = directory / workdir.BAD_STEP
    if not (folder / BATCH).exists():
        raise UserError(
            f"{folder} does not exist: the run was never stopped by numbers that are not finite."
        )
    try:
        state = serialization.from_bytes(like, (folder / STATE).read_bytes())
        with np.load(io.BytesIO((folder / BATCH).read_bytes())) as arrays:
            return state, traverse_util.unflatten_dict(dict(arrays), sep="/")
    except _FAULTS as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{folder} cannot be read: {STATE} or {BATCH} is missing, damaged or of another "
            f"network ({said})."
        ) from error
