"""Losses and gradients of a batch, worked out in micro-batches that take turns in memory.

With n_tm valid pixels of task t in micro-batch m, the task's mean over the whole batch is
sum_m (n_tm / n_t) L_tm: its micro-batches count by their shares of the valid pixels, whatever the
masks. The total of all methods of balancing is affine in the tasks' losses, so that its slopes are
known before any of them: gradients add up to those of the large batch.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from emanet_jax.balancing import Balancing
from emanet_jax.losses import multi_task_loss

if TYPE_CHECKING:
    from emanet_jax.steps import TrainState
    from emanet_jax.tasks import Task


class Part(NamedTuple):
    """A micro-batch, of b images, and what it needs to be one of a larger batch."""

    batch: Any  # {"image": (b, h, w, 3), "labels": {task: (b, h, w, k)}, "mask": (b,)}
    shares: Any  # {task: () share of the larger batch's valid pixels that lie in this one}
    rng: Array  # key data of its dropout


def split(
    state: "TrainState", batch: Mapping[str, Any], tasks: Sequence["Task"], accumulate: int
) -> Part:
    """The micro-batches of a step, stacked: every array gets an axis of `accumulate` in front.

    Micro-batch i takes every image whose index is i modulo `accumulate`, so that all devices keep
    the images that they have and share in every micro-batch.
    """

    def stacked(x: Array) -> Array:
        b, *rest = x.shape
        return jnp.moveaxis(x.reshape(b // accumulate, accumulate, *rest), 1, 0)

    batch, shares = jax.tree.map(stacked, dict(batch)), {}
    for task in tasks:
        valid = task.valid(batch["labels"][task.name]) & batch["mask"][:, :, None, None, None]
        counts = valid.sum((1, 2, 3, 4))
        shares[task.name] = counts / jnp.maximum(counts.sum(), 1)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    keys = key[None] if accumulate == 1 else jax.random.split(key, accumulate)
    return Part(batch, shares, jax.random.key_data(keys))


class Losses(NamedTuple):
    """What a (micro-)batch adds to the step's losses, each {task: ()} as in `LossTerms`."""

    weighted: dict[str, Array]
    final: dict[str, Array]
    auxiliary: dict[str, Array]


def forward(
    params: Any,
    batch_stats: Any,
    part: Part,
    *,
    model: Any,
    tasks: Sequence["Task"],
    weights: Mapping[str, float],
) -> tuple[Losses, Any]:
    """The losses of a micro-batch, times its shares, and the running statistics after it."""
    predictions, updates = model.apply(
        {"params": params, "batch_stats": batch_stats},
        part.batch["image"],
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.wrap_key_data(part.rng)},
    )
    terms = multi_task_loss(predictions, part.batch["labels"], part.batch["mask"], tasks, weights)
    losses = Losses(terms.weighted, terms.final, terms.auxiliary)
    shared = ({t: part.shares[t] * x for t, x in by_task.items()} for by_task in losses)
    return Losses(*shared), updates["batch_stats"]


class Gradients(NamedTuple):
    """What a step finds out before it changes anything."""

    loss: Array  # () what is differentiated
    losses: Losses  # of the whole batch
    batch_stats: Any  # after it
    slopes: tuple[Any, Any]  # of the network's parameters and of what the balancing trains


def gradients(
    state: "TrainState",
    batch: Mapping[str, Any],
    *,
    model: Any,
    tasks: Sequence["Task"],
    weights: Mapping[str, float],
    balancing: Balancing,
    accumulate: int,
) -> Gradients:
    """Losses and gradients of a batch of normalised images; arguments as `steps.train_step`'s."""
    trained, memory = state.balancing["trained"], state.balancing["memory"]
    parts = split(state, batch, tasks, accumulate)
    losses_of = functools.partial(forward, model=model, tasks=tasks, weights=weights)
    # The total is affine in the losses: its slopes are the same whatever they are.
    anywhere = {task.name: jnp.zeros(()) for task in tasks}
    factors = jax.grad(balancing.total)(anywhere, trained, memory)
    losses, batch_stats, slopes = _accumulate(state, parts, losses_of, factors)
    loss, balance_slopes = jax.value_and_grad(balancing.total, argnums=1)(
        losses.weighted, trained, memory
    )
    return Gradients(loss, losses, batch_stats, (slopes, balance_slopes))


def _accumulate(
    state: "TrainState",
    parts: Part,
    losses_of: Callable[..., tuple[Losses, Any]],
    factors: Mapping[str, Array],
) -> tuple[Losses, Any, Any]:
    """Losses, running statistics and gradients after all micro-batches, one after the other."""

    def total(params: Any, batch_stats: Any, part: Part) -> tuple[Array, tuple[Losses, Any]]:
        losses, batch_stats = losses_of(params, batch_stats, part)
        return sum(factors[t] * x for t, x in losses.weighted.items()), (losses, batch_stats)

    slopes_of = jax.grad(total, has_aux=True)

    def add(carry: tuple[Any, Any], part: Part) -> tuple[tuple[Any, Any], Losses]:
        batch_stats, sums = carry
        slopes, (losses, batch_stats) = slopes_of(state.params, batch_stats, part)
        return (batch_stats, jax.tree.map(jnp.add, sums, slopes)), losses

    if len(parts.rng) == 1:
        part = jax.tree.map(lambda x: x[0], parts)
        slopes, (losses, batch_stats) = slopes_of(state.params, state.batch_stats, part)
        return losses, batch_stats, slopes
    start = (state.batch_stats, jax.tree.map(jnp.zeros_like, state.params))
    (batch_stats, slopes), losses = jax.lax.scan(add, start, parts)
    return jax.tree.map(lambda x: x.sum(axis=0), losses), batch_stats, slopes


def scalars_of(found: Gradients) -> dict[str, Array]:
    """loss, loss_TASK, loss_TASK_auxiliary (before task weights) and grad_norm, each ()."""
    return {
        "loss": found.loss,
        **{f"loss_{name}": value for name, value in found.losses.final.items()},
        **{f"loss_{name}_auxiliary": value for name, value in found.losses.auxiliary.items()},
        "grad_norm": optax.tree.norm(found.slopes),
    }
