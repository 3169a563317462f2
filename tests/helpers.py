"""A network, a batch and a state that compile in seconds."""

import functools

import jax
import numpy as np

from emanet_jax import balancing, models
from emanet_jax.network import NormalisedImages
from emanet_jax.tasks import tasks_for
from emanet_jax.training import optim, steps

TASKS = tasks_for("synthrooms")
WEIGHTS = {"semseg": 1.0, "depth": 1.0, "normals": 1.0}
SIZE = (128, 32)  # tall enough to share its rows between two devices


def tiny_model(name: str = "ema_net", backbone: str = "resnet_tiny"):
    """The network's own layers, few and narrow."""
    narrow = {"features": 16, "distilled": 8} if name == "ema_net" else {}
    model = models.build(name, TASKS, backbone=backbone, image_size=SIZE, **narrow)
    return NormalisedImages(model, "imagenet")


def random_batch(b: int, seed: int = 0, size: tuple[int, int] = SIZE):
    """A batch as the pipeline makes it, a tenth of its pixels invalid."""
    rng = np.random.default_rng(seed)
    labels = {}
    for task in TASKS:
        if task.class_names:
            label = rng.integers(0, task.channels, (b, *size, 1)).astype(task.label_dtype)
        else:
            label = rng.uniform(0.5, 9, (b, *size, task.label_channels)).astype(task.label_dtype)
        invalid = rng.random((b, *size, 1)) < 0.1
        label = task.zoom(label, 1.0)  # vectors to unit length
        labels[task.name] = np.where(invalid, task.ignore, label).astype(task.label_dtype)
    image = rng.integers(0, 256, (b, *size, 3)).astype(np.uint8)
    return {"image": image, "labels": labels, "mask": np.ones(b, bool)}


def tiny_training(
    model, total_steps: int = 100, learning_rate: float = 1e-3, method: str = "fixed", **changes
):
    """A fresh state and the jitted training step of a tiny network."""
    schedule = optim.make_schedule("cosine", learning_rate, total_steps)
    optimizer = optim.make_optimizer(schedule, l2=1e-4, clip_norm=None)
    balance = balancing.make_balancing(method, WEIGHTS, steps_per_epoch=2)
    state = jax.jit(functools.partial(steps.create_state, model, optimizer, balance, SIZE, 0))()
    step = functools.partial(
        steps.train_step,
        model=model,
        tasks=TASKS,
        balancing=balance,
        optimizer=optimizer,
        grads_fn=balancing.grads_fn_for(balance, TASKS, **changes),
    )
    return state, step
