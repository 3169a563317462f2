"""Tasks: what networks predict, with the losses, metrics and colours of each."""

from emanet_jax.tasks.registry import (
    DATASETS,
    DatasetSpec,
    depth,
    disparity,
    edge,
    human_parts,
    normals,
    register_dataset,
    register_task,
    saliency,
    semseg,
    tasks_for,
)

__all__ = [
    "DATASETS",
    "DatasetSpec",
    "depth",
    "disparity",
    "edge",
    "human_parts",
    "normals",
    "register_dataset",
    "register_task",
    "saliency",
    "semseg",
    "tasks_for",
]
