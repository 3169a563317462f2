"""A folder with one of everything that commands read, whole: `python -m tests.faults.files`."""

import json
import sys
from pathlib import Path

import numpy as np

from tests.data.layouts import write_labeled, write_mtan
from tests.data.layouts_cityscapes import write_mtan_streets, write_official
from tests.data.layouts_pascal import write_pascal

# The cheapest network: one task on the smallest backbone.
NETWORK = "model=hps,backbone=segnet_tiny"
SETTINGS = {
    "tasks": ("depth",),
    "checkpoint.best_metric": "depth/rmse_m",
    "model.overrides": {},
    "data.train_examples": 8,
    "data.val_examples": 4,
}


def write(root: Path) -> None:
    """Files of every data set, built records, a run that was converted, its weights."""
    import jax

    from emanet_jax import inference
    from emanet_jax.convert import export_torch, runs
    from emanet_jax.data import pipeline
    from emanet_jax.training.experiment import make_network
    from tests import tiny
    from tests.torch_files import save_torch

    write_mtan(root / "nyuv2", 4, 2)
    write_labeled(root / "nyuv2.mat", 3)
    write_official(root / "official", 4, 2)
    write_mtan_streets(root / "streets", 4, 2)
    write_pascal(root / "pascal", 2, 1)

    config = tiny.get_config(NETWORK)
    with config.unlocked():
        for key, value in SETTINGS.items():
            *group, last = key.split(".")
            (config[group[0]] if group else config)[last] = value
    pipeline.prepare(config.data)

    shapes = inference.shapes(make_network(config)[1], tuple(config.data.image_size))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    weights = export_torch(zeros, config.model.name)
    np.savez(root / "weights.npz", **weights)
    save_torch(root / "weights.pth", weights)
    runs.write_run(config, weights, root / "run")
    rows = [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": None}]
    (root / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "run" / "results.json").write_text(json.dumps({"step": 2, "depth/rmse_m": 0.5}))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
