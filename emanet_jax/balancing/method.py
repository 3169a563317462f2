"""What a method of balancing is: a record of pure functions of arrays; axis 0 is the tasks."""

import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Slopes = Any  # a tree like the parameters; None where a parameter is one task's own


class Combined(NamedTuple):
    """What a method makes of the tasks' gradients."""

    slopes: Slopes  # the direction: every leaf without axis 0
    weights: Array  # (K,) what each task's gradient counts for in it
    memory: Any  # of the next step


def nothing(_: Any) -> dict:
    """The memory of a method that remembers nothing."""
    return {}


def unchanged(_: Array, memory: Any) -> Any:
    """The memory as it is."""
    return memory


class Balancing(NamedTuple):
    """A method for K tasks. All of it runs inside the jitted step.

    What is trained (by the network's own optimiser) and what is remembered from step to step stand
    in the TrainState, so that a run that goes on goes on exactly.

    Attributes:
        total: (losses (K,), trained, memory, random key) to the scalar that is differentiated. A
            loss is a task's, all levels, times its weight in the config; the total's slopes are
            the weights that tasks get. With `combine`, no term has two tasks' losses in it.
        trained: the start of the parameters that are trained beside the network's.
        memory: the network's parameters to the start of what is remembered.
        remember: (losses (K,), memory) to the memory of the next step.
        affine: whether the total's slopes are the same whatever the losses are.
        task_weights: whether the config's task weights count.
        look_back: (losses before (K,), losses of the same batch after the step (K,), memory) to
            the memory of the next step; costs another forward pass.
        combine: (gradients of the shared parameters, leaves (K, ...), of the total's terms; their
            Gram matrix (K, K); losses (K,); memory; random key) to the direction that replaces
            their sum.
    """

    total: Callable[[Array, Any, Any, Array], Array]
    trained: Any = {}  # noqa: RUF012, a named tuple's default is its own
    memory: Callable[[Any], Any] = nothing
    remember: Callable[[Array, Any], Any] = unchanged
    affine: bool = True
    task_weights: bool = True
    look_back: Callable[[Array, Array, Any], Any] | None = None
    combine: Callable[[Slopes, Array, Array, Any, Array], Combined] | None = None


def summed(losses: Array, *_: Any) -> Array:
    """The total that is the sum of the losses."""
    return losses.sum()


def logarithm(losses: Array) -> Array:
    """Logarithms (K,) of positive losses; 0, with slope 0, for tasks without a valid pixel."""
    return jnp.log(jnp.where(losses > 0, losses, 1))


def gram_matrix(slopes: Slopes) -> Array:
    """Dot products (K, K) of the tasks' gradients, leaves (K, ...), in float32 or better."""

    def products(x: Array) -> Array:
        x = x.reshape(len(x), -1).astype(jnp.promote_types(x.dtype, jnp.float32))
        return jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)

    return sum(map(products, jax.tree.leaves(slopes)))


def weighted(weights: Array, slopes: Slopes) -> Slopes:
    """The sum of the tasks' gradients, leaves (K, ...), each times its weight, (K,)."""
    dot = lambda x: jnp.tensordot(weights, x, 1, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
    return jax.tree.map(lambda x: dot(x).astype(x.dtype), slopes)


class Range(NamedTuple):
    """What a setting of a method must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


Positive = Annotated[float, Range("positive and finite", lambda x: 0 < x < math.inf)]
Amount = Annotated[float, Range("finite and at least 0", lambda x: 0 <= x < math.inf)]
Share = Annotated[float, Range("at least 0 and below 1", lambda x: 0 <= x < 1)]
