"""TrainState, train_step, eval_step: pure functions of arrays; what they work with is an argument.

step = jax.jit(functools.partial(train_step, model=..., tasks=..., ...), donate_argnums=0)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax import Array

from emanet_jax.balancing import Balancing
from emanet_jax.losses import multi_task_loss
from emanet_jax.metrics import Sums
from emanet_jax.tasks import Task

# Mean and standard deviation of RGB in [0, 1]; "unit" feeds images as they are (released CNN code).
IMAGE_STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


class TrainState(struct.PyTreeNode):
    """Everything that a run needs to go on, beside the position in the data."""

    step: Array  # () int32: number of updates so far, and index of the next batch
    params: Any
    batch_stats: Any
    balancing: Any  # {"trained", "memory"} of how the losses are balanced
    opt_state: optax.OptState  # of (params, balancing["trained"])
    rng: Array  # key data; dropout keys are folded from it and the step


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
        balancing={"trained": balancing.trained, "memory": balancing.memory},
        opt_state=optimizer.init((variables["params"], balancing.trained)),
        rng=jax.random.key_data(dropout_key),
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
    model: nn.Module,
    tasks: Sequence[Task],
    weights: Mapping[str, float],
    balancing: Balancing,
    optimizer: optax.GradientTransformation,
    statistics: str,
) -> tuple[TrainState, dict[str, Array]]:
    """One update.

    Args:
        state: donate it when jitting.
        batch: {"image": (b, h, w, 3), "labels": {task: (b, h, w, k)}, "mask": (b,)}.
        model: images to `Predictions`.
        tasks: the tasks whose losses are added.
        weights: {task: weight}.
        balancing: how the weighted losses become one.
        optimizer: the optax chain.
        statistics: a key of `IMAGE_STATISTICS`.

    Returns:
        The next state, and scalars: loss, loss_TASK, loss_TASK_auxiliary (before task weights),
        weight_TASK (where weights change), grad_norm, param_norm.
    """
    images = normalise(batch["image"], statistics)
    dropout_key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)

    memory = state.balancing["memory"]

    def loss_fn(trained: tuple[Any, Any]) -> tuple[Array, Any]:
        params, balance = trained
        predictions, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        terms = multi_task_loss(predictions, batch["labels"], batch["mask"], tasks, weights)
        return balancing.total(terms.weighted, balance, memory), (terms, updates["batch_stats"])

    trained = (state.params, state.balancing["trained"])
    (loss, (terms, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    params, balance = optax.apply_updates(trained, updates)
    factors = balancing.weights(trained[1], memory)
    scalars = {
        "loss": loss,
        **{f"loss_{name}": value for name, value in terms.final.items()},
        **{f"loss_{name}_auxiliary": value for name, value in terms.auxiliary.items()},
        **{f"weight_{name}": value for name, value in factors.items()},
        "grad_norm": optax.tree.norm(grads),
        "param_norm": optax.tree.norm(state.params),
    }
    state = state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        balancing={"trained": balance, "memory": balancing.remember(terms.weighted, memory)},
        opt_state=opt_state,
    )
    return state, scalars


def predict(
    state: TrainState,
    image: Array,
    *,
    model: nn.Module,
    tasks: Sequence[Task],
    statistics: str,
) -> dict[str, Array]:
    """What a person reads, {task: (b, h, w, k)}: class ids, metres, unit vectors."""
    predictions = model.apply(
        {"params": state.params, "batch_stats": state.batch_stats},
        normalise(image, statistics),
        train=False,
    )
    return {task.name: task.activation(predictions.final[task.name]) for task in tasks}


def eval_step(
    state: TrainState,
    batch: Mapping[str, Any],
    *,
    model: nn.Module,
    tasks: Sequence[Task],
    statistics: str,
) -> tuple[dict[str, Sums], dict[str, Array]]:
    """Metric sums {task: Sums}, padding images (mask False) left out, and the predictions."""
    predictions = predict(state, batch["image"], model=model, tasks=tasks, statistics=statistics)
    sums = {}
    for task in tasks:
        label = batch["labels"][task.name]
        valid = task.valid(label) & batch["mask"][:, None, None, None]
        sums[task.name] = task.metric(predictions[task.name], label, valid)
    return sums, predictions
