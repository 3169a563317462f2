"""Clocks, counts, tables and a compiled step, which the benchmarks share."""

import csv
import functools
import math
import os
import pathlib
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
import ml_collections
import numpy as np

from emanet_jax import balancing, cpu, models
from emanet_jax.config import USUAL_BACKBONES, check_config
from emanet_jax.models.remat import rematerialised
from emanet_jax.network import NormalisedImages
from emanet_jax.tasks import tasks_for
from emanet_jax.training import optim, sharding, steps
from emanet_jax.types import Task

# Dense TFLOP/s by data sheet (H100: the SXM board), by a part of JAX's name for the device: of
# float32 as JAX multiplies it by default, which is in TF32 on GPUs and in bfloat16 on TPUs, and of
# bfloat16.
PEAKS = {
    "H200": (495.0, 989.0),
    "H100": (495.0, 989.0),
    "A100": (156.0, 312.0),
    "TPU v4": (275.0, 275.0),
    "TPU v5 lite": (197.0, 197.0),
    "TPU v5e": (197.0, 197.0),
    "TPU v5p": (459.0, 459.0),
    "TPU v5": (459.0, 459.0),  # JAX's name for a v5p
    "TPU v6 lite": (918.0, 918.0),
    "TPU v6e": (918.0, 918.0),
}


def wall_and_cpu(
    run: Callable[..., Any], *args: Any, budget: float = 2.0, most: int = 20
) -> tuple[float, float]:
    """The least wall seconds, and CPU seconds of all threads, of repeated calls.

    The least, because other programs on the machine only ever add to a time.

    Args:
        run: called once to warm up, then at least once.
        args: of each call.
        budget: seconds to repeat it for.
        most: repetitions.
    """
    jax.block_until_ready(run(*args))
    wall, cpu, total, count = math.inf, math.inf, 0.0, 0
    while count == 0 or (total < budget and count < most):
        start, start_cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(run(*args))
        taken = time.perf_counter() - start
        wall, cpu = min(wall, taken), min(cpu, time.process_time() - start_cpu)
        total, count = total + taken, count + 1
    return wall, cpu


def operations(run: Callable[..., Any], *args: Any) -> float:
    """Floating-point operations by XLA's count before it optimises; nothing is compiled."""
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


