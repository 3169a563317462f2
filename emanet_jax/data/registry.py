"""The data sets on one screen. Importing this file imports neither TFDS nor TensorFlow."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from emanet_jax.errors import UserError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


@dataclass(frozen=True)
class DatasetSpec:
    """What the rest of the code needs to know about a data set; `tasks.py` lists its tasks.

    Attributes:
        name: key of the registry and of `tasks.tasks_for`.
        image_size: the usual (h, w) in pixels.
        splits: official number of images by split.
        module: holds `builder(config.data) -> tfds.core.DatasetBuilder`.
        layouts: the layouts of files that the builder reads; () where there are no files to read.
        eval_split: the split that evaluation uses.
    """

    name: str
    image_size: tuple[int, int]
    splits: dict[str, int]
    module: str
    layouts: tuple[str, ...] = ()
    eval_split: str = "val"

    def builder(self, data: ConfigDict) -> "tfds.core.DatasetBuilder":
        """The TFDS builder for these settings (config.data); imports TFDS."""
        return importlib.import_module(self.module).builder(data)


DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            name="synthrooms",
            image_size=(96, 128),
            splits={"train": 200, "val": 32},
            module="emanet_jax.data.synthrooms",
        ),
        DatasetSpec(
            name="nyuv2",
            image_size=(288, 384),
            splits={"train": 795, "val": 654},
            module="emanet_jax.data.nyuv2",
            layouts=("mtan", "labeled"),
        ),
        DatasetSpec(
            name="cityscapes",
            image_size=(128, 256),
            splits={"train": 2975, "val": 500},
            module="emanet_jax.data.cityscapes",
            layouts=("mtan", "official"),
        ),
        DatasetSpec(
            name="pascal_context",
            image_size=(512, 512),
            splits={"train": 4998, "val": 5105},
            module="emanet_jax.data.pascal_context",
            layouts=("pascal_mt",),
        ),
    )
}


def spec_for(data: ConfigDict) -> DatasetSpec:
    """The spec of config.data.dataset.

    Raises:
        UserError: the data set is unknown, or has no such layout.
    """
    if data.dataset not in DATASETS:
        raise UserError(f"unknown data set '{data.dataset}'; known: {', '.join(DATASETS)}.")
    spec = DATASETS[data.dataset]
    if spec.layouts and data.layout not in spec.layouts:
        raise UserError(
            f"config.data.layout is '{data.layout}' but {spec.name} knows: "
            f"{', '.join(spec.layouts)}."
        )
    return spec
