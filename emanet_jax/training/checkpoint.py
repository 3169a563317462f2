"""Orbax checkpoints: saved in the background, the latest and the best are kept, damage is noticed.

Orbax restores a flipped byte of an array without a word, so every checkpoint carries SHA256SUMS
of its files (`sha256sum -c` reads it), which is written before the checkpoint gets its own name.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from emanet_jax import strict_json
from emanet_jax.data.files import is_hidden
from emanet_jax.errors import UserError
from emanet_jax.training import sharding, workdir
from emanet_jax.types import TrainState

_LOG = logging.getLogger(__name__)

Score = Callable[[Mapping[str, float]], float]

SUMS = "SHA256SUMS"
DAMAGED = "damaged"  # folder beside the checkpoints that takes what cannot be restored
# Where a checkpoint goes before its files are deleted, so that none is ever there in part.
_DELETED = "deleted"
_METRICS = "metrics"  # Orbax's folder, and file in it, of the metrics that a step was saved with
# Orbax writes these when, or after, it gives a checkpoint its name; no value depends on them.
_LATE = ("commit_success.txt", "_CHECKPOINT_METADATA")


class Policy(NamedTuple):
    """Which checkpoints of a run stay.

    Attributes:
        score: {"task/metric": value} to a number that is larger for better checkpoints.
        keep_latest: how many of the newest stay.
        keep_best: how many of the best-scored stay as well.
    """

    score: Score
    keep_latest: int
    keep_best: int


class Checkpoints:
    """The checkpoints of one run: a thin layer over `ocp.CheckpointManager`.

    Opening them moves damaged ones away: the newest ones until one is intact, and those whose
    metrics are damaged, by which the best is chosen. The damage of each is logged.

    Args:
        directory: of the checkpoints, created if need be.
        policy: which of them stay.
        read_only: leave everything as it is, such as the unfinished save of a run that goes on.

    Attributes:
        damages: what was damaged, a sentence each.

    Raises:
        UserError: `read_only`, and the metrics of a checkpoint are damaged.
    """

    def __init__(self, directory: epath.PathLike, policy: Policy, *, read_only: bool = False):
        def rank(metrics: Mapping[str, float | None]) -> float:
            value = policy.score(strict_json.numbers(metrics))
            return -math.inf if math.isnan(value) else value

        best = preservation_policy.BestN(
            get_metric_fn=rank, n=policy.keep_best, keep_checkpoints_without_metrics=False
        )
        place = workdir.absolute(directory)
        self._read_only = read_only
        self._intact: int | None = None  # step whose files have been compared with their sums
        self.damages: list[str] = []
        if read_only:
            _check_metrics(place)
        else:
            self._intact, self.damages = sharding.on_first(lambda: _set_damaged_aside(place))
        self._manager = ocp.CheckpointManager(
            place,
            options=ocp.CheckpointManagerOptions(
                best_fn=rank,
                preservation_policy=preservation_policy.AnyPreservationPolicy(
                    [preservation_policy.LatestN(policy.keep_latest), best]
                ),
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                todelete_subdir=None if read_only else _DELETED,
                async_options=ocp.AsyncOptions(
                    post_finalization_callback=lambda: _write_sums(place)
                ),
            ),
        )

    def save(
        self, state: TrainState, step: int, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Starts saving the state after a step.

        A step that is there already is kept, unless it has no metrics and gets them now.

        Raises:
            OSError, ValueError: what went wrong with this save or, since it goes on in the
                background, with the one before.
        """
        if step in self._manager.all_steps():
            if metrics is None or self.evaluated(step):
                return
            self._manager.delete(step)
        self.wait()
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state)),
            metrics=None if metrics is None else strict_json.nulls(metrics),
            force=True,
        )

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state after a step, with the shapes and shardings of `like`.

        Raises:
            UserError: a file of the checkpoint is damaged, or its arrays are others than `like`'s.
        """
        if step != self._intact:
            damage = sharding.on_first(lambda: find_damage(self.path(step)))
            if damage:
                raise UserError(f"{damage}; choose another checkpoint.")
        try:
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))
            )
        except (KeyError, ValueError) as error:  # its files are intact, so its arrays are others
            raise UserError(
                f"{self.path(step)} holds other arrays than this config's network and optimiser "
                "have; go on with the config that it was made with, or in another --workdir."
            ) from error
        return restored.state

    def evaluated(self, step: int) -> bool:
        """Whether a checkpoint was saved with metrics."""
        return sharding.on_first(lambda: (self.path(step) / _METRICS).exists())

    def metrics(self, step: int) -> dict[str, float]:
        """The metrics that a checkpoint was saved with."""
        return json.loads((self.path(step) / _METRICS / "metrics").read_text())

    def latest_step(self) -> int | None:
        """The newest checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The best checkpoint that was evaluated, or None."""
        return self._manager.best_step()

    def choose(self, which: str) -> int:
        """The "best" or the "latest" checkpoint; the latest, too, where none has been evaluated.

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
                f"{path} cannot be read ({error}); move this checkpoint away to use the others, or "
                "start the run again, which does so."
            ) from error


