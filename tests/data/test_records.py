"""Built data sets: complete or absent, whole or refused, never another's."""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from emanet_jax import tasks
from emanet_jax.data import pipeline, records, registry, synthrooms
from emanet_jax.errors import UserError
from emanet_jax.tasks import DATASET_TASKS
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
        registry.spec_for(config).builder(config)
        for config in (data_config(tmp_path), data_config(tmp_path, **change))
    ]
    assert builders[0].data_dir != builders[1].data_dir


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
def test_a_damaged_description_is_noticed_at_start(built, how):
    config, builder = built
    damage(pathlib.Path(builder.data_dir, "dataset_info.json"), how)
    with pytest.raises(UserError, match=r"dataset_info.json .*delete .*folder"):
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


class Anything(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Labels of tasks that no data set has, at sizes of their own."""

    VERSION = tfds.core.Version("1.0.0")
    name = "anything"
    url_infos = None
    tasks = (
        dataclasses.replace(tasks.depth(), name="flow", label_channels=2, label_dtype=np.float16),
        dataclasses.replace(tasks.depth(), name="count", label_dtype=np.int32),
    )

    def _info(self):
        return records.info(self, None, "float32", self.tasks, {"train": 3})

    def _split_generators(self, _):
        return {"train": records.keyed(map(self.example, range(3)), 3)}

    def _generate_examples(self):
        raise AssertionError("the splits bring their own examples")

    @staticmethod
    def example(i: int) -> dict:
        rng, size = np.random.default_rng(i), (5 + i, 9 - 2 * i)
        return {
            "image": rng.random((*size, 3), np.float32),
            "flow": rng.random((*size, 2)).astype(np.float16),
            "count": rng.integers(-5, 5, (*size, 1)).astype(np.int32),
            "image_id": f"number {i}",
        }


def test_new_tasks_and_sizes_of_their_own_need_no_change(tmp_path):
    def make():
        return Anything(data_dir=tmp_path, file_format="array_record")

    source = pipeline.load(records.build(make, tmp_path / "anything"), "train")
    assert len(source) == 3
    for i in (2, 0, 1):
        expected = Anything.example(i)
        assert set(source[i]) == set(expected)
        for name, value in expected.items():
            assert np.array_equal(source[i][name], value)
            assert getattr(source[i][name], "dtype", None) == getattr(value, "dtype", None)


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
        ({"dataset": "imagenet"}, "unknown data set 'imagenet'; known: synthrooms, nyuv2"),
        ({"image_size": (48, 64)}, r"image_size is \(48, 64\)"),
        ({"train_examples": 0}, "train_examples is 0"),
        ({"val_examples": -1}, "val_examples is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"dataset": "nyuv2", "layout": "zip"}, "layout is 'zip' but nyuv2 knows: mtan"),
    ],
)
def test_wrong_settings_are_named(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        pipeline.prepare(data_config(tmp_path, **change))


def test_the_registry_knows_tasks_for_every_data_set_and_loads_no_tfds():
    assert set(registry.DATASETS) <= set(DATASET_TASKS)
    for name, spec in registry.DATASETS.items():
        assert spec.name == name
        assert spec.eval_split in spec.splits
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from emanet_jax.data import specs; "
        "print({'tensorflow', 'tensorflow_datasets', 'grain'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stderr
