"""Evaluation of a split, in a training and alone: metrics, and a panel of the first images."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import ml_collections
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from emanet_jax.data import pipeline
from emanet_jax.tasks import figures, metrics
from emanet_jax.training import logs, sharding, workdir
from emanet_jax.training.experiment import Experiment, make_experiment, open_checkpoints
from emanet_jax.training.logs import say
from emanet_jax.types import MetricSums, Task, TrainState


class Evaluation(NamedTuple):
    """What an evaluation finds.

    Attributes:
        values: {"task/metric": value} over all batches.
        sums: {task: its metric's sums over all batches}, on the host; host metrics left out.
        first: the first batch, with its predictions.
    """

    values: dict[str, float]
    sums: dict[str, MetricSums]
    first: dict[str, Any]


def evaluate(
    experiment: Experiment,
    state: TrainState,
    batches: Iterable[Mapping[str, Any]],
    host_metrics: bool = True,
) -> Evaluation:
    """Metrics over all batches.

    `host_metrics` says whether to add the metrics that need the host, which take their time.
    """
    on_host = [task for task in experiment.tasks if host_metrics and task.host_metric]
    sums, host_sums, first = [], [], {}
    for local in batches:
        batch = sharding.to_devices(local, experiment.mesh)
        batch_sums, predictions = experiment.eval_step(state, batch)
        sums.append(batch_sums)
        host_sums += _host_sums(on_host, local, predictions, experiment.mesh)
        first = first or {**batch, "predictions": predictions}
    totals = [metrics.total(sums)]
    if on_host:
        by_process = multihost_utils.process_allgather(metrics.total(host_sums))
        totals.append(jax.tree.map(lambda x: x.sum(axis=0), by_process))
    values = {
        f"{task.name}/{name}": value
        for task in experiment.tasks
        for sums in totals
        if task.name in sums
        for name, value in sums[task.name].compute().items()
    }
    return Evaluation(values, totals[0], multihost_utils.process_allgather(first, tiled=True))


def _host_sums(
    tasks: Sequence[Task],
    batch: Mapping[str, Any],
    predictions: Mapping[str, jax.Array],
    mesh: jax.sharding.Mesh,
) -> list[dict[str, MetricSums]]:
    """The tasks' host metrics, {task: sums}, of every image of this process's rows of a batch."""
    if not tasks:
        return []
    maps = multihost_utils.global_array_to_host_local_array(
        {task.name: predictions[task.name] for task in tasks}, mesh, sharding.maps(mesh).spec
    )
    maps, labels, mask = jax.device_get(maps), batch["labels"], np.asarray(batch["mask"])
    valid = {task.name: task.valid(labels[task.name]) & mask[:, None, None, None] for task in tasks}
    return [
        {t.name: t.host_metric(*(x[t.name][i] for x in (maps, labels, valid))) for t in tasks}
        for i in range(len(mask))
    ]


def wants_host_metrics(host_metrics: str, last: bool) -> bool:
    """Whether an evaluation, the last one or not, makes the metrics of `config.host_metrics`."""
    return host_metrics == "always" or (host_metrics == "last" and last)


def make_panel(first: Mapping[str, Any], tasks: tuple[Task, ...], count: int) -> np.ndarray:
    """The panel of the first `count` real images of a batch with predictions."""
    count = min(count, int(first["mask"].sum()))
    image, labels, predictions = jax.tree.map(
        lambda x: x[:count], (first["image"], first["labels"], first["predictions"])
    )
    return figures.panel(image, labels, predictions, tasks)


def evaluate_split(
    config: ml_collections.ConfigDict,
    experiment: Experiment,
    state: TrainState,
    last: bool = True,
    until: Callable[[Iterable[Any]], Iterator[Any]] = iter,
) -> tuple[Evaluation, np.ndarray]:
    """Metrics over the whole evaluation split, and the panel of its first images.

    `last` is False at the evaluations before a training's end; `until`, such as `StopSignal.until`,
    may end the reading of the batches with an error.
    """
    host_metrics = wants_host_metrics(config.host_metrics, last)
    found = evaluate(experiment, state, until(_eval_batches(config, experiment)), host_metrics)
    return found, make_panel(found.first, experiment.tasks, config.panel_images)


def panel_between(
    config: ml_collections.ConfigDict, experiment: Experiment, state: TrainState
) -> np.ndarray:
    """The panel of an evaluation, without the rest of it."""
    with contextlib.closing(_eval_batches(config, experiment)) as batches:
        found = evaluate(experiment, state, itertools.islice(batches, 1), host_metrics=False)
    return make_panel(found.first, experiment.tasks, config.panel_images)


def _eval_batches(
    config: ml_collections.ConfigDict, experiment: Experiment
) -> Iterator[pipeline.Batch]:
    return pipeline.eval_batches(
        experiment.val_source,
        experiment.tasks,
        batch_size=config.eval_batch_size,
        image_size=tuple(config.data.image_size),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.data.threads,
    )


def evaluate_workdir(directory: epath.PathLike, which: Literal["best", "latest"]) -> None:
    """Evaluates the best or latest checkpoint of a run and prints the table of metrics.

    Raises:
        UserError: the directory holds no run or no checkpoint.
    """
    directory = workdir.absolute(directory)
    config = workdir.load_config(directory)
    experiment = make_experiment(config)
    with open_checkpoints(config, directory, experiment.score, read_only=True) as checkpoints:
        step = checkpoints.choose(which)
        state, _ = checkpoints.restore(step, experiment.abstract_state())
        found, _ = evaluate_split(config, experiment, state)
    say(logs.table({f"step {step}": found.values}))
    say(f"checkpoint: {checkpoints.path(step)}")