def find_damage(folder: epath.Path, within: str = "") -> str:
    """The first error in the files of a checkpoint, in words; "" if there is none.

    Args:
        folder: of the checkpoint.
        within: look only at files whose names in the folder begin like this.
    """
    if not (folder / SUMS).exists():
        return f"{folder / SUMS} is missing"
    text = (folder / SUMS).read_bytes().decode(errors="replace")
    saved = {name: digest for digest, _, name in (x.partition("  ") for x in text.splitlines())}
    sums = _sums(folder, within)
    for name in sorted({*saved, *sums}):
        if name.startswith(within) and name not in sums:
            return f"{folder / name} is missing"
        if name in sums and saved.get(name) != sums[name]:
            return f"{folder / name} is damaged (another SHA-256 than in {SUMS})"
    return ""


def _set_damaged_aside(place: epath.Path) -> tuple[int | None, list[str]]:
    """Moves damaged checkpoints away as `Checkpoints` says.

    Returns:
        The newest one that is intact, and the damages.
    """
    intact, damages, aside = None, [], place.parent / DAMAGED
    for step in sorted(ocp.utils.checkpoint_steps(place), reverse=True):
        folder = place / str(step)
        damage = find_damage(folder, "" if intact is None else f"{_METRICS}/")
        if damage:
            _LOG.info("%s: moved to %s.", damage, aside)
            damages.append(damage)
            aside.mkdir(exist_ok=True)
            folder.rename(aside / f"{step}-{sum(1 for _ in aside.iterdir())}")
        elif intact is None:
            intact = step
    return intact, damages


def _write_sums(place: epath.Path) -> None:
    """Writes the sums of the checkpoint that is about to get its name."""
    for folder in place.iterdir():
        if folder.is_dir() and ocp.utils.is_tmp_checkpoint(folder):
            lines = [f"{digest}  {name}\n" for name, digest in _sums(folder).items()]
            (folder / SUMS).write_text("".join(lines))


def _sums(folder: epath.Path, within: str = "") -> dict[str, str]:
    """{path in the folder: SHA-256 of the file} of the files whose paths begin with `within`.

    Hidden files, which systems add later, are left out.
    """
    sums: dict[str, str] = {}

    def add(inner: epath.Path, prefix: str) -> None:
        for path in sorted(inner.iterdir()):
            name = prefix + path.name
            if is_hidden(path.name):
                continue
            if path.is_dir():
                add(path, f"{name}/")
            elif name.startswith(within) and path.name not in (*_LATE, SUMS):
                sums[name] = hashlib.sha256(path.read_bytes()).hexdigest()

    add(folder, "")
    return sums
