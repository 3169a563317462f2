"""The parameters that tasks share, found from the network itself.

A parameter is shared where more than one task's loss depends on it. That is read off the traced
computation: for each task, JAX removes what its loss does not need, and the parameters that are
left are those that it depends on. No list of names has to be kept: in HPS the backbone is shared,
in EMA-Net all but the last heads, since distillation hands every task's features to the others.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval
from jaxtyping import Array

from emanet_jax.types import Model, Task

Dependencies = list[tuple[int, ...]]  # of every leaf of the parameters, the tasks that need it


def task_dependencies(outputs: Callable[[Any], Sequence[Any]], params: Any) -> Dependencies:
    """Finds the indices of the outputs that depend on each leaf of `params`; runs nothing.

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


def share_parameters(model: Model, tasks: Sequence[Task], image_size: Sequence[int]) -> bool:
    """Whether more than one task's predictions depend on some parameter; runs nothing."""

    def outputs(params: Any, batch_stats: Any, images: Array) -> list[Any]:
        predictions, _ = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        levels = (predictions.final, *predictions.auxiliary)
        return [[level[task.name] for level in levels] for task in tasks]

    def most(images: Array) -> Array:
        variables = model.init(jax.random.key(0), images, train=False)
        batch_stats = variables.get("batch_stats", {})
        dependencies = task_dependencies(
            lambda params: outputs(params, batch_stats, images), variables["params"]
        )
        return jnp.zeros(max(map(len, dependencies)))  # a number that is known without running

    return jax.eval_shape(most, jnp.zeros((1, *image_size, 3))).shape[0] > 1
