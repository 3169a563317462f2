"""The Task record: order, subsets, errors, flips and zooms, colours."""

import numpy as np
import pytest

from emanet_jax.errors import UserError
from emanet_jax.tasks import DATASET_TASKS, tasks_for

EVERY_TASK = [
    pytest.param(task, id=f"{dataset}-{task.name}")
    for dataset, tasks in DATASET_TASKS.items()
    for task in tasks
]


def some_label(task, seed=0):
    rng = np.random.default_rng(seed)
    if task.class_names:
        label = rng.integers(0, task.channels, (6, 8, 1))
    else:
        label = rng.uniform(0.1, 0.5, (6, 8, task.label_channels))
        label = (
            label / np.linalg.norm(label, axis=-1, keepdims=True) if task.channels == 3 else label
        )
    label = label.astype(task.label_dtype)
    label[0, 0] = task.ignore
    return label


def test_order_is_canonical_whatever_is_asked():
    assert [t.name for t in tasks_for("nyuv2")] == ["semseg", "depth", "normals"]
    assert [t.name for t in tasks_for("nyuv2", ["normals", "semseg"])] == ["semseg", "normals"]


@pytest.mark.parametrize("names", [["sky"], [], ["depth", "depth"]])
def test_wrong_subsets_are_one_sentence_with_the_choices(names):
    with pytest.raises(UserError, match="choose one or more of semseg, depth, normals"):
        tasks_for("nyuv2", names)


def test_unknown_dataset_lists_the_known_ones():
    with pytest.raises(UserError, match=r"'mars'.*synthrooms, nyuv2"):
        tasks_for("mars")


@pytest.mark.parametrize("task", EVERY_TASK)
def test_flip_twice_is_identity_and_keeps_validity(task):
    label = some_label(task)
    flipped = task.flip(label)
    np.testing.assert_array_equal(task.flip(flipped), label)
    np.testing.assert_array_equal(task.valid(flipped), task.valid(label))


@pytest.mark.parametrize("task", EVERY_TASK)
def test_zoom_in_and_out_is_identity_and_keeps_validity(task):
    label = some_label(task)
    zoomed = task.zoom(label, 2.0)
    assert zoomed.dtype == label.dtype
    np.testing.assert_array_equal(task.valid(zoomed), task.valid(label))
    np.testing.assert_allclose(task.zoom(zoomed, 0.5), label, rtol=1e-6)


def test_zoom_moves_depth_closer_and_disparity_up():
    metres, disparity = tasks_for("nyuv2", ["depth"])[0], tasks_for("cityscapes", ["depth"])[0]
    label = np.full((1, 1, 1), 3.0, np.float32)
    assert metres.zoom(label, 1.5) == 2.0
    assert disparity.zoom(label, 1.5) == 4.5


@pytest.mark.parametrize("task", EVERY_TASK)
def test_colours_are_bytes_and_invalid_is_black(task):
    picture = task.colours(some_label(task))
    assert picture.shape == (6, 8, 3) and picture.dtype == np.uint8
    assert (picture[0, 0] == 0).all() and (picture[1:] != 0).any()


def test_class_colours_differ():
    for tasks in DATASET_TASKS.values():
        semseg = tasks[0]
        ids = np.arange(semseg.channels).reshape(1, -1, 1)
        assert len(np.unique(semseg.colours(ids)[0], axis=0)) == semseg.channels
