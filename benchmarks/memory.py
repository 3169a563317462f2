"""What recomputing and micro-batches cost in time, and save in memory, of a training step.

    python -m benchmarks.memory                       # EMA-Net and HPS at 96 x 128, batch 4
    python -m benchmarks.memory --networks=ema_net --image_size=288,384 --batch_size=8
    python -m benchmarks.memory --topology=v5e:2x2    # for a TPU that is not there; needs libtpu

Memory is that of XLA's own analysis of the compiled step: what it holds beside state and batch.
Operations are XLA's count too. Images and labels are random. Needs neither TensorFlow nor data.
"""

import argparse
import functools
import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from benchmarks.cityscapes_step import random_batch
from benchmarks.timing import machine, seconds, size
from emanet_jax import balancing, cpu, models
from emanet_jax.models.remat import CHOICES, rematerialised
from emanet_jax.tasks import tasks_for
from emanet_jax.training import optim, sharding, steps


class Row(NamedTuple):
    """A line of the table."""

    network: str
    remat: str
    accumulate: int
    temporaries_mib: float
    gflop: float
    step_s: float  # NaN where the device is not there
    compile_s: float


def measure(
    name: str,
    backbone: str,
    image_size: tuple[int, int],
    batch_size: int,
    choice: str,
    parts: int,
    precision: str = "float32",
    device: jax.Device | None = None,
) -> Row:
    """Compiles the training loop's own step and takes some.

    `device` is one that can be compiled for and is not there; then no step is taken.
    """
    tasks = tasks_for("nyuv2")
    dtype = jnp.dtype(precision)
    model = models.build(name, tasks, backbone=backbone, image_size=image_size, dtype=dtype)
    model = steps.NormalisedImages(model, "imagenet")
    optimizer = optim.make_optimizer(optim.make_schedule("constant", 1e-4, 1), l2=1e-4)
    mesh = sharding.make_mesh(devices=[device or jax.devices()[0]])
    options = cpu.compiler_options(mesh)
    balance = balancing.make_balancing("fixed", {task.name: 1.0 for task in tasks}, 1)
    create = functools.partial(steps.create_state, model, optimizer, balance, image_size, 0)
    step = functools.partial(
        steps.train_step,
        model=rematerialised(model, choice),
        tasks=tasks,
        balancing=balance,
        optimizer=optimizer,
        grads_fn=balancing.grads_fn_for(balance, tasks, accumulate=parts),
    )
    batch = jax.tree.map(
        lambda x: np.repeat(x, batch_size, axis=0), random_batch(tasks, image_size)
    )
    start = time.perf_counter()
    # Not donated, so that the same state can be stepped from again: donation saves its 2nd copy.
    jitted = jax.jit(step, compiler_options=options, in_shardings=sharding.replicated(mesh))
    compiled = jitted.lower(jax.eval_shape(create), batch).compile()
    compile_s = time.perf_counter() - start
    temporaries = compiled.memory_analysis().temp_size_in_bytes / 2**20
    step_s = math.nan
    if device is None:
        step_s = seconds(compiled, jax.jit(create, compiler_options=options)(), batch)
    gflop = compiled.cost_analysis()["flops"] / 1e9
    return Row(name, choice, parts, temporaries, gflop, step_s, compile_s)


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
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--topology", help="compile for this kind of TPU, such as v5e:2x2")
    args = parser.parse_args(argv)

    device = None
    if args.topology:
        device = topologies.get_topology_desc(args.topology, platform="tpu").devices[0]
    print(
        f"{machine()}; {f'compiled for {device.device_kind}; ' if device else ''}"
        f"{args.backbone}, {args.image_size}, batch {args.batch_size}, {args.precision}"
    )
    print(
        f"{'':10} {'remat':12} {'micro-batches':>13} {'temporaries':>16} {'operations':>11} "
        f"{'step':>8} {'compile':>8}"
    )
    rows = []
    for name in args.networks:
        for parts in args.accumulate:
            for choice in args.remat:
                row = measure(
                    name,
                    args.backbone,
                    args.image_size,
                    args.batch_size,
                    choice,
                    parts,
                    args.precision,
                    device,
                )
                rows.append(row)
                print(
                    f"{name:10} {choice:12} {parts:13} {row.temporaries_mib:12.0f} MiB "
                    f"{row.gflop:6.0f} GFLOP {row.step_s:6.2f} s {row.compile_s:6.0f} s",
                    flush=True,
                )
    return rows


if __name__ == "__main__":
    main()
