"""The base classes of all methods of balancing, and the numbers that a method may be set to."""

import abc
import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from emanet_jax.errors import UserError

Losses = Float[Array, " k"]  # of K tasks
Gram = Float[Array, "k k"]  # dot products of the tasks' gradients
TaskGrads = Any  # a tree like the parameters, leaves (K, ...); None where they are one task's own


class Range(NamedTuple):
    """The values that a setting may have, in words and as a test."""

    words: str
    holds: Callable[[float], bool]


POSITIVE = Range("positive and finite", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = Range("finite and at least 0", lambda x: 0 <= x < math.inf)
SHARE = Range("at least 0 and below 1", lambda x: 0 <= x < 1)


def setting(default: float, allowed: Range) -> Any:
    """A field of a method that config.balancing_settings may set."""
    return dataclasses.field(default=default, metadata={"allowed": allowed})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balancing:
    """A method for K tasks that weighs their losses; this one adds them up.

    All methods are pure functions of arrays whose axis 0 is the tasks, and run inside the jitted
    step. Parameters that a method trains, with the network's own optimiser, and the state that it
    keeps from step to step stand in the TrainState, so that a run that goes on goes on exactly.

    Attributes:
        config_weights: {task: weight} of config.task_weights, in the order of axis 0.
        steps_per_epoch: of the training.
    """

    config_weights: Mapping[str, float]
    steps_per_epoch: int

    # Whether the total's gradient is the same whatever the losses are: spares micro-batches a
    # forward pass.
    affine: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            allowed = field.metadata.get("allowed")
            if allowed and (type(value) not in (int, float) or not allowed.holds(value)):
                raise UserError(
                    f"config.balancing_settings.{field.name} is {value!r}; it must be "
                    f"{allowed.words}."
                )

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """The names of the method's own settings, with their defaults."""
        return {f.name: f.default for f in dataclasses.fields(cls) if "allowed" in f.metadata}

    @property
    def count(self) -> int:
        """K, the number of tasks."""
        return len(self.config_weights)

    @property
    def task_weights(self) -> Mapping[str, float]:
        """{task: weight} that every loss is multiplied with before the method sees it."""
        return self.config_weights

    def init_params(self) -> Any:
        """The parameters that are trained beside the network's, at the start."""
        return {}

    def init_state(self, params: Any) -> Any:
        """The state at the start, from the network's parameters."""
        del params
        return {}

    def total(self, losses: Losses, params: Any, state: Any, key: PRNGKeyArray) -> Array:
        """The scalar that is differentiated; its gradient is what the losses count for.

        Args:
            losses: each a task's, all levels, times its weight.
            params: of the method.
            state: of the method.
            key: random, another one at every step.
        """
        del params, state, key
        return losses.sum()

    def update_state(self, losses: Losses, state: Any) -> Any:
        """The state after a step with these losses."""
        del losses
        return state

    def post_step(self, losses: Losses, losses_after: Callable[[], Losses], state: Any) -> Any:
        """The state once the parameters have moved.

        Args:
            losses: of the batch before the step.
            losses_after: gives those of the same batch after it; costs another forward pass.
            state: that `update_state` or `combine` left.
        """
        del losses, losses_after
        return state


class Combined(NamedTuple):
    """The one gradient that a method makes of the tasks'."""

    grads: Any  # the leaves of `TaskGrads` without axis 0
    weights: Float[Array, " k"]  # what each task's gradient counts for in it
    state: Any  # of the method at the next step


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientBalancing(Balancing, abc.ABC):
    """A method that reconciles the tasks' gradients of shared parameters.

    Parameters of one task alone follow their task's term of the total, no term of which may have
    two tasks' losses in it.
    """

    @abc.abstractmethod
    def combine(
        self, grads: TaskGrads, gram: Gram, losses: Losses, state: Any, key: PRNGKeyArray
    ) -> Combined:
        """The gradient that replaces the sum of the tasks'.

        Args:
            grads: of the total's terms, one for each task.
            gram: their dot products.
            losses: as in `total`.
            state: of the method.
            key: as in `total`.
        """


def divisor(x: Array) -> Array:
    """The number itself, and 1 in place of 0: what is divided by it is then 0 as well."""
    return jnp.where(x == 0, 1, x)


def logarithm(losses: Losses) -> Losses:
    """Logarithms of losses; 0, with gradient 0, for tasks without a valid pixel."""
    return jnp.log(jnp.where(losses <= 0, 1, losses))  # NaN stays NaN


def gram_matrix(grads: TaskGrads) -> Gram:
    """Dot products of the tasks' gradients, in float32 or better."""

    def products(x: Array) -> Gram:
        x = x.reshape(len(x), -1).astype(jnp.promote_types(x.dtype, jnp.float32))
        return jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)

    return functools.reduce(operator.add, map(products, jax.tree.leaves(grads)))


def weighted_sum(weights: Float[Array, " k"], grads: TaskGrads) -> Any:
    """The sum of the tasks' gradients, each times its weight."""

    def add(x: Array) -> Array:
        return jnp.tensordot(weights, x, 1, precision=jax.lax.Precision.HIGHEST).astype(x.dtype)

    return jax.tree.map(add, grads)
