"""Losses and gradients of a batch, worked out in micro-batches that take turns in memory.

With n_tm valid pixels of task t in micro-batch m, the task's mean over the whole batch is
sum_m (n_tm / n_t) L_tm: its micro-batches count by their shares of the valid pixels, whatever the
masks. So gradients add up to those of the large batch, once the slopes of the total are known: of
most methods on losses they are the same whatever the losses, the others get a forward pass over
all micro-batches first; methods on gradients add up every task's own.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from emanet_jax.balancing import Balancing, shared, solvers
from emanet_jax.balancing.method import gram_matrix
from emanet_jax.ops import global_norm
from emanet_jax.tasks.losses import multi_task_loss
from emanet_jax.types import Task, TrainState

# Folded into a step's key for the method of balancing; micro-batches split it.
_OF_THE_BALANCING = 1


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
    key = _key_of_step(state)
    keys = key[None] if accumulate == 1 else jax.random.split(key, accumulate)
    return Part(batch, shares, jax.random.key_data(keys))


def _key_of_step(state: "TrainState") -> Array:
    return jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)


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
    weights: dict[str, Array]  # {task: () what its loss, or its gradient, counts for}
    cosines: dict[str, Array]  # {"TASK_TASK": ()} between gradients of shared parameters, or none
    memory: Any  # of the balancing after the step, but for `Balancing.look_back`


LossesOf = Callable[[Any, Any, Part], tuple[Losses, Any]]  # `forward`, but for its names


def gradients(
    state: "TrainState",
    batch: Mapping[str, Any],
    *,
    model: Any,
    tasks: Sequence["Task"],
    weights: Mapping[str, float],
    balancing: Balancing,
    accumulate: int = 1,
    task_gradients: str = "looped",
) -> Gradients:
    """Losses and gradients of a batch of normalised images; arguments as `steps.train_step`'s."""
    trained, memory = state.balancing["trained"], state.balancing["memory"]
    names = [task.name for task in tasks]
    parts = split(state, batch, tasks, accumulate)
    losses_of = _losses_of(model, tasks, weights, balancing)
    keys = jax.random.split(jax.random.fold_in(_key_of_step(state), _OF_THE_BALANCING))

    def total(values: Array, trained: Any = trained) -> Array:
        return balancing.total(values, trained, memory, keys[0])

    factors_of, cosines = jax.grad(total), {}
    if balancing.combine is None:
        losses, batch_stats, slopes = _of_the_total(
            state, parts, losses_of, names, factors_of, balancing.affine
        )
        values = in_order(losses, names)
        factors, memory = factors_of(values), balancing.remember(values, memory)
    else:
        losses, batch_stats, found, owners = _of_each_task(
            state, parts, losses_of, names, task_gradients
        )
        values = in_order(losses, names)
        found = shared.scaled(found, factors_of(values), owners)
        gram = gram_matrix(found.shared)
        combined = balancing.combine(found.shared, gram, values, memory, keys[1])
        slopes, memory = shared.joined(combined.slopes, found.own), combined.memory
        factors = factors_of(values) * combined.weights
        between, _ = solvers.cosines(gram)
        cosines = {
            f"{names[i]}_{names[j]}": between[i, j]
            for i, j in itertools.combinations(range(len(names)), 2)
        }
    loss, balance_slopes = jax.value_and_grad(total, argnums=1)(values, trained)
    weights = dict(zip(names, factors, strict=True))
    return Gradients(loss, losses, batch_stats, (slopes, balance_slopes), weights, cosines, memory)


def losses_after(
    state: "TrainState",
    params: Any,
    batch: Mapping[str, Any],
    *,
    model: Any,
    tasks: Sequence["Task"],
    weights: Mapping[str, float],
    balancing: Balancing,
    accumulate: int = 1,
) -> Array:
    """Losses (K,) of `state`'s step with other parameters: same batch, same dropout."""
    parts = split(state, batch, tasks, accumulate)
    losses_of = _losses_of(model, tasks, weights, balancing)
    return _values(params, state.batch_stats, parts, losses_of, [task.name for task in tasks])


def in_order(losses: Losses, names: Sequence[str]) -> Array:
    """The tasks' losses (K,) that are balanced."""
    return jnp.stack([losses.weighted[name] for name in names])


def _losses_of(
    model: Any, tasks: Sequence["Task"], weights: Mapping[str, float], balancing: Balancing
) -> LossesOf:
    weights = weights if balancing.task_weights else dict.fromkeys(weights, 1.0)
    return functools.partial(forward, model=model, tasks=tasks, weights=weights)


