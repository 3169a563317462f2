"""From a config to a finished `Experiment`: all that training and evaluation work with."""

import dataclasses
import functools
import json
import logging
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from emanet_jax import balancing, cpu
from emanet_jax.data import augmentation, pipeline
from emanet_jax.errors import UserError
from emanet_jax.models.remat import rematerialised
from emanet_jax.models.weights.pretrained import load_pretrained
from emanet_jax.network import make_network
from emanet_jax.tasks import metrics
from emanet_jax.training import checkpoint, optim, sharding, steps
from emanet_jax.types import Batch, MetricSums, Model, Task, TrainState

_LOG = logging.getLogger(__name__)


class Data(NamedTuple):
    """The batches of a run, those of this process.

    Attributes:
        steps_per_epoch: of the training split.
        train_batches: opens the endless training stream at global batch i, the one of step i + 1.
        eval_batches: every image of the evaluation split once, the last batch padded.
        batch_at: global training batch i, of all processes, on the host.
        image_ids: of global training batch i.
    """

    steps_per_epoch: float
    train_batches: Callable[[int], AbstractContextManager[Iterator[Batch]]]
    eval_batches: Callable[[], Generator[Batch]]
    batch_at: Callable[[int], Batch]
    image_ids: Callable[[int], list[str]]


