"""The golden data's rules as code: how the reference's weights, images and labels were made.

`tests/golden/NAME` holds what the reference PyTorch networks computed from them in float64; see
its manifest.json. Arrays there are (b, c, h, w), here (b, h, w, c).
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np

from emanet_jax.tasks import tasks_for

OURS = {"sal": "saliency"}  # names of tasks that differ
GOLDEN = Path(__file__).parent / "golden"


def manifest(name):
    return json.loads((GOLDEN / name / "manifest.json").read_text())


def tasks(name):
    """The tasks of a case, in the order that the reference has them in."""
    spec = manifest(name)
    dataset = "pascal_context" if spec["ignore"] == 255 else "nyuv2"
    return tasks_for(dataset, [OURS.get(task, task) for task in spec["tasks"]])


def loss_weights(name):
    """{our task: its weight in the reference's total}."""
    spec = manifest(name)
    return {OURS.get(task, task): spec["loss_weights"].get(task, 1.0) for task in spec["tasks"]}


def outputs(name):
    """{"eval/KEY" | "after/KEY": (b, c, h, w)}, every `stride`-th pixel of the network's output."""
    with np.load(GOLDEN / name / "outputs.npz") as arrays:
        return dict(arrays)


def seen(x, stride):
    """What the golden arrays keep of a map (b, h, w, c)."""
    return np.asarray(x)[:, ::stride, ::stride].transpose(0, 3, 1, 2)


def state_dict(name):
    """The reference's weights: name to float32 array (counters int64) in PyTorch's layouts."""
    return {
        key: weights(key, shape)
        for key, shape, kind in manifest(name)["state_dict"]
        if kind != "buffer"
    }


def weights(name, shape):
    r = np.random.RandomState(zlib.crc32(name.encode()))
    n = math.prod(shape)
    last = name.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.zeros((), np.int64)
    if last in ("running_mean", "bias"):
        values = 0.1 * r.standard_normal(n)
    elif last == "running_var":
        values = 0.5 + r.random_sample(n)
    elif last == "logit_scale":
        values = math.log(10) + 0.1 * r.standard_normal(n)
    elif len(shape) == 1:
        values = 0.75 + 0.5 * r.random_sample(n)
    else:
        values = r.standard_normal(n) * math.sqrt(1 / math.prod(shape[1:]))
    return values.reshape(shape).astype(np.float32)


def images(name):
    """(b, h, w, 3) float32 in [0, 1), fed as they are."""
    spec = manifest(name)["input"]
    x = np.random.RandomState(spec["seed"]).random_sample(spec["shape"]).astype(np.float32)
    return x.transpose(0, 2, 3, 1)


def labels(name):
    """{task: (b, h, w, k)} in this project's names and conventions.

    Ignored are 255 in class maps and the zero vector in normals, whatever the reference had.
    """
    spec = manifest(name)
    seed, (b, _, h, w), ignore = spec["input"]["seed"], spec["input"]["shape"], spec["ignore"]
    made = {}
    for task, channels in spec["tasks"].items():
        r = np.random.RandomState(seed + zlib.crc32(task.encode()) % 1000)
        if task in ("semseg", "human_parts"):
            x = r.randint(0, channels, (b, h, w))
            x[r.random_sample((b, h, w)) < 0.1] = ignore
            x = np.where(x == ignore, 255, x)[:, None].astype(np.uint8)
        elif task == "depth":
            x = 0.5 + 9 * r.random_sample((b, 1, h, w))
            x[r.random_sample((b, 1, h, w)) < 0.1] = 0
        elif task == "normals":
            x = r.standard_normal((b, 3, h, w))
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            x = np.where(r.random_sample((b, 1, h, w)) < 0.1, 0, x)
        elif task in ("sal", "edge"):
            x = (r.random_sample((b, 1, h, w)) < 0.2).astype(np.uint8)
            x[r.random_sample((b, 1, h, w)) < 0.1] = ignore
        else:
            raise ValueError(f"no rule for the labels of {task}")
        x = x.transpose(0, 2, 3, 1)
        name = "saliency" if task == "sal" else task
        made[name] = x if x.dtype == np.uint8 else x.astype(np.float32)
    return made
