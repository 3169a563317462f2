"""The cost of a network: parameters, and multiply-adds by XLA's own count."""

import functools
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
from flax import linen as nn

from emanet_jax.models.ctal import CrossTaskAffinity
from emanet_jax.types import Model


class Cost(NamedTuple):
    """The cost of one image, forwards, in evaluation mode.

    Attributes:
      parameters: their number, batch statistics left out.
      multiply_adds: half the floating-point operations that XLA counts before it optimises.
      affinity: the implementation that CTAL takes; "" in a network without it.
    """

    parameters: int
    multiply_adds: int
    affinity: str


def cost(model: Model, image_size: tuple[int, int]) -> Cost:
    """The cost of a network on one image (h, w) = `image_size`; traced, not compiled."""
    images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), images)
    affinities: list[str] = []

    def note_affinity(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        if isinstance(context.module, CrossTaskAffinity) and context.method_name == "__call__":
            affinities.append(context.module.chosen(*args)[0])
        return call(*args, **kwargs)

    # XLA counts the body of a loop once: with jit disabled, every round of it is traced.
    with jax.disable_jit(), nn.intercept_methods(note_affinity):
        traced = jax.make_jaxpr(functools.partial(model.apply, train=False))(variables, images)
    flat = jax.jit(jax.extend.core.jaxpr_as_fun(traced))
    analysis = flat.lower(*jax.tree.leaves((variables, images))).cost_analysis()
    assert analysis is not None, "XLA counts operations on every platform that JAX has"
    return Cost(
        parameters=sum(x.size for x in jax.tree.leaves(variables["params"])),
        multiply_adds=round(analysis["flops"] / 2),
        affinity=affinities[0] if affinities else "",
    )
