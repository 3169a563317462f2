"""Writes synthetic rooms in the file layouts that users have."""

import pathlib

import numpy as np

from emanet_jax.data.rooms import render_room


def write_mtan(
    root: pathlib.Path,
    n_train: int = 6,
    n_val: int = 3,
    image_size: tuple[int, int] = (32, 64),
    dtype: str = "float32",
    label_dtype: str | None = None,
) -> pathlib.Path:
    """ROOT/{train,val}/{image,label,depth,normal}/{i}.npy as in MTAN's copy of NYUv2."""
    for split, count, first in (("train", n_train, 0), ("val", n_val, 1000)):
        for i in range(count):
            room = render_room(0, first + i, image_size)
            label = room["semseg"][..., 0].astype(np.int64)
            fields = {
                "image": (room["image"] / 255).astype(dtype),
                "label": np.where(label == 255, -1, label).astype(label_dtype or dtype),
                "depth": room["depth"].astype(dtype),
                "normal": room["normals"].astype(dtype),
            }
            for field, values in fields.items():
                folder = pathlib.Path(root) / split / field
                folder.mkdir(parents=True, exist_ok=True)
                np.save(folder / f"{i}.npy", values)
    return pathlib.Path(root)
