"""NYUv2 from the files that people have, as a TFDS data set.

Form `mtan`: ROOT/{train,val}/{image,label,depth,normal}/{i}.npy, the copy that MTAN's authors share
(Liu et al., "End-to-End Multi-Task Learning with Attention", 2019).
"""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from emanet_jax.data import specs, store
from emanet_jax.errors import UserError
from emanet_jax.tasks import NYU13

_LOG = logging.getLogger(__name__)

# Folder of each field and the number of its channels; 0: the files have no channel axis.
FIELDS = {"image": 3, "label": 0, "depth": 1, "normal": 3}
SPLITS = ("train", "val")


@dataclasses.dataclass(eq=False, kw_only=True)
class Nyuv2Config(tfds.core.BuilderConfig):
    """Which files, in which form."""

    form: str
    root: Path
    image_size: tuple[int, int]
    negate_normals: str


class Nyuv2(tfds.core.GeneratorBasedBuilder):
    """NYU Depth v2 with 13 classes, depth and surface normals."""

    VERSION = tfds.core.Version("1.0.0")
    name = "nyuv2"
    url_infos = None  # nothing is downloaded; TFDS 4.9.10 needs an undeclared package to see that

    def _info(self) -> tfds.core.DatasetInfo:
        return store.info(self, self.builder_config.image_size, "float32")

    def _split_generators(self, _: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        settings = self.builder_config
        for index in indices(settings.root, split):
            paths = {field: _path(settings.root, split, field, index) for field in FIELDS}
            example = read_example(paths, settings.image_size, settings.negate_normals)
            yield index, {**example, "image_id": f"{split}/{index}"}


def builder(data: ConfigDict) -> Nyuv2:
    """The builder for config.data: its keys form, manual_dir, image_size, negate_normals.

    Other or changed files are another data set: their names, sizes and times are part of its name.

    Raises:
        UserError: the folder is not laid out as it should be.
    """
    if not data.manual_dir:
        raise UserError(
            "config.data.manual_dir is empty; give the folder that holds "
            "{train,val}/{image,label,depth,normal}/0.npy, 1.npy, ...."
        )
    if not set(data.negate_normals) <= set("xyz"):
        raise UserError(
            f"config.data.negate_normals is '{data.negate_normals}' but names axes: some of 'xyz'."
        )
    root = Path(data.manual_dir).expanduser().resolve()
    if not root.is_dir():
        raise UserError(f"config.data.manual_dir: there is no folder {root}.")
    for split in SPLITS:
        count, official = len(indices(root, split)), specs.DATASETS["nyuv2"].splits[split]
        if count != official:
            _LOG.warning("%s/%s has %d images; NYUv2 has %d.", root, split, count, official)
    image_size = tuple(data.image_size)
    _check_image_size(root, image_size)
    negated = f"_negated-{data.negate_normals}" if data.negate_normals else ""
    settings = Nyuv2Config(
        name=f"{data.form}{negated}_{fingerprint(root)}",
        form=data.form,
        root=root,
        image_size=image_size,
        negate_normals=data.negate_normals,
    )
    return Nyuv2(
        config=settings, data_dir=os.path.expanduser(data.data_dir), file_format="array_record"
    )


def fingerprint(root: Path) -> str:
    """12 hexadecimal digits that change with the folder or its files' names, sizes and times."""
    digest = hashlib.sha256(str(root).encode())
    for split in SPLITS:
        for index in indices(root, split):
            for field in FIELDS:
                path = _path(root, split, field, index)
                try:
                    state = path.stat()
                except OSError as error:
                    raise UserError(f"{path} cannot be read ({error}).") from error
                line = f"{split}/{field}/{path.name} {state.st_size} {state.st_mtime_ns}\n"
                digest.update(line.encode())
    return digest.hexdigest()[:12]


def indices(root: Path, split: str) -> list[int]:
    """The numbers of a split's images in natural order.

    Raises:
        UserError: a folder is missing or empty, or two of them hold different numbers.
    """
    found = {}
    for field in FIELDS:
        folder = root / split / field
        if not folder.is_dir():
            raise UserError(f"config.data.manual_dir: the folder {folder} is missing.")
        names = [path.stem for path in folder.glob("*.npy")]
        odd = sorted(name for name in names if not name.isdecimal() or str(int(name)) != name)
        if odd:
            raise UserError(f"{folder / odd[0]}.npy: the name must be a number such as 0.npy.")
        found[field] = {int(name) for name in names}
        if not found[field]:
            raise UserError(f"{folder} holds no .npy files; it must hold 0.npy, 1.npy, ....")
    for field, numbers in found.items():
        different = sorted(numbers ^ found["image"])
        if different:
            missing = "image" if different[0] in numbers else field
            raise UserError(
                f"{_path(root, split, missing, different[0])} is missing: the folders "
                f"{', '.join(FIELDS)} of a split must hold the same numbers."
            )
    return sorted(found["image"])


def read_example(
    paths: dict[str, Path], image_size: tuple[int, int], negate_normals: str = ""
) -> dict[str, np.ndarray]:
    """Reads and checks the four files of one image.

    Args:
        paths: by field.
        image_size: (h, w) that all must have.
        negate_normals: axes, some of "xyz", whose sign is to be changed to ours.

    Returns:
        image (h, w, 3) float32 in [0, 1]; semseg (h, w, 1) uint8, 255 = ignore; depth (h, w, 1)
        float32 metres, 0 = invalid; normals (h, w, 3) float32, unit or zero = invalid.

    Raises:
        UserError: a file cannot be read or holds something else.
    """
    image, label, depth, normal = (
        _load(paths[field], image_size, channels) for field, channels in FIELDS.items()
    )
    classes = len(NYU13)

    _check(paths["image"], "values", image, (image >= 0) & (image <= 1), "between 0 and 1")
    whole = (label == np.floor(label)) & (label >= -1) & (label < classes)
    _check(paths["label"], "classes", label, whole, f"whole, -1 (ignored) to {classes - 1}")
    _check(paths["depth"], "depths", depth, depth >= 0, "at least 0 (metres)")
    inside = np.abs(normal) <= 1.001
    _check(paths["normal"], "components", normal, inside, "between -1 and 1")

    sign = np.array([-1 if axis in negate_normals else 1 for axis in "xyz"], np.float32)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    unit = np.divide(sign * normal, length, out=np.zeros_like(normal), where=length > 0)
    return {
        "image": image,
        "semseg": np.where(label < 0, 255, label)[..., None].astype(np.uint8),
        "depth": depth,
        "normals": unit,
    }


def _path(root: Path, split: str, field: str, index: int) -> Path:
    return root / split / field / f"{index}.npy"


def _load(path: Path, image_size: tuple[int, int], channels: int) -> np.ndarray:
    """A file's array as float32, of the right shape and without NaN; integers only for labels."""
    array = _open(path)
    shape = (*image_size, channels) if channels else image_size
    if array.shape != shape:
        raise UserError(f"{path} has the shape {array.shape} but must have {shape}.")
    kinds = "fiu" if not channels else "f"
    if array.dtype.kind not in kinds or array.dtype == np.float16:
        wanted = "float32 or float64" + ("" if channels else " or an integer type")
        raise UserError(f"{path} is of type {array.dtype} but must be {wanted}.")
    with np.errstate(over="ignore"):  # what float32 cannot hold is found below
        array = array.astype(np.float32)
    _check(path, "values", array, np.isfinite(array), "finite")
    return array


def _open(path: Path, mmap_mode: str | None = None) -> np.ndarray:
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)  # np.load would also take archives and pickles
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{path} cannot be read as a NumPy array file: {reason}.") from error


def _check(path: Path, what: str, values: np.ndarray, fine: np.ndarray, rule: str) -> None:
    if not fine.all():
        where = np.argwhere(~fine)[0]
        raise UserError(
            f"{path}: {what} must be {rule}, but the one at {tuple(map(int, where))} is "
            f"{values[tuple(where)]:g}."
        )


def _check_image_size(root: Path, image_size: tuple[int, int]) -> None:
    """Compares the configured size with the first image's, whose header alone is read."""
    path = _path(root, "train", "image", indices(root, "train")[0])
    shape = _open(path, mmap_mode="r").shape
    if shape[:2] != image_size:
        raise UserError(
            f"{path} has the shape {shape} but config.data.image_size is {image_size}: "
            f"the two must agree."
        )
    if image_size[0] % 32 or image_size[1] % 32:
        raise UserError(f"config.data.image_size is {image_size} but needs multiples of 32.")