class Intervals(NamedTuple):
    """Steps between the things that happen beside training; figures: 0 for evaluations alone."""

    log: int
    evaluation: int
    checkpoint: int
    figure: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A run that is ready to start; nothing below it reads the config.

    Attributes:
        config: that it was made from, for the record in the workdir.
        tasks: that the network predicts.
        model: the network.
        mesh: of all devices.
        init: makes a fresh state.
        initial_state: makes the state that a run starts from, its backbone pretrained where
            config.model.pretrained names weights.
        train_step: (state, batch) to the next state and scalars, jitted; the state is donated.
        eval_step: (state, batch) to {task: sums} and predictions, jitted.
        schedule: learning rate by step.
        data: batches.
        batch_size: of a training step.
        total_steps: of the run.
        every: steps between logs, evaluations, checkpoints and figures.
        host_metrics: "always", "last" or "never".
        figure_images: images in a figure.
        max_bad_steps: steps in a row whose numbers are not finite, then the run stops.
        checkpoint_policy: which checkpoints stay.
        tensorboard: whether to write for TensorBoard.
        profile: whether to record a trace of a few steps.
    """

    config: ml_collections.ConfigDict
    tasks: tuple[Task, ...]
    model: Model
    mesh: Mesh
    init: Callable[[], TrainState]
    initial_state: Callable[[], TrainState]
    train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
    eval_step: Callable[[TrainState, Batch], tuple[dict[str, MetricSums], dict[str, jax.Array]]]
    schedule: optax.Schedule
    data: Data
    batch_size: int
    total_steps: int
    every: Intervals
    host_metrics: str
    figure_images: int
    max_bad_steps: int
    checkpoint_policy: checkpoint.Policy
    tensorboard: bool
    profile: bool

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation belongs to this step."""
        return step > 0 and (step % self.every.evaluation == 0 or step >= self.total_steps)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint without evaluation belongs to this step."""
        return step > 0 and step % self.every.checkpoint == 0

    def draws(self, step: int) -> bool:
        """Whether a figure without evaluation belongs to this step."""
        every = self.every.figure
        return every > 0 and step % every == 0 and not self.evaluates(step)

    def abstract_state(self) -> TrainState:
        """Shapes, types and shardings of the state, into which a checkpoint is restored."""
        on_all = sharding.replicated(self.mesh)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_all),
            jax.eval_shape(self.init),
        )


def make_experiment(config: ml_collections.ConfigDict, sample_offset: int = 0) -> Experiment:
    """Builds the network, the data if need be, the optimiser and the jitted steps.

    Args:
        config: of the run.
        sample_offset: position of a step's first sample beyond steps * batch_size, where a run goes
            on with another batch size: its end and its learning rates are those of the samples.

    Raises:
        UserError: the config asks for something that does not exist or fit.
    """
    tasks, model = make_network(config)
    policy = checkpoint_policy(config, tasks)
    mesh = make_mesh(config)
    trained_model = rematerialised(model, config.remat)
    balancing.check(config, tasks, trained_model)
    data = _make_data(config, tasks, sample_offset)
    offset = sample_offset / config.batch_size
    total_steps = max(1, round(config.epochs * data.steps_per_epoch))
    schedule, optimizer = _make_optimizer(config.optimizer, total_steps, offset)
    balance = balancing.from_config(config, tasks, max(1, round(data.steps_per_epoch)))
    grads_fn = balancing.grads_fn_for(
        balance, tasks, accumulate=config.accumulate, task_gradients=config.task_gradients
    )

    on_all = sharding.replicated(mesh)
    jit = functools.partial(cpu.jit, mesh=mesh)
    image_size = tuple(config.data.image_size)
    init = jit(
        functools.partial(steps.create_state, model, optimizer, balance, image_size, config.seed),
        out_shardings=on_all,
    )
    train_step = functools.partial(
        steps.train_step,
        model=trained_model,
        tasks=tasks,
        balancing=balance,
        optimizer=optimizer,
        grads_fn=grads_fn,
    )
    eval_step = functools.partial(steps.eval_step, model=model, tasks=tasks)
    return Experiment(
        config=config,
        tasks=tasks,
        model=model,
        mesh=mesh,
        init=init,
        initial_state=functools.partial(
            _initial_state, init, mesh, config.model.pretrained, config.model.backbone
        ),
        train_step=jit(train_step, donate_argnums=0, out_shardings=on_all),
        eval_step=jit(eval_step, out_shardings=(on_all, sharding.maps(mesh))),
        schedule=schedule,
        data=data,
        batch_size=config.batch_size,
        total_steps=round(total_steps - offset),
        every=Intervals(
            log=config.log_every_steps,
            evaluation=max(1, round(config.eval_every_epochs * data.steps_per_epoch)),
            checkpoint=config.checkpoint.every_steps,
            figure=config.figure_every_steps,
        ),
        host_metrics=config.host_metrics,
        figure_images=config.figure_images,
        max_bad_steps=config.max_bad_steps,
        checkpoint_policy=policy,
        tensorboard=config.writers == "tensorboard",
        profile=config.profile,
    )


def make_mesh(config: ml_collections.ConfigDict) -> Mesh:
    """The mesh of all devices; UserError unless images and batches can be shared on it."""
    mesh = sharding.make_mesh(config.mesh.spatial)
    sharding.check_spatial(tuple(config.data.image_size), mesh)
    for name in ("batch_size", "eval_batch_size"):
        sharding.check_batch_size(name, config[name], mesh, jax.process_count())
    sharding.check_accumulate(config.batch_size, config.accumulate, mesh)
    return mesh


def _make_data(
    config: ml_collections.ConfigDict, tasks: tuple[Task, ...], sample_offset: int
) -> Data:
    """Builds the data set's records, if need be, and opens them."""
    builder = pipeline.prepare(config.data, tasks)
    train = pipeline.load(builder, "train", cache=config.data.cache)
    if config.batch_size > len(train):
        raise UserError(
            f"config.batch_size is {config.batch_size}; it must be at most the number of images to "
            f"train on, {len(train)}."
        )
    order = {"batch_size": config.batch_size, "seed": config.seed}

    def first_sample(index: int) -> int:
        return index * config.batch_size + sample_offset

    process = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    image_size = tuple(config.data.image_size)
    dataset = functools.partial(
        pipeline.train_dataset,
        train,
        tasks,
        augmentation=augmentation.from_config(config.augment),
        image_size=image_size,
        **order,
    )
    return Data(
        steps_per_epoch=len(train) / config.batch_size,
        train_batches=lambda index: pipeline.train_batches(
            dataset(first_sample=first_sample(index), **process),
            threads=config.data.threads,
            prefetch=config.data.prefetch,
        ),
        eval_batches=functools.partial(
            pipeline.eval_batches,
            pipeline.load(builder, "val", cache=config.data.cache),
            tasks,
            batch_size=config.eval_batch_size,
            image_size=image_size,
            threads=config.data.threads,
            **process,
        ),
        batch_at=lambda index: dataset(first_sample=first_sample(index))[0],
        image_ids=lambda index: pipeline.image_ids(train, first_sample(index), **order),
    )


def _make_optimizer(
    settings: ml_collections.ConfigDict, total_steps: int, offset: float
) -> tuple[optax.Schedule, optax.GradientTransformationExtraArgs]:
    """The learning rate by step, that of step + `offset` of the schedule, and the optimiser."""
    schedule = optim.make_schedule(
        settings.schedule, settings.learning_rate, total_steps, settings.warmup_steps
    )
    if offset:
        schedule = optim.shifted(schedule, offset)
    return schedule, optim.make_optimizer(schedule, settings.l2, settings.clip_norm)


