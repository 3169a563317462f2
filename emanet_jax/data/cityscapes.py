"""Cityscapes from the files that people have, as a TFDS data set.

Its forms are files of their own: `cityscapes_mtan` and `cityscapes_official`. Both give the same
three fields; `depth` is the disparity p / 65535 of `cityscapes_official.read`.
"""

import functools

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from emanet_jax.data import cityscapes_mtan, cityscapes_official, files, listed, specs
from emanet_jax.tasks import tasks_for

# Each has HOLDS, IMAGE_DTYPE, listing(root, classes), check_size(image_path, image_size) and
# read(paths, image_size, classes).
FORMS = {"mtan": cityscapes_mtan, "official": cityscapes_official}


class Cityscapes(listed.ListedBuilder):
    """Street scenes with 19 or 7 classes and disparity."""

    VERSION = tfds.core.Version("1.0.0")
    name = "cityscapes"


def builder(data: ConfigDict) -> Cityscapes:
    """The builder for config.data: its keys form, manual_dir, image_size, classes (0: 19).

    Raises:
        UserError: the folder is not laid out as it should be, or has no images of this size.
    """
    form, image_size = FORMS[data.form], tuple(data.image_size)
    tasks = tasks_for("cityscapes", classes=data.classes)
    classes = tasks[0].channels
    files.check_multiples(image_size)
    root = files.manual_dir(data.manual_dir, form.HOLDS)
    listing = form.listing(root, classes)
    official = specs.DATASETS["cityscapes"].splits
    files.warn_of_counts("Cityscapes", root, files.counts(listing), official)
    form.check_size(listing["train"][0].paths["image"], image_size)
    h, w = image_size
    return listed.make(
        Cityscapes,
        f"{data.form}_{h}x{w}_{classes}classes",
        root,
        data.data_dir,
        listing=listing,
        read=functools.partial(form.read, image_size=image_size, classes=classes),
        image_size=image_size,
        image_dtype=form.IMAGE_DTYPE,
        tasks=tasks,
    )
