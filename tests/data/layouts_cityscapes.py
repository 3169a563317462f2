"""Writes synthetic rooms as if they were Cityscapes, in both layouts that users have."""

import pathlib

import numpy as np
from PIL import Image

from emanet_jax.synthetic import render_room
from tests.data.settings import SIZE, data_config

FULL = (64, 128)  # of files in the official layout

# The ids of Cityscapes' label files by class of the 19, from the table in its scripts.
LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
# flat, construction, object, nature, sky, human, vehicle
CATEGORIES = [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6, 6, 6, 6, 6, 6]
CITIES = {"train": ("aachen", "bochum"), "val": ("frankfurt",)}


def street(index: int, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Image uint8 (h, w, 3); 19 classes `train_ids` (h, w), 255 = none; disparity's uint16 code."""
    room = render_room(0, index, image_size)
    label, depth = room["semseg"][..., 0].astype(int), room["depth"][..., 0]
    return {
        "image": room["image"],
        "train_ids": np.where(label == 255, 255, (label + index) % 19).astype(np.uint8),
        # Metres of a room as ten metres of a street.
        "code": np.where(depth > 0, 256 * 47.4 / np.maximum(depth, 0.5) + 1, 0).astype(np.uint16),
    }


def categories(train_ids: np.ndarray) -> np.ndarray:
    """The 7 classes of 19; 255 = none."""
    return np.where(train_ids == 255, 255, np.array(CATEGORIES)[np.minimum(train_ids, 18)])


def official_name(split: str, i: int) -> str:
    """CITY/CITY_000000_00000i: images take turns between a split's cities."""
    city = CITIES[split][i % len(CITIES[split])]
    return f"{city}/{city}_000000_{i:06d}"


def official_paths(root: pathlib.Path, split: str, name: str) -> dict[str, pathlib.Path]:
    return {
        "image": root / "leftImg8bit" / split / f"{name}_leftImg8bit.png",
        "semseg": root / "gtFine" / split / f"{name}_gtFine_labelIds.png",
        "depth": root / "disparity" / split / f"{name}_disparity.png",
    }


def write_official(
    root: pathlib.Path, n_train: int = 4, n_val: int = 2, image_size: tuple[int, int] = FULL
) -> pathlib.Path:
    """leftImg8bit, gtFine and disparity in the folders and names of Cityscapes' site."""
    for split, count, first in (("train", n_train, 0), ("val", n_val, 1000)):
        for i in range(count):
            scene = street(first + i, image_size)
            paths = official_paths(root, split, official_name(split, i))
            table = np.full(256, 4)  # "static": no class
            table[:19] = LABEL_IDS
            ids = table[scene["train_ids"]].astype(np.uint8)
            for field, values in (("image", scene["image"]), ("semseg", ids)):
                paths[field].parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(paths[field])
            paths["depth"].parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene["code"]).save(paths["depth"])
            # Files that come with them and that nobody reads.
            paths["semseg"].with_name("polygons.json").write_text("{}")
            Image.fromarray(ids).save(str(paths["semseg"]).replace("labelIds", "instanceIds"))
    return root


def write_mtan_streets(
    root: pathlib.Path,
    n_train: int = 12,
    n_val: int = 2,
    image_size: tuple[int, int] = SIZE,
    dtype: str = "float32",
    label_dtype: str = "float32",
    folders: tuple[str, ...] = ("label_7", "label_19"),
) -> pathlib.Path:
    """ROOT/{train,val}/{image,depth,<label folders>}/{i}.npy as in MTAN's copy of Cityscapes."""
    for split, count, first in (("train", n_train, 0), ("val", n_val, 1000)):
        for i in range(count):
            scene = street(first + i, image_size)
            fields = {
                "image": (scene["image"] / 255).astype(dtype),
                "depth": (scene["code"] / 65535)[..., None].astype(dtype),
            }
            for folder in folders:
                label = scene["train_ids"].astype(int)
                label = label if folder == "label_19" else categories(label)
                fields[folder] = np.where(label == 255, -1, label).astype(label_dtype)
            for folder, values in fields.items():
                (root / split / folder).mkdir(parents=True, exist_ok=True)
                np.save(root / split / folder / f"{i}.npy", values)
    return root


def config_of(root: pathlib.Path, tmp_path: pathlib.Path, **changes):
    """config.data of files in ROOT, whose name is their layout; records go to tmp_path."""
    settings = {
        "dataset": "cityscapes",
        "layout": root.name,
        "manual_dir": str(root),
        "image_size": {"mtan": SIZE, "official": FULL}[root.name],
        **changes,
    }
    return data_config(tmp_path / "built", **settings)
