"""Figures of images: every task's colours and their key."""

import dataclasses

import numpy as np
import pytest
from PIL import ImageDraw

from emanet_jax.predict import figures
from emanet_jax.tasks import DATASETS, tasks_for
from emanet_jax.tasks import figures as keys


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


def _figure(image, maps, tasks, **options):
    return figures.figure(image, maps, tasks, figures.colour_ends(maps, tasks), **options)


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
    page = _figure(np.full((h, w, 3), 10, np.uint8), maps, tasks)
    ends = figures.colour_ends(maps, tasks)
    assert page.dtype == np.uint8 and page.shape[0] % 2 == page.shape[1] % 2 == 0
    assert _holds(page, (10, 10, 10)).all()
    for task in tasks:
        colour = keys.colours(task, maps[task.name], ends.get(task.name))[0, 0]
        if task.class_names:  # over the picture; in the legend as it is
            assert _holds(page, colour, np.rint(0.6 * colour + 0.4 * 10)).all()
        else:
            assert _holds(page, colour).all()
        if task.limit is not None:
            whole = np.array([0, task.limit])[None, :, None]
            assert _holds(page, *task.to_rgb(whole)[0]).all()


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_legend_has_the_classes_that_occur(dataset):
    (task,) = tasks_for(dataset, ["semseg"])
    maps = _maps([task], (560, 560))
    maps["semseg"][:9] = 3
    picture = np.full((560, 560, 3), 10, np.uint8)
    colours = task.to_rgb(np.arange(task.channels)[None, :, None])[0]
    greys = np.ptp(colours, 1) == 0  # words have them too
    found = _holds(_figure(picture, maps, [task]), *colours)
    assert set(np.flatnonzero(found & ~greys)) == {0, 3} - set(np.flatnonzero(greys))
    assert _holds(_figure(picture, maps, [task], all_classes=True), *colours).all()


def test_metres_are_written_where_they_are_metres():
    (depth,) = tasks_for("synthrooms", ["depth"])
    maps = {"depth": np.full((560, 560, 1), 2.0, np.float32)}
    picture = np.zeros((560, 560, 3), np.uint8)
    metres = _figure(picture, maps, [depth])
    plain = _figure(picture, maps, [dataclasses.replace(depth, unit="")])
    differ = np.argwhere((metres != plain).any(-1))[:, 0]
    assert len(differ) and not ((differ > 40) & (differ < 590)).any()  # caption and bar alone
    assert tasks_for("cityscapes", ["depth"])[0].unit == "" and depth.unit == "m"


def _words(monkeypatch, draw):
    """The texts that are drawn."""
    words, text = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, place, word, *args, **kw: (
            words.append(word),
            text(self, place, word, *args, **kw),
        ),
    )
    draw()
    return words


def test_a_desk_s_depth_has_all_colours_and_the_bar_its_range(monkeypatch):
    (depth,) = tasks_for("synthrooms", ["depth"])
    values = np.linspace(0.5, 0.9, 560 * 560, dtype=np.float32).reshape(560, 560, 1)
    values[0, :9] = 40.0  # a few that are wrong
    low, high = figures.colour_ends({"depth": values}, [depth])["depth"]
    assert (low, high) == pytest.approx((0.504, 0.896), abs=1e-3)
    picture = np.zeros((560, 560, 3), np.uint8)
    page = []
    words = _words(monkeypatch, lambda: page.append(_figure(picture, {"depth": values}, [depth])))
    assert len(np.unique(_packed(page[0][40:590, 590:1100]))) > 200  # of 256
    numbers = ["0.504", "0.582", "0.661", "0.739", "0.818", "0.896 m"]
    assert words == [*numbers, "image", "depth: 0.5 to 40 m"]


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0.0, 10.0), ["0", "2", "4", "6", "8", "10 m"]),
        ((12.2, 12.3), ["12.2", "12.22", "12.24", "12.26", "12.28", "12.3 m"]),
        ((-0.01, 120.0), ["0", "24", "48", "72", "96", "120 m"]),
    ],
)
def test_numbers_of_a_bar_tell_its_fifths_apart(monkeypatch, ends, words):
    (depth,) = tasks_for("synthrooms", ["depth"])
    assert _words(monkeypatch, lambda: keys.bar(depth, ends, 300)) == words


def test_what_a_range_is_taken_of():
    (depth,) = tasks_for("synthrooms", ["depth"])
    (saliency,) = tasks_for("pascal_context", ["saliency"])
    (disparity,) = tasks_for("cityscapes", ["depth"])
    normals = tasks_for("synthrooms", ["normals"])[0]
    flat = np.full((4, 4, 1), 2.0, np.float32)
    maps = {"depth": flat, "saliency": flat / 9, "normals": np.zeros((4, 4, 3))}
    ends = figures.colour_ends(maps, [depth, saliency, normals])
    assert ends == {"depth": pytest.approx((1.95, 2.05)), "saliency": (0.0, 1.0)}
    far = {"depth": np.linspace(0.01, 0.02, 101, dtype=np.float32).reshape(1, 101, 1)}
    assert figures.colour_ends(far, [disparity])["depth"] == pytest.approx((0.0101, 0.0199))


def test_ends_move_by_a_share():
    assert figures.blend({"a": (0.0, 1.0)}, {"a": (4.0, 3.0)}, 0.25) == {"a": (1.0, 1.5)}


def test_an_overlay_is_the_picture_below_three_fifths_of_colour():
    (semseg,) = tasks_for("synthrooms", ["semseg"])
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 9, 3)).astype(np.uint8)
    ids = rng.integers(0, 13, (8, 9, 1)).astype(np.uint8)
    found = figures.overlay(image, ids, semseg)
    expected = 0.6 * np.asarray(semseg.to_rgb(ids), float) + 0.4 * image
    assert found.dtype == np.uint8 and abs(found - expected).max() <= 0.5 + 1e-9
