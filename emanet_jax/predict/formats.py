"""The files that a photo's predictions are saved as: figure, arrays, plain maps, overlays."""

import functools
import io
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from PIL import Image

from emanet_jax.data import geometry
from emanet_jax.predict import figures
from emanet_jax.types import Task

Maps = Mapping[str, np.ndarray]  # {task: (h, w, k)} after the activation
MapsAt = Callable[[tuple[int, int]], Maps]  # of a photo, at any (h, w)
Encode = Callable[[np.ndarray, MapsAt], bytes]  # a photo (h, w, 3) uint8 to the content of a file

_MILLIMETRES = 1000  # a metre


def encoders(tasks: Sequence[Task], save: Collection[str]) -> dict[str, Encode]:
    """{what follows a photo's name: how that file is made}.

    Args:
        tasks: of the network.
        save: of "figure" (.png, a `figures.figure`), "npz" (.npz), and of every task that has
            them, "png" (_TASK.png: class ids, or millimetres) and "overlay" (_TASK_overlay.png:
            classes over the photo).
    """
    found: dict[str, Encode] = {}
    if "figure" in save:
        found[".png"] = functools.partial(_figure, tasks=tasks)
    if "npz" in save:
        found[".npz"] = _npz
    for task in tasks:
        if "png" in save and (task.class_names or task.unit == "m"):
            found[f"_{task.name}.png"] = functools.partial(_plain, task=task)
        if "overlay" in save and task.class_names:
            found[f"_{task.name}_overlay.png"] = functools.partial(_overlay, task=task)
    return found


def _figure(photo: np.ndarray, maps_at: MapsAt, tasks: Sequence[Task]) -> bytes:
    size = figures.tile_size(photo.shape[:2])
    tile, maps = geometry.resize_image(photo, size), maps_at(size)
    return _png(figures.figure(tile, maps, tasks, figures.colour_ends(maps, tasks)))


def _plain(photo: np.ndarray, maps_at: MapsAt, task: Task) -> bytes:
    """Class ids, 8 bits; or millimetres, 16 bits, of at most 65.535 m."""
    values = maps_at(photo.shape[:2])[task.name][..., 0]
    if not task.class_names:
        most = np.iinfo(np.uint16).max
        values = np.rint(np.clip(values * _MILLIMETRES, 0, most)).astype(np.uint16)
    return _png(values)


def _overlay(photo: np.ndarray, maps_at: MapsAt, task: Task) -> bytes:
    return _png(figures.overlay(photo, maps_at(photo.shape[:2])[task.name], task))


def _png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def _npz(photo: np.ndarray, maps_at: MapsAt) -> bytes:
    """{task: (h, w) or (h, w, k)} at the photo's size: class ids as uint8, all else as float32.

    NumPy's own compression takes twice the time and 1.6 times the space: digits that mean nothing
    are most of what it writes.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, x in maps_at(photo.shape[:2]).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                array = x[..., 0] if x.shape[-1] == 1 else x
                np.lib.format.write_array(
                    file, array if array.dtype == np.uint8 else _rounded(array)
                )
    return content.getvalue()


def _rounded(x: np.ndarray) -> np.ndarray:
    """float32 rounded to 13 of its 24 binary digits, a part in 2^13: 0.5 mm at 4 to 8 m."""
    large = x * np.float32(2**11 + 1)
    return large - (large - x)
