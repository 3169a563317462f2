"""Workdirs as training leaves them, made without training."""

import json
from pathlib import Path

import numpy as np
from etils import epath

from emanet_jax.network import abstract_variables
from emanet_jax.tasks import tasks_for
from emanet_jax.training import environment, workdir
from tests import tiny

NETWORK = "backbone=segnet_tiny"
STEPS = 12


def make_config(network: str, seed: int = 0, data_dir: str = "data"):
    """The smallest backbone, three tasks."""
    config = tiny.get_config(f"model={network},{NETWORK}").copy_and_resolve_references()
    with config.unlocked():
        config.seed = seed
        config.model.overrides = {}
        config.data.data_dir = data_dir
        config.data.train_examples, config.data.val_examples = 8, 4
    return config


def write_run(directory: Path, config, step: int = STEPS) -> None:
    """Curves, results and environment of a run that stopped at `step` of `STEPS`; no checkpoint."""
    directory.mkdir(parents=True)
    place = epath.Path(directory)
    workdir.write(place / workdir.CONFIG, workdir.to_json(config))
    tasks = tasks_for(config.data.dataset, config.tasks)
    rng = np.random.default_rng([config.seed, *config.model.name.encode()])
    results = {
        f"{task.name}/{name}": float(rng.uniform(10, 20))
        for task in tasks
        for name in task.metric_names()
    }
    classes = {
        f"{task.name}/iou_percent": dict.fromkeys(task.class_names, 50.0)
        for task in tasks
        if task.class_names
    }
    rows = []
    for done in range(2, step + 1, 2):
        losses = {f"train/loss_{task.name}": float(rng.uniform(1, 2)) / done for task in tasks}
        rows.append({"step": done, **losses, "train/images_per_second": 100.0 + done})
    rows.append({"step": step, **{f"eval/{name}": value for name, value in results.items()}})
    (directory / workdir.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, values in ((workdir.RESULTS, results), (workdir.PER_CLASS, classes)):
        (directory / name).write_text(json.dumps({"step": step, **values}))
    environment.record(place, config, 0, STEPS)


def write_checkpoint(directory: Path, config, step: int = STEPS) -> None:
    """A checkpoint with random weights, which were never trained."""
    import jax

    from emanet_jax.training.checkpoint import Checkpoints
    from emanet_jax.training.experiment import (
        checkpoint_policy,
        first_state,
        make_network,
    )

    tasks, model = make_network(config)
    shapes = abstract_variables(model, tuple(config.data.image_size))
    rng = np.random.default_rng(config.seed)
    variables = jax.tree.map(lambda x: np.abs(rng.normal(0, 0.1, x.shape)).astype(x.dtype), shapes)
    policy = checkpoint_policy(config, tasks)
    with Checkpoints(epath.Path(directory) / workdir.CHECKPOINTS, policy) as checkpoints:
        checkpoints.save(first_state(config, tasks, variables), step)
