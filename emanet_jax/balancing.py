"""How the tasks' losses become the one that is differentiated.

Every method is a small record of pure functions, so that it runs inside the jitted step. What it
trains (by the network's own optimiser) and what it remembers from step to step stand in the
TrainState, so that a run that goes on goes on exactly.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from emanet_jax.errors import UserError

Losses = Mapping[str, Array]  # {task: its loss, all levels, times its weight in the config}


class Balancing(NamedTuple):
    """A method.

    Attributes:
        trained: the start of the parameters that are trained beside the network's.
        memory: the start of what is remembered from step to step.
        total: (losses, trained, memory) to the scalar that is differentiated, affine in the losses.
        remember: (losses, memory) to the memory of the next step.
        weights: (trained, memory) to {task: factor of its loss in the total}, where it changes.
    """

    trained: Any
    memory: Any
    total: Callable[[Losses, Any, Any], Array]
    remember: Callable[[Losses, Any], Any]
    weights: Callable[[Any, Any], dict[str, Array]]


def fixed(tasks: Sequence[str], steps_per_epoch: int) -> Balancing:
    """The sum of the losses, each times its weight in the config."""
    del tasks, steps_per_epoch
    return Balancing(
        trained={},
        memory={},
        total=lambda losses, *_: sum(losses.values()),
        remember=lambda _, memory: memory,
        weights=lambda *_: {},
    )


def uncertainty(tasks: Sequence[str], steps_per_epoch: int) -> Balancing:
    """Homoscedastic uncertainty (Kendall et al., arXiv 1705.07115): sum of L exp(-s)/2 + s/2.

    The log-variances s start at -0.5 and are trained with the network.
    """
    del steps_per_epoch

    def total(losses: Losses, log_variances: Mapping[str, Array], _: Any) -> Array:
        return sum(
            losses[task] * jnp.exp(-log_variances[task]) / 2 + log_variances[task] / 2
            for task in tasks
        )

    return Balancing(
        trained={task: jnp.full((), -0.5) for task in tasks},
        memory={},
        total=total,
        remember=lambda _, memory: memory,
        weights=lambda trained, _: {task: jnp.exp(-trained[task]) / 2 for task in tasks},
    )


class Epochs(NamedTuple):
    """What DWA remembers of each task, in the order of the tasks (N,)."""

    running: Array  # sum of the losses of the epoch that goes on
    steps: Array  # () of that epoch so far
    last: Array  # mean loss of the last epoch; NaN before there is one
    previous: Array  # mean loss of the epoch before it


def dwa(tasks: Sequence[str], steps_per_epoch: int, temperature: float = 2.0) -> Balancing:
    """Dynamic weight average (Liu et al., arXiv 1803.10704): slowly falling losses weigh more.

    N softmax(r / T) with r the ratio of a task's mean losses over the last two epochs; ones until
    there are two.
    """

    def factors(epochs: Epochs) -> Array:
        ratio = epochs.last / epochs.previous
        weights = len(tasks) * jax.nn.softmax(ratio / temperature)
        return jnp.where(jnp.isnan(ratio).any(), jnp.ones(len(tasks)), weights)

    def stacked(losses: Losses) -> Array:
        return jnp.stack([losses[task] for task in tasks])

    def remember(losses: Losses, epochs: Epochs) -> Epochs:
        running, steps = epochs.running + stacked(losses), epochs.steps + 1
        going_on = Epochs(running, steps, epochs.last, epochs.previous)
        over = Epochs(jnp.zeros_like(running), jnp.zeros_like(steps), running / steps, epochs.last)
        return jax.tree.map(lambda a, b: jnp.where(steps == steps_per_epoch, a, b), over, going_on)

    unknown = jnp.full(len(tasks), jnp.nan)
    return Balancing(
        trained={},
        memory=Epochs(jnp.zeros(len(tasks)), jnp.zeros((), jnp.int32), unknown, unknown),
        total=lambda losses, _, epochs: jnp.sum(factors(epochs) * stacked(losses)),
        remember=remember,
        weights=lambda _, epochs: dict(zip(tasks, factors(epochs), strict=True)),
    )


METHODS = {"fixed": fixed, "uncertainty": uncertainty, "dwa": dwa}


def make_balancing(name: str, tasks: Sequence[str], steps_per_epoch: int) -> Balancing:
    """A method of `METHODS` for these tasks.

    Raises:
        UserError: the name is unknown.
    """
    if name not in METHODS:
        raise UserError(f"config.balancing is '{name}'; known methods: {', '.join(METHODS)}.")
    return METHODS[name](tuple(tasks), steps_per_epoch)
