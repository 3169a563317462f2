"""Orbax checkpoints: saved in the background, the latest and the best are kept."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from emanet_jax.steps import TrainState

Score = Callable[[Mapping[str, float]], float]


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
        self._manager = ocp.CheckpointManager(
            epath.Path(directory).absolute(),
            options=ocp.CheckpointManagerOptions(
                best_fn=rank, preservation_policy=policies, cleanup_tmp_directories=True
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
        """The state, with the shapes and shardings of `like`, and the number of batches read."""
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore()
            ),
        )
        return restored.state, restored.data["position"]

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
