"""Which parameters tasks share, found from the network itself, and every task's own gradients.

A parameter is shared where more than one task's loss depends on it. That is read off the traced
computation: for each task, JAX removes what its loss does not need, and the parameters that are
left are those that it depends on. No list of names has to be kept, and what a network means by
"trunk" comes out by itself: in HPS the backbone, in EMA-Net all but the last heads, since
distillation hands every task's features to the others.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.interpreters import partial_eval

from emanet_jax import balancing
from emanet_jax.errors import UserError
from emanet_jax.types import Task

PASSES = ("looped", "vmapped")  # config.task_gradients

Owners = list[tuple[int, ...]]  # of every leaf of the parameters, the tasks that depend on it


def owners(outputs: Callable[[Any], Sequence[Any]], params: Any) -> Owners:
    """Of every leaf of `params`, the indices of the outputs that depend on it; runs nothing.

    Args:
        outputs: (params) to a tree of arrays per task.
        params: arrays or their shapes.
    """
    traced, shapes = jax.make_jaxpr(outputs, return_shape=True)(params)
    task_of = [i for i, tree in enumerate(shapes) for _ in jax.tree.leaves(tree)]
    needed = [
        partial_eval.dce_jaxpr(traced.jaxpr, [i == task for i in task_of])[1]
        for task in range(len(shapes))
    ]
    return [tuple(i for i, uses in enumerate(leaf) if uses) for leaf in zip(*needed, strict=True)]


def check(config: Any, tasks: Sequence["Task"], model: Any) -> None:
    """Traces the network, where the config's method of balancing is one on gradients.

    Raises:
        UserError: the tasks share nothing, or config.task_gradients is unknown.
    """
    if config.task_gradients not in PASSES:
        raise UserError(
            f"config.task_gradients is '{config.task_gradients}'; it must be one of "
            f"{', '.join(PASSES)}."
        )
    if config.balancing not in balancing.GRADIENTS:
        return
    if not _shares(model, tasks, config.data.image_size):
        raise UserError(
            f"config.balancing is '{config.balancing}', which reconciles tasks' gradients of the "
            f"parameters that they share, but in {config.model.name} for "
            f"{', '.join(task.name for task in tasks)} none is shared; choose from "
            f"{', '.join(balancing.LOSSES)}."
        )


def _shares(model: Any, tasks: Sequence["Task"], image_size: Sequence[int]) -> bool:
    """Whether more than one task's predictions depend on some parameter."""
    keys = {"dropout": jax.random.key(0)}

    def outputs(params: Any, rest: Any, images: Array) -> list[Any]:
        variables = {**rest, "params": params}
        predictions, _ = model.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs=keys
        )
        levels = (predictions.final, *predictions.auxiliary)
        return [[level[task.name] for level in levels] for task in tasks]

    def found(images: Array) -> Array:
        rest = dict(model.init(jax.random.key(0), images, train=False))
        params = rest.pop("params")
        of_leaves = owners(lambda params: outputs(params, rest, images), params)
        return jnp.zeros(max(map(len, of_leaves)))  # a number that is known without running

    return jax.eval_shape(found, jnp.zeros((1, *image_size, 3))).shape[0] > 1


class TaskSlopes(NamedTuple):
    """Gradients of K losses; each tree is like the parameters, None where the other has them."""

    shared: Any  # leaves (K, ...)
    own: Any  # of parameters that at most one task's loss depends on


def task_slopes(
    losses: Callable[[Any], tuple[Sequence[Array], Any]], params: Any, owners: Owners, passes: str
) -> tuple[Any, TaskSlopes]:
    """What `losses` gives beside them, and the gradients of every loss.

    One forward pass. Its linear part is run backwards for one loss at a time, "looped", each after
    the other so that one at a time is in memory: what a loss does not depend on, the other tasks'
    heads, is not run, so that only shared layers are gone through K times. "vmapped" runs all at
    once as a larger batch, the heads K times too: fewer and larger operations, K times the memory.

    Args:
        losses: (params) to K scalars and anything else.
        params: of the network.
        owners: as `owners` finds them for `losses`.
        passes: one of `PASSES`.
    """
    values, tangents, rest = jax.linearize(losses, params, has_aux=True)
    tree = jax.tree.structure(params)
    if passes == "vmapped":
        backwards = jax.linear_transpose(tangents, params)
        unit = jnp.eye(len(values), dtype=values[0].dtype)
        by_leaf = jax.tree.leaves(jax.vmap(lambda row: backwards(list(row))[0])(unit))
    else:
        each: list[Any] = []
        for task, value in enumerate(values):
            backwards = jax.linear_transpose(lambda x, task=task: tangents(x)[task], params)
            # One after the other: the next pass waits for the last one's gradients.
            start, each = jax.lax.optimization_barrier((jnp.ones_like(value), each))
            each = [*each, jax.tree.leaves(backwards(start)[0])]
        by_leaf = list(zip(*each, strict=True))
    shared = [
        jnp.stack(list(x)) if len(o) > 1 else None for x, o in zip(by_leaf, owners, strict=True)
    ]
    own = [  # zeros of task 0 where no loss depends on a parameter
        None if len(who) > 1 else x[who[0] if who else 0]
        for x, who in zip(by_leaf, owners, strict=True)
    ]
    return rest, TaskSlopes(jax.tree.unflatten(tree, shared), jax.tree.unflatten(tree, own))


def scaled(slopes: TaskSlopes, factors: Array, owners: Owners) -> TaskSlopes:
    """The gradients of each loss times its factor, (K,)."""
    shared, tree = jax.tree.flatten(slopes.shared, is_leaf=lambda x: x is None)
    own = jax.tree.leaves(slopes.own, is_leaf=lambda x: x is None)
    wide = lambda x: factors.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)  # noqa: E731
    shared = [None if x is None else wide(x) * x for x in shared]
    own = [
        factors[who[0]].astype(x.dtype) * x if len(who) == 1 else x
        for x, who in zip(own, owners, strict=True)
    ]
    return TaskSlopes(jax.tree.unflatten(tree, shared), jax.tree.unflatten(tree, own))


def joined(shared: Any, own: Any) -> Any:
    """One tree of two that have None where the other has an array."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, shared, own, is_leaf=lambda x: x is None
    )
