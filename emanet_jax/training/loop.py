"""The only training loop."""

import logging
import math
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
from etils import epath

from emanet_jax.training import bad_steps, environment, evaluation, sharding, workdir, writers
from emanet_jax.training.checkpoint import Checkpoints
from emanet_jax.training.experiment import Experiment, make_experiment
from emanet_jax.training.logs import TrainLog, table
from emanet_jax.training.stop import StopSignal
from emanet_jax.types import Batch, TrainState

_LOG = logging.getLogger(__name__)


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    directory: epath.PathLike,
    *,
    allow_config_change: bool = False,
) -> bool:
    """Trains in `directory`, going on where a run in it stopped.

    Leaves there the files that `workdir` names. SIGTERM and Ctrl-C, to any of the processes, save a
    checkpoint and return after the current step or batch of an evaluation; the same call goes on
    from it.

    Args:
        config: of the run.
        directory: its workdir.
        allow_config_change: whether a run may go on with other settings than it had, which
            environment.json then lists; a new batch size goes on at the same sample.

    Returns:
        Whether the run has come to its end; False if a signal has stopped it.

    Raises:
        UserError: the config or the data has an error, or the directory holds another run, is in
            use or cannot be written.
    """
    return train(make_experiment(config), directory, allow_config_change=allow_config_change)


def train(
    experiment: Experiment, directory: epath.PathLike, *, allow_config_change: bool = False
) -> bool:
    """`train_and_evaluate` with the experiment that the config comes to."""
    directory = workdir.absolute(directory)
    changes = sharding.on_first(lambda: _check(directory, experiment.config, allow_config_change))
    # Before the workdir is made, so that an error in pretrained weights leaves none behind.
    state = experiment.initial_state() if changes is None else None
    with (
        workdir.claimed(directory),
        Checkpoints(directory / workdir.CHECKPOINTS, experiment.checkpoint_policy) as checkpoints,
        StopSignal(experiment.mesh) as stop,
    ):
        latest = checkpoints.latest_step()
        if latest is None:
            state = state or experiment.initial_state()
        else:
            state = checkpoints.restore(latest, experiment.abstract_state())
            _LOG.info("Going on from %s.", checkpoints.path(latest))
        start = latest or 0
        sample_offset = int(state.samples) - start * experiment.batch_size
        if sample_offset:
            experiment = make_experiment(experiment.config, sample_offset)
        if jax.process_index() == 0:
            _describe(directory, experiment, state)
            environment.record(directory, experiment.config, start, experiment.total_steps, changes)
        if start >= experiment.total_steps:
            _LOG.info("This run is finished: it was to take %d steps.", experiment.total_steps)
        with (
            TrainLog(experiment, directory, start) as log,
            experiment.data.train_batches(start) as batches,
        ):
            finished = _loop(experiment, state, start, batches, directory, log, checkpoints, stop)
        if finished:
            checkpoints.wait()
            if jax.process_index() == 0:
                _LOG.info(_report(directory, checkpoints, experiment.tensorboard))
    return finished


def _loop(
    experiment: Experiment,
    state: TrainState,
    start: int,
    batches: Iterator[Batch],
    directory: epath.Path,
    log: TrainLog,
    checkpoints: Checkpoints,
    stop: StopSignal,
) -> bool:
    """Trains from step `start` on; whether to the end.

    An evaluation that is stopped is made again when the run goes on.
    """
    step, total = start, experiment.total_steps
    while True:
        stopped = False
        if experiment.evaluates(step) and not checkpoints.evaluated(step):
            result = evaluation.evaluate_split(experiment, state, step >= total, stop.reached)
            stopped = result is None
            if result:
                log.evaluation(step, result)
                checkpoints.save(state, step, result.values)
        elif experiment.saves(step):
            log.flush()
            checkpoints.save(state, step)
        if step >= total and not stopped:
            return True

        if stopped or stop.reached():
            log.flush()
            if step > start:
                checkpoints.save(state, step)
                checkpoints.wait()
            _LOG.info("Stopped by %s at step %d/%d: run again to go on.", stop.name, step, total)
            return False

        batch = sharding.to_devices(next(batches), experiment.mesh)
        state, scalars = experiment.train_step(state, batch)
        if step == start and jax.process_index() == 0:
            workdir.save_config(directory, experiment.config)
        step += 1
        rows = log.step(step, scalars)
        bad_steps.watch(rows, experiment.max_bad_steps, experiment.data, state, directory)
        if experiment.draws(step):
            log.figure(step, evaluation.draw(experiment, state))


def evaluate_workdir(directory: epath.PathLike, which: str) -> None:
    """Evaluates the "best" or "latest" checkpoint of a run and logs the table of metrics.

    Raises:
        UserError: the directory holds no run or no checkpoint.
    """
    directory = workdir.absolute(directory)
    experiment = make_experiment(workdir.load_config(directory))
    folder = directory / workdir.CHECKPOINTS
    with Checkpoints(folder, experiment.checkpoint_policy, read_only=True) as checkpoints:
        step = checkpoints.choose(which)
        state = checkpoints.restore(step, experiment.abstract_state())
        result = evaluation.evaluate_split(experiment, state)
    assert result, "nobody asked it to stop"
    _LOG.info(table({f"step {step}": result.values}))
    _LOG.info("checkpoint: %s", checkpoints.path(step))


def _check(
    directory: epath.Path, config: ml_collections.ConfigDict, allow_change: bool
) -> dict[str, list[Any]] | None:
    """`workdir.check`, and UserError if a file that the run goes on writing cannot be read."""
    changes = workdir.check(directory, config, allow_change)
    environment.read(directory)
    writers.read_scalars(directory / workdir.METRICS)
    return changes


def _describe(directory: epath.Path, experiment: Experiment, state: TrainState) -> None:
    """Logs what is trained; the list of all parameters goes into a file."""
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): x.shape
        for path, x in jax.tree_util.tree_leaves_with_path(state.params)
    }
    lines = [f"{name}  {shape}  {math.prod(shape):,}\n" for name, shape in shapes.items()]
    count = sum(map(math.prod, shapes.values()))
    workdir.write(directory / workdir.PARAMETERS, "".join([*lines, f"in all: {count:,}\n"]))
    network = experiment.config.model
    _LOG.info(
        f"{network.name} ({network.variant}) on {network.backbone}, {count:,} parameters (list in "
        f"{directory / workdir.PARAMETERS}); {jax.device_count()} {jax.devices()[0].platform} "
        "device(s)."
    )


def _report(directory: epath.Path, checkpoints: Checkpoints, tensorboard: bool) -> str:
    """Every metric at the first, best and last evaluation, and where to look."""
    curves = f"tensorboard --logdir={directory / workdir.TENSORBOARD}"
    curves = curves if tensorboard else f"{directory / workdir.METRICS}"
    best, last = checkpoints.best_step(), checkpoints.latest_step()
    assert best is not None and last is not None, "the last step is always evaluated and saved"
    evaluations = writers.read_evaluations(directory / workdir.METRICS)
    first = min({*evaluations, best})  # metrics.jsonl may have been moved away
    evaluations |= {step: checkpoints.metrics(step) for step in (best, last)}
    steps = {"first": first, "best": best, "last": last}
    columns = {f"{name} ({step})": evaluations[step] for name, step in steps.items()}
    return "\n".join(
        [
            "",
            table(columns),
            "",
            f"best checkpoint: {checkpoints.path(best)}",
            f"figure:          {directory / workdir.FIGURE}",
            f"curves:          {curves}",
        ]
    )
