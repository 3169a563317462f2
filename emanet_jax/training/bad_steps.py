"""Steps whose numbers were not finite: training watches for them, and one can be repeated.

Training calls `watch`. The step itself leaves the state as it was and counts on
(`steps.train_step`); the counts reach the host with the scalars, at every log interval, so that the
loop never waits for a device. `debug` is what `python -m emanet_jax.training.debug_nan` prints.
"""

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import ml_collections
import msgpack
import numpy as np
from etils import epath
from flax import linen as nn
from flax import serialization

from emanet_jax import balancing, cpu, strict_json
from emanet_jax.balancing import grads
from emanet_jax.errors import UserError
from emanet_jax.training import sharding, steps, workdir
from emanet_jax.types import Batch, TrainState

_LOG = logging.getLogger(__name__)


@runtime_checkable
class Data(Protocol):
    """The training data of a run, by the index of a global batch."""

    def image_ids(self, index: int) -> Sequence[str]:
        """The names of a batch's images."""

    def batch_at(self, index: int) -> Batch:
        """A batch of all processes, on the host."""


def watch(
    rows: Sequence[tuple[int, Mapping[str, float]]],
    limit: int,
    data: Data,
    state: TrainState,
    directory: epath.Path,
) -> None:
    """Looks at the steps of a log interval; call with the state after the last of them.

    Every bad step is logged, and becomes a line of `workdir.BAD_STEPS`. If the interval ends in
    `limit` bad steps in a row, or more, the last of them is kept in `workdir.BAD_STEP`; a run that
    has recovered before the interval's end goes on.

    Args:
        rows: (step from 1, its scalars) in order.
        limit: config.max_bad_steps.
        data: that the run trains on.
        state: after the last step.
        directory: of the run.

    Raises:
        UserError: the run must stop.
    """
    first = jax.process_index() == 0
    for step, scalars in rows:
        if scalars["bad_in_row"] and first:
            images = list(data.image_ids(step - 1))
            wrong = [name for name, value in scalars.items() if not math.isfinite(value)]
            what = ", ".join(wrong) or "running statistics"
            _LOG.warning("step %d skipped: %s not finite; images %s", step, what, ", ".join(images))
            # Numbers are text, since JSON has no word for NaN.
            values = {name: str(value) for name, value in scalars.items()}
            path = directory / workdir.BAD_STEPS
            before = path.read_text() if path.exists() else ""
            line = strict_json.dumps({"step": step, "images": images, **values})
            workdir.write(path, f"{before}{line}\n")
    if rows and rows[-1][1]["bad_in_row"] >= limit:
        step, scalars = rows[-1]
        if first:
            save(directory, state, step, data.batch_at(step - 1))
        raise UserError(
            f"numbers were not finite at {scalars['bad_in_row']:.0f} steps in a row "
            f"(config.max_bad_steps is {limit}), the last of them step {step}, which 'python -m "
            f"emanet_jax.training.debug_nan --workdir={directory}' repeats: fix its images "
            f"({workdir.BAD_STEPS} lists them) or lower config.optimizer.learning_rate."
        )


def save(directory: epath.Path, state: TrainState, step: int, batch: Batch) -> None:
    """Keeps a bad step: its whole batch, and the state that it found.

    Args:
        directory: of the run.
        state: after any of the bad steps since `step`: they differ in their counts alone.
        step: the bad step, from 1.
        batch: of all processes, on the host.
    """
    state = jax.device_get(state).replace(step=np.int32(step - 1))
    kept = {"state": serialization.to_state_dict(state), "batch": dict(batch)}
    workdir.write(directory / workdir.BAD_STEP, serialization.msgpack_serialize(kept))


def load(directory: epath.Path, like: TrainState) -> tuple[TrainState, Batch]:
    """The state and the batch of the bad step that a run has kept; `like` has the state's shapes.

    Raises:
        UserError: the run has kept none, or its file is damaged.
    """
    path = directory / workdir.BAD_STEP
    if not path.exists():
        raise UserError(
            f"{path} does not exist: the run was never stopped by numbers that are not finite."
        )
    try:
        kept = serialization.msgpack_restore(path.read_bytes())
        return serialization.from_state_dict(like, kept["state"]), kept["batch"]
    except (OSError, LookupError, TypeError, ValueError, msgpack.UnpackException) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{path} cannot be read: it is damaged or of another network ({reason})."
        ) from error


