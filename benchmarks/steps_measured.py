"""A config's network as compiled steps, and what they take: the rows of `train_step`'s table."""

import csv
import functools
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from benchmarks.cityscapes_step import random_batch
from benchmarks.counts import held_mib, operations
from benchmarks.longest import longest_operations
from benchmarks.peaks import peak_tflops
from benchmarks.timing import wall_and_cpu
from emanet_jax import balancing, cpu, models
from emanet_jax.config import USUAL_BACKBONES, check_config
from emanet_jax.models.remat import rematerialised
from emanet_jax.tasks import tasks_for
from emanet_jax.training import optim, sharding, steps
from emanet_jax.types import Task, TrainState


class Program(NamedTuple):
    """What is measured: functions of a state and a batch."""

    network: str
    precision: str
    batch_size: int
    phases: Mapping[str, Callable]  # {"train", "predict"}: (state, batch) to what comes back
    create: Callable[[], TrainState]
    batch: Any  # {"image", "labels", "mask"}, on the host
    mesh: jax.sharding.Mesh


class Row(NamedTuple):
    """A line of the table; times are the shortest that were seen."""

    network: str
    precision: str
    phase: str
    batch: int
    compile_s: float
    step_ms: float
    images_per_s: float
    tflop: float  # of a step on all devices
    tflops: float  # 1e12 operations a second
    peak_share: float
    memory_mib: float  # of a device: arguments, results and temporaries
    cpu_ms: float  # of all threads, in a step


HEADER = (
    f"{'':12} {'precision':9} {'':8} {'batch':>5} {'compile':>8} {'a step':>11} {'images/s':>9} "
    f"{'TFLOP':>7} {'TFLOP/s':>8} {'of peak':>8} {'memory':>11}"
)


def line(row: Row) -> str:
    """The row as it is printed under HEADER."""
    return (
        f"{row.network:12} {row.precision:9} {row.phase:8} {row.batch:5} {row.compile_s:6.1f} s "
        f"{row.step_ms:8.1f} ms {row.images_per_s:9.2f} {row.tflop:7.3f} {row.tflops:8.3f} "
        f"{row.peak_share:8.1%} {row.memory_mib:7.0f} MiB"
    )


def write_csv(rows: Sequence[Any], path: pathlib.Path) -> None:
    """All rows so far, which are of one NamedTuple, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0]._fields)
        writer.writerows(rows)
    os.replace(part, path)


def usual_networks() -> dict[str, str]:
    """Every network of the menu and the backbone that configs build it on."""
    return {
        name: USUAL_BACKBONES.get(name, models.backbones_of(name)[0]) for name in models.NETWORKS
    }


def make_program(
    config: ml_collections.ConfigDict,
    batch_size: int,
    precision: str,
    name: str,
    backbone: str,
    tasks: Sequence[Task] | None = None,
) -> Program:
    """The training loop's own step, and inference, on random images.

    Args:
        config: everything that is not told otherwise here.
        batch_size: images in a batch.
        precision: "float32" or "bfloat16".
        name: of the network.
        backbone: that it is built on.
        tasks: None: the config's.

    Raises:
        UserError: the config's values are none that it may have, or do not fit each other.
    """
    check_config(config)
    if tasks is None:
        tasks = tasks_for(config.data.dataset, config.tasks, config.data.classes)
    image_size = tuple(config.data.image_size)
    dtype = {"dtype": jnp.bfloat16} if precision == "bfloat16" else {}
    model = models.build(
        name,
        tasks,
        backbone=backbone,
        image_size=image_size,
        variant=config.model.variant,
        **(config.model.overrides if name == config.model.name else {}),
        **dtype,
    )
    model = steps.NormalisedImages(model, config.image_statistics)
    optimizer = optim.make_optimizer(
        optim.make_schedule("constant", config.optimizer.learning_rate, 1),
        config.optimizer.l2,
        config.optimizer.clip_norm,
    )
    balance = balancing.from_config(config, tasks, steps_per_epoch=1)
    mesh = sharding.make_mesh(config.mesh.spatial)
    sharding.check_batch_size("batch_size", batch_size, mesh)
    sharding.check_spatial(image_size, mesh)
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

    def predict(state: TrainState, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        return steps.predict(
            {"params": state.params, "batch_stats": state.batch_stats},
            batch["image"],
            model=model,
            tasks=tasks,
        )

    one = random_batch(tasks, image_size)
    return Program(
        network=name,
        precision=precision,
        batch_size=batch_size,
        phases={"train": train, "predict": predict},
        create=functools.partial(
            steps.create_state, model, optimizer, balance, image_size, config.seed
        ),
        batch=jax.tree.map(lambda x: np.repeat(x, batch_size, axis=0), one),
        mesh=mesh,
    )


def measure(
    program: Program,
    phase: str,
    budget: float,
    traces: pathlib.Path | None = None,
    most_mib: float = math.inf,
) -> tuple[Row, list[str]]:
    """Compiles a phase and repeats it for `budget` seconds.

    Args:
        program: what is measured.
        phase: of it.
        budget: seconds to repeat it for.
        traces: folder for a trace of three more steps; None takes none.
        most_mib: MiB that a device may hold; a program that holds more is not run, its times NaN.

    Returns:
        The row, and lines on the operations of the trace that took longest.
    """
    mesh, run = program.mesh, program.phases[phase]
    jit = functools.partial(cpu.jit, mesh=mesh)
    on_all = sharding.replicated(mesh)
    batch = sharding.to_devices(program.batch, mesh)
    shapes = jax.eval_shape(program.create)
    if phase == "train":
        jitted = jit(run, donate_argnums=0, out_shardings=(on_all, on_all))
    else:
        jitted = jit(run, out_shardings=sharding.maps(mesh))
    start = time.perf_counter()
    compiled = jitted.lower(_placed(shapes, on_all), batch).compile()
    compile_s = time.perf_counter() - start
    memory_mib = held_mib(compiled)
    runs = memory_mib <= most_mib
    state = jit(program.create, out_shardings=on_all)() if runs else None

    def step() -> Any:
        nonlocal state
        result = compiled(state, batch)
        if phase == "train":
            state, result = result
        return result

    step_s, cpu_s = wall_and_cpu(step, budget=budget, most=1000) if runs else (math.nan, math.nan)
    tflop = operations(run, shapes, program.batch) / 1e12
    row = Row(
        network=program.network,
        precision=program.precision,
        phase=phase,
        batch=program.batch_size,
        compile_s=compile_s,
        step_ms=1e3 * step_s,
        images_per_s=program.batch_size / step_s,
        tflop=tflop,
        tflops=tflop / step_s,
        peak_share=tflop / step_s / (peak_tflops(program.precision) * mesh_devices(mesh)),
        memory_mib=memory_mib,
        cpu_ms=1e3 * cpu_s,
    )
    if traces is None or not runs:
        return row, []
    folder = traces / f"{program.network}-{program.precision}-{program.batch_size}-{phase}"
    with jax.profiler.trace(str(folder)):
        for _ in range(3):
            jax.block_until_ready(step())
    return row, longest_operations(folder, compiled.as_text())


def _placed(shapes: Any, sharding: jax.sharding.Sharding) -> Any:
    """Shapes and types of arrays that lie so: a program is compiled before there are any."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def mesh_devices(mesh: jax.sharding.Mesh) -> int:
    """How many devices share the work; those of a CPU are one."""
    return 1 if mesh.devices.flat[0].platform == "cpu" else mesh.devices.size
