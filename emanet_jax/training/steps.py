"""TrainState, train_step, eval_step: pure functions of arrays; what they work with is an argument.

step = jax.jit(functools.partial(train_step, model=..., tasks=..., ...), donate_argnums=0)
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array, lax

from emanet_jax.balancing import Balancing
from emanet_jax.balancing.grads import gradients, in_order, losses_after, scalars_of
from emanet_jax.ops import global_norm
from emanet_jax.types import MetricSums, Task, TrainState

# Mean and standard deviation of RGB in [0, 1]; "unit" feeds images as they are (released CNN code).
IMAGE_STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    balancing: Balancing,
    image_size: tuple[int, int],
    seed: int,
) -> TrainState:
    """A fresh state for images (h, w) = `image_size`; the same seed gives the same bits."""
    params_key, _ = jax.random.split(jax.random.key(seed))
    variables = model.init(params_key, jnp.zeros((1, *image_size, 3)), train=False)
    return first_state(variables, optimizer, balancing, seed)


def first_state(
    variables: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    balancing: Balancing,
    seed: int,
) -> TrainState:
    """The state of a run that starts from these variables {"params", "batch_stats"}."""
    _, dropout_key = jax.random.split(jax.random.key(seed))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        balancing={
            "trained": balancing.trained,
            "memory": balancing.memory(variables["params"]),
        },
        opt_state=optimizer.init((variables["params"], balancing.trained)),
        rng=jax.random.key_data(dropout_key),
        bad_in_row=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
    )


def normalise(image: Array, statistics: str) -> Array:
    """Images (b, h, w, 3), uint8 or in [0, 1], to what the backbone expects."""
    mean, std = IMAGE_STATISTICS[statistics]
    image = image / 255 if image.dtype == jnp.uint8 else image
    return (image - jnp.asarray(mean, image.dtype)) / jnp.asarray(std, image.dtype)


def train_step(
    state: TrainState,
    batch: Mapping[str, Any],
    *,
    model: Any,
    tasks: Sequence[Task],
    weights: Mapping[str, float],
    balancing: Balancing,
    optimizer: optax.GradientTransformation,
    statistics: str,
    accumulate: int = 1,
    task_gradients: str = "looped",
) -> tuple[TrainState, dict[str, Array]]:
    """One update; none where a number is not finite: then only `step` and the counts move.

    Of the losses, the gradients' norm, the running statistics and what the balancing remembers,
    that is. Parameters are not looked at: finite gradients move them by no more than a few times
    the learning rate, so that only one of 1e18 or more makes their norm infinite, and the steps
    after it bad.

    Args:
        state: donate it when jitting.
        batch: {"image": (b, h, w, 3), "labels": {task: (b, h, w, k)}, "mask": (b,)}.
        model: its `apply` takes images to `Predictions`.
        tasks: the tasks whose losses are added.
        weights: {task: weight}.
        balancing: how the weighted losses become one.
        optimizer: of `optim.make_optimizer`.
        statistics: a key of `IMAGE_STATISTICS`.
        accumulate: micro-batches that the batch is worked through in, taking turns in memory. The
            losses are means over the valid pixels of the whole batch all the same; what else is
            taken from a batch, batch norms' statistics and the share of positives that balances
            saliency, is taken from each micro-batch.
        task_gradients: how methods on gradients take each task's, a name of `sharing.PASSES`.

    Returns:
        The next state, and scalars: those of `gradients.scalars_of`, param_norm (of the updated
        parameters), and the next state's bad_in_row and skipped.
    """
    trained = (state.params, state.balancing["trained"])
    batch = {**batch, "image": normalise(batch["image"], statistics)}
    network = {
        "model": model,
        "tasks": tasks,
        "weights": weights,
        "balancing": balancing,
        "accumulate": accumulate,
    }
    found = gradients(state, batch, task_gradients=task_gradients, **network)
    scalars = scalars_of(found)
    norms = (*scalars.values(), global_norm(found.batch_stats), global_norm(found.memory))
    good = jnp.isfinite(jnp.stack(norms)).all()

    def if_good(new: Any, old: Any, good: Array = good) -> Any:
        return jax.tree.map(functools.partial(lax.select, good), new, old)

    updates, opt_state = optimizer.update(found.slopes, state.opt_state, trained, good=good)
    params, balance = if_good(optax.apply_updates(trained, updates), trained)
    memory = if_good(found.memory, state.balancing["memory"])
    if balancing.look_back:
        before = in_order(found.losses, [task.name for task in tasks])
        after = losses_after(state, params, batch, **network)
        seen = balancing.look_back(before, after, memory)
        memory = if_good(seen, memory, good & jnp.isfinite(global_norm(seen)))
    state = state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=if_good(found.batch_stats, state.batch_stats),
        balancing={"trained": balance, "memory": memory},
        opt_state=opt_state,
        bad_in_row=jnp.where(good, 0, state.bad_in_row + 1),
        skipped=state.skipped + ~good,
    )
    scalars["param_norm"] = global_norm((params, balance))
    # As floats: arrays of their own, since the state's are donated to the next step.
    counts = {name: jnp.float32(getattr(state, name)) for name in ("bad_in_row", "skipped")}
    return state, {**scalars, **counts}


def predict(
    variables: Mapping[str, Any],
    image: Array,
    *,
    model: nn.Module,
    tasks: Sequence[Task],
    statistics: str,
) -> dict[str, Array]:
    """What a person reads, {task: (b, h, w, k)}: class ids, metres, unit vectors.

    Args:
        variables: {"params", "batch_stats"} of the network.
        image: (b, h, w, 3), uint8 or in [0, 1].
        model: the network.
        tasks: that it predicts.
        statistics: a key of `IMAGE_STATISTICS`.
    """
    predictions = model.apply(variables, normalise(image, statistics), train=False)
    return {task.name: task.activation(predictions.final[task.name]) for task in tasks}


def eval_step(
    state: TrainState,
    batch: Mapping[str, Any],
    *,
    model: nn.Module,
    tasks: Sequence[Task],
    statistics: str,
) -> tuple[dict[str, MetricSums], dict[str, Array]]:
    """Metric sums {task: MetricSums}, padding images (mask False) left out, and the predictions."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    predictions = predict(
        variables, batch["image"], model=model, tasks=tasks, statistics=statistics
    )
    sums = {}
    for task in tasks:
        label = batch["labels"][task.name]
        valid = task.valid(label) & batch["mask"][:, None, None, None]
        sums[task.name] = task.metric(predictions[task.name], label, valid)
    return sums, predictions