class NanReport(NamedTuple):
    """A bad step, repeated.

    Attributes:
        step: its number, from 1.
        scalars: the losses of `steps.loss_scalars`.
        not_finite: names of arrays of the "batch", and of "modules" and "gradients" in the order of
            the forward pass.
    """

    step: int
    scalars: dict[str, float]
    not_finite: dict[str, list[str]]

    def __str__(self) -> str:
        lines = [f"step {self.step}", *(f"  {k:24} {v:.6g}" for k, v in self.scalars.items())]
        lines.append("not finite:")
        for kind, names in self.not_finite.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            lines.append(f"  {kind + ':':10} {names[0] if names else 'none'}{more}")
        if not any(self.not_finite.values()):
            lines.append("So the update overflowed: lower config.optimizer.learning_rate.")
        return "\n".join(lines)


def debug(directory: epath.PathLike) -> NanReport:
    """Repeats the bad step that the run in a workdir has kept.

    Raises:
        UserError: there is no run, or it has kept no bad step.
    """
    from emanet_jax.network import abstract_variables, make_network  # loads slowly
    from emanet_jax.training.experiment import first_state

    directory = workdir.absolute(directory)
    config = ml_collections.ConfigDict(workdir.load_config(directory))
    with config.unlocked():
        config.remat = "nothing"  # changes no number, and modules can be looked into
    tasks, model = make_network(config)
    variables = abstract_variables(model, tuple(config.data.image_size))
    like = jax.eval_shape(functools.partial(first_state, config, tasks), variables)
    state, batch = load(directory, like)

    mesh = sharding.make_mesh(config.mesh.spatial)
    jit = functools.partial(cpu.jit, mesh=mesh)
    method = balancing.from_config(config, tasks, steps_per_epoch=1)
    grads_fn = balancing.grads_fn_for(
        method, tasks, accumulate=config.accumulate, task_gradients=config.task_gradients
    )
    losses_fn = functools.partial(
        steps.task_losses, model=model, tasks=tasks, weights=method.task_weights
    )

    def look(state: TrainState, batch: Batch) -> tuple[dict[str, jax.Array], Any]:
        result = grads_fn(losses_fn, method, state, batch, steps.step_key(state))
        return steps.loss_scalars(result, tasks), result.grads[0]

    state = jax.device_put(state, sharding.replicated(mesh))
    arrays = sharding.to_devices(batch, mesh)
    scalars, gradients = jit(look)(state, arrays)
    microbatches = functools.partial(grads.split, tasks=tasks, count=config.accumulate)
    return NanReport(
        step=int(state.step) + 1,
        scalars={name: float(value) for name, value in scalars.items()},
        not_finite={
            "batch": not_finite_arrays(batch),
            "modules": not_finite_modules(losses_fn, state, arrays, microbatches, jit),
            "gradients": not_finite_arrays(gradients),
        },
    )


def not_finite_modules(
    losses_fn: grads.LossesFn,
    state: TrainState,
    batch: Batch,
    microbatches: Callable[[Batch, jax.Array], grads.Microbatch],
    jit: Callable[..., Any] = jax.jit,
) -> list[str]:
    """Paths of the modules with an output that is not finite, the innermost and first ones first.

    Args:
        losses_fn: calls the network.
        state: whose parameters and running statistics.
        batch: on devices.
        microbatches: (batch, key) to its micro-batches, stacked.
        jit: how to compile.
    """
    paths: list[str] = []

    def finite(state: TrainState, batch: Batch) -> jax.Array:
        def of_one(microbatch: grads.Microbatch) -> jax.Array:
            paths.clear()
            outputs: list[jax.Array] = []

            def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
                output = call(*args, **kwargs)
                if context.method_name == "__call__":
                    paths.append("/".join(context.module.path) or "the network")
                    leaves = [jnp.isfinite(x).all() for x in jax.tree.leaves(output)]
                    outputs.append(jnp.stack(leaves).all())
                return output

            with nn.intercept_methods(intercept):
                losses_fn(state.params, state.batch_stats, microbatch.batch, microbatch.rng)
            return jnp.stack(outputs)

        return jax.lax.map(of_one, microbatches(batch, steps.step_key(state))).all(axis=0)

    are_finite = np.asarray(jit(finite)(state, batch))
    return [path for path, fine in zip(paths, are_finite, strict=True) if not fine]


def not_finite_arrays(tree: Any) -> list[str]:
    """Paths of the arrays that are not finite."""
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, array in jax.tree_util.tree_leaves_with_path(tree)
        if not np.isfinite(np.asarray(array)).all()
    ]
