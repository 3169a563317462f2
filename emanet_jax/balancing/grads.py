"""From the tasks' losses to the gradients of a step: a `GradsFn` for each way to take them.

`value_and_grad` is the plain one. `microbatched` works through a batch in micro-batches that take
turns in memory, `per_task` takes every task's own gradients for a method that reconciles them.

With n_tm valid pixels of task t in micro-batch m, the task's mean over the whole batch is
sum_m (n_tm / n_t) L_tm: its micro-batches count by their shares of the valid pixels, whatever the
masks. So gradients add up to those of the large batch, once it is known what the losses count for:
with most methods that is the same whatever they are, the others get a forward pass over all
micro-batches first.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from emanet_jax.balancing import solvers
from emanet_jax.balancing.base import Balancing, GradientBalancing, gram_matrix
from emanet_jax.balancing.shared import Dependencies, task_dependencies
from emanet_jax.errors import check_name
from emanet_jax.types import Batch, Task, TrainState

PASSES = ("looped", "vmapped")  # config.task_gradients


class TaskLosses(NamedTuple):
    """The tasks' losses of a (micro-)batch, in the order of the tasks.

    Attributes:
        weighted: all levels, times the task's weight; these are balanced.
        final: of the final prediction, before weights.
        auxiliary: mean over the auxiliary levels, before weights.
    """

    weighted: tuple[Float[Array, ""], ...]
    final: tuple[Float[Array, ""], ...]
    auxiliary: tuple[Float[Array, ""], ...]


# (parameters, running statistics, batch, dropout key) to the losses and the statistics after it.
LossesFn = Callable[[Any, Any, Batch, PRNGKeyArray], tuple[TaskLosses, Any]]


class Grads(NamedTuple):
    """The losses and gradients of a whole batch.

    Attributes:
        loss: the total that is differentiated.
        losses: of the tasks.
        batch_stats: the running statistics after the batch.
        grads: of (the network's parameters, the method's).
        weights: what each task's loss, or gradient, counts for, (K,).
        balancing_state: the method's after the batch, but for `Balancing.post_step`.
        losses_at: gives the losses of the same batch at other parameters of the network, (K,).
        cosines: between the tasks' gradients of shared parameters, where these are taken.
    """

    loss: Float[Array, ""]
    losses: TaskLosses
    batch_stats: Any
    grads: tuple[Any, Any]
    weights: Float[Array, " k"]
    balancing_state: Any
    losses_at: Callable[[Any], Float[Array, " k"]]
    cosines: Float[Array, "k k"] | None = None


@runtime_checkable
class GradsFn(Protocol):
    """A way to take the gradients of a batch."""

    def __call__(
        self,
        losses_fn: LossesFn,
        balancing: Balancing,
        state: TrainState,
        batch: Batch,
        rng: PRNGKeyArray,
    ) -> Grads:
        """The gradients of what `balancing` makes of the losses, at the parameters of `state`."""


def grads_fn_for(
    balancing: Balancing,
    tasks: Sequence[Task],
    *,
    accumulate: int = 1,
    task_gradients: str = "looped",
) -> GradsFn:
    """The way that a method needs.

    Args:
        balancing: the method.
        tasks: of the network.
        accumulate: micro-batches that the batch is worked through in. The losses are means over the
            valid pixels of the whole batch all the same; what else is taken from a batch, batch
            norms' statistics and the share of positives that balances saliency, is taken from each
            micro-batch.
        task_gradients: how methods on gradients take each task's, one of `PASSES`.

    Raises:
        UserError: `task_gradients` is unknown.
    """
    check_name("config.task_gradients", task_gradients, PASSES)
    if isinstance(balancing, GradientBalancing):
        return functools.partial(per_task, tasks=tasks, count=accumulate, passes=task_gradients)
    if accumulate > 1:
        return functools.partial(microbatched, tasks=tasks, count=accumulate)
    return value_and_grad


def value_and_grad(
    losses_fn: LossesFn, balancing: Balancing, state: TrainState, batch: Batch, rng: PRNGKeyArray
) -> Grads:
    """One forward and one backward pass through the total; see `GradsFn`."""
    total = _total(balancing, state, rng)

    def loss_fn(params: tuple[Any, Any]) -> tuple[Array, tuple[TaskLosses, Any]]:
        losses, batch_stats = losses_fn(params[0], state.batch_stats, batch, rng)
        return total(jnp.stack(losses.weighted), params[1]), (losses, batch_stats)

    params = (state.params, state.balancing["params"])
    (loss, (losses, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    values = jnp.stack(losses.weighted)
    return Grads(
        loss=loss,
        losses=losses,
        batch_stats=batch_stats,
        grads=grads,
        weights=jax.grad(total)(values, params[1]),
        balancing_state=balancing.update_state(values, state.balancing["state"]),
        losses_at=lambda params: jnp.stack(
            losses_fn(params, state.batch_stats, batch, rng)[0].weighted
        ),
    )


def microbatched(
    losses_fn: LossesFn,
    balancing: Balancing,
    state: TrainState,
    batch: Batch,
    rng: PRNGKeyArray,
    *,
    tasks: Sequence[Task],
    count: int,
) -> Grads:
    """As `value_and_grad`, but one of `count` micro-batches after the other."""
    total, balancing_params = _total(balancing, state, rng), state.balancing["params"]
    microbatches = split(batch, rng, tasks, count)
    losses_at = functools.partial(_losses_at, losses_fn, state.batch_stats, microbatches)
    seen = jnp.zeros(balancing.count) if balancing.affine else losses_at(state.params)
    weights = jax.grad(total)(seen, balancing_params)

    def grads_of(batch_stats: Any, microbatch: Microbatch) -> tuple[Any, tuple[TaskLosses, Any]]:
        def loss_fn(params: Any) -> tuple[Array, tuple[TaskLosses, Any]]:
            losses, batch_stats_after = _share_of(losses_fn, params, batch_stats, microbatch)
            return jnp.sum(weights * jnp.stack(losses.weighted)), (losses, batch_stats_after)

        return jax.grad(loss_fn, has_aux=True)(state.params)

    grads, losses, batch_stats = _accumulate(grads_of, state.batch_stats, microbatches)
    values = jnp.stack(losses.weighted)
    loss, balancing_grads = jax.value_and_grad(total, argnums=1)(values, balancing_params)
    return Grads(
        loss=loss,
        losses=losses,
        batch_stats=batch_stats,
        grads=(grads, balancing_grads),
        weights=weights,
        balancing_state=balancing.update_state(values, state.balancing["state"]),
        losses_at=losses_at,
    )


def per_task(
    losses_fn: LossesFn,
    balancing: Balancing,
    state: TrainState,
    batch: Batch,
    rng: PRNGKeyArray,
    *,
    tasks: Sequence[Task],
    count: int = 1,
    passes: str = "looped",
) -> Grads:
    """One forward pass, and a backward pass per task through the parameters that tasks share.

    Args:
        losses_fn: as in `GradsFn`.
        balancing: the method, which combines the gradients.
        state: as in `GradsFn`.
        batch: as in `GradsFn`.
        rng: as in `GradsFn`.
        tasks: of the network.
        count: micro-batches.
        passes: as in `_task_grads`.

    Raises:
        TypeError: `balancing` has no `combine`.
    """
    if not isinstance(balancing, GradientBalancing):
        raise TypeError(f"{type(balancing).__name__} is no GradientBalancing.")
    total, balancing_params = _total(balancing, state, rng), state.balancing["params"]
    microbatches = split(batch, rng, tasks, count)
    losses_at = functools.partial(_losses_at, losses_fn, state.batch_stats, microbatches)
    seen = None
    if count > 1:
        seen = jnp.zeros(balancing.count) if balancing.affine else losses_at(state.params)

    def task_losses(batch_stats: Any, microbatch: Microbatch, params: Any) -> Any:
        losses, batch_stats_after = _share_of(losses_fn, params, batch_stats, microbatch)
        return losses.weighted, (losses, batch_stats_after)

    first = jax.tree.map(lambda x: x[0], microbatches)
    dependencies = task_dependencies(
        lambda params: task_losses(state.batch_stats, first, params)[0], state.params
    )

    def grads_of(batch_stats: Any, microbatch: Microbatch) -> tuple[Any, tuple[TaskLosses, Any]]:
        values, linear, aux = jax.linearize(
            functools.partial(task_losses, batch_stats, microbatch), state.params, has_aux=True
        )
        weights = jax.grad(total)(jnp.stack(values) if seen is None else seen, balancing_params)
        weights = weights.astype(values[0].dtype)
        return _task_grads(linear, state.params, weights, dependencies, passes), aux

    leaves, losses, batch_stats = _accumulate(grads_of, state.batch_stats, microbatches)
    tree, values = jax.tree.structure(state.params), jnp.stack(losses.weighted)
    shared = jax.tree.unflatten(
        tree, [x if len(who) > 1 else None for x, who in zip(leaves, dependencies, strict=True)]
    )
    gram, old = gram_matrix(shared), state.balancing["state"]
    combined = balancing.combine(shared, gram, values, old, _key(rng))
    grads = jax.tree.map(
        lambda one, own: own if one is None else one,
        combined.grads,
        jax.tree.unflatten(tree, leaves),
        is_leaf=lambda x: x is None,
    )
    loss, balancing_grads = jax.value_and_grad(total, argnums=1)(values, balancing_params)
    return Grads(
        loss=loss,
        losses=losses,
        batch_stats=batch_stats,
        grads=(grads, balancing_grads),
        weights=jax.grad(total)(values, balancing_params) * combined.weights,
        balancing_state=combined.state,
        losses_at=losses_at,
        cosines=solvers.cosines(gram)[0],
    )


def _task_grads(
    linear: Callable[[Any], tuple[Array, ...]],
    params: Any,
    weights: Float[Array, " k"],
    dependencies: Dependencies,
    passes: str,
) -> list[Array]:
    """The gradients of the tasks' losses, of every leaf of the parameters.

    Args:
        linear: the linear part of (params) to K losses.
        params: of the network.
        weights: that each loss is multiplied with.
        dependencies: of the losses on `params`.
        passes: "looped" runs `linear` backwards for one loss at a time, each after the other so
            that one at a time is in memory: what a loss does not depend on, the other tasks' heads,
            is not run. "vmapped" runs all at once as a larger batch, the heads K times too: fewer
            and larger operations, K times the memory.

    Returns:
        (K, ...) of leaves that several losses depend on; else the gradient of the only one.
    """
    if passes == "vmapped":
        backward = jax.linear_transpose(linear, params)
        each = jax.vmap(lambda row: backward(tuple(row))[0])(jnp.diag(weights))
        by_leaf: list[Any] = jax.tree.leaves(each)
    else:
        by_task: list[list[Array]] = []
        for task, weight in enumerate(weights):
            backward = jax.linear_transpose(lambda x, task=task: linear(x)[task], params)
            # One after the other: the next pass waits for the last one's gradients.
            weight, by_task = jax.lax.optimization_barrier((weight, by_task))
            by_task.append(jax.tree.leaves(backward(weight)[0]))
        by_leaf = list(zip(*by_task, strict=True))
    return [  # where no loss depends on a parameter, the first one's zeros
        jnp.stack(list(x)) if len(who) > 1 else x[who[0] if who else 0]
        for x, who in zip(by_leaf, dependencies, strict=True)
    ]


class Microbatch(NamedTuple):
    """A part of a batch: b images, and what they need to be a part of it."""

    batch: Batch
    shares: tuple[Float[Array, ""], ...]  # of the tasks' valid pixels that lie in this one
    rng: PRNGKeyArray  # of its dropout


def split(batch: Batch, rng: PRNGKeyArray, tasks: Sequence[Task], count: int) -> Microbatch:
    """The micro-batches of a batch, stacked: every array gets an axis of `count` in front.

    Micro-batch i takes every image whose index is i modulo `count`, so that all devices keep the
    images that they have and share in every micro-batch.
    """

    def stacked(x: Array) -> Array:
        b, *rest = x.shape
        return jnp.moveaxis(x.reshape(b // count, count, *rest), 1, 0)

    batch, shares = jax.tree.map(stacked, dict(batch)), []
    for task in tasks:
        valid = task.valid(batch["labels"][task.name]) & batch["mask"][:, :, None, None, None]
        pixels = valid.sum((1, 2, 3, 4))
        shares.append(pixels / jnp.maximum(pixels.sum(), 1))
    keys = rng[None] if count == 1 else jax.random.split(rng, count)
    return Microbatch(batch, tuple(shares), keys)


def _share_of(
    losses_fn: LossesFn, params: Any, batch_stats: Any, microbatch: Microbatch
) -> tuple[TaskLosses, Any]:
    """A micro-batch's part of the losses of the batch, and the running statistics after it."""
    losses, batch_stats = losses_fn(params, batch_stats, microbatch.batch, microbatch.rng)
    shares = (
        tuple(share * x for share, x in zip(microbatch.shares, level, strict=True))
        for level in losses
    )
    return TaskLosses(*shares), batch_stats