def _values(
    params: Any, batch_stats: Any, parts: Part, losses_of: LossesOf, names: Sequence[str]
) -> Array:
    """Losses (K,) of the whole batch, forward only."""
    each = lambda part: in_order(losses_of(params, batch_stats, part)[0], names)  # noqa: E731
    if len(parts.rng) == 1:
        return each(jax.tree.map(lambda x: x[0], parts))
    return jax.lax.map(each, parts).sum(axis=0)


def _of_the_total(
    state: "TrainState",
    parts: Part,
    losses_of: LossesOf,
    names: Sequence[str],
    factors_of: Callable[[Array], Array],
    affine: bool,
) -> tuple[Losses, Any, Any]:
    """Losses, running statistics and gradients of the total of the whole batch."""
    known = None
    if len(parts.rng) > 1 and affine:
        known = factors_of(jnp.zeros(len(names)))
    elif len(parts.rng) > 1:
        known = factors_of(_values(state.params, state.batch_stats, parts, losses_of, names))

    def slopes_of(batch_stats: Any, part: Part) -> tuple[Any, Losses, Any]:
        def values(params: Any) -> tuple[Array, tuple[Losses, Any]]:
            losses, after = losses_of(params, batch_stats, part)
            return in_order(losses, names), (losses, after)

        found, backwards, (losses, after) = jax.vjp(values, state.params, has_aux=True)
        factors = factors_of(found) if known is None else known
        return backwards(factors.astype(found.dtype))[0], losses, after

    return _accumulate(state, parts, slopes_of)


def _of_each_task(
    state: "TrainState",
    parts: Part,
    losses_of: LossesOf,
    names: Sequence[str],
    passes: str,
) -> tuple[Losses, Any, shared.TaskSlopes, shared.Owners]:
    """Losses, running statistics and every task's gradients of the whole batch."""

    def values(batch_stats: Any, part: Part, params: Any) -> tuple[list[Array], Any]:
        losses, after = losses_of(params, batch_stats, part)
        return [losses.weighted[name] for name in names], (losses, after)

    first = jax.tree.map(lambda x: x[0], parts)
    owners = shared.owners(lambda params: values(state.batch_stats, first, params)[0], state.params)

    def slopes_of(batch_stats: Any, part: Part) -> tuple[Any, Losses, Any]:
        of_params = functools.partial(values, batch_stats, part)
        (losses, after), slopes = shared.task_slopes(of_params, state.params, owners, passes)
        return slopes, losses, after

    return *_accumulate(state, parts, slopes_of), owners


def _accumulate(
    state: "TrainState",
    parts: Part,
    slopes_of: Callable[[Any, Part], tuple[Any, Losses, Any]],
) -> tuple[Losses, Any, Any]:
    """Losses, running statistics and gradients after all micro-batches, one after the other."""
    first = jax.tree.map(lambda x: x[0], parts)
    if len(parts.rng) == 1:
        slopes, losses, batch_stats = slopes_of(state.batch_stats, first)
        return losses, batch_stats, slopes

    def add(carry: tuple[Any, Any], part: Part) -> tuple[tuple[Any, Any], Losses]:
        batch_stats, sums = carry
        slopes, losses, batch_stats = slopes_of(batch_stats, part)
        return (batch_stats, jax.tree.map(jnp.add, sums, slopes)), losses

    shapes = jax.eval_shape(slopes_of, state.batch_stats, first)[0]
    start = (state.batch_stats, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
    (batch_stats, slopes), losses = jax.lax.scan(add, start, parts)
    return jax.tree.map(lambda x: x.sum(axis=0), losses), batch_stats, slopes


def scalars_of(found: Gradients) -> dict[str, Array]:
    """loss, loss_TASK, loss_TASK_auxiliary (before task weights), weight_TASK, grad_norm, each ().

    And cosine_TASK_TASK, where tasks' gradients are looked at one by one.
    """
    return {
        "loss": found.loss,
        **{f"loss_{name}": value for name, value in found.losses.final.items()},
        **{f"loss_{name}_auxiliary": value for name, value in found.losses.auxiliary.items()},
        **{f"weight_{name}": value for name, value in found.weights.items()},
        **{f"cosine_{pair}": value for pair, value in found.cosines.items()},
        "grad_norm": global_norm(found.slopes),
    }
