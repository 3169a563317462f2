"""PASCAL-Context: five tasks, from the files of PASCAL_MT.

The layout is that of PASCAL_MT (Maninis et al., "Attentive Single-Tasking of Multiple Tasks",
2019), which the tarball of InvPT's authors keeps:

    ImageSets/Context/{train,val}.txt       the ids of the images, one a line
    JPEGImages/ID.jpg
    semseg/VOC12/ID.png                     21 classes, 255 = ignored; where it is missing
    semseg/pascal-context/ID.png            the same
    human_parts/ID.mat                      persons and their parts (PASCAL-Part)
    normals_distill/ID.png, sal_distill/ID.png   predicted by networks
    pascal-context/trainval/ID.mat          LabelMap of 459 classes

Images have sizes of their own, up to 500x500; examples keep them.
"""

import functools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from emanet_jax import menu
from emanet_jax.data import files, records
from emanet_jax.data.files import Entry
from emanet_jax.errors import UserError
from emanet_jax.tasks import tasks_for
from emanet_jax.tasks.palettes import PASCAL21
from emanet_jax.types import Task

SPLITS = ("train", "val")

# Normals were predicted by a network trained on NYUv2 and are believed on things that it knew: the
# classes of PASCAL-Context, by number in LabelMap, that are among NYUv2's 40 classes by name
# (shelves, tvmonitor and book being its shelves, television and books).
SHARED_WITH_NYU = {
    "bag": 9,
    "bed": 18,
    "book": 33,
    "cabinet": 46,
    "ceiling": 68,
    "chair": 72,
    "curtain": 105,
    "door": 115,
    "floor": 158,
    "person": 284,
    "shelves": 349,
    "sofa": 368,
    "table": 397,
    "tvmonitor": 427,
    "wall": 440,
    "window": 454,
}
_LARGEST_CLASS = 459

_PIXELS = {
    "image": (("RGB",), "colours of 8 bits"),
    "semseg": (("L", "P"), "class ids of 8 bits"),
    "normals": (("RGB",), "normals as colours of 8 bits"),
    "saliency": (("L",), "grey values of 8 bits"),
}

# PASCAL-Part's names of the parts of a person, by class.
_PARTS = {
    1: "head leye reye lear rear lebrow rebrow nose mouth hair",
    2: "torso neck",
    3: "luarm ruarm",
    4: "llarm rlarm lhand rhand",
    5: "luleg ruleg",
    6: "llleg rlleg lfoot rfoot",
}
PART_CLASSES = {part: number for number, parts in _PARTS.items() for part in parts.split()}


def builder(data: ConfigDict, trained: Sequence[Task]) -> records.RecordsBuilder:
    """The builder for config.data: its keys manual_dir and negate_normals.

    `image_size` is the size that training crops to and evaluation pads to; it changes no example.

    Raises:
        UserError: the folder is not laid out as it should be.
    """
    root = files.manual_dir(data.manual_dir, menu.LAYOUTS["pascal_context"]["pascal_mt"])
    signs = files.signs(data.negate_normals)
    ids = {split: read_ids(ids_path(root, split)) for split in SPLITS}
    both = sorted(set(ids["train"]) & set(ids["val"]))
    if both:
        raise UserError(f"{ids_path(root, 'val')} names '{both[0]}', which train.txt has too.")
    listing = {
        split: [Entry(f"{split}/{name}", _paths(root, name)) for name in ids[split]]
        for split in SPLITS
    }
    negated = f"negated-{data.negate_normals}" if data.negate_normals else "as-stored"
    return records.builder_of_files(
        "pascal_context",
        version="1.0.0",
        settings=f"normals-{negated}",
        root=root,
        data_dir=data.data_dir,
        listing=listing,
        read=functools.partial(read, signs=signs),
        image_size=None,
        image_dtype="uint8",
        tasks=tasks_for("pascal_context", classes=data.classes),
        trained=trained,
        also_reads={"normals": ("edge",)},
    )


def ids_path(root: Path, split: str) -> Path:
    """The file that lists a split's ids."""
    return root / "ImageSets" / "Context" / f"{split}.txt"


def read_ids(path: Path) -> list[str]:
    """The ids in a file, sorted.

    Raises:
        UserError: the file is missing or empty, names one twice, or holds something else.
    """
    try:
        ids = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error
    if not ids:
        raise UserError(f"{path} is empty; it must hold the ids of the images, one a line.")
    odd = [name for name in ids if not re.fullmatch(r"[\w-]{1,100}", name)]
    if odd:
        raise UserError(f"{path} names {odd[0][:100]!r}, which is no id such as 2008_000002.")
    twice = sorted(name for name, count in Counter(ids).items() if count > 1)
    if twice:
        raise UserError(f"{path} names '{twice[0]}' twice.")
    return sorted(ids)


