"""Orbax checkpoints: saved in the background, the latest and the best are kept, damage is noticed.

Orbax restores a flipped byte of an array without a word, so every checkpoint carries SHA256SUMS
of its files (`sha256sum -c` reads it), which is written before the checkpoint gets its own name.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from emanet_jax.errors import UserError
from emanet_jax.steps import TrainState

Score = Callable[[Mapping[str, float]], float]

SUMS = "SHA256SUMS"
DAMAGED = "damaged"  # folder beside the checkpoints that takes what cannot be restored
# Orbax writes these when, or after, it gives a checkpoint its name; no value depends on them.
_LATE = ("commit_success.txt", "_CHECKPOINT_METADATA")


class Checkpoints:
    """The checkpoints of one run: a thin layer over `ocp.CheckpointManager`.

    Args:
        directory: created if need be.
        score: {"task/metric": value} to a number that is larger for better checkpoints.
        keep_latest: how many of the newest stay.
        keep_best: how many of the best-scored stay as well.
    """

    def __init__(self, directory: epath.PathLike, score: Score, keep_latest: int, keep_best: int):
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
        place = epath.Path(directory).absolute()
        self._manager = ocp.CheckpointManager(
            place,
            options=ocp.CheckpointManagerOptions(
                best_fn=rank,
                preservation_policy=policies,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(
                    post_finalization_callback=lambda: _write_sums(place)
                ),
            ),
        )

    def save(
        self, state: TrainState, position: int, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Starts saving `state` after `position` batches; a step that is there already is kept."""
        if position in self._manager.all_steps():
            return
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
            UserError: a file of the checkpoint is damaged.
        """
        damage = self.damage(step)
        if damage:
            raise UserError(f"{damage}; choose another checkpoint.")
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore()
            ),
        )
        return restored.state, restored.data["position"]

    def damage(self, step: int) -> str:
        """What is wrong with the files of a checkpoint; "" if they are what was saved."""
        folder = self.path(step)
        if not (folder / SUMS).exists():
            return f"{folder / SUMS} is missing"
        found = _sums(folder)
        for line in (folder / SUMS).read_text().splitlines():
            digest, _, name = line.partition("  ")
            if name not in found:
                return f"{folder / name} is missing"
            if found[name] != digest:
                return f"{folder / name} is damaged (another SHA-256 than in {SUMS})"
        return ""

    def set_damaged_aside(self) -> list[str]:
        """Moves the newest checkpoints away until one is intact; says what was wrong with each."""
        said = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            damage = self.damage(step)
            if not damage:
                break
            said.append(damage)
            multihost_utils.sync_global_devices("damage found")
            if jax.process_index() == 0:
                aside = self._manager.directory.parent / DAMAGED
                aside.mkdir(exist_ok=True)
                number = sum(1 for _ in aside.iterdir())
                self.path(step).rename(aside / f"{step}-{number}")
            multihost_utils.sync_global_devices("damage moved")
        if said:
            self._manager.reload()
        return said

    def latest_step(self) -> int | None:
        """The newest checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The best checkpoint that was evaluated, or None."""
        return self._manager.best_step()

    def wait(self) -> None:
        """Until everything that was saved is on disk and may be the best."""
        self._manager.wait_until_finished()

    def path(self, step: int) -> epath.Path:
        """Folder of a checkpoint."""
        return self._manager.directory / str(step)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self.wait()
        self._manager.close()


def _write_sums(place: epath.Path) -> None:
    """Writes the sums of every checkpoint, finished or about to be, that has none yet."""
    if jax.process_index() == 0:
        for folder in place.iterdir():
            if folder.is_dir() and not (folder / SUMS).exists():
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
