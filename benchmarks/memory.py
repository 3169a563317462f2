"""What recomputing and micro-batches cost in time, and save in memory, of a training step.

    python -m benchmarks.memory                       # EMA-Net and HPS at 96 x 128, batch 4
    python -m benchmarks.memory --networks=ema_net --image_size=288,384 --batch_size=8

Memory is that of XLA's own analysis of the compiled step: what it holds beside state and batch.
Images and labels are random. Needs neither TensorFlow nor data.
"""

import argparse
import functools
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.cityscapes_step import random_batch
from benchmarks.timing import machine, seconds, size
from emanet_jax import balancing, models, optim, parallel, steps
from emanet_jax.models.remat import CHOICES, rematerialised
from emanet_jax.tasks import tasks_for


class Row(NamedTuple):
    """A line of the table."""

    network: str
    remat: str
    accumulate: int
    temporaries_mib: float
    step_s: float
    compile_s: float


def measure(
    name: str, backbone: str, image_size: tuple[int, int], batch_size: int, choice: str, parts: int
) -> Row:
    """Compiles the training loop's own step and takes some."""
    tasks = tasks_for("nyuv2")
    model = models.build(name, tasks, backbone=backbone, image_size=image_size)
    optimizer = optim.make_optimizer(optim.make_schedule("constant", 1e-4, 1), l2=1e-4)
    options = parallel.compiler_options(parallel.make_mesh())
    balance = balancing.fixed([task.name for task in tasks], steps_per_epoch=1)
    create = functools.partial(steps.create_state, model, optimizer, balance, image_size, 0)
    step = functools.partial(
        steps.train_step,
        model=rematerialised(model, choice),
        tasks=tasks,
        weights={task.name: 1.0 for task in tasks},
        balancing=balance,
        optimizer=optimizer,
        statistics="imagenet",
        accumulate=parts,
    )
    batch = jax.tree.map(
        lambda x: np.repeat(x, batch_size, axis=0), random_batch(tasks, image_size)
    )
    start = time.perf_counter()
    # Not donated, so that the same state can be stepped from again: donation saves its 2nd copy.
    compiled = (
        jax.jit(step, compiler_options=options).lower(jax.eval_shape(create), batch).compile()
    )
    compile_s = time.perf_counter() - start
    temporaries = compiled.memory_analysis().temp_size_in_bytes / 2**20
    state = jax.jit(create, compiler_options=options)()
    return Row(name, choice, parts, temporaries, seconds(compiled, state, batch), compile_s)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Parses the flags, measures and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=lambda text: text.split(","), default=["ema_net", "hps"])
    parser.add_argument("--backbone", default="hrnet_w18", help="a name of models.BACKBONES")
    parser.add_argument("--image_size", type=size, default=(96, 128), help="H,W")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--remat", nargs="+", choices=CHOICES, default=[*CHOICES])
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1, 4])
    args = parser.parse_args(argv)

    print(f"{machine()}; {args.backbone}, {args.image_size}, batch {args.batch_size}, float32")
    print(
        f"{'':10} {'remat':12} {'micro-batches':>13} {'temporaries':>16} {'step':>8} {'compile':>8}"
    )
    rows = []
    for name in args.networks:
        for parts in args.accumulate:
            for choice in args.remat:
                row = measure(name, args.backbone, args.image_size, args.batch_size, choice, parts)
                rows.append(row)
                print(
                    f"{name:10} {choice:12} {parts:13} {row.temporaries_mib:12.0f} MiB "
                    f"{row.step_s:6.2f} s {row.compile_s:6.0f} s",
                    flush=True,
                )
    return rows


if __name__ == "__main__":
    main()
