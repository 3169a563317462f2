"""Time and memory of a training step with every method of balancing, beside equal weights.

    python -m benchmarks.balancing                          # EMA-Net at 96 x 128, batch 4
    python -m benchmarks.balancing --network=hps --methods=equal,mgda --out=/tmp
    python -m benchmarks.balancing --image_size=288,384 --batch_size=8 --task_gradients=vmapped

Each method's steps take turns with those of equal weights, so that what else the machine does falls
on both; times are the fastest. Memory is that of XLA's own analysis of the compiled step: what it
holds beside state and batch. Images and labels are random. Needs neither TensorFlow nor data.
"""

import argparse
import csv
import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.cityscapes_step import random_batch
from benchmarks.timing import machine, size
from emanet_jax import balancing, cpu, models
from emanet_jax.balancing.grads import PASSES
from emanet_jax.tasks import tasks_for
from emanet_jax.training import optim, sharding, steps

FIRST = "equal"  # what the others are compared with


class Row(NamedTuple):
    """A line of the table."""

    method: str
    step_s: float
    step_ratio: float  # to equal weights
    temporaries_mib: float
    temporaries_ratio: float
    gflop: float  # XLA's count for the compiled step
    state_mib: float  # the method's own


class Step(NamedTuple):
    """A compiled step, and what it is called with."""

    run: Callable[..., Any]
    state: Any
    temporaries_mib: float
    gflop: float
    state_mib: float


def compiled_step(
    method: str, model: Any, image_size: tuple[int, int], batch: Any, task_gradients: str
) -> Step:
    """The training loop's own step with a method; not donated, so that it can be repeated."""
    tasks = tasks_for("nyuv2")
    optimizer = optim.make_optimizer(optim.make_schedule("constant", 1e-4, 1), l2=1e-4)
    options = cpu.compiler_options(sharding.make_mesh())
    balance = balancing.make_balancing(method, {task.name: 1.0 for task in tasks}, 100)
    create = functools.partial(steps.create_state, model, optimizer, balance, image_size, 0)
    step = functools.partial(
        steps.train_step,
        model=model,
        tasks=tasks,
        balancing=balance,
        optimizer=optimizer,
        grads_fn=balancing.grads_fn_for(balance, tasks, task_gradients=task_gradients),
    )
    state = jax.jit(create, compiler_options=options)()
    compiled = jax.jit(step, compiler_options=options).lower(state, batch).compile()
    return Step(
        compiled,
        state,
        compiled.memory_analysis().temp_size_in_bytes / 2**20,
        compiled.cost_analysis()["flops"] / 1e9,
        sum(x.nbytes for x in jax.tree.leaves(state.balancing)) / 2**20,
    )


def measure(method: str, step: Step, base: Step, batch: Any, rounds: int) -> Row:
    """Lets a method's step and that of equal weights take turns, after one each to warm up."""
    seconds = []
    for _ in range(rounds + 1):
        for each in (base, step):
            start = time.perf_counter()
            jax.block_until_ready(each.run(each.state, batch))
            seconds.append(time.perf_counter() - start)
    theirs, ours = min(seconds[2::2]), min(seconds[3::2])
    return Row(
        method,
        ours,
        ours / theirs,
        step.temporaries_mib,
        step.temporaries_mib / base.temporaries_mib,
        step.gflop,
        step.state_mib,
    )


def _methods(text: str) -> list[str]:
    chosen = text.split(",")
    for name in chosen:
        if name not in balancing.METHODS:
            raise argparse.ArgumentTypeError(
                f"'{name}' is unknown; choose from {', '.join(balancing.METHODS)}."
            )
    return [FIRST, *(name for name in chosen if name != FIRST)]


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Parses the flags, measures, prints the table and writes balancing.csv."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=models.NETWORKS, default="ema_net")
    parser.add_argument("--backbone", default="hrnet_w18", help="a name of models.BACKBONES")
    parser.add_argument("--methods", type=_methods, default=list(balancing.METHODS))
    parser.add_argument("--image_size", type=size, default=(96, 128), help="H,W")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--task_gradients", choices=PASSES, default="looped")
    parser.add_argument("--rounds", type=int, default=5, help="steps of every method")
    parser.add_argument("--out", type=pathlib.Path, help="folder for balancing.csv")
    args = parser.parse_args(argv)

    tasks = tasks_for("nyuv2")
    model = models.build(args.network, tasks, backbone=args.backbone, image_size=args.image_size)
    model = steps.NormalisedImages(model, "imagenet")
    batch = jax.tree.map(
        lambda x: np.repeat(x, args.batch_size, axis=0), random_batch(tasks, args.image_size)
    )
    h, w = args.image_size
    print(
        f"{machine()}; {args.network} on {args.backbone}, {h} x {w}, batch {args.batch_size}, "
        f"{len(tasks)} tasks, {args.task_gradients}"
    )
    print(f"{'':12} {'step':>9} {'':>6} {'temporaries':>13} {'':>6} {'GFLOP':>8} {'state':>10}")
    rows = []
    make = functools.partial(
        compiled_step,
        model=model,
        image_size=args.image_size,
        batch=batch,
        task_gradients=args.task_gradients,
    )
    base = make(FIRST)
    for method in args.methods:
        step = base if method == FIRST else make(method)
        row = measure(method, step, base, batch, args.rounds)
        rows.append(row)
        print(
            f"{row.method:12} {row.step_s:7.3f} s {row.step_ratio:5.2f}x "
            f"{row.temporaries_mib:9.0f} MiB {row.temporaries_ratio:5.2f}x {row.gflop:8.1f} "
            f"{row.state_mib:6.1f} MiB",
            flush=True,
        )
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        with (args.out / "balancing.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows(rows)
    return rows


if __name__ == "__main__":
    main()