def _losses_at(
    losses_fn: LossesFn, batch_stats: Any, microbatches: Microbatch, params: Any
) -> Float[Array, " k"]:
    """The losses of the whole batch, forward only."""

    def values(microbatch: Microbatch) -> Array:
        return jnp.stack(_share_of(losses_fn, params, batch_stats, microbatch)[0].weighted)

    return jax.lax.map(values, microbatches).sum(axis=0)


def _accumulate(
    grads_of: Callable[[Any, Microbatch], tuple[Any, tuple[TaskLosses, Any]]],
    batch_stats: Any,
    microbatches: Microbatch,
) -> tuple[Any, TaskLosses, Any]:
    """Gradients, losses and running statistics after all micro-batches, one after the other.

    Args:
        grads_of: (running statistics, micro-batch) to gradients, and losses and statistics.
        batch_stats: the running statistics before.
        microbatches: as `split` stacks them.
    """
    first = jax.tree.map(lambda x: x[0], microbatches)
    if len(microbatches.rng) == 1:
        grads, (losses, batch_stats) = grads_of(batch_stats, first)
        return grads, losses, batch_stats

    def add(carry: tuple[Any, Any], microbatch: Microbatch) -> tuple[tuple[Any, Any], TaskLosses]:
        batch_stats, sums = carry
        grads, (losses, batch_stats) = grads_of(batch_stats, microbatch)
        return (batch_stats, jax.tree.map(jnp.add, sums, grads)), losses

    shapes, _ = jax.eval_shape(grads_of, batch_stats, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (batch_stats, grads), losses = jax.lax.scan(add, (batch_stats, zeros), microbatches)
    return grads, jax.tree.map(lambda x: x.sum(axis=0), losses), batch_stats


def _total(
    balancing: Balancing, state: TrainState, rng: PRNGKeyArray
) -> Callable[[Float[Array, " k"], Any], Float[Array, ""]]:
    """(Losses, the method's parameters) to the scalar that is differentiated."""
    return functools.partial(balancing.total, state=state.balancing["state"], key=_key(rng))


def _key(rng: PRNGKeyArray) -> PRNGKeyArray:
    """The method's own key in a step, apart from dropout's."""
    return jax.random.fold_in(rng, 1)
