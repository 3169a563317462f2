"""TFDS data sets that are read from listed files: what all of them share."""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from emanet_jax.data import files, records
from emanet_jax.data.files import Entry
from emanet_jax.types import Task

THREADS = 4  # that read files while a data set is built


@dataclasses.dataclass(eq=False, kw_only=True)
class ListedConfig(tfds.core.BuilderConfig):
    """Which files, and what to make of them.

    Attributes:
        listing: files of the examples by split, in their order.
        read: an entry's paths to its example.
        image_size: (h, w) of all examples; None: every example has its own.
        image_dtype: of the image.
        tasks: whose labels an example has.
    """

    # TFDS logs a config whole: thousands of paths are left out.
    listing: dict[str, list[Entry]] = dataclasses.field(repr=False)
    read: Callable[[dict[str, Path]], dict[str, np.ndarray]] = dataclasses.field(repr=False)
    image_size: tuple[int, int] | None
    image_dtype: str
    tasks: tuple[Task, ...] = dataclasses.field(repr=False)


class ListedBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Reads the entries of its config in their order; a data set adds VERSION and name."""

    url_infos = None  # nothing is downloaded; TFDS 4.9.10 needs an undeclared package to see that

    def _info(self) -> tfds.core.DatasetInfo:
        settings = self.builder_config
        counts = files.counts(settings.listing)
        return records.info(self, settings.image_size, settings.image_dtype, settings.tasks, counts)

    def _split_generators(self, _: tfds.download.DownloadManager) -> dict[str, Iterator]:
        listing = self.builder_config.listing
        return {split: self._generate_examples(entries) for split, entries in listing.items()}

    def _generate_examples(self, entries: list[Entry]) -> Iterator[tuple[int, dict]]:
        read = self.builder_config.read
        examples = read_ahead(
            lambda entry: {**read(entry.paths), "image_id": entry.name}, entries, THREADS
        )
        return records.keyed(examples, len(entries))


def read_ahead(
    read: Callable[[Entry], dict[str, Any]], entries: list[Entry], threads: int
) -> Iterator[dict[str, Any]]:
    """The examples in order; threads read the next few meanwhile (decoders free Python's lock)."""
    waiting = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        for entry in entries:
            waiting.append(pool.submit(read, entry))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def make(
    builder: type[ListedBuilder], settings: str, root: Path, data_dir: str, **config
) -> ListedBuilder:
    """The builder of a data set whose name is `settings` and a fingerprint of its files.

    Other or changed files are another data set: their names, sizes and times are part of its name.

    Args:
        builder: the data set's class.
        settings: the name of what makes two data sets from the same files different.
        root: folder of the files.
        data_dir: folder of the built data sets.
        **config: the fields of `ListedConfig`.

    Raises:
        UserError: a listed file is missing.
    """
    entries = [entry for entries in config["listing"].values() for entry in entries]
    paths = [path for entry in entries for path in entry.paths.values()]
    return builder(
        config=ListedConfig(name=f"{settings}_{files.fingerprint(root, paths)}", **config),
        data_dir=os.path.expanduser(data_dir),
        file_format="array_record",
    )
