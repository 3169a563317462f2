"""One training step of the full EMA-Net on an image of Cityscapes' full size, and what it takes.

    python -m benchmarks.cityscapes_step                   # 1024 x 2048, HRNet-W18, batch 1
    python -m benchmarks.cityscapes_step --image_size=256,512 --steps=3

CTAL sees 256 x 512 = 131072 pixels there: an affinity matrix would hold 1.7e10 numbers, 64 GiB.
The image and labels are random. Needs neither TensorFlow nor the data.
"""

import argparse
import functools
import resource
import time
from collections.abc import Sequence

import jax
import numpy as np

from benchmarks.timing import machine, size
from emanet_jax import balancing, cpu, models
from emanet_jax.tasks import tasks_for
from emanet_jax.training import optim, sharding, steps
from emanet_jax.types import Task


def random_batch(tasks: Sequence[Task], image_size: tuple[int, int]) -> dict:
    """One image of noise with labels: class ids, or numbers between 1 and 2."""
    rng = np.random.default_rng(0)
    labels = {}
    for task in tasks:
        shape = (1, *image_size, task.label_channels)
        high = task.channels if task.class_names else 2
        label = rng.uniform(0, high, shape) if task.class_names else rng.uniform(1, high, shape)
        labels[task.name] = label.astype(task.label_dtype)
    image = rng.integers(0, 256, (1, *image_size, 3)).astype(np.uint8)
    return {"image": image, "labels": labels, "mask": np.ones(1, bool)}


def run(image_size: tuple[int, int], backbone: str, count: int, compile_only: bool) -> None:
    """Compiles the training loop's own step, says what it will hold, and takes `count` steps."""
    tasks = tasks_for("cityscapes")
    model = models.build("ema_net", tasks, backbone=backbone, image_size=image_size)
    model = steps.NormalisedImages(model, "imagenet")
    optimizer = optim.make_optimizer(optim.make_schedule("constant", 1e-4, count), l2=1e-4)
    options = cpu.compiler_options(sharding.make_mesh())
    balance = balancing.make_balancing("fixed", {task.name: 1.0 for task in tasks}, 1)
    create = functools.partial(steps.create_state, model, optimizer, balance, image_size, 0)
    step = functools.partial(
        steps.train_step,
        model=model,
        tasks=tasks,
        balancing=balance,
        optimizer=optimizer,
        grads_fn=balancing.grads_fn_for(balance, tasks),
    )
    batch = random_batch(tasks, image_size)
    start = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=0, compiler_options=options).lower(
        jax.eval_shape(create), batch
    )
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    pixels = image_size[0] * image_size[1] // 16
    print(
        f"{machine()}; ema_net on {backbone}, {image_size[0]} x {image_size[1]}, batch 1, float32"
    )
    print(f"compiled in {time.perf_counter() - start:.0f} s; CTAL on {pixels} pixels")
    print(
        f"temporaries {memory.temp_size_in_bytes / 2**30:.2f} GiB, arguments "
        f"{memory.argument_size_in_bytes / 2**30:.2f} GiB (compiled memory analysis)",
        flush=True,
    )
    if compile_only:
        return
    state = jax.jit(create, compiler_options=options)()
    for number in range(1, count + 1):
        start = time.perf_counter()
        state, scalars = jax.block_until_ready(compiled(state, batch))
        print(
            f"step {number}: loss {float(scalars['loss']):.3f}, gradient norm "
            f"{float(scalars['grad_norm']):.3g}, {time.perf_counter() - start:.1f} s",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"largest resident set of this process {peak / 2**20:.2f} GiB (ru_maxrss)")


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the flags and runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image_size", type=size, default=(1024, 2048), help="H,W")
    parser.add_argument("--backbone", default="hrnet_w18", help="a name of models.BACKBONES")
    parser.add_argument("--steps", type=int, default=1, help="training steps to take")
    parser.add_argument(
        "--compile_only", action="store_true", help="only say what memory a step would take"
    )
    args = parser.parse_args(argv)
    run(args.image_size, args.backbone, args.steps, args.compile_only)


if __name__ == "__main__":
    main()
