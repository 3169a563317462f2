"""What the benchmarks share: timing, the machine in words, sizes on the command line."""

import argparse
import math
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import jax


def seconds(run: Callable[..., Any], *args: Any, budget: float = 2.0, most: int = 20) -> float:
    """The fastest of the repetitions that fit into `budget` seconds, at least one after warming up.

    The fastest, because other programs on the machine only ever add to a time.
    """
    return wall_and_cpu(run, *args, budget=budget, most=most)[0]


def wall_and_cpu(
    run: Callable[..., Any], *args: Any, budget: float, most: int
) -> tuple[float, float]:
    """As `seconds`, and the least CPU seconds, of all threads of this process."""
    jax.block_until_ready(run(*args))
    best, least, total, count = math.inf, math.inf, 0.0, 0
    while count == 0 or (total < budget and count < most):
        start, start_cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(run(*args))
        taken, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        best, least = min(best, taken), min(least, cpu)
        total, count = total + taken, count + 1
    return best, least


def machine() -> str:
    """Device and cores, as in "cpu AMD EPYC, 4 cores, jax 0.10.2"."""
    device = jax.devices()[0]
    name = device.device_kind
    if device.platform == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        name = f"{platform.machine()} CPU, {cores} cores"
    return f"{name}, jax {jax.__version__}"


def size(text: str) -> tuple[int, int]:
    """Height and width from "288,384" or "288x384"."""
    try:
        h, w = (int(part) for part in text.replace("x", ",").split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; write H,W as 96,192.") from error
    return h, w
