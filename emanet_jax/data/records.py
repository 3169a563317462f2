"""Built data sets on disk: build once, never serve a half-built or damaged one."""

import contextlib
import fcntl
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from google.protobuf import json_format
from tensorflow_datasets.core import shuffle

from emanet_jax.errors import UserError
from emanet_jax.types import Task

_LOG = logging.getLogger(__name__)

# Of records to hold in memory before they are sorted on disk; TFDS's own limit is 1 GB.
BUFFER_BYTES = 256 * 2**20


def info(
    builder: tfds.core.DatasetBuilder,
    image_size: tuple[int, int] | None,
    image_dtype: str,
    tasks: Sequence[Task],
    counts: Mapping[str, int],
) -> tfds.core.DatasetInfo:
    """TFDS information of a data set: image, every task's label and image_id.

    Tensors are stored as raw bytes, which array_record compresses; records keep the order in which
    they were generated. Against the files as they are, decoded when read, that was measured to read
    2.6 times as fast for PNG (1024x2048) and as fast for JPEG (375x500), and to take 1.4 and 1.5
    times the room.

    Args:
        builder: that asks.
        image_size: (h, w) of all examples; None: every example has its own.
        image_dtype: of the image.
        tasks: whose labels there are.
        counts: examples by split; TFDS's progress bars tell the time left from them.
    """

    def tensor(channels: int, dtype: np.dtype) -> tfds.features.Tensor:
        return tfds.features.Tensor(
            shape=(*(image_size or (None, None)), channels),
            dtype=np.dtype(dtype),
            encoding=tfds.features.Encoding.BYTES,
        )

    features = tfds.features.FeaturesDict(
        {
            "image": tensor(3, image_dtype),
            **{task.name: tensor(task.label_channels, task.label_dtype) for task in tasks},
            "image_id": tfds.features.Text(),
        }
    )
    expected = [
        tfds.core.SplitInfo(name=split, shard_lengths=[count], num_bytes=0)
        for split, count in counts.items()
    ]
    return tfds.core.DatasetInfo(
        builder=builder,
        features=features,
        disable_shuffling=True,
        split_dict=tfds.core.splits.SplitDict(expected),
    )


def keyed(examples: Iterable[dict], count: int) -> Iterator[tuple[int, dict]]:
    """Gives each of `count` examples the key under which TFDS keeps it in its place.

    TFDS sorts by key, in buckets of its 128-bit range that it reads one at a time. Consecutive
    numbers would all fall into the first, and large data sets not into the memory.
    """
    for index, example in enumerate(examples):
        yield index * (2**128 // count), example


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder's lock: of several processes one builds and the others wait for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"config.data.data_dir: {folder} cannot be written ({error}).") from error
    with lock:
        # The system frees the lock when its holder ends, however it ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(
    make_builder: Callable[[], tfds.core.DatasetBuilder], folder: Path
) -> tfds.core.DatasetBuilder:
    """Builds the data set unless it is complete, and checks its shards.

    TFDS builds into a folder `incomplete.*` that it renames at the end, so a folder with the data
    set's own name is complete.

    Args:
        make_builder: reads what was built before, so it is called only when nobody builds.
        folder: of all data sets with this name.

    Raises:
        UserError: the folder cannot be written, a source file is wrong, or a shard is damaged.
    """
    with _alone(folder):
        # Nobody else builds while we hold the lock, so these are remains of killed builds.
        for stale in folder.glob("*/incomplete.*"):
            _LOG.info("Removing the unfinished build %s.", stale)
            shutil.rmtree(stale)
        try:
            builder = make_builder()
        # TFDS asserts that what it reads is of the builder's version.
        except (json_format.ParseError, UnicodeDecodeError, AssertionError) as error:
            said = " ".join(str(error).split())
            raise UserError(
                f"{folder}: the dataset_info.json of a built data set is damaged ({said}); delete "
                "its folder and run again to rebuild it."
            ) from error
        place = Path(builder.data_dir)
        if not place.exists():
            _LOG.info("Building %s.", place)
            _generate(builder, place)
        verify(builder)
    return builder


def _generate(builder: tfds.core.DatasetBuilder, place: Path) -> None:
    shuffle.MAX_MEM_BUFFER_SIZE = BUFFER_BYTES
    try:
        builder.download_and_prepare()
    except (OSError, RuntimeError) as error:  # a RuntimeError is array_record's
        said = " ".join(str(error).split())
        raise UserError(f"{place} cannot be written ({said}).") from error
    finally:
        if place.parent.is_dir() and not any(place.parent.iterdir()):
            place.parent.rmdir()


def verify(builder: tfds.core.DatasetBuilder) -> None:
    """Opens every shard of a built data set and counts its records.

    Raises:
        UserError: a shard is missing, truncated or has another number of records.
    """
    mend = f"delete the folder {builder.data_dir} and run again to rebuild it."
    if not Path(builder.data_dir, "dataset_info.json").is_file():
        raise UserError(f"{builder.data_dir}: its dataset_info.json is missing; {mend}")
    for name, split in builder.info.splits.items():
        for path, expected in zip(split.filepaths, split.shard_lengths, strict=True):
            if not Path(path).is_file():
                raise UserError(f"{path}: this shard of split '{name}' is missing; {mend}")
            found = _records(str(path))
            if found != expected:
                raise UserError(
                    f"{path}: this shard of split '{name}' is damaged ({found} of {expected} "
                    f"records can be read); {mend}"
                )


def _records(path: str) -> int:
    # A truncated file opens with 0 records and raises only when it is closed.
    reader = array_record_module.ArrayRecordReader(path)
    count = reader.num_records()
    with contextlib.suppress(RuntimeError):
        reader.close()
    return count


class Source:
    """Random access to the examples of a split, as NumPy arrays by feature name."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        self._records = builder.as_data_source(split)
        self._place = f"{builder.data_dir}, split '{split}'"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray | str]:
        """Example `index`.

        Raises:
            UserError: its record is damaged (records carry checksums).
        """
        try:
            example = self._records[index]
        except RuntimeError as error:
            raise UserError(
                f"{self._place}, record {index} is damaged ({error}); delete the folder and run "
                "again to rebuild it."
            ) from error
        return {**example, "image_id": example["image_id"].decode()}

    def __repr__(self) -> str:
        return f"Source({self._place}, {len(self)} examples)"
