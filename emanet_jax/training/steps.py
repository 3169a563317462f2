"""The training step and the evaluation step: pure functions; what they work with is an argument.

A caller binds it, and compiles the rest:

    step = jax.jit(functools.partial(train_step, model=..., tasks=..., ...), donate_argnums=0)
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from emanet_jax.balancing import Balancing
from emanet_jax.balancing.grads import Grads, GradsFn, TaskLosses
from emanet_jax.tasks.losses import multi_task_loss
from emanet_jax.types import Batch, MetricSums, Model, Task, TrainState


def create_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    balancing: Balancing,
    image_size: tuple[int, int],
    seed: int,
) -> TrainState:
    """A fresh state for images (h, w) = `image_size`; the same seed gives the same bits."""
    params_key = jax.random.key(seed, impl="rbg")  # compiles in half of threefry's time
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
    balancing_params = balancing.init_params()
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        samples=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        balancing={
            "params": balancing_params,
            "state": balancing.init_state(variables["params"]),
        },
        opt_state=optimizer.init((variables["params"], balancing_params)),
        rng=jax.random.key_data(dropout_key),
        bad_in_row=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
    )


def step_key(state: TrainState) -> PRNGKeyArray:
    """The random key of a state's next step."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: Model,
    tasks: Sequence[Task],
    balancing: Balancing,
    optimizer: optax.GradientTransformation,
    grads_fn: GradsFn,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update, skipped where a number is not finite: then only the counts move.

    These are the losses, the norms of the gradients and of the updated parameters, the running
    statistics and the balancing's state.

    Args:
        state: donate it when jitting.
        batch: {"image": (b, h, w, 3), "labels": {task: (b, h, w, k)}, "mask": (b,)}.
        model: images to `Predictions`.
        tasks: whose losses are balanced.
        balancing: the method that makes one of them.
        optimizer: of the parameters, the network's and the method's.
        grads_fn: how gradients are taken, of `balancing.grads_fn_for`.

    Returns:
        The next state, and scalars, which are loss, loss_TASK and loss_TASK_auxiliary before task
        weights, weight_TASK, cosine_TASK_TASK where tasks' gradients are taken one by one,
        grad_norm, param_norm of the updated parameters, and the next state's bad_in_row and
        skipped.
    """
    losses_fn = functools.partial(
        task_losses, model=model, tasks=tasks, weights=balancing.task_weights
    )
    result = grads_fn(losses_fn, balancing, state, batch, step_key(state))

    old = (state.params, state.balancing["params"])
    updates, opt_state = optimizer.update(result.grads, state.opt_state, old)
    params, balancing_params = optax.apply_updates(old, updates)
    balancing_state = balancing.post_step(
        jnp.stack(result.losses.weighted), lambda: result.losses_at(params), result.balancing_state
    )
    scalars = loss_scalars(result, tasks)
    scalars["grad_norm"] = optax.tree.norm(result.grads)
    scalars["param_norm"] = optax.tree.norm((params, balancing_params))
    statistics_norm = optax.tree.norm((result.batch_stats, balancing_state))
    good = jnp.isfinite(jnp.stack([*scalars.values(), statistics_norm])).all()
    new = state.replace(
        params=params,
        batch_stats=result.batch_stats,
        balancing={"params": balancing_params, "state": balancing_state},
        opt_state=opt_state,
    )
    state = jax.tree.map(functools.partial(jnp.where, good), new, state).replace(
        step=state.step + 1,
        samples=state.samples + len(batch["mask"]),
        bad_in_row=jnp.where(good, 0, state.bad_in_row + 1),
        skipped=state.skipped + ~good,
    )
    # As floats: arrays of their own, since the state's are donated to the next step.
    counts = {name: jnp.float32(getattr(state, name)) for name in ("bad_in_row", "skipped")}
    return state, {**scalars, **counts}


def task_losses(
    params: Any,
    batch_stats: Any,
    batch: Batch,
    rng: PRNGKeyArray,
    *,
    model: Model,
    tasks: Sequence[Task],
    weights: Mapping[str, float],
) -> tuple[TaskLosses, Any]:
    """The tasks' losses of a (micro-)batch, and the running statistics after it."""
    predictions, updates = model.apply(
        {"params": params, "batch_stats": batch_stats},
        batch["image"],
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": rng},
    )
    terms = multi_task_loss(predictions, batch["labels"], batch["mask"], tasks, weights)
    by_task = (terms.weighted, terms.final, terms.auxiliary)
    losses = TaskLosses(*(tuple(level[task.name] for task in tasks) for level in by_task))
    return losses, updates["batch_stats"]


def loss_scalars(result: Grads, tasks: Sequence[Task]) -> dict[str, Float[Array, ""]]:
    """The scalars of `train_step` that are known before the update, but for the norm."""
    scalars = {"loss": result.loss}
    for i, task in enumerate(tasks):
        scalars[f"loss_{task.name}"] = result.losses.final[i]
        scalars[f"loss_{task.name}_auxiliary"] = result.losses.auxiliary[i]
        scalars[f"weight_{task.name}"] = result.weights[i]
        for j, other in enumerate(tasks[:i]):
            if result.cosines is not None:
                scalars[f"cosine_{other.name}_{task.name}"] = result.cosines[j, i]
    return scalars


def predict(
    variables: Mapping[str, Any],
    image: Array,
    *,
    model: Model,
    tasks: Sequence[Task],
) -> dict[str, Array]:
    """The activated predictions {task: (b, h, w, k)}: class ids, metres, unit vectors.

    Args:
        variables: {"params", "batch_stats"} of the network.
        image: (b, h, w, 3), uint8 or in [0, 1].
        model: the network.
        tasks: that it predicts.
    """
    predictions = model.apply(variables, image, train=False)
    return {task.name: task.activation(predictions.final[task.name]) for task in tasks}


def eval_step(
    state: TrainState,
    batch: Mapping[str, Any],
    *,
    model: Model,
    tasks: Sequence[Task],
) -> tuple[dict[str, MetricSums], dict[str, Array]]:
    """Metric sums {task: MetricSums}, padding images (mask False) left out, and the predictions."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    predictions = predict(variables, batch["image"], model=model, tasks=tasks)
    sums = {}
    for task in tasks:
        label = batch["labels"][task.name]
        valid = task.valid(label) & batch["mask"][:, None, None, None]
        sums[task.name] = task.metric(predictions[task.name], label, valid)
    return sums, predictions
