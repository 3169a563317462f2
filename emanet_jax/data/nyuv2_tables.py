"""NYUv2's classes and split, carried by the project: what its .mat files of tables hold."""

import functools
import json
from pathlib import Path

import numpy as np

IGNORE = 255
RAW_CLASSES = 894


@functools.cache
def _tables() -> dict[str, list[int]]:
    """The 894 classes' numbers among 40 and these among 13, from 1; the frames of each split."""
    return json.loads(Path(__file__).with_name("nyuv2_tables.json").read_text())


@functools.cache
def class_ids(classes: int) -> np.ndarray:
    """The id (895,) uint8 of each raw label, 0 (unlabelled) to 894; 255 = ignore.

    Args:
        classes: 13 or 40.
    """
    numbers = np.array(_tables()["forty_of_894"])
    if classes == 13:
        numbers = thirteen_of_forty()[numbers]
    return np.concatenate([[IGNORE], numbers - 1]).astype(np.uint8)


def thirteen_of_forty() -> np.ndarray:
    """The number (41,) among 13 classes of each number among 40; both start from 1, 0 = none."""
    return np.array([0, *_tables()["thirteen_of_40"]])


def frames(split: str) -> list[int]:
    """The frames, 1 to 1449 in order, of a split, "train" (795) or "val" (654, the test set)."""
    return _tables()[split]