def _initial_state(
    init: Callable[[], TrainState], mesh: Mesh, pretrained: str, backbone: str
) -> TrainState:
    """A fresh state whose backbone starts from pretrained weights, if there are any.

    Raises:
        UserError: the pretrained weights cannot be found, or do not fit the backbone.
    """
    if not pretrained:
        return init()
    shapes = jax.eval_shape(init)
    loaded, summary = load_pretrained(
        pretrained, backbone, {"params": shapes.params, "batch_stats": shapes.batch_stats}
    )
    state = init()
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    merged = unflatten_dict(flatten_dict(variables) | flatten_dict(jax.device_get(loaded)))
    # Copied, since a state is donated, and an array that was put on devices may share its memory.
    copy = jax.jit(
        lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=sharding.replicated(mesh)
    )
    _LOG.info(summary)
    return state.replace(**copy(merged))


def first_state(
    config: ml_collections.ConfigDict, tasks: tuple[Task, ...], variables: Mapping[str, Any]
) -> TrainState:
    """The state of a run that starts from these variables; needs no data."""
    optimizer = optim.make_optimizer(
        optax.constant_schedule(0.0), config.optimizer.l2, config.optimizer.clip_norm
    )
    balance = balancing.from_config(config, tasks, steps_per_epoch=1)
    return steps.first_state(variables, optimizer, balance, config.seed)


def checkpoint_policy(
    config: ml_collections.ConfigDict, tasks: tuple[Task, ...]
) -> checkpoint.Policy:
    """Which checkpoints of a run stay; raises as `make_score`."""
    return checkpoint.Policy(
        make_score(config.checkpoint, tasks, config.host_metrics),
        config.checkpoint.keep_latest,
        config.checkpoint.keep_best,
    )


def make_score(
    settings: ml_collections.ConfigDict, tasks: tuple[Task, ...], host_metrics: str
) -> checkpoint.Score:
    """Ranks checkpoints: {"task/metric": value} to a number, larger is better.

    Raises:
        UserError: config.checkpoint.best_metric is not one of these tasks', is delta_m without a
            reference that has their metrics, or is not part of every evaluation.
    """
    name = settings.best_metric or f"{tasks[0].name}/{tasks[0].primary}"
    primaries = [f"{task.name}/{task.primary}" for task in tasks]
    known = [f"{task.name}/{metric}" for task in tasks for metric in task.metric_names()]
    if name not in ("delta_m", *known):
        raise UserError(
            f"config.checkpoint.best_metric is '{name}'; it must be delta_m or one of "
            f"{', '.join(known)}."
        )
    needed = primaries if name == "delta_m" else [name]
    on_host = {f"{task.name}/{metric}" for task in tasks for metric in task.host_metric_names()}
    if host_metrics != "always" and on_host & set(needed):
        raise UserError(
            f"config.host_metrics is '{host_metrics}', but config.checkpoint.best_metric, "
            f"'{name}', needs {', '.join(on_host & set(needed))} at every evaluation: set "
            "config.host_metrics to 'always' or choose another metric."
        )
    if name == "delta_m":
        reference = _read_reference(settings.reference, primaries)
        return lambda values: metrics.delta_m(values, reference, tasks)
    sign = 1 if metrics.directions(tasks)[name] else -1
    return lambda values: sign * values[name]


def _read_reference(file: str, names: list[str]) -> dict[str, float]:
    """The values of a single-task run, whose results.json has all of `names`."""
    path = epath.Path(file)
    if not path.is_file():
        raise UserError(
            "config.checkpoint.best_metric is 'delta_m', but config.checkpoint.reference, "
            f"'{file}', is no results.json of a single-task run."
        )
    try:
        reference = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"config.checkpoint.reference, '{file}', cannot be read as JSON: {error}."
        ) from error
    if not isinstance(reference, dict):
        raise UserError(f"config.checkpoint.reference, '{file}', is no results.json of a run.")
    missing = [name for name in names if name not in reference]
    if missing:
        raise UserError(f"config.checkpoint.reference, '{file}', lacks {', '.join(missing)}.")
    for name in names:
        value = math.nan if reference[name] is None else reference[name]
        if type(value) not in (int, float) or not math.isfinite(value) or value == 0:
            raise UserError(
                f"config.checkpoint.reference, '{file}', has {value!r} for {name}; it must be a "
                "finite number other than 0, of which delta_m takes shares."
            )
    return reference
