"""Built data sets on disk: written once from examples, never served half-built or damaged."""

import collections
import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from google.protobuf import json_format
from tensorflow_datasets.core import shuffle

from emanet_jax.data import files
from emanet_jax.data.files import Entry
from emanet_jax.errors import UserError
from emanet_jax.locks import file_lock
from emanet_jax.types import Task

_LOG = logging.getLogger(__name__)
_Key = TypeVar("_Key")

# Of records to hold in memory before they are sorted on disk; TFDS's own limit is 1 GB.
BUFFER_BYTES = 256 * 2**20
THREADS = 4  # that read files while a data set is built


@dataclasses.dataclass(eq=False, kw_only=True)
class RecordsConfig(tfds.core.BuilderConfig):
    """The contents of a data set's records; `name` differs wherever these do.

    Attributes:
        dataset: its folder under config.data.data_dir.
        counts: number of examples by split.
        examples: a split's name to its examples in order: image, every task's label, image_id.
        image_size: (h, w) of all examples; None: every example has its own.
        image_dtype: of the image.
        tasks: whose labels an example has.
    """

    dataset: str
    counts: Mapping[str, int]
    # TFDS logs a config whole: a task or thousands of paths are left out.
    examples: Callable[[str], Iterable[dict[str, Any]]] = dataclasses.field(repr=False)
    image_size: tuple[int, int] | None
    image_dtype: str
    tasks: tuple[Task, ...] = dataclasses.field(repr=False)


class RecordsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The TFDS builder of every data set.

    Tensors are stored as raw bytes, which array_record compresses; records keep the order in which
    they were generated. Against the files as they are, decoded when read, that was measured to read
    2.6 times as fast for PNG (1024x2048) and as fast for JPEG (375x500), and to take 1.4 and 1.5
    times the room.
    """

    url_infos = None  # nothing is downloaded; TFDS 4.9.10 needs an undeclared package to see that

    def __init__(self, *, config: RecordsConfig, data_dir: str, **kwargs: Any) -> None:
        self.name = config.dataset
        folder = os.path.expanduser(data_dir)
        super().__init__(
            config=config, data_dir=folder, **{"file_format": "array_record", **kwargs}
        )

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config

        def tensor(channels: int, dtype: Any) -> tfds.features.Tensor:
            return tfds.features.Tensor(
                shape=(*(config.image_size or (None, None)), channels),
                dtype=np.dtype(dtype),
                encoding=tfds.features.Encoding.BYTES,
            )

        features = {
            "image": tensor(3, config.image_dtype),
            **{task.name: tensor(task.label_channels, task.label_dtype) for task in config.tasks},
            "image_id": tfds.features.Text(),
        }
        # TFDS's progress bars tell the time left from these counts.
        expected = [
            tfds.core.SplitInfo(name=split, shard_lengths=[count], num_bytes=0)
            for split, count in config.counts.items()
        ]
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
            split_dict=tfds.core.splits.SplitDict(expected),
        )

    def _split_generators(self, _: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self.builder_config.counts}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        # TFDS sorts by key, in buckets of its 128-bit range that it reads one at a time.
        # Consecutive numbers would all fall into the first, and large data sets not into memory.
        step = 2**128 // config.counts[split]
        for index, example in enumerate(config.examples(split)):
            missing = [task.name for task in config.tasks if task.name not in example]
            if missing:
                raise UserError(
                    f"data set '{self.name}' gives no label for {', '.join(missing)}: leave the "
                    "task out of its spec, or have its builder give the label."
                )
            yield index * step, example


def builder_of_files(
    dataset: str,
    *,
    version: str,
    settings: str,
    root: Path,
    data_dir: str,
    listing: Mapping[str, Sequence[Entry]],
    read: Callable[[dict[str, Path]], dict[str, Any]],
    image_size: tuple[int, int] | None,
    image_dtype: str,
    tasks: tuple[Task, ...],
    trained: Sequence[Task],
    also_reads: Mapping[str, Sequence[str]] | None = None,
) -> RecordsBuilder:
    """The builder of a data set whose examples are files, a few each.

    Its records hold the labels of the trained tasks, and those of all others whose files are there
    for every example: where no file is missing, runs of any tasks share the same records. Other or
    changed files, or other tasks, are another data set, which is built anew: the files' names,
    sizes and times and, where a task is left out, the tasks that are not, are part of its name.

    Args:
        dataset: name of the data set.
        version: such as "1.0.0"; raise it when `read` gives something else.
        settings: differs wherever two data sets from the same files would.
        root: folder of the files.
        data_dir: folder of all built data sets.
        listing: files of the examples by split, in their order; of a label alone under the task's
            name, so that they may be missing where the task is not trained.
        read: the paths of an example to image and labels; runs in several threads. It gets no path
            of a task that is left out, and gives no label for it.
        image_size: (h, w) of all examples; None: every example has its own.
        image_dtype: of the image.
        tasks: that the data set labels.
        trained: those whose labels must be there.
        also_reads: of a task, the fields that its label is made of beside its own.

    Raises:
        UserError: a needed file is missing, or a split has no examples.
    """
    for split, entries in listing.items():
        if not entries:
            raise UserError(f"{root} holds no examples of split '{split}' of data set '{dataset}'.")
    entries = [entry for split in listing.values() for entry in split]
    fields = {task.name: (task.name, *(also_reads or {}).get(task.name, ())) for task in tasks}

    def complete(task: Task) -> bool:
        paths = (e.paths[field] for e in entries for field in fields[task.name] if field in e.paths)
        return all(path.exists() for path in paths)

    stored = stored_tasks(tasks, trained, complete)
    needed = {field for task in stored for field in fields[task.name]}
    unread = {task.name for task in tasks} - needed

    def paths(entry: Entry) -> dict[str, Path]:
        return {field: path for field, path in entry.paths.items() if field not in unread}

    state = files.fingerprint(root, [path for entry in entries for path in paths(entry).values()])
    config = RecordsConfig(
        name=f"{settings}{suffix(tasks, stored)}_{state}",
        version=version,
        dataset=dataset,
        counts={split: len(entries) for split, entries in listing.items()},
        examples=lambda split: read_ahead(
            lambda entry: {**read(paths(entry)), "image_id": entry.name}, listing[split]
        ),
        image_size=image_size,
        image_dtype=image_dtype,
        tasks=stored,
    )
    return RecordsBuilder(config=config, data_dir=data_dir)


def stored_tasks(
    tasks: Sequence[Task], trained: Sequence[Task], complete: Callable[[Task], bool]
) -> tuple[Task, ...]:
    """The tasks whose labels the records hold: the trained ones, and others that are `complete`."""
    names = {task.name for task in trained}
    return tuple(task for task in tasks if task.name in names or complete(task))


def suffix(tasks: Sequence[Task], stored: Sequence[Task]) -> str:
    """The part of the records' name that tells which tasks they hold, "" if it is all."""
    return "" if len(stored) == len(tasks) else "_" + "-".join(task.name for task in stored)


