"""Synthetic rooms as a TFDS data set: procedural scenes with exact ground truth, no download."""

import dataclasses
import os
from collections.abc import Iterator

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from emanet_jax.data import records
from emanet_jax.errors import UserError
from emanet_jax.synthetic import render_room
from emanet_jax.tasks import tasks_for


@dataclasses.dataclass(eq=False, kw_only=True)
class SynthroomsConfig(tfds.core.BuilderConfig):
    """Settings that tell two sets of rooms apart."""

    image_size: tuple[int, int]
    train: int
    val: int
    seed: int


class Synthrooms(tfds.core.GeneratorBasedBuilder):
    """Rooms 0, 1, ... of a seed for training, rooms 1,000,000, ... for evaluation."""

    VERSION = tfds.core.Version("2.0.0")
    name = "synthrooms"
    url_infos = None  # nothing is downloaded; TFDS 4.9.10 needs an undeclared package to see that

    def _info(self) -> tfds.core.DatasetInfo:
        settings = self.builder_config
        counts = {"train": settings.train, "val": settings.val}
        return records.info(self, settings.image_size, "uint8", tasks_for(self.name), counts)

    def _split_generators(self, _: tfds.download.DownloadManager) -> dict[str, Iterator]:
        settings = self.builder_config
        return {
            "train": self._generate_examples(0, settings.train),
            "val": self._generate_examples(1_000_000, settings.val),
        }

    def _generate_examples(self, first: int, count: int) -> Iterator[tuple[int, dict]]:
        settings = self.builder_config
        examples = (
            {
                **render_room(settings.seed, index, settings.image_size),
                "image_id": f"{settings.seed}/{index}",
            }
            for index in range(first, first + count)
        )
        return records.keyed(examples, count)


def builder(data: ConfigDict) -> Synthrooms:
    """The builder for config.data: its keys image_size, train_examples, val_examples, seed.

    Raises:
        UserError: a size or count that cannot be rendered.
    """
    h, w = data.image_size
    if h < 32 or w < 32 or h % 32 or w % 32:
        raise UserError(f"config.data.image_size is ({h}, {w}) but needs multiples of 32.")
    for key in ("train_examples", "val_examples"):
        if not 1 <= data[key] <= 1_000_000:
            raise UserError(f"config.data.{key} is {data[key]} but must be between 1 and 1000000.")
    if data.seed < 0:
        raise UserError(f"config.data.seed is {data.seed} but must be at least 0.")
    settings = SynthroomsConfig(
        name=f"{h}x{w}_{data.train_examples}_{data.val_examples}_seed{data.seed}",
        image_size=(h, w),
        train=data.train_examples,
        val=data.val_examples,
        seed=data.seed,
    )
    return Synthrooms(
        config=settings, data_dir=os.path.expanduser(data.data_dir), file_format="array_record"
    )
