"""Learning-rate schedules and the optimiser chain.

Of N steps the first has the schedule's value at 0, the last its value at N - 1.
"""

import optax

from emanet_jax.errors import UserError, choose


def cosine(learning_rate: float, steps: int) -> optax.Schedule:
    """Half a cosine from the learning rate r at the first step towards 0.

    The last step's is r sin^2(pi / 2N), above 0, which would be that of the step after it.
    """
    return optax.cosine_decay_schedule(learning_rate, max(steps, 1))


def constant(learning_rate: float, steps: int) -> optax.Schedule:
    """The learning rate as it is, at the first step as at the last."""
    del steps
    return optax.constant_schedule(learning_rate)


def cosine_restarts(learning_rate: float, steps: int) -> optax.Schedule:
    """Two half cosines with a warm restart between: 1/3 of the steps, then the other 2/3.

    The last step is the last of the second cosine: restarts never fall on it.
    """
    first = steps // 3
    return optax.join_schedules(
        [cosine(learning_rate, first), cosine(learning_rate, steps - first)], [first]
    )


def halved(learning_rate: float, steps: int) -> optax.Schedule:
    """The learning rate, and half of it from step N // 2 to the last (MTAN's recipe)."""
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
    """Learning rate by step, from 0: a linear warm-up, then a schedule of the table `SCHEDULES`.

    The warm-up's first step has the rate 0, and the step after the warm-up is the schedule's first,
    of the steps that are left. Beyond the last step the rate is of no use.

    Args:
        name: of the schedule.
        learning_rate: the largest.
        total_steps: N, of the run.
        warmup_steps: of these, for the warm-up.

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


def shifted(schedule: optax.Schedule, offset: float) -> optax.Schedule:
    """The schedule whose step i is step i + `offset` of the given one."""
    return lambda step: schedule(step + offset)


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
