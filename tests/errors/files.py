"""One of everything that commands read, and ways to damage it."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from emanet_jax.network import abstract_variables, make_network
from tests.data.layouts import write_labeled, write_mtan
from tests.data.layouts_cityscapes import write_official
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
    """Files of data sets, built records, a run that was converted, its weights."""
    import jax

    from emanet_jax.convert import export_torch, runs
    from emanet_jax.data import pipeline
    from tests import tiny
    from tests.torch_files import save_torch

    write_mtan(root / "nyuv2", 4, 2)
    write_labeled(root / "nyuv2.mat", 3)
    write_official(root / "official", 4, 2)
    write_pascal(root / "pascal", 2, 1)

    config = tiny.get_config(NETWORK)
    with config.unlocked():
        for key, value in SETTINGS.items():
            *group, last = key.split(".")
            (config[group[0]] if group else config)[last] = value
    pipeline.prepare(config.data)

    shapes = abstract_variables(make_network(config)[1], tuple(config.data.image_size))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    weights = export_torch(zeros, config.model.name)
    np.savez(root / "weights.npz", **weights)
    save_torch(root / "weights.pth", weights)
    runs.write_run(config, weights, root / "run")
    rows = [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": None}]
    (root / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "run" / "results.json").write_text(json.dumps({"step": 2, "depth/rmse_m": 0.5}))


Damage = Callable[[Path], object]  # to a folder


def written(path: str, content: bytes | str) -> Damage:
    """A file with other content, or a new one."""
    content = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / path).write_bytes(content)


def truncated(path: str) -> Damage:
    """The first half of a file alone."""
    return lambda folder: os.truncate(folder / path, (folder / path).stat().st_size // 2)


def flipped(path: str) -> Damage:
    """One byte in the middle of a file is another."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / path).read_bytes())
        content[len(content) // 2] ^= 255
        (folder / path).write_bytes(content)

    return damage


def removed(path: str) -> Damage:
    """No such file."""
    return lambda folder: (folder / path).unlink()


def edited(path: str, **changes: object) -> Damage:
    """Other values in a JSON object; Ellipsis takes a key out."""

    def damage(folder: Path) -> None:
        content = {**json.loads((folder / path).read_text()), **changes}
        content = {key: value for key, value in content.items() if value is not ...}
        (folder / path).write_text(json.dumps(content))

    return damage


def twin(**changes: object) -> Damage:
    """A second run, whose config differs."""

    def damage(folder: Path) -> None:
        shutil.copytree(folder / "run", folder / "twin")
        edited("twin/config.json", **changes)(folder)

    return damage


def array(path: str, values: object) -> Damage:
    """Another array in a .npy file."""
    return lambda folder: np.save(folder / path, np.asarray(values))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