def _paths(root: Path, name: str) -> dict[str, Path]:
    voc = root / "semseg" / "VOC12" / f"{name}.png"
    return {
        "image": root / "JPEGImages" / f"{name}.jpg",
        "semseg": voc if voc.exists() else root / "semseg" / "pascal-context" / f"{name}.png",
        "normals": root / "normals_distill" / f"{name}.png",
        "saliency": root / "sal_distill" / f"{name}.png",
        "edge": root / "pascal-context" / "trainval" / f"{name}.mat",
        "human_parts": root / "human_parts" / f"{name}.mat",
    }


def read(paths: dict[str, Path], signs: np.ndarray) -> dict[str, np.ndarray]:
    """Reads and checks the files of one image.

    Args:
        paths: by field; a label's may be left out, `edge` (which `normals` needs too) being the map
            of all classes.
        signs: factors (3,) of the normals' axes.

    Returns:
        image (h, w, 3) uint8; of the labels that have a path, semseg, human_parts (h, w, 1) uint8,
        255 = ignore; saliency and edge (h, w, 1) uint8, 0 or 1; normals (h, w, 3) float32, unit or
        zero = invalid.

    Raises:
        UserError: a file cannot be read or holds something else.
    """
    pixels = {
        field: files.load_picture(path, *_PIXELS[field])
        for field, path in paths.items()
        if field in _PIXELS
    }
    if "edge" in paths:
        pixels["edge"] = np.asarray(files.load_mat(paths["edge"], "LabelMap"))
        if pixels["edge"].ndim != 2:
            raise UserError(
                f"{paths['edge']}: LabelMap has the shape {pixels['edge'].shape} but must have "
                "(h, w), that of the image."
            )
    files.check_sizes(paths, pixels)
    example = {"image": pixels["image"]}
    if "semseg" in paths:
        semseg, last = pixels["semseg"], len(PASCAL21) - 1
        known = (semseg <= last) | (semseg == 255)
        files.check(paths["semseg"], "classes", semseg, known, f"0 to {last} or 255 (ignored)")
        example["semseg"] = semseg[..., None]
    if "edge" in paths:
        context = pixels["edge"]
        known = np.isin(context, np.arange(_LARGEST_CLASS + 1))
        files.check(paths["edge"], "classes", context, known, f"whole, 0 to {_LARGEST_CLASS}")
        example["edge"] = boundaries(context).astype(np.uint8)[..., None]
    if "normals" in paths:
        valid = np.isin(pixels["edge"], [*SHARED_WITH_NYU.values()])
        example["normals"] = decode_normals(pixels["normals"], signs, valid)
    if "saliency" in paths:
        example["saliency"] = (pixels["saliency"] > 127.5).astype(np.uint8)[..., None]
    if "human_parts" in paths:
        parts = human_parts(paths["human_parts"], example["image"].shape[:2])
        example["human_parts"] = parts[..., None]
    return example


def decode_normals(codes: np.ndarray, signs: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Unit vectors (h, w, 3) float32 from uint8 codes of [-1, 1]; zero where not valid (h, w)."""
    # No code stands for 0, so that no length is 0.
    vectors = signs * (codes * np.float32(2 / 255) - 1)
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(valid[..., None], unit, 0).astype(np.float32)


def boundaries(labels: np.ndarray) -> np.ndarray:
    """Pixels (h, w) bool whose right or lower neighbour has another label: lines one pixel wide."""
    edges = np.zeros(labels.shape, bool)
    edges[:, :-1] = labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def human_parts(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Parts of persons (h, w) uint8: 0 = elsewhere, 1 to 6; all 255 where no person has parts.

    Later parts cover earlier ones, as in the files' use by PASCAL_MT.

    Args:
        path: of a file with PASCAL-Part's struct `anno`.
        size: (h, w) that its masks must have.

    Raises:
        UserError: the file holds something else or a part of an unknown name.
    """
    anno = files.load_mat(path, "anno")
    classes = np.zeros(size, np.uint8)
    for person in _structs(path, anno, "objects"):
        if str(_field(path, person, "class")) != "person":
            continue
        for part in _structs(path, person, "parts"):
            name = str(_field(path, part, "part_name"))
            if name not in PART_CLASSES:
                raise UserError(
                    f"{path}: anno has a person's part named '{name}' but it must be one of "
                    f"{', '.join(PART_CLASSES)}."
                )
            mask = np.asarray(_field(path, part, "mask"))
            if mask.shape != size or mask.dtype.kind not in "buif":
                raise UserError(
                    f"{path}: the mask of a person's {name} is of the size {mask.shape} and type "
                    f"{mask.dtype} but must hold numbers of the image's size {size}."
                )
            classes[mask > 0] = PART_CLASSES[name]
    return classes if classes.any() else np.full(size, 255, np.uint8)


def _structs(path: Path, struct: Any, name: str) -> list[Any]:
    """A field's structs; MATLAB's reader gives one alone, several in an array, none as empty."""
    return list(np.atleast_1d(_field(path, struct, name)))


def _field(path: Path, struct: Any, name: str) -> Any:
    if not hasattr(struct, name):
        raise UserError(f"{path}: a struct in anno has no field '{name}'.")
    return getattr(struct, name)
