"""Learning-rate schedules and the optimiser chain."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from emanet_jax.errors import UserError
from emanet_jax.ops import global_norm


def cosine(learning_rate: float, steps: int) -> optax.Schedule:
    """Half a cosine from the learning rate to 0 at the last step."""
    return optax.cosine_decay_schedule(learning_rate, max(steps, 1))


def constant(learning_rate: float, steps: int) -> optax.Schedule:
    """The learning rate as it is."""
    del steps
    return optax.constant_schedule(learning_rate)


def cosine_restarts(learning_rate: float, steps: int) -> optax.Schedule:
    """Two half cosines with a warm restart between: 1/3 of the steps, then the other 2/3."""
    first = steps // 3
    return optax.join_schedules(
        [cosine(learning_rate, first), cosine(learning_rate, steps - first)], [first]
    )


def halved(learning_rate: float, steps: int) -> optax.Schedule:
    """The learning rate, and half of it from the middle of the run on (MTAN's recipe)."""
    return optax.piecewise_constant_schedule(learning_rate, {steps // 2: 0.5})


SCHEDULES = {
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "halved": halved,
    "constant": constant,
}


def make_schedule(
    name: str, learning_rate: float, total_steps: int, warmup_steps: int = 0
) -> optax.Schedule:
    """Learning rate by step: a linear warm-up from 0, then a schedule of the table `SCHEDULES`.

    Raises:
        UserError: the name is unknown, or the warm-up does not fit into the run.
    """
    if name not in SCHEDULES:
        raise UserError(
            f"config.optimizer.schedule is '{name}'; known schedules: {', '.join(SCHEDULES)}."
        )
    if not 0 <= warmup_steps <= total_steps:
        raise UserError(
            f"config.optimizer.warmup_steps is {warmup_steps}; it must lie between 0 and the "
            f"run's {total_steps} steps."
        )
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    rest = SCHEDULES[name](learning_rate, total_steps - warmup_steps)
    return optax.join_schedules([warmup, rest], [warmup_steps])


def make_optimizer(
    schedule: optax.Schedule, l2: float, clip_norm: float | None = None
) -> optax.GradientTransformationExtraArgs:
    """Adam with an L2 term that is added to the gradient, not decoupled (torch's Adam).

    Its `update` takes `good`, a () bool beside the usual arguments: False keeps the state as it is.

    Args:
        schedule: learning rate by step.
        l2: factor of the parameters that is added to their gradients before Adam.
        clip_norm: largest global norm of the gradients before L2; None leaves them alone.
    """
    clip = [] if clip_norm is None else [_clip(clip_norm)]
    return optax.chain(*clip, optax.add_decayed_weights(l2), _adam(schedule))


def _clip(largest: float) -> optax.GradientTransformation:
    """Scales gradients by one factor, so that their global norm is at most `largest`."""

    def update(slopes: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, Any]:
        del params
        factor = jnp.minimum(1, largest / global_norm(slopes))
        return jax.tree.map(lambda g: (g * factor).astype(g.dtype), slopes), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _adam(
    schedule: optax.Schedule, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8
) -> optax.GradientTransformationExtraArgs:
    """Adam (arXiv 1412.6980), whose state a bad step keeps.

    The choice between old and new moments is made here and not of the finished state, because XLA
    then makes each array's moments and step in a pass each: a third of the passes, hundreds of
    them, and half the time to compile them and to run.
    """

    def update(
        slopes: Any, state: optax.ScaleByAdamState, params: Any = None, *, good: Any = True
    ) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        good = jnp.asarray(good)
        count = state.count + good
        rate, biases = -schedule(state.count), (1 - b1**count, 1 - b2**count)
        mu = jax.tree.map(lambda m, g: _moment(m, g, b1, good), state.mu, slopes)
        nu = jax.tree.map(lambda v, g: _moment(v, g * g, b2, good), state.nu, slopes)

        def step(m: Array, v: Array) -> Array:
            # A bad first step divides 0 by 0 here; it is not taken.
            unit = m / (biases[0] * (jnp.sqrt(v / biases[1]) + epsilon))
            return (rate * unit).astype(m.dtype)

        return jax.tree.map(step, mu, nu), optax.ScaleByAdamState(count, mu, nu)

    def init(params: Any) -> optax.ScaleByAdamState:
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(), zeros())

    return optax.GradientTransformationExtraArgs(init, update)


@functools.partial(jax.jit, static_argnames="decay")  # each shape is traced once, not each array
def _moment(old: Array, new: Array, decay: float, good: Array) -> Array:
    """A running mean after a step, if that was good."""
    return lax.select(good, decay * old + (1 - decay) * new, old)
