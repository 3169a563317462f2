"""What a step of EMA-Net costs by the size of images, and by the number of tasks; fits and picture.

    python -m benchmarks.scale                       # an hour on 2 cores, over 12 GiB
    python -m benchmarks.scale --sizes=64x64,64x128 --tasks=1,2 --size=64x64 --backbone=hrnet_tiny
    python -m benchmarks.scale --memory_gib=0        # memory and operations only: no step is run

Two series, which share what they have in common: sizes with --count tasks, and tasks at --size. The
tasks are the first of all that data sets have, each once. Images and labels are random: no data set
is read, and neither TensorFlow nor TFDS, CLU or Grain are needed. Times are the shortest seen,
memory is XLA's analysis of the compiled program (temporaries, state and batch), TFLOP its count
before it optimises. The folder --out gets scale.csv, anew after every program, and scale.png.
"""

import math
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from emanet_jax import cli
from emanet_jax.errors import UserError

_BACKBONE = flags.DEFINE_string("backbone", "hrnet_w18", "What EMA-Net is built on.")
_SIZES = flags.DEFINE_list(
    "sizes",
    ["128x256", "192x384", "256x512", "384x768", "512x1024", "768x1536", "1024x2048"],
    "Height x width of the images.",
)
_COUNT = flags.DEFINE_integer("count", 2, "Tasks at these sizes.")
_TASKS = flags.DEFINE_list("tasks", ["1", "2", "3", "4", "5", "6"], "How many tasks, at --size.")
_SIZE = flags.DEFINE_string("size", "128x256", "Height x width where the tasks vary.")
_BATCH = flags.DEFINE_integer("batch", 1, "Images in a batch.", lower_bound=1)
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "bfloat16"], "What the network computes in."
)
_PHASES = flags.DEFINE_list("phases", ["train"], "What to measure: train, predict or both.")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "How long to repeat each of them.", lower_bound=0.0)
_MEMORY = flags.DEFINE_float(
    "memory_gib",
    16.0,
    "Programs that hold more are compiled, for memory and operations, and not run.",
    lower_bound=0.0,
)
_OUT = flags.DEFINE_string("out", "runs/scale", "Folder for scale.csv and scale.png.")


def _check_phases(phases: Sequence[str]) -> None:
    for phase in phases:
        if phase not in ("train", "predict"):
            raise UserError(f"--phases={phase} is unknown; choose from train, predict.")


def _task_count(flag: str, value: str, most: int) -> int:
    """A number of tasks from the flag --FLAG."""
    if value not in map(str, range(1, most + 1)):
        raise UserError(f"--{flag}={value} is no number of tasks; give one from 1 to {most}.")
    return int(value)


def _command() -> None:
    _check_phases(_PHASES.value)
    sizes = [cli.image_size("sizes", value) for value in _SIZES.value]
    size = cli.image_size("size", _SIZE.value)
    import jax

    from benchmarks import scale_measured, scale_report, steps_measured
    from benchmarks.timing import machine

    most = len(scale_measured.all_tasks())
    count = _task_count("count", str(_COUNT.value), most)
    numbers = [_task_count("tasks", value, most) for value in _TASKS.value]
    cases = scale_measured.cases(sizes, count, numbers, size)
    if not cases or not _PHASES.value:
        raise UserError("--sizes and --tasks, or --phases, are empty: give what is to be measured.")

    out = pathlib.Path(_OUT.value)
    title = f"EMA-Net on {_BACKBONE.value}, batch {_BATCH.value}, {_PRECISION.value} ({machine()})"
    print(title, scale_report.HEADER, sep="\n", flush=True)
    rows: list[scale_report.Row] = []
    for number, ((h, w), tasks) in enumerate(cases, 1):
        for phase in _PHASES.value:
            seconds = scale_measured.forecast(rows, h * w, tasks, phase)
            step = f", a step about {seconds:.1f} s" if math.isfinite(seconds) else ""
            print(
                f"{number} of {len(cases)}: {h}x{w}, tasks: {tasks}, {phase}: compiling takes a "
                f"minute or more{step}.",
                file=sys.stderr,
                flush=True,
            )
            rows.append(
                scale_measured.measure(
                    (h, w),
                    tasks,
                    phase,
                    backbone=_BACKBONE.value,
                    batch_size=_BATCH.value,
                    precision=_PRECISION.value,
                    budget=_SECONDS.value,
                    most_mib=1024 * _MEMORY.value,
                )
            )
            print(scale_report.line(rows[-1]), flush=True)
            steps_measured.write_csv(rows, out / "scale.csv")
            jax.clear_caches()  # or all programs stay in memory: gigabytes
    series = scale_report.both_series(rows, count, size)
    print(scale_report.summary(series))
    scale_report.plot(series, title, out / "scale.png")
    print(f"written: {out}")


if __name__ == "__main__":
    cli.run(_command)
