"""What a device holds when the rows of an image are shared: memory of a training step by mesh.

    python -m benchmarks.mesh                                  # 1024 x 512, four fake CPU devices
    python -m benchmarks.mesh --model=pad_net --backbone=resnet50 --image_size=512,512
    python -m benchmarks.mesh --batch_size=1                   # one image, over 1, 2 and 4 devices

Compiles the training loop's own step for every way to lay out one, two or four devices that the
batch allows, and prints the memory of one device by XLA's analysis; nothing is trained. Needs
neither TensorFlow nor data.
"""

import argparse
import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from benchmarks.timing import machine, size
from emanet_jax import balancing, cpu, models
from emanet_jax.tasks import tasks_for
from emanet_jax.training import optim, sharding, steps
from emanet_jax.types import Task

# How many devices share a batch, and how many of them an image.
MESHES = ((1, 1), (4, 1), (2, 2), (1, 2), (1, 4))


def batch_shapes(tasks: Sequence[Task], b: int, image_size: tuple[int, int]) -> dict:
    """Shapes and types of a batch."""
    shape = jax.ShapeDtypeStruct
    return {
        "image": shape((b, *image_size, 3), np.uint8),
        "labels": {
            task.name: shape((b, *image_size, task.label_channels), task.label_dtype)
            for task in tasks
        },
        "mask": shape((b,), np.bool_),
    }


def memory(
    name: str, backbone: str, image_size: tuple[int, int], b: int, mesh: Mesh
) -> tuple[float, float]:
    """MiB of temporaries and of arguments that one device of a mesh holds in a training step."""
    tasks = tasks_for("nyuv2")
    model = models.build(name, tasks, backbone=backbone, image_size=image_size)
    model = steps.NormalisedImages(model, "imagenet")
    optimizer = optim.make_optimizer(optim.make_schedule("constant", 1e-4, 1), l2=1e-4)
    balance = balancing.make_balancing("fixed", {task.name: 1.0 for task in tasks}, 1)
    step = functools.partial(
        steps.train_step,
        model=model,
        tasks=tasks,
        balancing=balance,
        optimizer=optimizer,
        grads_fn=balancing.grads_fn_for(balance, tasks),
    )
    create = functools.partial(steps.create_state, model, optimizer, balance, image_size, 0)
    on_all = sharding.replicated(mesh)

    def placed(x: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    state = jax.tree.map(lambda x: placed(x, on_all), jax.eval_shape(create))
    batch = batch_shapes(tasks, b, image_size)
    batch = jax.tree.map(placed, batch, sharding.batch_shardings(batch, mesh))
    jitted = jax.jit(
        step,
        donate_argnums=0,
        out_shardings=on_all,
        compiler_options=cpu.compiler_options(mesh),
    )
    analysis = jitted.lower(state, batch).compile().memory_analysis()
    return analysis.temp_size_in_bytes / 2**20, analysis.argument_size_in_bytes / 2**20


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the flags and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ema_net", help="a name of models.NETWORKS")
    parser.add_argument("--backbone", default="hrnet_w18", help="a name of models.BACKBONES")
    parser.add_argument("--image_size", type=size, default=(1024, 512), help="H,W")
    parser.add_argument("--batch_size", type=int, default=4, help="images of all devices together")
    args = parser.parse_args(argv)
    print(
        f"{machine()}; {args.model} on {args.backbone}, {args.image_size[0]} x "
        f"{args.image_size[1]}, batch {args.batch_size}, float32, memory of one device"
    )
    print("data  rows  temporaries, MiB  arguments, MiB  temporaries of one device / this")
    whole = None
    for data, rows in MESHES:
        if data * rows > jax.device_count() or args.batch_size % data:
            continue
        mesh = sharding.make_mesh(rows, jax.devices()[: data * rows])
        sharding.check_batch_size("batch_size", args.batch_size, mesh)
        sharding.check_spatial(args.image_size, mesh)
        temporaries, arguments = memory(
            args.model, args.backbone, args.image_size, args.batch_size, mesh
        )
        whole = whole or temporaries
        print(
            f"{data:>4}  {rows:>4}  {temporaries:>16.0f}  {arguments:>14.0f}  "
            f"{whole / temporaries:>10.2f}",
            flush=True,
        )


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 4)
    main()