def read_ahead(
    read: Callable[[_Key], dict[str, Any]], keys: Iterable[_Key], threads: int = THREADS
) -> Iterator[dict[str, Any]]:
    """The examples in order; threads read the next few meanwhile (decoders free Python's lock)."""
    waiting: collections.deque[Future] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        for key in keys:
            waiting.append(pool.submit(read, key))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def build(make: Callable[[], tfds.core.DatasetBuilder], folder: Path) -> tfds.core.DatasetBuilder:
    """Builds the data set unless it is complete, and checks its shards.

    TFDS builds into a folder `incomplete.*` that it renames at the end, so a folder with the data
    set's own name is complete: reading it takes neither a lock nor the right to write.

    Args:
        make: makes the builder, which reads what was built before.
        folder: of all data sets with this name.

    Raises:
        UserError: the folder cannot be written, a source file is wrong, or a shard is damaged.
    """
    builder = _made(make, folder)
    if not Path(builder.data_dir).exists():
        with contextlib.ExitStack() as held:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                # Of several processes one builds, and the others wait for it.
                locked = held.enter_context(file_lock(folder / ".lock", wait=True))
            except OSError as error:
                raise UserError(
                    f"config.data.data_dir: {folder} cannot be written ({error})."
                ) from error
            builder = _made(make, folder)  # perhaps by the one that was waited for
            place = Path(builder.data_dir)
            if not place.exists():
                # Nobody else builds while we hold the lock, so these are remains of killed builds.
                for stale in folder.glob("*/incomplete.*") if locked else ():
                    _LOG.info("Removing the unfinished build %s.", stale)
                    shutil.rmtree(stale)
                _LOG.info("Building %s.", place)
                _generate(builder, place)
    verify(builder)
    return builder


def _made(make: Callable[[], tfds.core.DatasetBuilder], folder: Path) -> tfds.core.DatasetBuilder:
    try:
        return make()
    # TFDS asserts that what it reads is of the builder's version.
    except (json_format.ParseError, UnicodeDecodeError, AssertionError) as error:
        raise UserError(
            f"{folder}: the dataset_info.json of a built data set is damaged "
            f"({files.one_line(error)}); delete its folder and run again to rebuild it."
        ) from error


def _generate(builder: tfds.core.DatasetBuilder, place: Path) -> None:
    shuffle.MAX_MEM_BUFFER_SIZE = BUFFER_BYTES
    try:
        builder.download_and_prepare()
    except (OSError, RuntimeError) as error:  # a RuntimeError is array_record's
        if place.exists():  # on a disk without locks: another process has finished it first
            return
        raise UserError(f"{place} cannot be written ({files.one_line(error)}).") from error
    finally:
        if place.parent.is_dir() and not any(place.parent.iterdir()):
            place.parent.rmdir()


def verify(builder: tfds.core.DatasetBuilder) -> None:
    """Looks for the labels of a built data set, opens every shard and counts its records.

    Raises:
        UserError: a label is missing, or a shard is missing, truncated or has another number of
            records.
    """
    fix = f"delete the folder {builder.data_dir} and run again to rebuild it."
    if not Path(builder.data_dir, "dataset_info.json").is_file():
        raise UserError(f"{builder.data_dir}: its dataset_info.json is missing; {fix}")
    try:
        text = Path(builder.data_dir, "features.json").read_text()
        stored = set(json.loads(text)["featuresDict"]["features"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{builder.data_dir}: its features.json cannot be read ({files.one_line(error)}); {fix}"
        ) from error
    missing = sorted(set(builder.info.features) - stored)
    if missing:
        raise UserError(f"{builder.data_dir} was built without {', '.join(missing)}; {fix}")
    for name, split in builder.info.splits.items():
        for path, expected in zip(split.filepaths, split.shard_lengths, strict=True):
            if not Path(path).is_file():
                raise UserError(f"{path}: this shard of split '{name}' is missing; {fix}")
            count = _readable_records(str(path))
            if count != expected:
                raise UserError(
                    f"{path}: this shard of split '{name}' is damaged ({count} of {expected} "
                    f"records can be read); {fix}"
                )


def _readable_records(path: str) -> int:
    # A truncated file opens with 0 records and raises only when it is closed.
    reader = array_record_module.ArrayRecordReader(path)
    count = reader.num_records()
    with contextlib.suppress(RuntimeError):
        reader.close()
    return count


class Source:
    """Random access to the examples of a split, as NumPy arrays by feature name."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        if split not in builder.info.splits:
            raise UserError(
                f"data set '{builder.name}' has no split '{split}'; it has "
                f"{', '.join(builder.info.splits)}."
            )
        self._records = builder.as_data_source(split)
        self._place = f"{builder.data_dir}, split '{split}'"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
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
