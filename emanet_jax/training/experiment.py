"""From a config to everything that training and evaluation work with."""

import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import ml_collections
import optax
from etils import epath
from jax.sharding import Mesh

from emanet_jax import balancing, models
from emanet_jax.config import check_config
from emanet_jax.data import augmentation, pipeline
from emanet_jax.errors import UserError
from emanet_jax.models.remat import rematerialised
from emanet_jax.tasks import metrics, tasks_for
from emanet_jax.training import optim, sharding, steps, workdir
from emanet_jax.training.checkpoint import Checkpoints, Score
from emanet_jax.types import MetricSums, Model, Task, TrainState

HOST_METRICS = ("always", "last", "never")  # at which evaluations the tasks' host metrics are made

# What networks compute in. Parameters, statistics, losses and CTAL's sums are float32 in both.
PRECISIONS: dict[str, dict[str, Any]] = {"float32": {}, "bfloat16": {"dtype": jnp.bfloat16}}


class Experiment(NamedTuple):
    """What a config comes to: everything that training and evaluation work with."""

    tasks: tuple[Task, ...]
    mesh: Mesh
    model: Model
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    score: Score
    total_steps: int
    eval_every: int
    train_data: grain.MapDataset
    batch_at: Callable[[int], pipeline.Batch]  # global batch i, on the host
    image_ids: Callable[[int], list[str]]  # of global batch i
    val_source: pipeline.Examples
    init: Callable[[], TrainState]
    train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    eval_step: Callable[..., tuple[dict[str, MetricSums], dict[str, jax.Array]]]

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows this step."""
        return step % self.eval_every == 0 or step == self.total_steps

    def abstract_state(self) -> TrainState:
        """Shapes, types and shardings of the state: what a checkpoint is restored into."""
        on_all = sharding.replicated(self.mesh)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_all),
            jax.eval_shape(self.init),
        )


def make_experiment(config: ml_collections.ConfigDict) -> Experiment:
    """Builds the data if need be, the network, the optimiser and the jitted steps.

    Raises:
        UserError: the config asks for something that does not exist or fit.
    """
    tasks, model = make_network(config)
    trained_model = rematerialised(model, config.remat)
    if config.host_metrics not in HOST_METRICS:
        raise UserError(
            f"config.host_metrics is '{config.host_metrics}'; it must be one of "
            f"{', '.join(HOST_METRICS)}."
        )
    score = make_score(config.checkpoint, tasks, config.host_metrics)
    mesh = sharding.make_mesh(config.mesh.spatial)
    for name in ("batch_size", "eval_batch_size"):
        sharding.check_batch_size(name, config[name], mesh, jax.process_count())
    check_accumulate(config, mesh)
    image_size = tuple(config.data.image_size)
    sharding.check_spatial(image_size, mesh)
    balancing.check(config, tasks, trained_model)

    builder = pipeline.prepare(config.data)
    train_source = pipeline.load(builder, "train", cache=config.data.cache)
    if config.batch_size > len(train_source):
        raise UserError(
            f"config.batch_size is {config.batch_size}; it must be at most the number of images to "
            f"train on, {len(train_source)}."
        )
    order = {"batch_size": config.batch_size, "seed": config.seed}
    dataset = functools.partial(
        pipeline.train_dataset,
        train_source,
        tasks,
        augmentation=augmentation.from_config(config.augment),
        image_size=image_size,
        **order,
    )
    train_data = dataset(process_index=jax.process_index(), process_count=jax.process_count())
    steps_per_epoch = len(train_source) / config.batch_size
    total_steps = max(1, round(config.epochs * steps_per_epoch))
    schedule = optim.make_schedule(
        config.optimizer.schedule,
        config.optimizer.learning_rate,
        total_steps,
        config.optimizer.warmup_steps,
    )
    optimizer = optim.make_optimizer(schedule, config.optimizer.l2, config.optimizer.clip_norm)
    balance = balancing.from_config(config, tasks, max(1, round(steps_per_epoch)))
    grads_fn = balancing.grads_fn_for(
        balance, tasks, accumulate=config.accumulate, task_gradients=config.task_gradients
    )

    on_all = sharding.replicated(mesh)
    jit = functools.partial(jax.jit, compiler_options=sharding.compiler_options(mesh))
    return Experiment(
        tasks=tasks,
        mesh=mesh,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        score=score,
        total_steps=total_steps,
        eval_every=max(1, round(config.eval_every_epochs * steps_per_epoch)),
        train_data=train_data,
        batch_at=lambda index: dataset()[index],
        image_ids=functools.partial(pipeline.image_ids, train_source, **order),
        val_source=pipeline.load(builder, "val", cache=config.data.cache),
        init=jit(
            functools.partial(
                steps.create_state, model, optimizer, balance, image_size, config.seed
            ),
            out_shardings=on_all,
        ),
        train_step=jit(
            functools.partial(
                steps.train_step,
                model=trained_model,
                tasks=tasks,
                balancing=balance,
                optimizer=optimizer,
                grads_fn=grads_fn,
            ),
            donate_argnums=0,
            out_shardings=on_all,
        ),
        eval_step=jit(
            functools.partial(steps.eval_step, model=model, tasks=tasks),
            out_shardings=(on_all, sharding.maps(mesh)),
        ),
    )


def make_network(config: ml_collections.ConfigDict) -> tuple[tuple[Task, ...], Model]:
    """The tasks, and the network that predicts them of images as they are stored.

    Raises:
        UserError: a value of the config is none that it may have, or does not fit the others.
    """
    check_config(config)
    if config.precision not in PRECISIONS:
        raise UserError(
            f"config.precision is '{config.precision}'; it must be one of {', '.join(PRECISIONS)}."
        )
    if config.image_statistics not in steps.IMAGE_STATISTICS:
        raise UserError(
            f"config.image_statistics is '{config.image_statistics}'; known: "
            f"{', '.join(steps.IMAGE_STATISTICS)}."
        )
    tasks = tasks_for(config.data.dataset, config.tasks, config.data.classes)
    model = models.build(
        config.model.name,
        tasks,
        backbone=config.model.backbone,
        image_size=tuple(config.data.image_size),
        variant=config.model.variant,
        **config.model.overrides,
        **PRECISIONS[config.precision],
    )
    return tasks, steps.NormalisedImages(model, config.image_statistics)


def first_state(
    config: ml_collections.ConfigDict, tasks: tuple[Task, ...], variables: Mapping[str, Any]
) -> TrainState:
    """The state of a run that starts from these variables; needs no data."""
    optimizer = optim.make_optimizer(
        optax.constant_schedule(0.0), config.optimizer.l2, config.optimizer.clip_norm
    )
    balance = balancing.from_config(config, tasks, steps_per_epoch=1)
    return steps.first_state(variables, optimizer, balance, config.seed)


def open_checkpoints(
    config: ml_collections.ConfigDict,
    directory: epath.Path,
    score: Score,
    read_only: bool = False,
) -> Checkpoints:
    """The checkpoints of the run in a directory, kept as its config says."""
    return Checkpoints(
        directory / workdir.CHECKPOINTS,
        score,
        config.checkpoint.keep_latest,
        config.checkpoint.keep_best,
        read_only=read_only,
    )


def check_accumulate(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
    """Raises UserError unless a batch splits into micro-batches that all devices share."""
    parts = config.accumulate * mesh.shape["data"]
    if config.batch_size % parts:
        raise UserError(
            f"config.accumulate is {config.accumulate}, but config.batch_size, "
            f"{config.batch_size}, is no multiple of {parts}: every micro-batch needs as many "
            "images for each of the devices that share it."
        )


def make_score(
    checkpoint: ml_collections.ConfigDict, tasks: tuple[Task, ...], host_metrics: str
) -> Score:
    """How checkpoints are ranked: {"task/metric": value} to a number, larger is better.

    Raises:
        UserError: config.checkpoint.best_metric is not one of these tasks', is delta_m without a
            reference that has their metrics, or is not part of every evaluation.
    """
    name = checkpoint.best_metric or f"{tasks[0].name}/{tasks[0].primary}"
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
        reference = _read_reference(checkpoint.reference, primaries)
        return lambda values: metrics.delta_m(values, reference, tasks)
    sign = 1 if metrics.higher_is_better(name) else -1
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
        value = reference[name]
        if type(value) not in (int, float) or not math.isfinite(value) or value == 0:
            raise UserError(
                f"config.checkpoint.reference, '{file}', has {value!r} for {name}; it must be a "
                "finite number other than 0, of which delta_m takes shares."
            )
    return reference
