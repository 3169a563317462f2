"""NYUv2 as a TFDS data set: 13 or 40 classes, depth and normals, from either of two layouts.

`mtan` reads the folder of arrays that MTAN's authors share, `labeled` the data set's own file,
nyu_depth_v2_labeled.mat (Silberman et al., "Indoor Segmentation and Support Inference from RGBD
Images", 2012).
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from emanet_jax.data import files, nyuv2_labeled, nyuv2_mtan, records, registry
from emanet_jax.tasks import tasks_for

LAYOUTS = {"mtan": nyuv2_mtan.find, "labeled": nyuv2_labeled.find}


class Layout(Protocol):
    """Checked source files.

    Attributes:
        place: the folder or file.
        name: differs wherever files or settings do.
        image_size: (h, w) of the examples.
        image_dtype: "uint8", or "float32" in [0, 1].
        classes: 13 or 40.
        listing: numbers of the images by split.
    """

    place: Path
    name: str
    image_size: tuple[int, int]
    image_dtype: str
    classes: int
    listing: Mapping[str, Sequence[int]]

    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        """Image, semseg, depth, normals and image_id of every image of a split, in order."""


@dataclasses.dataclass(eq=False, kw_only=True)
class Nyuv2Config(tfds.core.BuilderConfig):
    """Which files, in which layout."""

    layout: Layout


class Nyuv2(tfds.core.GeneratorBasedBuilder):
    """NYU Depth v2 with 13 or 40 classes, depth and surface normals."""

    VERSION = tfds.core.Version("1.0.0")
    name = "nyuv2"
    url_infos = None  # nothing is downloaded; TFDS 4.9.10 needs an undeclared package to see that

    def _info(self) -> tfds.core.DatasetInfo:
        layout = self.builder_config.layout
        tasks = tasks_for(self.name, classes=layout.classes)
        counts = files.counts(layout.listing)
        return records.info(self, layout.image_size, layout.image_dtype, tasks, counts)

    def _split_generators(self, _: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {
            split: self._generate_examples(split) for split in self.builder_config.layout.listing
        }

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        layout = self.builder_config.layout
        return records.keyed(layout.examples(split), len(layout.listing[split]))


def builder(data: ConfigDict) -> Nyuv2:
    """The builder for config.data: layout, manual_dir, image_size, classes, negate_normals.

    Other or changed files are another data set: their names, sizes and times are part of its name.

    Raises:
        UserError: the files are not what the layout asks for, or a setting does not fit them.
    """
    files.check_multiples(tuple(data.image_size))
    layout = LAYOUTS[data.layout](data)
    official = registry.DATASETS["nyuv2"].splits
    files.warn_of_counts("NYUv2", layout.place, files.counts(layout.listing), official)
    return Nyuv2(
        config=Nyuv2Config(name=layout.name, layout=layout),
        data_dir=os.path.expanduser(data.data_dir),
        file_format="array_record",
    )
