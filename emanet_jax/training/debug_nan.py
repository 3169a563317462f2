"""What a step whose numbers were not finite is made of: it is repeated, and looked into."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from emanet_jax import balancing
from emanet_jax.balancing import grads
from emanet_jax.training import nan_report, sharding, steps, workdir
from emanet_jax.training.experiment import first_state, make_network, task_weight
from emanet_jax.types import Batch, TrainState


class Findings(NamedTuple):
    """What a bad step is made of; names are of what is not finite.

    Attributes:
        step: its number, from 1.
        scalars: {"loss", "loss_TASK", "loss_TASK_auxiliary", "grad_norm": value}.
        batch: arrays of the batch.
        modules: by path, in the order in which the forward pass leaves them.
        gradients: parameters by path, likewise in the order of the forward pass.
    """

    step: int
    scalars: dict[str, float]
    batch: list[str]
    modules: list[str]
    gradients: list[str]


def replay(directory: epath.PathLike) -> Findings:
    """Repeats the bad step that the run in a workdir has kept.

    Raises:
        UserError: there is no run, or it has kept no bad step.
    """
    directory = workdir.absolute(directory)
    config = workdir.load_config(directory)
    tasks, model = make_network(config)  # config.remat changes no number
    image = jax.ShapeDtypeStruct((1, *config.data.image_size, 3), np.float32)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    like = jax.eval_shape(functools.partial(first_state, config, tasks), variables)
    state, batch = nan_report.load(directory, like)

    mesh = sharding.make_mesh(config.mesh.spatial)
    jit = functools.partial(jax.jit, compiler_options=sharding.compiler_options(mesh))
    network = {
        "model": model,
        "tasks": tasks,
        "weights": {task.name: task_weight(config, task) for task in tasks},
    }
    balance = balancing.from_config(config, tasks, steps_per_epoch=1)

    def look(state: TrainState, batch: Batch) -> tuple[grads.Gradients, Any]:
        batch = {**batch, "image": steps.normalise(batch["image"], config.image_statistics)}
        found = grads.gradients(
            state,
            batch,
            balancing=balance,
            accumulate=config.accumulate,
            task_gradients=config.task_gradients,
            **network,
        )
        return found, grads.split(state, batch, tasks, config.accumulate)

    state = jax.device_put(state, sharding.replicated(mesh))
    found, parts = jit(look)(state, sharding.to_devices(batch, mesh))
    modules = not_finite_modules(functools.partial(grads.forward, **network), state, parts, jit)
    return Findings(
        int(state.step) + 1,
        {name: float(value) for name, value in grads.scalars_of(found).items()},
        _not_finite(batch),
        modules,
        _not_finite(found.slopes[0]),
    )


def not_finite_modules(
    forward: Callable[..., Any],
    state: TrainState,
    parts: grads.Part,
    jit: Callable[..., Any] = jax.jit,
) -> list[str]:
    """Paths of the modules with an output that is not finite, the innermost and first ones first.

    Args:
        forward: (params, batch_stats, micro-batch) to anything, and the running statistics.
        state: whose parameters and running statistics.
        parts: micro-batches, stacked as by `grads.split`.
        jit: how to compile.
    """
    names: list[str] = []

    def watched(params: Any, batch_stats: Any, part: grads.Part) -> tuple[jax.Array, Any]:
        names.clear()
        finite = []

        def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            output = call(*args, **kwargs)
            if context.method_name == "__call__":
                names.append("/".join(context.module.path) or "the network")
                finite.append(_all_finite(output))
            return output

        with nn.intercept_methods(intercept):
            _, batch_stats = forward(params, batch_stats, part)
        return jnp.stack(finite), batch_stats

    watched, batch_stats = jit(watched), state.batch_stats
    good = True
    for i in range(len(parts.rng)):
        part = jax.tree.map(lambda x, i=i: x[i], parts)
        finite, batch_stats = watched(state.params, batch_stats, part)
        good = np.asarray(finite) & good
    return [name for name, fine in zip(names, good, strict=True) if not fine]


def _all_finite(tree: Any) -> jax.Array:
    leaves = [jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]
    return functools.reduce(jnp.logical_and, leaves, jnp.bool_(True))


def _not_finite(tree: Any) -> list[str]:
    """Paths of the arrays that are not finite."""
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, array in jax.tree_util.tree_leaves_with_path(tree)
        if not np.isfinite(np.asarray(array)).all()
    ]


def report(found: Findings) -> str:
    """For a person to read."""

    def line(what: str, names: list[str]) -> str:
        if not names:
            return f"{what} all finite"
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"{what} {names[0]}{more}"

    losses = [f"  {name:24} {value:.6g}" for name, value in found.scalars.items()]
    return "\n".join(
        [
            f"step {found.step}",
            *losses,
            "not finite:",
            line("  batch:     ", found.batch),
            line("  modules:   ", found.modules),
            line("  gradients: ", found.gradients),
        ]
    )
