"""The only training loop, and the evaluation that it shares with `--mode=eval`."""

import contextlib
import functools
import gc
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from clu import parameter_overview
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils

from emanet_jax import bad_steps, environment, logs, metrics, parallel, steps, summaries, workdir
from emanet_jax.checkpoint import DAMAGED, Checkpoints
from emanet_jax.convert.pretrained import load_pretrained
from emanet_jax.data import pipeline
from emanet_jax.experiment import Experiment, make_experiment, open_checkpoints
from emanet_jax.logs import say
from emanet_jax.stop import Stopped, StopSignal
from emanet_jax.tasks import Task


class Evaluation(NamedTuple):
    """What an evaluation finds.

    Attributes:
        values: {"task/metric": value} over all batches.
        sums: {task: its metric's sums over all batches}, on the host; host metrics left out.
        first: the first batch, with its predictions.
    """

    values: dict[str, float]
    sums: dict[str, metrics.Sums]
    first: dict[str, Any]


def evaluate(
    experiment: Experiment,
    state: steps.TrainState,
    batches: Iterable[Mapping[str, Any]],
    host_metrics: bool = True,
) -> Evaluation:
    """Metrics over all batches.

    `host_metrics` says whether to add the metrics that need the host, which take their time.
    """
    on_host = [task for task in experiment.tasks if host_metrics and task.host_metric]
    sums, host_sums, first = [], [], {}
    for local in batches:
        batch = parallel.to_devices(local, experiment.mesh)
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
) -> list[dict[str, metrics.Sums]]:
    """The tasks' host metrics, {task: sums}, of every image of this process's rows of a batch."""
    if not tasks:
        return []
    maps = multihost_utils.global_array_to_host_local_array(
        {task.name: predictions[task.name] for task in tasks}, mesh, parallel.maps(mesh).spec
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
    return summaries.panel(image, labels, predictions, tasks)


def evaluate_split(
    config: ml_collections.ConfigDict,
    experiment: Experiment,
    state: steps.TrainState,
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
    config: ml_collections.ConfigDict, experiment: Experiment, state: steps.TrainState
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


def train_and_evaluate(config: ml_collections.ConfigDict, directory: epath.PathLike) -> None:
    """Trains in `directory`, going on where a run in it stopped.

    Leaves there the files that `workdir` names. SIGTERM and Ctrl-C, to any of the processes, save a
    checkpoint and return after the current step or batch of an evaluation; the same call goes on
    from it.

    Raises:
        UserError: the config or the data has a fault, or the directory holds another run, is in use
            or cannot be written.
    """
    train(config, make_experiment(config), directory)


def train(
    config: ml_collections.ConfigDict, experiment: Experiment, directory: epath.PathLike
) -> None:
    """`train_and_evaluate` with the experiment that the config comes to."""
    directory = workdir.absolute(directory)
    # Before the workdir is made, so that a fault in pretrained weights leaves none behind.
    fresh = parallel.on_first(lambda: _check_workdir(directory, config))
    state = initial_state(config, experiment) if fresh else None
    with (
        workdir.claimed(directory, config),
        open_checkpoints(config, directory, experiment.score) as checkpoints,
        StopSignal(experiment.mesh) as stop,
        _garbage_left_alone() as settle,
    ):
        for damage in checkpoints.set_damaged_aside():
            say(f"{damage}: moved to {directory / DAMAGED}, going back to the checkpoint before.")
        latest = checkpoints.latest_step()
        if latest is None:
            state, start = state or initial_state(config, experiment), 0
        else:
            state, start = checkpoints.restore(latest, experiment.abstract_state())
            say(f"Going on from {checkpoints.path(latest)}.")
        _describe(config, directory, state)
        if jax.process_index() == 0:
            environment.record(directory, config, start, experiment.total_steps)
        with (
            logs.TrainLog(config, experiment, directory, start) as log,
            pipeline.train_batches(
                experiment.train_data, start, config.data.threads, config.data.prefetch
            ) as batches,
        ):
            after = functools.partial(
                _after_step, config, experiment, log, checkpoints, stop, settle
            )
            if start and not checkpoints.evaluated(start) and not after(start, state):
                return
            for step, batch in zip(
                range(start + 1, experiment.total_steps + 1), batches, strict=False
            ):
                batch = parallel.to_devices(batch, experiment.mesh)
                state, scalars = experiment.train_step(state, batch)
                if step == start + 1:
                    settle()
                rows = log.step(step, scalars)
                bad_steps.watch(rows, config.max_bad_steps, experiment, state, directory)
                every = config.panel_every_steps
                if every and step % every == 0 and not experiment.evaluates(step):
                    log.panel(step, panel_between(config, experiment, state))
                if not after(step, state):
                    return
        checkpoints.wait()
        if jax.process_index() == 0:
            say(_report(directory, checkpoints))


@contextlib.contextmanager
def _garbage_left_alone() -> Iterator[Callable[[], None]]:
    """Gives a function that takes what there is out of sight of Python's garbage collector.

    Most of it stays for good, above all what JAX has traced: call it when something was compiled.
    The collector, which goes through all objects whenever enough new ones have gathered, would
    hold the host up for most of a second, in the midst of training.
    """

    def settle() -> None:
        gc.collect()
        gc.freeze()

    try:
        yield settle
    finally:
        gc.unfreeze()


def _check_workdir(directory: epath.Path, config: ml_collections.ConfigDict) -> bool:
    """`workdir.check`, and UserError if a file that the run goes on writing cannot be read."""
    fresh = workdir.check(directory, config)
    environment.read(directory)
    logs.read_scalars(directory / workdir.METRICS)
    return fresh


def _after_step(
    config: ml_collections.ConfigDict,
    experiment: Experiment,
    log: logs.TrainLog,
    checkpoints: Checkpoints,
    stop: StopSignal,
    settle: Callable[[], None],
    step: int,
    state: steps.TrainState,
) -> bool:
    """Evaluates and saves where that is due; whether to go on.

    An evaluation that is stopped is made again when the run goes on.
    """
    total = experiment.total_steps
    stopped = False
    if experiment.evaluates(step):
        try:
            found, panel = evaluate_split(config, experiment, state, step == total, stop.until)
        except Stopped:
            stopped = True
        else:
            log.evaluation(step, found.values, found.sums, panel)
            checkpoints.save(state, step, found.values)
            settle()
    elif step % config.checkpoint.every_steps == 0:
        log.flush()
        checkpoints.save(state, step)
    if stopped or (stop.reached() and step < total):
        log.flush()
        checkpoints.save(state, step)
        checkpoints.wait()
        say(f"Stopped by {stop.name} at step {step}/{total}: run again to go on.")
        return False
    return True


def initial_state(config: ml_collections.ConfigDict, experiment: Experiment) -> steps.TrainState:
    """The state that a run starts from, its backbone as config.model.pretrained says.

    Raises:
        UserError: the pretrained weights cannot be found, or do not fit the backbone.
    """
    if not config.model.pretrained:
        return experiment.init()
    shapes = experiment.abstract_state()
    shapes = {"params": shapes.params, "batch_stats": shapes.batch_stats}
    loaded, said = load_pretrained(config.model.pretrained, config.model.backbone, shapes)
    state = experiment.init()
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    merged = unflatten_dict(flatten_dict(variables) | flatten_dict(jax.device_get(loaded)))
    # Copied, since a state is donated, and an array that was put on devices may share its memory.
    copy = jax.jit(
        lambda tree: jax.tree.map(jnp.copy, tree),
        out_shardings=parallel.replicated(experiment.mesh),
    )
    say(said)
    return state.replace(**copy(merged))


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
