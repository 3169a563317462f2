"""Built data sets: complete or absent, whole or refused, never another's."""

import dataclasses
import errno
import fcntl
import importlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from tensorflow_datasets.core import shuffle

from emanet_jax import tasks
from emanet_jax.data import pipeline, records, synthrooms
from emanet_jax.errors import UserError
from emanet_jax.tasks import DATASETS, DatasetSpec
from emanet_jax.tasks.registry import spec_of
from tests.conftest import ROOT
from tests.data.settings import SIZE, data_config


def shards(folder) -> list[pathlib.Path]:
    return sorted(pathlib.Path(folder).rglob("*.array_record*"))


@pytest.fixture
def built(tmp_path):
    config = data_config(tmp_path)
    return config, pipeline.prepare(config)


def test_examples_are_the_rooms_in_order(built):
    _, builder = built
    train, val = pipeline.load(builder, "train"), pipeline.load(builder, "val")
    assert (len(train), len(val)) == (10, 3)
    for source, first in ((train, 0), (val, 1_000_000)):
        for i in (0, 2):
            room = synthrooms.render_room(0, first + i, SIZE)
            assert source[i]["image_id"] == f"0/{first + i}"
            assert all(np.array_equal(source[i][name], value) for name, value in room.items())
            assert all(source[i][name].dtype == value.dtype for name, value in room.items())
    assert builder.info.splits["train"].num_examples == 10


