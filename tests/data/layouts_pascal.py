"""Writes synthetic rooms in the layout of PASCAL-Context's five tasks."""

import pathlib

import numpy as np
from PIL import Image
from scipy.io import savemat

from emanet_jax.synthetic import render_room
from tests.data.settings import data_config

# Images have sizes of their own.
SIZES = ((48, 64), (64, 40), (40, 56))
# The room's 13 classes as classes of LabelMap: bed, book, ceiling, chair, floor, cabinet, two that
# have no valid normals, sofa, table, tvmonitor, wall, window.
CONTEXT = np.array([18, 33, 68, 72, 158, 46, 104, 355, 368, 397, 427, 440, 454])
WITHOUT_NORMALS = (6, 7)
# The same as classes of VOC: chair, sofa, diningtable and tvmonitor are; the rest is background.
VOC = np.array([0, 0, 0, 9, 0, 0, 0, 0, 18, 11, 20, 0, 0])
PART_NAMES = ("head", "torso", "luarm", "rlarm", "lhand", "ruleg", "lfoot")
PART_IDS = (1, 2, 3, 4, 4, 5, 6)


def image_name(split: str, i: int) -> str:
    return f"{'2008' if split == 'train' else '2010'}_{i:06d}"


def scene(split: str, i: int) -> dict[str, np.ndarray]:
    """A room's own labels: image, label (h, w) 0..12, and normals (h, w, 3)."""
    index = i + (0 if split == "train" else 1000)
    room = render_room(0, index, SIZES[index % len(SIZES)], clean=True)
    label = room["semseg"][..., 0]
    return {**room, "label": np.where(label == 255, 6, label)}


def struct(**fields):
    """A 1x1 MATLAB struct."""
    return structs([fields])


def structs(items: list[dict]):
    """A 1xN MATLAB struct array; an empty one is what MATLAB makes of `[]`."""
    if not items:
        return np.zeros((0, 0))
    array = np.empty((1, len(items)), dtype=[(name, object) for name in items[0]])
    for k, item in enumerate(items):
        for name, value in item.items():
            array[0, k][name] = value
    return array


def person(bands: np.ndarray, names=PART_NAMES) -> dict:
    """A person whose k-th part is the pixels where `bands` (h, w) is k."""
    parts = [
        {"part_name": name, "mask": (bands == k).astype(np.uint8)} for k, name in enumerate(names)
    ]
    mask = (bands >= 0).astype(np.uint8)
    return {"class": "person", "class_ind": 15, "mask": mask, "parts": structs(parts)}


def bands_of(size: tuple[int, int]) -> np.ndarray:
    """Seven stripes from top to bottom in the middle third; -1 elsewhere."""
    h, w = size
    bands = np.repeat((np.arange(h) * len(PART_NAMES) // h)[:, None], w, axis=1)
    bands[:, : w // 3] = bands[:, 2 * w // 3 :] = -1
    return bands


def write_anno(path: pathlib.Path, objects: list[dict]) -> None:
    anno = struct(imname=path.stem, objects=structs(objects))
    savemat(path, {"anno": anno}, do_compression=True)


def paths_of(root: pathlib.Path, split: str, i: int) -> dict[str, pathlib.Path]:
    """Every third image's classes lie in the folder pascal-context, the others' in VOC12."""
    name = image_name(split, i)
    folder = "pascal-context" if i % 3 == 2 else "VOC12"
    return {
        "image": root / "JPEGImages" / f"{name}.jpg",
        "semseg": root / "semseg" / folder / f"{name}.png",
        "normals": root / "normals_distill" / f"{name}.png",
        "saliency": root / "sal_distill" / f"{name}.png",
        "edge": root / "pascal-context" / "trainval" / f"{name}.mat",
        "human_parts": root / "human_parts" / f"{name}.mat",
    }


def write_pascal(root: pathlib.Path, n_train: int = 4, n_val: int = 3) -> pathlib.Path:
    """The folders of the PASCAL_MT tarball; images 0, 2, ... of a split show a person."""
    for split, count in (("train", n_train), ("val", n_val)):
        lists = root / "ImageSets" / "Context"
        lists.mkdir(parents=True, exist_ok=True)
        names = [image_name(split, i) for i in reversed(range(count))]
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for i in range(count):
            room, paths = scene(split, i), paths_of(root, split, i)
            for path in paths.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            label = room["label"]
            Image.fromarray(room["image"]).save(paths["image"], quality=95)
            semseg = Image.fromarray(np.where(label == 12, 255, VOC[label]).astype(np.uint8))
            if i % 3 < 2:  # VOC's files have palettes
                semseg.putpalette(list(range(256)) * 3)
            semseg.save(paths["semseg"])
            codes = np.rint((room["normals"] + 1) * 127.5).astype(np.uint8)
            Image.fromarray(codes).save(paths["normals"])
            salient = np.where(label == 3, 128, np.where(label == 9, 255, 127 * (label > 5)))
            Image.fromarray(salient.astype(np.uint8)).save(paths["saliency"])
            context = {"LabelMap": CONTEXT[label].astype(np.uint16)}
            savemat(paths["edge"], context, do_compression=True)
            thing = {"class": "chair", "class_ind": 9, "mask": (label == 3).astype(np.uint8)}
            objects = [{**thing, "parts": structs([])}]
            if i % 2 == 0:
                objects.append(person(bands_of(label.shape)))
            write_anno(paths["human_parts"], objects)
    return root


def config_of(root: pathlib.Path, tmp_path: pathlib.Path, **changes):
    """config.data of files in ROOT; records go to tmp_path."""
    settings = {
        "dataset": "pascal_context",
        "layout": "pascal_mt",
        "image_size": (64, 64),
        **changes,
    }
    return data_config(tmp_path / "built", manual_dir=str(root), **settings)
