"""Checkpoints: what is kept, and that no damaged one is ever restored."""

import hashlib
import itertools
import json
import math
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax.errors import UserError
from emanet_jax.training.checkpoint import _LATE, SUMS, Checkpoints, Policy, find_damage


def state(step):
    return {"weights": jnp.arange(5000.0) + step, "count": jnp.int32(step)}


def opened(directory, **options):
    policy = Policy(lambda values: values["x"], keep_latest=3, keep_best=1)
    return Checkpoints(directory / "checkpoints", policy, **options)


def files(directory, step):
    folder = directory / "checkpoints" / str(step)
    return folder, sorted(path for path in folder.rglob("*") if path.is_file())


def largest(directory, step):
    return max(files(directory, step)[1], key=lambda path: path.stat().st_size)


@pytest.fixture
def run(tmp_path):
    with opened(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state(step), step, {"x": float(step)})
    return tmp_path


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_checkpoint_without_a_value_is_never_the_best(tmp_path):
    with opened(tmp_path) as checkpoints:
        for step, value in ((1, -2.0), (2, math.nan), (3, -4.0)):
            checkpoints.save(state(step), step, {"x": value})
    for path in tmp_path.glob("checkpoints/*/metrics/metrics"):
        json.loads(path.read_text(), parse_constant=pytest.fail)
    with opened(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.best_step() == 1
    (tmp_path / "checkpoints" / "2" / "metrics" / "metrics").write_text('{"x": NaN}')  # earlier's
    with opened(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.best_step() == 1


DAMAGES = {
    "is damaged": flip_a_byte,
    "another SHA-256": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "is missing": lambda path: path.unlink(),
}


def test_every_finished_checkpoint_has_the_sums_of_its_files(run):
    for step in (1, 2, 3):
        folder, found = files(run, step)
        lines = [line.split("  ") for line in (folder / SUMS).read_text().splitlines()]
        assert {name for _, name in lines} > {"state/_METADATA", "metrics/metrics"}
        assert len(lines) > len(found) - 8  # all but Orbax's marks of the end
        for digest, name in lines:
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_skipped(run, words):
    broken = largest(run, 3)
    DAMAGES[words](broken)
    with opened(run) as checkpoints:
        said = checkpoints.damages
        assert len(said) == 1 and words in said[0] and str(broken) in said[0]
        assert checkpoints.latest_step() == 2
        restored = checkpoints.restore(2, state(0))
        np.testing.assert_array_equal(restored["weights"], state(2)["weights"])
        checkpoints.save(state(3), 3, {"x": 3.0})  # the way is free for the step again
    with opened(run) as checkpoints:
        assert not checkpoints.damages and checkpoints.latest_step() == 3
    assert (run / "damaged" / "3-0").is_dir()


def test_any_damage_to_any_file_goes_back_to_the_step_before(run, tmp_path_factory):
    names = [path.relative_to(run) for path in files(run, 3)[1]]
    assert len(names) > 8
    for name, damage in itertools.product(names, DAMAGES.values()):
        copy = tmp_path_factory.mktemp("copy") / "run"
        shutil.copytree(run, copy)
        damage(copy / name)
        with opened(copy) as checkpoints:
            step = checkpoints.latest_step()
            assert step == checkpoints.best_step() == (3 if name.name in _LATE else 2), name
            assert len(checkpoints.damages) == 3 - step
            restored = checkpoints.restore(step, state(0))
            np.testing.assert_array_equal(restored["weights"], state(step)["weights"], str(name))
            assert checkpoints.metrics(step) == {"x": step}


@pytest.mark.parametrize("damage", DAMAGES.values())
def test_the_best_is_never_chosen_by_damaged_metrics(run, damage):
    damage(run / "checkpoints" / "1" / "metrics" / "metrics")
    with opened(run) as checkpoints:
        assert len(checkpoints.damages) == 1 and checkpoints.latest_step() == 3
    assert (run / "damaged" / "1-0").is_dir()


def test_all_damaged_leaves_none(run):
    for step in (1, 2, 3):
        flip_a_byte(largest(run, step))
    with opened(run) as checkpoints:
        assert len(checkpoints.damages) == 3
        assert checkpoints.latest_step() is None


def test_a_damaged_checkpoint_is_not_restored(run):
    flip_a_byte(largest(run, 2))
    with opened(run) as checkpoints, pytest.raises(UserError, match=r"checkpoints/2/.* is damaged"):
        checkpoints.restore(2, state(0))


def test_files_that_systems_hide_are_no_damage(run):
    folder = files(run, 3)[0]
    for path in (folder.with_name("._3"), folder / "._state", folder / "state" / ".DS_Store"):
        path.write_bytes(b"Mac OS X")
    with opened(run) as checkpoints:
        assert not checkpoints.damages
        restored = checkpoints.restore(3, state(0))
    np.testing.assert_array_equal(restored["weights"], state(3)["weights"])


def test_without_sums_a_checkpoint_counts_as_damaged(run):
    (files(run, 3)[0] / SUMS).unlink()
    with opened(run) as checkpoints:
        assert "3/SHA256SUMS is missing" in checkpoints.damages[0]
        assert len(checkpoints.damages) == 1 and checkpoints.latest_step() == 2


def test_metrics_can_be_added_to_a_checkpoint_without(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(state(1), 1)
        checkpoints.wait()
        assert not checkpoints.evaluated(1) and checkpoints.best_step() is None
        checkpoints.save(state(5), 1)  # is there already
        checkpoints.save(state(1), 1, {"x": 1.0})
        checkpoints.wait()
        assert checkpoints.evaluated(1) and checkpoints.best_step() == 1
        np.testing.assert_array_equal(checkpoints.restore(1, state(0))["weights"][0], 1)


def test_arrays_of_another_network_are_one_sentence(run):
    others = [
        {"weights": jnp.zeros(7), "count": jnp.int32(0)},
        {"weights": jnp.zeros(5000)},
        {"kernel": jnp.zeros(5000), "count": jnp.int32(0)},
    ]
    for other in others:
        with (
            opened(run) as checkpoints,
            pytest.raises(UserError, match=r"checkpoints/3 holds other arrays than") as error,
        ):
            checkpoints.restore(3, other)
        assert "\n" not in str(error.value)


def test_what_a_killed_run_left_is_cleared(run):
    checkpoints = run / "checkpoints"
    (checkpoints / "3").rename(checkpoints / "4.orbax-checkpoint-tmp")  # killed while it was saved
    (checkpoints / "deleted").mkdir()
    (checkpoints / "1").rename(checkpoints / "deleted" / "1")  # killed while it was deleted
    with opened(run, read_only=True) as opened_run:  # as by an evaluation while the run goes on
        assert opened_run.latest_step() == 2
    assert (checkpoints / "4.orbax-checkpoint-tmp").exists()
    with opened(run) as opened_run:
        assert opened_run.latest_step() == 2
        opened_run.save(state(4), 4, {"x": 4.0})
    assert {path.name for path in checkpoints.iterdir()} == {"2", "4"}


def test_only_a_new_checkpoint_gets_sums(run):
    with opened(run) as checkpoints:
        (files(run, 2)[0] / SUMS).unlink()
        checkpoints.save(state(4), 4, {"x": 4.0})
        checkpoints.wait()
        assert "SHA256SUMS is missing" in find_damage(checkpoints.path(2))
        assert not find_damage(checkpoints.path(4))