def test_a_built_data_set_is_used_again(built):
    config, builder = built
    before = {path: path.stat().st_mtime_ns for path in shards(builder.data_dir)}
    again = pipeline.prepare(config)
    assert {path: path.stat().st_mtime_ns for path in shards(again.data_dir)} == before
    assert len(before) == 2


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"train_examples": 11}, {"val_examples": 4}, {"image_size": (64, 64)}]
)
def test_other_settings_are_another_data_set(tmp_path, change):
    builders = [
        spec_of(config.dataset).make_builder(config, tasks.tasks_for("synthrooms"))
        for config in (data_config(tmp_path), data_config(tmp_path, **change))
    ]
    assert builders[0].data_dir != builders[1].data_dir


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "ENOTSUP"])
def test_a_disk_without_locks_will_do(tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(getattr(errno, code), code)

    monkeypatch.setattr(fcntl, "flock", flock)
    config = data_config(tmp_path)
    another = tmp_path / "synthrooms" / "some_config" / "incomplete.1.0.0_of_another"
    another.mkdir(parents=True)
    assert len(pipeline.load(pipeline.prepare(config), "train")) == 10
    assert another.exists()  # perhaps its process is at work


def test_what_is_built_is_read_without_a_lock_or_the_right_to_write(built, monkeypatch):
    config, builder = built
    folder = pathlib.Path(builder.data_dir)

    def refuses(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(records, "file_lock", refuses)
    before = sorted(folder.parents[1].rglob("*"))
    assert len(pipeline.load(pipeline.prepare(config), "train")) == 10
    assert sorted(folder.parents[1].rglob("*")) == before
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"config.data.data_dir: .* cannot be written .*Read-only"):
        pipeline.prepare(config)


def damage(path: pathlib.Path, how: str) -> None:
    if how == "deleted":
        path.unlink()
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "one byte short":
        os.truncate(path, path.stat().st_size - 1)
    else:
        path.write_bytes(b"\0" * path.stat().st_size)


@pytest.mark.parametrize("how", ["deleted", "emptied", "truncated", "one byte short", "zeroed"])
@pytest.mark.parametrize("split", [0, 1], ids=["train", "val"])
def test_a_damaged_shard_is_noticed_at_start(built, how, split):
    config, builder = built
    path = shards(builder.data_dir)[split]
    damage(path, how)
    with pytest.raises(UserError) as error:
        pipeline.prepare(config)
    assert str(path) in str(error.value)
    assert f"delete the folder {builder.data_dir}" in str(error.value)


@pytest.mark.parametrize("how", ["deleted", "emptied", "truncated"])
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_a_damaged_description_is_noticed_at_start(built, how, name):
    config, builder = built
    damage(pathlib.Path(builder.data_dir, name), how)
    with pytest.raises(UserError, match=rf"{name} .*delete .*folder"):
        pipeline.prepare(config)


def test_a_flipped_byte_is_noticed_when_it_is_read(built):
    _, builder = built
    path = shards(builder.data_dir)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    source = pipeline.load(builder, "train")
    with pytest.raises(UserError, match=r"record \d+ is damaged .*rebuild"):
        for i in range(len(source)):
            source[i]


def test_a_rebuilt_data_set_is_the_same(built):
    config, builder = built
    before = [path.read_bytes() for path in shards(builder.data_dir)]
    shutil.rmtree(builder.data_dir)
    again = pipeline.prepare(config)
    assert [path.read_bytes() for path in shards(again.data_dir)] == before


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    def fails(seed, index, image_size):
        if index == 4:
            raise UserError("room 4 is on fire.")
        return render(seed, index, image_size)

    render = synthrooms.render_room
    monkeypatch.setattr(synthrooms, "render_room", fails)
    config = data_config(tmp_path)
    with pytest.raises(UserError, match=r"^room 4 is on fire.$"):
        pipeline.prepare(config)
    assert not shards(tmp_path)
    assert not list(tmp_path.rglob("incomplete*"))
    monkeypatch.undo()
    assert len(pipeline.load(pipeline.prepare(config), "train")) == 10


def test_the_bar_tells_how_many_examples_there_will_be(tmp_path, capfd):
    pipeline.prepare(data_config(tmp_path))
    shown = capfd.readouterr().err
    assert "Generating train examples...:   0%|          | 0/10" in shown
    assert "Generating val examples...:   0%|          | 0/3" in shown


def test_a_data_set_beyond_the_memory_is_sorted_piece_by_piece(built, tmp_path, monkeypatch):
    """TFDS moves to the disk what is above a limit and sorts it by buckets, one at a time."""
    pieces = []

    def read_values(bucket):
        values = list(read(bucket))
        pieces.append(len(values))
        return values

    read = shuffle._Bucket.read_values
    monkeypatch.setattr(records, "BUFFER_BYTES", 1)
    monkeypatch.setattr(shuffle, "BUCKETS_NUMBER", 20)
    monkeypatch.setattr(shuffle._Bucket, "read_values", read_values)
    config = data_config(tmp_path / "again")
    again = pipeline.prepare(config)
    assert sum(pieces) == 13
    assert max(pieces) == 1
    first, second = ([p.read_bytes() for p in shards(b.data_dir)] for b in (built[1], again))
    assert first == second


ANY_TASKS = (
    dataclasses.replace(tasks.depth(), name="flow", label_channels=2, label_dtype=np.float16),
    dataclasses.replace(tasks.depth(), name="count", label_dtype=np.int32),
)


def any_example(i: int) -> dict:
    """Labels of tasks that no data set has, at sizes of their own."""
    rng, size = np.random.default_rng(i), (5 + i, 9 - 2 * i)
    return {
        "image": rng.random((*size, 3), np.float32),
        "flow": rng.random((*size, 2)).astype(np.float16),
        "count": rng.integers(-5, 5, (*size, 1)).astype(np.int32),
        "image_id": f"number {i}",
    }


def any_builder(data_dir, tasks=ANY_TASKS) -> records.RecordsBuilder:
    config = records.RecordsConfig(
        dataset="anything",
        version="1.0.0",
        name="three",
        counts={"train": 3},
        examples=lambda split: map(any_example, range(3)),
        image_size=None,
        image_dtype="float32",
        tasks=tasks,
    )
    return records.RecordsBuilder(config=config, data_dir=str(data_dir))


def test_new_tasks_and_sizes_of_their_own_need_no_change(tmp_path):
    builder = records.build(lambda: any_builder(tmp_path), tmp_path / "anything")
    source = pipeline.load(builder, "train")
    assert len(source) == 3
    for i in (2, 0, 1):
        expected = any_example(i)
        assert set(source[i]) == set(expected)
        for name, value in expected.items():
            assert np.array_equal(source[i][name], value)
            assert getattr(source[i][name], "dtype", None) == getattr(value, "dtype", None)


def test_a_task_without_labels_is_named(tmp_path):
    more = (*ANY_TASKS, tasks.normals())
    with pytest.raises(UserError, match=r"'anything' gives no label for normals"):
        records.build(lambda: any_builder(tmp_path, more), tmp_path / "anything")
    assert not shards(tmp_path)


def test_a_split_that_is_not_there_is_named(tmp_path):
    builder = records.build(lambda: any_builder(tmp_path), tmp_path / "anything")
    with pytest.raises(UserError, match=r"'anything' has no split 'val'; it has train\."):
        pipeline.load(builder, "val")


def test_a_builder_has_the_name_of_its_data_set(tmp_path, monkeypatch):
    spec = DatasetSpec("something", ANY_TASKS, lambda data, _: any_builder(data.data_dir))
    monkeypatch.setitem(DATASETS, "something", spec)
    with pytest.raises(UserError, match="'something' is named 'anything'"):
        pipeline.prepare(data_config(tmp_path, dataset="something"))


def test_records_made_before_a_task_was_added_are_not_taken_for_new_ones(tmp_path):
    records.build(lambda: any_builder(tmp_path), tmp_path / "anything")
    more = (*ANY_TASKS, tasks.normals())
    with pytest.raises(UserError, match=r"was built without normals; delete the folder"):
        records.build(lambda: any_builder(tmp_path, more), tmp_path / "anything")


_SLOW_BUILD = """
import sys, time
sys.path.insert(0, {root!r})
from emanet_jax.data import pipeline, synthrooms
from tests.data.settings import data_config
render = synthrooms.render_room
def slow(seed, index, size):
    if index == 5:
        print("half way", flush=True)
        time.sleep(60)
    return render(seed, index, size)
synthrooms.render_room = slow
pipeline.prepare(data_config({data_dir!r}))
"""


def test_a_killed_build_is_not_taken_for_complete_and_is_cleaned_up(tmp_path):
    program = _SLOW_BUILD.format(root=str(ROOT), data_dir=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    line = ""
    while "half way" not in line:
        line = process.stdout.readline()
        assert line, "the build ended early"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.rglob("incomplete.*"))
    builder = pipeline.prepare(data_config(tmp_path))
    assert len(pipeline.load(builder, "train")) == 10
    assert not list(tmp_path.rglob("incomplete.*"))


_BUILD = """
import sys
sys.path.insert(0, {root!r})
from emanet_jax.data import pipeline
from tests.data.settings import data_config
print(len(pipeline.load(pipeline.prepare(data_config({data_dir!r})), "train")))
"""


def test_two_processes_that_build_at_once_end_with_one_data_set(tmp_path):
    program = _BUILD.format(root=str(ROOT), data_dir=str(tmp_path))
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=60)[0].split()[-1] for process in processes] == ["10"] * 2
    assert len(shards(tmp_path)) == 2


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match=r"data_dir: .*file.* cannot be written"):
        pipeline.prepare(data_config(file))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "imagenet"}, "data set is 'imagenet'; choose from synthrooms, nyuv2"),
        ({"image_size": (48, 64)}, r"image_size is \(48, 64\)"),
        ({"train_examples": 0}, "train_examples is 0"),
        ({"val_examples": -1}, "val_examples is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"dataset": "nyuv2", "layout": "zip"}, "layout is 'zip'; choose from mtan"),
    ],
)
def test_wrong_settings_are_named(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        pipeline.prepare(data_config(tmp_path, **change))


def test_the_registry_loads_no_tfds_and_its_builders_exist():
    for name, spec in DATASETS.items():
        module, _, function = spec.builder.partition(":")
        assert spec.name == name and callable(getattr(importlib.import_module(module), function))
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from emanet_jax.tasks import registry; "
        "print({'tensorflow', 'tensorflow_datasets', 'grain'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stderr


# --- reading ahead: the order of the list, few at a time, and an error in its place --------------

KEYS = [str(i) for i in range(20)]


@pytest.mark.parametrize("threads", [1, 4])
def test_examples_come_in_order_and_few_are_read_ahead(threads):
    started, lock = [], threading.Lock()

    def read(key):
        with lock:
            started.append(key)
        return {"name": key}

    for i, example in enumerate(records.read_ahead(read, KEYS, threads)):
        assert example == {"name": str(i)}
        assert len(started) <= i + 1 + threads
    assert sorted(started, key=int) == KEYS


def test_later_examples_are_read_while_an_earlier_one_takes_long():
    others = threading.Semaphore(0)

    def read(key):
        if key == "0":
            return {"others": [others.acquire(timeout=30) for _ in range(3)]}
        others.release()
        return {}

    first = next(records.read_ahead(read, KEYS, 4))
    assert first == {"others": [True] * 3}


def test_an_error_comes_after_the_examples_before_it():
    def read(key):
        return {"share": 1 / (7 - int(key))}

    examples = records.read_ahead(read, KEYS, 4)
    assert [next(examples)["share"] for _ in range(7)] == [1 / k for k in range(7, 0, -1)]
    with pytest.raises(ZeroDivisionError):
        next(examples)
