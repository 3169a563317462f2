"""What XLA counts of a program: operations as written, memory as compiled."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core


def operations(run: Callable[..., Any], *args: Any) -> float:
    """XLA's count of floating-point operations, before it optimises; nothing is compiled."""
    # XLA counts the body of a loop once: with jit disabled, every round of it is traced.
    with jax.disable_jit():
        traced = jax.make_jaxpr(run)(*args)
    flat = jax.jit(jax.extend.core.jaxpr_as_fun(traced))
    return flat.lower(*jax.tree.leaves(args)).cost_analysis()["flops"]


def held_mib(compiled: jax.stages.Compiled) -> float:
    """MiB that one device holds while a program runs: arguments, results and temporaries."""
    memory = compiled.memory_analysis()
    return (
        memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    ) / 2**20


def device_mib() -> float:
    """MiB that JAX may take of a device; infinity where it does not say, as of CPUs."""
    stats = jax.devices()[0].memory_stats()
    return stats["bytes_limit"] / 2**20 if stats else math.inf
