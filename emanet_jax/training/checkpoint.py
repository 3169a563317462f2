"""Orbax checkpoints: saved in the background, the latest and the best are kept, damage is noticed.

Orbax restores a flipped byte of an array without a word, so every checkpoint carries SHA256SUMS
of its files (`sha256sum -c` reads it), which is written before the checkpoint gets its own name.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from emanet_jax.errors import UserError
from emanet_jax.training import sharding, workdir
from emanet_jax.types import TrainState

_LOG = logging.getLogger(__name__)

Score = Callable[[Mapping[str, float]], float]

SUMS = "SHA256SUMS"
DAMAGED = "damaged"  # folder beside the checkpoints that takes what cannot be restored
# Where a checkpoint goes before its files are deleted, so that none is ever there in part.
_DELETED = "deleted"
# Orbax writes these when, or after, it gives a checkpoint its name; no value depends on them.
_LATE = ("commit_success.txt", "_CHECKPOINT_METADATA")


class Checkpoints:
    """The checkpoints of one run: a thin layer over `ocp.CheckpointManager`.

    Args:
        directory: created if need be.
        score: {"task/metric": value} to a number that is larger for better checkpoints.
        keep_latest: how many of the newest stay.
        keep_best: how many of the best-scored stay as well.
        read_only: leave everything as it is, such as the unfinished save of a run that goes on.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        score: Score,
        keep_latest: int,
        keep_best: int,
        *,
        read_only: bool = False,
    ):
        def rank(metrics: Mapping[str, float]) -> float:
            value = score(metrics)
            return -math.inf if math.isnan(value) else value

        policies = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep_latest),
                preservation_policy.BestN(
                    get_metric_fn=rank, n=keep_best, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        place = workdir.absolute(directory)
        self._read_only = read_only
        self._intact: set[int] = set()  # steps whose files have been compared with their sums
        _check_metrics(place)
        self._manager = ocp.CheckpointManager(
            place,
            options=ocp.CheckpointManagerOptions(
                best_fn=rank,
                preservation_policy=policies,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                todelete_subdir=_DELETED,
                async_options=ocp.AsyncOptions(
                    post_finalization_callback=lambda: _write_sums(place)
                ),
            ),
        )

    def save(
        self, state: TrainState, position: int, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Starts saving `state` after `position` batches.

        A step that is there already is kept, unless it has no metrics and gets them now.

        Raises:
            OSError, ValueError: what went wrong with this save or, since it goes on in the
                background, with the one before.
        """
        if position in self._manager.all_steps():
            if metrics is None or self.evaluated(position):
                return
            self._manager.delete(position)
        self.wait()
        self._manager.save(
            position,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=ocp.args.JsonSave({"position": position})
            ),
            metrics=None if metrics is None else dict(metrics),
            force=True,
        )

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, int]:
        """The state, with the shapes and shardings of `like`, and the number of batches read.

        Raises:
            UserError: a file of the checkpoint is damaged, or its arrays are others than `like`'s.
        """
        if step not in self._intact:
            damage = sharding.on_first(lambda: self.damage(step))
            if damage:
                raise UserError(f"{damage}; choose another checkpoint.")
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore()
                ),
            )
        except (KeyError, ValueError) as error:  # its files are intact, so its arrays are others
            raise UserError(
                f"{self.path(step)} holds other arrays than this config's network and optimiser "
                "have; go on with the config that it was made with, or in another --workdir."
            ) from error
        return restored.state, restored.data["position"]

    def damage(self, step: int) -> str:
        """What is wrong with the files of a checkpoint; "" if they are what was saved."""
        folder = self.path(step)
        if not (folder / SUMS).exists():
            return f"{folder / SUMS} is missing"
        found = _sums(folder)
        text = (folder / SUMS).read_bytes().decode(errors="replace")
        lines = [line.partition("  ")[::2] for line in text.splitlines()]
        if not found.keys() <= {name for _, name in lines}:
            return f"{folder / SUMS} is damaged (it does not list all files)"
        for digest, name in lines:
            if name not in found:
                return f"{folder / name} is missing"
            if found[name] != digest:
                return f"{folder / name} is damaged (another SHA-256 than in {SUMS})"
        return ""

    def set_damaged_aside(self) -> list[str]:
        """Moves the newest checkpoints away until one is intact; says what was wrong with each."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        said = sharding.on_first(lambda: self._set_damaged_aside(steps))
        self._intact.update(steps[len(said) : len(said) + 1])
        if said:
            self._manager.reload()
        return said

    def _set_damaged_aside(self, steps: Sequence[int]) -> list[str]:
        said = []
        for step in steps:
            damage = self.damage(step)
            if not damage:
                break
            said.append(damage)
            aside = self._manager.directory.parent / DAMAGED
            aside.mkdir(exist_ok=True)
            number = sum(1 for _ in aside.iterdir())
            self.path(step).rename(aside / f"{step}-{number}")
        return said

    def evaluated(self, step: int) -> bool:
        """Whether a checkpoint was saved with metrics."""
        return sharding.on_first(lambda: (self.path(step) / "metrics").exists())

    def latest_step(self) -> int | None:
        """The newest checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The best checkpoint that was evaluated, or None."""
        return self._manager.best_step()

    def choose(self, which: Literal["best", "latest"]) -> int:
        """The best or the latest checkpoint; the latest for best where none has been evaluated.

        Raises:
            UserError: there is none.
        """
        latest, best = self.latest_step(), self.best_step()
        if latest is None:
            raise UserError(f"{self._manager.directory} holds no checkpoint yet; train first.")
        if which == "best" and best is None:
            _LOG.info("No checkpoint has been evaluated yet: this is the latest.")
        return best if which == "best" and best is not None else latest

    def wait(self) -> None:
        """Until everything that was saved is on disk and may be the best."""
        self._manager.wait_until_finished()
        deleted = self._manager.directory / _DELETED
        if not self._read_only and jax.process_index() == 0 and deleted.exists():
            deleted.rmtree()

    def path(self, step: int) -> epath.Path:
        """Folder of a checkpoint."""
        return self._manager.directory / str(step)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self.wait()
        self._manager.close()


def _check_metrics(place: epath.Path) -> None:
    """Raises UserError if the metrics of a checkpoint, all of which are read first, are damaged."""
    for path in place.glob("*/metrics/metrics"):
        try:
            json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); move this checkpoint away to use the others."
            ) from error


def _write_sums(place: epath.Path) -> None:
    """Writes the sums of the checkpoint that is about to get its name."""
    for folder in place.iterdir():
        if folder.is_dir() and ocp.utils.is_tmp_checkpoint(folder):
            lines = [f"{digest}  {name}\n" for name, digest in _sums(folder).items()]
            (folder / SUMS).write_text("".join(lines))


def _sums(folder: epath.Path) -> dict[str, str]:
    """{path in the folder: SHA-256 of the file}."""
    sums = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            sums |= {f"{path.name}/{name}": digest for name, digest in _sums(path).items()}
        elif path.name not in (*_LATE, SUMS):
            sums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return sums
