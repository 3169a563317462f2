"""Learning-rate schedules and the optimiser chain."""

import optax

from emanet_jax.errors import UserError, choose


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
    choose("config.optimizer.schedule", name, SCHEDULES)
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
) -> optax.GradientTransformation:
    """Adam with an L2 term that is added to the gradient, not decoupled (torch's Adam).

    Args:
        schedule: learning rate by step.
        l2: factor of the parameters that is added to their gradients before Adam.
        clip_norm: largest global norm of the gradients before L2; None leaves them alone.
    """
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    return optax.chain(clip, optax.add_decayed_weights(l2), optax.adam(schedule, eps=1e-8))
