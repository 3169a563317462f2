"""Writes synthetic rooms in the file layouts that users have."""

import pathlib

import h5py
import numpy as np

from emanet_jax.data import nyuv2
from emanet_jax.synthetic import render_room


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


def raw_labels(ids: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Labels 0..894 that stand for these ids, 255 = none; any of a class's, block by block."""
    table = nyuv2.class_ids(classes)
    chosen = {k: rng.permutation(np.flatnonzero(table == k)) for k in np.unique(ids)}
    raw = np.zeros(ids.shape, np.uint16)
    for k, numbers in chosen.items():
        blocks = np.add.outer(np.arange(ids.shape[0]) // 4, np.arange(ids.shape[1]) // 4)
        raw = np.where(ids == k, numbers[blocks % len(numbers)], raw)
    return raw.astype(np.uint16)


def write_labeled(
    path: pathlib.Path, count: int = 12, image_size: tuple[int, int] = (32, 64), classes: int = 13
) -> dict[str, np.ndarray]:
    """nyu_depth_v2_labeled.mat with `count` rooms, as MATLAB 7.3 writes it.

    Returns the arrays (n, h, w[, 3]) that were written, and `ids` and the rooms' exact `normals`.
    """
    rng = np.random.default_rng(0)
    rooms = [render_room(0, i, image_size) for i in range(count)]
    clean = [render_room(0, i, image_size, clean=True) for i in range(count)]
    ids = np.stack([room["semseg"][..., 0] for room in rooms])
    if classes == 40:  # thirteen do not tell forty: any will do
        ids = np.where(ids == 255, 255, (3 * ids + ids % 5) % 40).astype(np.uint8)
    arrays = {
        "images": np.stack([room["image"] for room in rooms]),
        "depths": np.stack([room["depth"][..., 0] for room in clean]),
        "rawDepths": np.stack([room["depth"][..., 0] for room in rooms]),
        "labels": np.stack([raw_labels(x, classes, rng) for x in ids]),
        "instances": rng.integers(0, 9, ids.shape).astype(np.uint8),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        for field, values in arrays.items():
            turned = values.transpose(0, *range(values.ndim - 1, 0, -1))
            chunks = (1, *turned.shape[1:])
            stored = file.create_dataset(field, data=turned, chunks=chunks, compression=3)
            kind = "single" if values.dtype == np.float32 else values.dtype.name
            stored.attrs["MATLAB_class"] = np.bytes_(kind)
        names = file.create_dataset("names", (1, 894), h5py.ref_dtype)
        names.attrs["MATLAB_class"] = np.bytes_(b"cell")
        for i in range(894):
            letters = np.frombuffer(f"class {i + 1}".encode("utf-16-le"), np.uint16)
            file[f"#refs#/{i}"] = letters[:, None]
            names[0, i] = file[f"#refs#/{i}"].ref
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2012 HDF5"
    with path.open("r+b") as file:
        file.write(header.ljust(124, b" ") + b"\x00\x02IM")
    return {**arrays, "ids": ids, "normals": np.stack([room["normals"] for room in clean])}
