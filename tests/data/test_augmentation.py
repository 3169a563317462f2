"""Random augmentation: its settings, its choices, its colours."""

import colorsys

import numpy as np
import pytest

from emanet_jax.config import default_config
from emanet_jax.data import augmentation
from emanet_jax.errors import UserError
from emanet_jax.synthetic import render_room
from emanet_jax.tasks import tasks_for
from tests.data.settings import make_augmentation

TASKS = tasks_for("synthrooms")
SIZE = (96, 128)
EVERYTHING = {
    "flip": True,
    "scale": (0.5, 2.0),
    "max_class_share": 0.75,
    "brightness": 0.125,
    "contrast": 0.5,
    "saturation": 0.5,
    "hue": 0.1,
}


def sample_of(index: int, size=SIZE):
    room = render_room(0, index, size)
    return {"image": room["image"], "labels": {t.name: room[t.name] for t in TASKS}}


def augmented(sample, key, size=SIZE, tasks=TASKS, **settings):
    rng = np.random.default_rng(key)
    return augmentation.augment(sample, tasks, rng, make_augmentation(**settings), size)


def test_the_default_config_mirrors_and_nothing_else():
    how = augmentation.from_config(default_config().augment)
    assert how == make_augmentation(flip=True)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"flip": 1}, "augment.flip is 1 but must be True or False"),
        ({"scale": (2.0, 0.5)}, "augment.scale is (2.0, 0.5)"),
        ({"scale": (0.0, 1.0)}, "augment.scale is (0.0, 1.0)"),
        ({"scale": (1.0,)}, "augment.scale is (1.0,)"),
        ({"scale": (0.5, 2.0), "scale_crop": True}, "only one of them can scale"),
        ({"max_class_share": 0.0}, "augment.max_class_share is 0.0"),
        ({"max_class_share": 1.5}, "augment.max_class_share is 1.5"),
        ({"brightness": -0.1}, "augment.brightness is -0.1"),
        ({"contrast": 1.5}, "augment.contrast is 1.5"),
        ({"saturation": 2.0}, "augment.saturation is 2.0"),
        ({"hue": 0.6}, "augment.hue is 0.6 but must be between 0 (off) and 0.5"),
        ({"hue": float("nan")}, "augment.hue is nan"),
    ],
)
def test_a_wrong_setting_is_named(changes, sentence):
    with pytest.raises(UserError) as error:
        make_augmentation(**changes)
    assert sentence in str(error.value)


def test_augmentation_is_a_function_of_the_generator():
    sample = sample_of(3)
    first, second = (augmented(sample, 5, **EVERYTHING) for _ in range(2))
    assert np.array_equal(first["image"], second["image"])
    for task in TASKS:
        assert np.array_equal(first["labels"][task.name], second["labels"][task.name])
    others = [augmented(sample, k, **EVERYTHING) for k in range(12)]
    assert len({other["image"].tobytes() for other in others}) == 12


def test_nothing_is_augmented_unless_asked_for():
    sample = sample_of(3)
    for k in range(8):
        assert np.array_equal(augmented(sample, k)["image"], sample["image"])


def test_each_choice_is_independent_of_what_else_is_on():
    sample = sample_of(3)
    for k in range(6):
        full = augmented(sample, k, **EVERYTHING)
        dull = augmented(sample, k, flip=True, scale=(0.5, 2.0), max_class_share=0.75)
        straight = augmented(sample, k, **{**EVERYTHING, "flip": False})
        for task in TASKS:
            assert np.array_equal(full["labels"][task.name], dull["labels"][task.name])
        here, there = full["labels"]["depth"], straight["labels"]["depth"]
        rows, columns = (np.flatnonzero(there.any(axis)) for axis in ((1, 2), (0, 2)))
        same = np.array_equal(here, there)
        # Mirrored before it was padded on the right, if it was.
        assert same or here.any((0, 2)).sum() == len(columns)
        assert np.array_equal(np.flatnonzero(here.any((1, 2))), rows)


def test_half_of_the_images_are_mirrored_and_all_scales_of_mtan_occur():
    image = np.tile(np.arange(64, dtype=np.float32)[:, None], (32, 1, 3))
    sample = {"image": image, "labels": {}}
    mirrored, steps = 0, set()
    for k in range(200):
        result = augmented(sample, k, image.shape[:2], (), flip=True, scale_crop=True)
        step = result["image"][16, 33, 0] - result["image"][16, 32, 0]
        mirrored += step < 0
        steps.add(round(float(1 / abs(step)), 2))
    assert 70 < mirrored < 130
    assert steps == {1.0, 1.2, 1.5}


def test_scales_fill_their_range_and_windows_the_picture():
    image = np.zeros((64, 80, 3), np.float32)
    image[..., 0], image[..., 1] = np.arange(64)[:, None], np.arange(80)
    factors, tops, lefts = [], [], []
    for k in range(200):
        result = augmented({"image": image, "labels": {}}, k, (32, 32), (), scale=(0.5, 2.0))
        picture = result["image"]
        factors.append(1 / (picture[9, 8, 0] - picture[8, 8, 0]))
        tops.append(picture[0, 0, 0])
        lefts.append(picture[0, 0, 1])
    assert 0.5 <= min(factors) < 0.6
    assert 1.9 < max(factors) <= 2.0
    assert 1.1 < np.mean(factors) < 1.4
    assert min(tops) < 1
    assert max(tops) > 40
    assert min(lefts) < 1
    assert max(lefts) > 55