def peak_tflops(precision: str) -> float:
    """The first device's peak in 1e12 operations a second; NaN where it is not known.

    A CPU's is measured with a product of large float32 matrices, in both precisions: XLA computes
    bfloat16 in float32 there.
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        x = jnp.ones((2048, 2048))
        return 2e-12 * 2048**3 / wall_and_cpu(jax.jit(jnp.matmul), x, x, budget=1.0)[0]
    known = [peaks for name, peaks in PEAKS.items() if name in device.device_kind]
    return known[0][precision == "bfloat16"] if known else math.nan


def machine() -> str:
    """Device and cores, as in "x86_64 CPU, 4 cores, jax 0.10.2"."""
    name = jax.devices()[0].device_kind
    if jax.devices()[0].platform == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        name = f"{platform.machine()} CPU, {cores} cores"
    return f"{name}, jax {jax.__version__}"


def random_batch(tasks: Sequence[Task], image_size: tuple[int, int], batch_size: int) -> dict:
    """Images of noise with labels: class ids, or numbers between 1 and 2."""
    rng = np.random.default_rng(0)
    shape = (batch_size, *image_size)
    labels: dict[str, np.ndarray] = {}
    for task in tasks:
        low, high = (0, task.channels) if task.class_names else (1, 2)
        label = rng.uniform(low, high, (*shape, task.label_channels))
        labels[task.name] = label.astype(task.label_dtype)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    return {"image": image, "labels": labels, "mask": np.ones(batch_size, bool)}


def fit(points: Iterable[tuple[float, float]], degree: int = 1) -> tuple[list[float], float]:
    """Least squares through points (x, y) with a finite y.

    Returns:
        c_0, ..., c_degree of y = sum of c_k * x^k, and R^2; NaN for too few points.
    """
    finite = np.array([point for point in points if np.isfinite(point).all()])
    x, y = finite.reshape(-1, 2).T
    if len(set(x)) <= degree:
        return [math.nan] * (degree + 1), math.nan
    coefficients = np.polyfit(x, y, degree)
    left = np.sum((y - np.polyval(coefficients, x)) ** 2)
    whole = np.sum((y - y.mean()) ** 2)
    return coefficients[::-1].tolist(), float(1 - left / whole) if whole else math.nan


def exponent(points: Iterable[tuple[float, float]]) -> float:
    """The b of y ~ x^b through points (x, y) with a positive finite y."""
    return fit((math.log(x), math.log(y)) for x, y in points if 0 < y < math.inf)[0][1]


class StepRow(NamedTuple):
    """A program as it was measured: the shortest times, NaN where nothing was run."""

    network: str
    balancing: str
    precision: str
    phase: str
    batch: int
    compile_s: float
    step_ms: float
    cpu_ms: float  # of all threads
    images_per_s: float
    tflop: float  # of a step on all devices
    peak_share: float
    state_mib: float  # parameters, the optimiser's moments, statistics
    memory_mib: float  # of a device: state, batch, results and temporaries


STEP_HEADER = (
    f"{'':10} {'balancing':11} {'precision':9} {'':8} {'batch':>5} {'compile':>8} {'a step':>11} "
    f"{'CPU':>10} {'images/s':>8} {'TFLOP':>6} {'of peak':>8} {'state':>9} {'memory':>10}"
)


def step_line(row: StepRow) -> str:
    """The row as it is printed under STEP_HEADER; "-" where no step was run."""
    return (
        f"{row.network:10} {row.balancing:11} {row.precision:9} {row.phase:8} {row.batch:5} "
        f"{row.compile_s:6.1f} s {row.step_ms:8.1f} ms {row.cpu_ms:7.0f} ms "
        f"{row.images_per_s:8.2f} {row.tflop:6.3f} {100 * row.peak_share:6.1f} % "
        f"{row.state_mib:5.0f} MiB {row.memory_mib:6.0f} MiB"
    ).replace("nan", "  -")


def usual_networks() -> dict[str, str]:
    """Every network and the backbone that configs build it on."""
    return {
        name: USUAL_BACKBONES.get(name, models.backbones_of(name)[0]) for name in models.NETWORKS
    }


def measure_step(
    config: ml_collections.ConfigDict,
    phase: str,
    budget: float,
    most_mib: float = math.inf,
    tasks: Sequence[Task] | None = None,
    traces: pathlib.Path | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> StepRow:
    """Compiles a phase of a config's network, and repeats it for `budget` seconds.

    Args:
        config: whole; its batch size counts for both phases.
        phase: "train", the training loop's own step, or "predict".
        budget: seconds to repeat it for.
        most_mib: that a device may hold; a program that holds more is not run.
        tasks: None: the config's.
        traces: folder for a trace of three more steps; None takes none.
        devices: None: all.

    Raises:
        UserError: the config's values are none that it may have, or do not fit each other.
    """
    check_config(config)
    tasks = tasks or tasks_for(config.data.dataset, config.tasks, config.data.classes)
    image_size = tuple(config.data.image_size)
    network = models.build(
        config.model.name,
        tasks,
        backbone=config.model.backbone,
        image_size=image_size,
        variant=config.model.variant,
        **config.model.overrides,
        dtype=jnp.dtype(config.precision),
    )
    model = NormalisedImages(network, config.image_statistics)
    schedule = optim.make_schedule("constant", config.optimizer.learning_rate, 1)
    optimizer = optim.make_optimizer(schedule, config.optimizer.l2, config.optimizer.clip_norm)
    balance = balancing.from_config(config, tasks, steps_per_epoch=1)
    mesh = sharding.make_mesh(config.mesh.spatial, devices)
    sharding.check_batch_size("batch_size", config.batch_size, mesh)
    sharding.check_spatial(image_size, mesh)
    everywhere = sharding.replicated(mesh)
    jit = functools.partial(cpu.jit, mesh=mesh)
    create = jit(
        functools.partial(steps.create_state, model, optimizer, balance, image_size, config.seed),
        out_shardings=everywhere,
    )
    train = functools.partial(
        steps.train_step,
        model=rematerialised(model, config.remat),
        tasks=tasks,
        balancing=balance,
        optimizer=optimizer,
        grads_fn=balancing.grads_fn_for(
            balance, tasks, accumulate=config.accumulate, task_gradients=config.task_gradients
        ),
    )

    def predict(state: Any, batch: Any) -> Any:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        return steps.predict(variables, batch["image"], model=model, tasks=tasks)

    run: Callable[..., Any] = train if phase == "train" else predict
    on_host = random_batch(tasks, image_size, config.batch_size)
    batch = sharding.to_devices(on_host, mesh)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        jax.eval_shape(create),
    )
    placed = {"donate_argnums": 0, "out_shardings": everywhere}
    jitted = jit(run, **(placed if phase == "train" else {"out_shardings": sharding.maps(mesh)}))
    start = time.perf_counter()
    compiled = jitted.lower(shapes, batch).compile()
    compile_s = time.perf_counter() - start
    memory_mib = held_mib(compiled)
    state = create() if memory_mib <= most_mib else None

    def step() -> Any:
        nonlocal state
        result = compiled(state, batch)
        if phase == "train":
            state, result = result
        return result

    wall, cpu_s = math.nan, math.nan
    if state is not None:
        wall, cpu_s = wall_and_cpu(step, budget=budget, most=1000)
        if traces is not None:
            name = f"{config.model.name}-{config.balancing}-{config.precision}"
            with jax.profiler.trace(str(traces / f"{name}-{phase}-{config.batch_size}")):
                for _ in range(3):
                    jax.block_until_ready(step())
    tflop = operations(run, shapes, on_host) / 1e12
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    peak = peak_tflops(config.precision) * (1 if on_cpu else mesh.devices.size)
    return StepRow(
        network=config.model.name,
        balancing=config.balancing,
        precision=config.precision,
        phase=phase,
        batch=config.batch_size,
        compile_s=compile_s,
        step_ms=1e3 * wall,
        cpu_ms=1e3 * cpu_s,
        images_per_s=config.batch_size / wall,
        tflop=tflop,
        peak_share=tflop / wall / peak,
        state_mib=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes)) / 2**20,
        memory_mib=memory_mib,
    )


def write_csv(rows: Sequence[Any], path: pathlib.Path) -> None:
    """All rows so far, which are of one NamedTuple, whole or not at all; empty where NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0]._fields)
        writer.writerows(["" if x != x else x for x in row] for row in rows)
    os.replace(part, path)
