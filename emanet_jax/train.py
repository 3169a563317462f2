"""The only training loop, and the evaluation that it shares with `--mode=eval`."""

import signal
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax
import ml_collections
import numpy as np
from clu import parameter_overview
from etils import epath
from jax.experimental import multihost_utils

from emanet_jax import logs, metrics, parallel, steps, summaries, workdir
from emanet_jax.checkpoint import Checkpoints
from emanet_jax.data import pipeline
from emanet_jax.errors import UserError
from emanet_jax.experiment import Experiment, make_experiment
from emanet_jax.logs import say
from emanet_jax.tasks import Task


class StopSignal:
    """Whether SIGTERM or Ctrl-C has asked the run to stop after the current step.

    The first signal is noted; a second one acts as usual.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _: Any) -> None:
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *_: Any) -> None:
        self._restore()


def evaluate(
    experiment: Experiment, state: steps.TrainState, batches: Iterable[Mapping[str, Any]]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics {"task/metric": value} over all batches, and the first batch with predictions."""
    sums, first = [], {}
    for batch in batches:
        batch = parallel.to_devices(batch, experiment.mesh)
        batch_sums, predictions = experiment.eval_step(state, batch)
        sums.append(batch_sums)
        first = first or {**batch, "predictions": predictions}
    totals = metrics.total(sums)
    values = {
        f"{task.name}/{name}": value
        for task in experiment.tasks
        for name, value in totals[task.name].compute().items()
    }
    return values, multihost_utils.process_allgather(first, tiled=True)


def make_panel(first: Mapping[str, Any], tasks: tuple[Task, ...], count: int) -> np.ndarray:
    """The panel of the first `count` real images of a batch with predictions."""
    count = min(count, int(first["mask"].sum()))
    image, labels, predictions = jax.tree.map(
        lambda x: x[:count], (first["image"], first["labels"], first["predictions"])
    )
    return summaries.panel(image, labels, predictions, tasks)


def evaluate_split(
    config: ml_collections.ConfigDict, experiment: Experiment, state: steps.TrainState
) -> tuple[dict[str, float], np.ndarray]:
    """Metrics over the whole evaluation split, and the panel of its first images."""
    batches = pipeline.eval_batches(
        experiment.val_source,
        experiment.tasks,
        batch_size=config.eval_batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.data.threads,
    )
    values, first = evaluate(experiment, state, batches)
    return values, make_panel(first, experiment.tasks, config.panel_images)


def open_checkpoints(
    config: ml_collections.ConfigDict, directory: epath.Path, experiment: Experiment
) -> Checkpoints:
    """The run's checkpoints, ranked as the config says."""
    return Checkpoints(
        directory / workdir.CHECKPOINTS,
        experiment.score,
        config.checkpoint.keep_latest,
        config.checkpoint.keep_best,
    )


def train_and_evaluate(config: ml_collections.ConfigDict, directory: epath.PathLike) -> None:
    """Trains in `directory`, going on where a run in it stopped.

    Leaves there the files that `workdir` names. SIGTERM and Ctrl-C save a checkpoint and return
    after the current step; the same call goes on from it.

    Raises:
        UserError: the config or the data has a fault, or the directory holds another run.
    """
    directory = epath.Path(directory).absolute()
    experiment = make_experiment(config)
    workdir.claim(directory, config)
    total = experiment.total_steps
    with open_checkpoints(config, directory, experiment) as checkpoints, StopSignal() as stop:
        latest = checkpoints.latest_step()
        if latest is None:
            state, start = experiment.init(), 0
        else:
            state, start = checkpoints.restore(latest, experiment.abstract_state())
            say(f"Going on from {checkpoints.path(latest)}.")
        _describe(config, directory, state)
        with (
            logs.TrainLog(config, experiment, directory, start) as log,
            pipeline.train_batches(
                experiment.train_data, start, config.data.threads, config.data.prefetch
            ) as batches,
        ):
            for step, batch in zip(range(start + 1, total + 1), batches, strict=False):
                batch = parallel.to_devices(batch, experiment.mesh)
                state, scalars = experiment.train_step(state, batch)
                log.step(step, scalars)
                if step % experiment.eval_every == 0 or step == total:
                    values, panel = evaluate_split(config, experiment, state)
                    log.evaluation(step, values, panel)
                    checkpoints.save(state, step, values)
                elif step % config.checkpoint.every_steps == 0:
                    checkpoints.save(state, step)
                if stop.received and step < total:
                    checkpoints.save(state, step)
                    say(f"Stopped by {stop.received} at step {step}/{total}: run again to go on.")
                    return
        say(_report(directory, checkpoints))


def evaluate_workdir(directory: epath.PathLike, which: Literal["best", "latest"]) -> None:
    """Evaluates the best or latest checkpoint of a run and prints the table of metrics.

    Raises:
        UserError: the directory holds no run or no checkpoint.
    """
    directory = epath.Path(directory).absolute()
    config = workdir.load_config(directory)
    experiment = make_experiment(config)
    with open_checkpoints(config, directory, experiment) as checkpoints:
        step = checkpoints.best_step() if which == "best" else checkpoints.latest_step()
        if step is None:
            raise UserError(f"{directory} holds no checkpoint yet; train it first.")
        state, _ = checkpoints.restore(step, experiment.abstract_state())
        values, _ = evaluate_split(config, experiment, state)
    say(logs.table({f"{which} (step {step})": values}))
    say(f"checkpoint: {checkpoints.path(step)}")


def _describe(config: ml_collections.ConfigDict, directory: epath.Path, state: Any) -> None:
    """Says what is trained; the list of all parameters goes into a file."""
    count = parameter_overview.count_parameters(state.params)
    overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    if jax.process_index() == 0:
        workdir.write(directory / workdir.PARAMETERS, overview + "\n")
    say(
        f"{config.model.name} ({config.model.variant}) on {config.model.backbone}, "
        f"{count:,} parameters (list in {directory / workdir.PARAMETERS}); "
        f"{jax.device_count()} {jax.devices()[0].platform} device(s)."
    )


def _report(directory: epath.Path, checkpoints: Checkpoints) -> str:
    """The end of a run: every metric at the first, best and last evaluation, and where to look."""
    checkpoints.wait()
    evaluations = logs.read_evaluations(directory / workdir.METRICS)
    first, last, best = min(evaluations), max(evaluations), checkpoints.best_step()
    columns = {
        f"first ({first})": evaluations[first],
        f"best ({best})": evaluations[best],
        f"last ({last})": evaluations[last],
    }
    return "\n".join(
        [
            "",
            logs.table(columns),
            "",
            f"best checkpoint: {checkpoints.path(best)}",
            f"pictures:        {directory / workdir.PANEL}",
            f"curves:          tensorboard --logdir={directory / workdir.TENSORBOARD}",
        ]
    )
