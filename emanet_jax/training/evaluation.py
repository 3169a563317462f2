"""Evaluation of a split: exact metrics over all its images, and a figure of the first ones."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from emanet_jax.tasks import figures, metrics
from emanet_jax.training import sharding
from emanet_jax.training.experiment import Experiment
from emanet_jax.types import Batch, MetricSums, Task, TrainState

Sums = Mapping[str, MetricSums]  # by task


class Evaluation(NamedTuple):
    """The results of an evaluation.

    Attributes:
        values: {"task/metric": value} over all batches.
        sums: {task: its metric's sums over all batches}, on the host; host metrics left out.
        figure: (h, w, 3) uint8, the first images with their labels and predictions.
    """

    values: dict[str, float]
    sums: Sums
    figure: np.ndarray


def evaluate(
    experiment: Experiment,
    state: TrainState,
    batches: Iterable[Batch],
    host_metrics: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Metrics over all batches, and the figure of the first one.

    Args:
        experiment: the run.
        state: whose network is evaluated.
        batches: this process's rows of them.
        host_metrics: whether to add the metrics that need the host, which take their time.
        stop: whether to give up, asked before every batch.

    Returns:
        None if `stop` was true before a batch.
    """
    on_host = [task for task in experiment.tasks if host_metrics and task.host_metric]
    sums: list[Sums] = []
    host_sums: list[Sums] = []
    first: tuple[Batch, Mapping[str, jax.Array]] | None = None
    for local in batches:
        if stop():
            return None
        batch = sharding.to_devices(local, experiment.mesh)
        batch_sums, predictions = experiment.eval_step(state, batch)
        sums.append(batch_sums)
        host_sums += _host_sums(on_host, local, predictions, experiment.mesh)
        first = first or (batch, predictions)
    assert first, "there was nothing to evaluate"
    totals = [metrics.total(sums)]
    if on_host:
        by_process = multihost_utils.process_allgather(metrics.total(host_sums))
        totals.append(jax.tree.map(lambda x: x.sum(axis=0), by_process))
    values = {
        f"{task.name}/{name}": value
        for task in experiment.tasks
        for total in totals
        if task.name in total
        for name, value in total[task.name].compute().items()
    }
    return Evaluation(values, totals[0], _figure(experiment, *first))


def evaluate_split(
    experiment: Experiment,
    state: TrainState,
    last: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """`evaluate` on the whole evaluation split; `last` is False before a training's end."""
    host_metrics = wants_host_metrics(experiment.host_metrics, last)
    with contextlib.closing(experiment.data.eval_batches()) as batches:
        return evaluate(experiment, state, batches, host_metrics, stop)


def wants_host_metrics(when: str, last: bool) -> bool:
    """Whether an evaluation makes host metrics; `when` is "always", "last" or "never"."""
    return when == "always" or (when == "last" and last)


def draw(experiment: Experiment, state: TrainState) -> np.ndarray:
    """The figure of an evaluation, without the rest of it."""
    with contextlib.closing(experiment.data.eval_batches()) as batches:
        batch = sharding.to_devices(next(batches), experiment.mesh)
    return _figure(experiment, batch, experiment.eval_step(state, batch)[1])


def _figure(
    experiment: Experiment, batch: Batch, predictions: Mapping[str, jax.Array]
) -> np.ndarray:
    """The image grid of the first real images of a batch of all processes."""
    batch, maps = multihost_utils.process_allgather((batch, predictions), tiled=True)
    count = min(experiment.figure_images, int(batch["mask"].sum()))
    images, labels, maps = jax.tree.map(
        lambda x: x[:count], (batch["image"], batch["labels"], maps)
    )
    return figures.image_grid(images, labels, maps, experiment.tasks)


def _host_sums(
    tasks: Sequence[Task],
    batch: Batch,
    predictions: Mapping[str, jax.Array],
    mesh: Mesh,
) -> list[Sums]:
    """The tasks' host metrics of every image of this process's rows of a batch."""
    if not tasks:
        return []
    maps = multihost_utils.global_array_to_host_local_array(
        {task.name: predictions[task.name] for task in tasks}, mesh, sharding.maps(mesh).spec
    )
    maps, labels, mask = jax.device_get(maps), batch["labels"], np.asarray(batch["mask"])
    mask = mask[:, None, None, None]
    valid = {task.name: np.asarray(task.valid(labels[task.name])) & mask for task in tasks}

    def of_image(task: Task, i: int) -> MetricSums:
        assert task.host_metric
        return task.host_metric(maps[task.name][i], labels[task.name][i], valid[task.name][i])

    return [{task.name: of_image(task, i) for task in tasks} for i in range(len(mask))]
