"""The programs of `benchmarks.scale`, and what one of them takes."""

from collections.abc import Sequence

import jax

from benchmarks import steps_measured
from benchmarks.scale_report import Row
from emanet_jax.config import default_config
from emanet_jax.tasks import DATASETS
from emanet_jax.types import Task


def all_tasks() -> tuple[Task, ...]:
    """Every task that a data set has, the first of each name."""
    named: dict[str, Task] = {}
    for task in (task for spec in DATASETS.values() for task in spec.tasks):
        named.setdefault(task.name, task)
    return tuple(named.values())


def cases(
    sizes: Sequence[tuple[int, int]], count: int, tasks: Sequence[int], size: tuple[int, int]
) -> list[tuple[tuple[int, int], int]]:
    """((h, w), number of tasks) of both series, each once, the cheap ones first.

    Args:
        sizes: of the series over images.
        count: of the tasks there.
        tasks: how many, of the series over tasks.
        size: of the images there.
    """
    both = {(hw, count) for hw in sizes} | {(size, number) for number in tasks}
    return sorted(both, key=lambda case: (case[0][0] * case[0][1], case[1], case[0]))


def measure(
    image_size: tuple[int, int],
    count: int,
    phase: str,
    *,
    backbone: str,
    batch_size: int,
    precision: str,
    budget: float,
    most_mib: float,
) -> Row:
    """Compiles EMA-Net's training step or inference, and repeats it.

    Args:
        image_size: (h, w) in pixels.
        count: of the tasks: the first of `all_tasks`.
        phase: "train" or "predict".
        backbone: of the network.
        batch_size: images in a batch.
        precision: "float32" or "bfloat16".
        budget: seconds to repeat it for.
        most_mib: a program that holds more is not run, its time NaN.
    """
    tasks = all_tasks()[:count]
    config = default_config()
    config.data.image_size = image_size
    config.task_weights = {task.name: 1.0 for task in tasks}
    program = steps_measured.make_program(config, batch_size, precision, "ema_net", backbone, tasks)
    row, _ = steps_measured.measure(program, phase, budget, most_mib=most_mib)
    state = jax.tree.leaves(jax.eval_shape(program.create))
    h, w = image_size
    return Row(
        phase=phase,
        h=h,
        w=w,
        tasks=count,
        batch=batch_size,
        pixels=h * w,
        compile_s=row.compile_s,
        step_s=row.step_ms / 1e3,
        cpu_s=row.cpu_ms / 1e3,
        tflop=row.tflop,
        state_mib=sum(x.size * x.dtype.itemsize for x in state) / 2**20,
        memory_mib=row.memory_mib,
    )


def forecast(rows: Sequence[Row], pixels: int, tasks: int, phase: str) -> float:
    """Seconds of a step in proportion to pixels and tasks of the last that ran; NaN: none did."""
    ran = [row for row in rows if row.phase == phase and row.step_s > 0]  # NaN is not
    if not ran:
        return float("nan")
    return ran[-1].step_s * (pixels * tasks) / (ran[-1].pixels * ran[-1].tasks)
