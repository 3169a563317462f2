"""The only training loop."""

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from clu import parameter_overview
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from emanet_jax.data import pipeline
from emanet_jax.models.weights.pretrained import load_pretrained
from emanet_jax.training import debug_nan, environment, evaluation, logs, sharding, workdir
from emanet_jax.training.checkpoint import DAMAGED, Checkpoints
from emanet_jax.training.experiment import Experiment, make_experiment, open_checkpoints
from emanet_jax.training.logs import say
from emanet_jax.training.stop import Stopped, StopSignal
from emanet_jax.types import TrainState


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
    fresh = sharding.on_first(lambda: _check_workdir(directory, config))
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
                batch = sharding.to_devices(batch, experiment.mesh)
                state, scalars = experiment.train_step(state, batch)
                if step == start + 1:
                    settle()
                rows = log.step(step, scalars)
                debug_nan.watch(rows, config.max_bad_steps, experiment, state, directory)
                every = config.panel_every_steps
                if every and step % every == 0 and not experiment.evaluates(step):
                    log.panel(step, evaluation.panel_between(config, experiment, state))
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
    state: TrainState,
) -> bool:
    """Evaluates and saves where that is due; whether to go on.

    An evaluation that is stopped is made again when the run goes on.
    """
    total = experiment.total_steps
    stopped = False
    if experiment.evaluates(step):
        try:
            found, panel = evaluation.evaluate_split(
                config, experiment, state, step == total, stop.until
            )
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


def initial_state(config: ml_collections.ConfigDict, experiment: Experiment) -> TrainState:
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
        out_shardings=sharding.replicated(experiment.mesh),
    )
    say(said)
    return state.replace(**copy(merged))


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
