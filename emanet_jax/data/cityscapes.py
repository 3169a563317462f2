"""Cityscapes from the files that people have, as a TFDS data set.

Its layouts are files of their own: `cityscapes_mtan` and `cityscapes_official`. Both give the same
three fields; `depth` is the disparity p / 65535 of `cityscapes_official.read`.
"""

import functools

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from emanet_jax.data import cityscapes_mtan, cityscapes_official, files, listed, registry
from emanet_jax.tasks import tasks_for

# Each has HOLDS, IMAGE_DTYPE, listing(root, classes), check_size(image_path, image_size) and
# read(paths, image_size, classes).
LAYOUTS = {"mtan": cityscapes_mtan, "official": cityscapes_official}


class Cityscapes(listed.ListedBuilder):
    """Street scenes with 19 or 7 classes and disparity."""

    VERSION = tfds.core.Version("1.0.0")
    name = "cityscapes"


def builder(data: ConfigDict) -> Cityscapes:
    """The builder for config.data: its keys layout, manual_dir, image_size, classes (0: 19).

    Raises:
        UserError: the folder is not laid out as it should be, or has no images of this size.
    """
    layout, image_size = LAYOUTS[data.layout], tuple(data.image_size)
    tasks = tasks_for("cityscapes", classes=data.classes)
    classes = tasks[0].channels
    files.check_multiples(image_size)
    root = files.manual_dir(data.manual_dir, layout.HOLDS)
    listing = layout.listing(root, classes)
    official = registry.DATASETS["cityscapes"].splits
    files.warn_of_counts("Cityscapes", root, files.counts(listing), official)
    layout.check_size(listing["train"][0].paths["image"], image_size)
    h, w = image_size
    return listed.make(
        Cityscapes,
        f"{data.layout}_{h}x{w}_{classes}classes",
        root,
        data.data_dir,
        listing=listing,
        read=functools.partial(layout.read, image_size=image_size, classes=classes),
        image_size=image_size,
        image_dtype=layout.IMAGE_DTYPE,
        tasks=tasks,
    )
