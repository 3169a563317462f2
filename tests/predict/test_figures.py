"""Figures of images: every task's colours and their key."""

import dataclasses

import numpy as np
import pytest

from emanet_jax.predict import figures
from emanet_jax.tasks import DATASETS, tasks_for


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_task_has_one_kind_of_key(dataset):
    for task in tasks_for(dataset):
        kinds = [bool(task.class_names), task.limit is not None, task.label_channels == 3]
        assert sum(kinds) == 1, task.name


def _packed(colours):
    return np.asarray(colours).reshape(-1, 3).astype(np.uint32) @ [1 << 16, 1 << 8, 1]


def _holds(page, *colours):
    """Whether a page has pixels of each of these colours."""
    return np.isin(_packed(colours), _packed(page))


def _maps(tasks, size):
    """The same value everywhere: class 0, 0.577 of a unit, a slanting vector."""
    types = {True: np.uint8, False: np.float32}
    return {
        task.name: np.full((*size, task.label_channels), 0.577, types[bool(task.class_names)])
        for task in tasks
    }


@pytest.mark.parametrize("dataset", ["pascal_context", "cityscapes"])
@pytest.mark.parametrize("size", [(30, 40), (500, 100), (10, 1000)])
def test_a_figure_shows_every_map_and_its_key(dataset, size):
    tasks = tasks_for(dataset)
    h, w = figures.tile_size(size)
    assert max(h, w) == 560 and abs(h / w / (size[0] / size[1]) - 1) < 0.1
    maps = _maps(tasks, (h, w))
    page = figures.figure(np.full((h, w, 3), 10, np.uint8), maps, tasks)
    assert page.dtype == np.uint8 and page.shape[0] % 2 == page.shape[1] % 2 == 0
    assert _holds(page, (10, 10, 10)).all()
    for task in tasks:
        colour = task.to_rgb(maps[task.name])[0, 0]
        if task.class_names:  # over the picture; in the legend as it is
            assert _holds(page, colour, np.rint(0.6 * colour + 0.4 * 10)).all()
        else:
            assert _holds(page, colour).all()
        if task.limit is not None:
            ends = np.array([0, task.limit])[None, :, None]
            assert _holds(page, *task.to_rgb(ends)[0]).all()


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_legend_has_the_classes_that_occur(dataset):
    (task,) = tasks_for(dataset, ["semseg"])
    maps = _maps([task], (560, 560))
    maps["semseg"][:9] = 3
    picture = np.full((560, 560, 3), 10, np.uint8)
    colours = task.to_rgb(np.arange(task.channels)[None, :, None])[0]
    greys = np.ptp(colours, 1) == 0  # words have them too
    found = _holds(figures.figure(picture, maps, [task]), *colours)
    assert set(np.flatnonzero(found & ~greys)) == {0, 3} - set(np.flatnonzero(greys))
    assert _holds(figures.figure(picture, maps, [task], all_classes=True), *colours).all()


def test_metres_are_written_where_they_are_metres():
    (depth,) = tasks_for("synthrooms", ["depth"])
    maps = {"depth": np.full((560, 560, 1), 2.0, np.float32)}
    picture = np.zeros((560, 560, 3), np.uint8)
    metres = figures.figure(picture, maps, [depth])
    plain = figures.figure(picture, maps, [dataclasses.replace(depth, unit="")])
    differ = np.argwhere((metres != plain).any(-1))[:, 0]
    assert len(differ) and not ((differ > 40) & (differ < 590)).any()  # caption and bar alone
    assert tasks_for("cityscapes", ["depth"])[0].unit == "" and depth.unit == "m"