@pytest.mark.parametrize("size", [(60, 61), (96, 128), (150, 90), (200, 200)])
def test_any_size_becomes_the_size_asked_for(size):
    sample = sample_of(1, size)
    for k in range(6):
        result = augmented(sample, k, **EVERYTHING)
        assert result["image"].shape == (*SIZE, 3)
        assert result["image"].dtype == np.uint8
        for task in TASKS:
            label = result["labels"][task.name]
            assert label.shape == (*SIZE, task.label_channels)
            assert label.dtype == task.label_dtype
        allowed = {255, *np.unique(sample["labels"]["semseg"])}
        assert set(np.unique(result["labels"]["semseg"])) <= allowed


def test_padding_follows_the_scaled_picture():
    sample = sample_of(1, (64, 64))
    sample["labels"]["semseg"][:] = 3
    result = augmented(sample, 0, scale=(0.5, 0.5))
    valid = TASKS[0].valid(result["labels"]["semseg"])[..., 0]
    assert valid[:32, :32].all()
    assert valid.sum() == 32 * 32


def two_classes(share):
    """A picture whose left part is class 1; windows at the right hold class 1 and 2 in halves."""
    label = np.ones((64, 512, 1), np.uint8)
    label[::2, int(512 * (1 - share)) :] = 2
    return {"image": np.zeros((64, 512, 3), np.uint8), "labels": {"semseg": label}}


def test_no_class_fills_a_window_beyond_its_limit():
    semseg = TASKS[:1]
    sample, size = two_classes(0.5), (64, 64)
    shares = {}
    for limit in (1.0, 0.75):
        results = [augmented(sample, k, size, semseg, max_class_share=limit) for k in range(60)]
        shares[limit] = np.array(
            [augmentation.class_share(r["labels"]["semseg"], TASKS[0]) for r in results]
        )
    assert (shares[1.0] == 1).sum() > 15  # without a limit many windows show one class alone
    assert (shares[0.75] <= 0.75).sum() >= 59  # 10 tries at about one half each


def test_the_last_of_ten_windows_is_taken_if_none_will_do():
    sample, size = two_classes(0.0), (64, 64)
    for k in range(5):
        result = augmented(sample, k, size, TASKS[:1], max_class_share=0.75)
        assert (result["labels"]["semseg"] == 1).all()
    columns = np.broadcast_to(np.arange(512, dtype=np.float32)[:, None], (64, 512, 3))
    sample["image"] = columns
    first, last = (
        augmented(sample, 3, size, TASKS[:1], max_class_share=limit)["image"][0, 0, 0]
        for limit in (1.0, 0.75)
    )
    assert first != last


def test_unlabelled_pixels_do_not_count_as_a_class():
    label = np.full((10, 10, 1), 255, np.uint8)
    assert augmentation.class_share(label, TASKS[0]) == 0
    label[0, :4] = 1
    label[1, :6] = 2
    assert augmentation.class_share(label, TASKS[0]) == pytest.approx(0.6)


def jittered(image, count=40, **settings):
    sample = {"image": image, "labels": {}}
    return [augmented(sample, k, image.shape[:2], (), **settings)["image"] for k in range(count)]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_colours_change_as_documented(dtype):
    white = 255 if dtype == np.uint8 else 1
    image = np.empty((32, 32, 3), dtype)
    image[:] = np.array([0.5, 0.4, 0.3]) * white
    given = image[0, 0].astype(float)

    brighter = np.array([x[0, 0] for x in jittered(image, brightness=0.2)], float) - given
    assert np.ptp(brighter, axis=1).max() <= white / 200  # the same for all channels
    assert 0.15 < np.abs(brighter).max() / white <= 0.205
    assert 10 < (brighter[:, 0] == 0).sum() < 30  # half of the images

    stronger = np.array([x[0, 0] for x in jittered(image, contrast=0.5)], float) / given
    assert 0.48 < stronger.min() < 0.65
    assert 1.35 < stronger.max() < 1.52

    grey = np.array([0.299, 0.587, 0.114])
    for settings in ({"saturation": 0.5}, {"hue": 0.1}):
        lumas = np.array([x[0, 0] @ grey for x in jittered(image, **settings)])
        assert np.allclose(lumas, given @ grey, atol=white / 150)

    hues = [colorsys.rgb_to_hsv(*(x[0, 0] / white).astype(float)) for x in jittered(image, hue=0.1)]
    turns = np.array([(h[0] - colorsys.rgb_to_hsv(0.5, 0.4, 0.3)[0] + 0.5) % 1 - 0.5 for h in hues])
    assert 0.06 < np.abs(turns).max() < 0.13  # a turn in YIQ is nearly one of the colour wheel


def test_grey_has_neither_saturation_nor_hue():
    image = np.full((32, 32, 3), 90, np.uint8)
    for result in jittered(image, saturation=1.0, hue=0.5):
        assert (result == 90).all()


def test_colours_stop_at_black_and_white_and_labels_do_not_change():
    image = np.zeros((32, 32, 3), np.uint8)
    image[16:] = 255
    results = jittered(image, brightness=1.0, contrast=1.0)
    assert {0, 255} <= {int(x) for result in results for x in np.unique(result)}
    sample = sample_of(4)
    for k in range(4):
        result = augmented(sample, k, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.5)
        for task in TASKS:
            assert np.array_equal(result["labels"][task.name], sample["labels"][task.name])
