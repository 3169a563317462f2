"""Random augmentation for training: which moves, by how much, and the colours of the image.

Scale, crop, mirror, colours, pad: the training transform of PASCAL-Context's five tasks (MTI-Net,
Vandenhende et al., 2020); with MTAN's three scales instead and no colours, that of NYUv2.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from emanet_jax.data import geometry
from emanet_jax.data.geometry import Sample
from emanet_jax.errors import UserError
from emanet_jax.types import Task

# MTAN's scales for NYUv2.
ZOOM_FACTORS = (1.0, 1.2, 1.5)
# How often a window is drawn until no class fills too much of it; the last one is taken anyway.
TRIES = 10

# Luma and two axes of chroma (the YIQ of television): its first row is the grey of a colour.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """config.augment, checked.

    Attributes:
        flip: mirror half of the images.
        scale_crop: enlarge by one of `ZOOM_FACTORS`.
        scale: lowest and highest factor of a uniform choice; (1, 1) is none.
        max_class_share: of a window's labelled pixels that one class may fill; 1 is no limit.
        brightness: b adds up to ±b of white.
        contrast: c multiplies by up to 1 ± c.
        saturation: s multiplies the distance from grey by up to 1 ± s.
        hue: t turns colours about the grey axis by up to ±t of a whole turn.
    """

    flip: bool
    scale_crop: bool
    scale: tuple[float, float]
    max_class_share: float
    brightness: float
    contrast: float
    saturation: float
    hue: float


def from_config(augment: ConfigDict) -> Augmentation:
    """Reads and checks config.augment.

    Raises:
        UserError: a value is out of range, or two of them exclude each other.
    """
    for key in ("flip", "scale_crop"):
        if not isinstance(augment[key], bool):
            raise UserError(f"config.augment.{key} is {augment[key]!r} but must be True or False.")
    scale = tuple(augment.scale)
    if len(scale) != 2 or not 0.1 <= scale[0] <= scale[1] <= 10:
        raise UserError(
            f"config.augment.scale is {scale} but must be (lowest, highest) with "
            "0.1 <= lowest <= highest <= 10."
        )
    if augment.scale_crop and scale != (1, 1):
        raise UserError(
            f"config.augment.scale_crop is True and config.augment.scale is {scale}, but only one "
            "of them can scale: choose scale_crop=False or scale=(1.0, 1.0)."
        )
    if not 0 < augment.max_class_share <= 1:
        raise UserError(
            f"config.augment.max_class_share is {augment.max_class_share} but must be above 0 and "
            "at most 1 (no limit)."
        )
    highest = {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5}
    for key, limit in highest.items():
        if not 0 <= augment[key] <= limit:
            raise UserError(
                f"config.augment.{key} is {augment[key]} but must be between 0 (off) and {limit}."
            )
    return Augmentation(
        flip=augment.flip,
        scale_crop=augment.scale_crop,
        scale=scale,
        max_class_share=augment.max_class_share,
        **{key: augment[key] for key in highest},
    )


def augment(
    sample: Sample,
    tasks: Sequence[Task],
    rng: np.random.Generator,
    how: Augmentation,
    size: tuple[int, int],
) -> Sample:
    """A random view of a sample, of the size (h, w) = `size`.

    Scales; takes a random window of the size if there is more than that; mirrors; changes colours;
    pads if there is less (below and on the right; invalid for every task). The first of the tasks
    that has classes decides whether a window holds too much of one.
    """
    # Drawn always, so that switching one of them off leaves the others' choices alone.
    mirrored, factor = rng.random() < 0.5, float(rng.choice(ZOOM_FACTORS))
    positions, share = rng.random((TRIES, 2)), rng.random()
    switches, amounts = rng.random(4) < 0.5, rng.uniform(-1, 1, 4)

    if not how.scale_crop:
        lowest, highest = how.scale
        factor = lowest + share * (highest - lowest)
    h, w, _ = sample["image"].shape
    scaled = max(1, int(h * factor)), max(1, int(w * factor))
    window = min(scaled[0], size[0]), min(scaled[1], size[1])
    spare = scaled[0] - window[0], scaled[1] - window[1]
    corners = (positions * (np.array(spare) + 1)).astype(int)
    classes = next((task for task in tasks if task.class_names), None)
    if not any(spare) or how.max_class_share == 1 or classes is None:
        top, left = corners[0]
    else:
        label = sample["labels"][classes.name]
        top, left = _diverse(label, classes, factor, corners, window, how.max_class_share)
    sample = geometry.zoom(sample, tasks, factor, int(top), int(left), window)
    if how.flip and mirrored:
        sample = geometry.mirror(sample, tasks)
    matrix, offset = _colour_change(how, np.where(switches, amounts, 0))
    sample = {**sample, "image": change_colours(sample["image"], matrix, offset)}
    return geometry.pad(sample, tasks, size)


def _diverse(
    label: np.ndarray,
    task: Task,
    factor: float,
    corners: np.ndarray,
    window: tuple[int, int],
    limit: float,
) -> np.ndarray:
    """The first (top, left) whose window holds no class above the limit, or else the last."""
    for corner in corners:
        top, left = corner
        if class_share(geometry.cut(label, factor, top, left, window), task) <= limit:
            break
    return corner


def class_share(label: np.ndarray, task: Task) -> float:
    """The share of the most frequent class among the valid pixels; 0 if there are none."""
    counts = np.bincount(label.ravel(), minlength=int(task.ignore) + 1)
    counts[int(task.ignore)] = 0
    return counts.max() / max(1, counts.sum())


def _colour_change(how: Augmentation, amounts: np.ndarray) -> tuple[np.ndarray, float]:
    """Matrix (3, 3) and offset (of white) of a change of colours; amounts (4,) in [-1, 1]."""
    brightness, contrast, saturation, hue = amounts
    angle = 2 * np.pi * how.hue * hue
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    chroma = np.eye(3)
    chroma[1:, 1:] = (1 + how.saturation * saturation) * turn
    matrix = (1 + how.contrast * contrast) * np.linalg.inv(_YIQ) @ chroma @ _YIQ
    return matrix, how.brightness * brightness


def change_colours(image: np.ndarray, matrix: np.ndarray, offset: float) -> np.ndarray:
    """Colours c to matrix c + offset, cut off at black and white.

    Args:
        image: (h, w, 3) uint8, or float32 in [0, 1].
        matrix: (3, 3).
        offset: added to every channel, in units of white.
    """
    if offset == 0 and np.allclose(matrix, np.eye(3), atol=1e-9):
        return image
    white = 255 if image.dtype == np.uint8 else 1
    # Plane by plane: a product of pixels with a 3 x 3 matrix is ten times slower.
    planes = [image[..., channel].astype(np.float32) for channel in range(3)]
    result = np.empty_like(image)
    for channel, weights in enumerate(matrix.astype(np.float32)):
        value = planes[0] * weights[0]
        value += planes[1] * weights[1]
        value += planes[2] * weights[2]
        value += np.float32(white * offset)
        np.clip(value, 0, white, out=value)
        if image.dtype == np.uint8:
            value += 0.5
        result[..., channel] = value
    return result
