"""The project's tables are those of the data set's own .mat files, copied into tests/data/nyuv2."""

import pathlib

import numpy as np
import pytest
from scipy.io import loadmat

from emanet_jax.data import nyuv2
from emanet_jax.tasks import DATASETS
from emanet_jax.tasks.palettes import NYU13, NYU40

FILES = pathlib.Path(__file__).parent / "nyuv2"


@pytest.fixture(scope="module")
def mapping():
    file = loadmat(FILES / "class13Mapping.mat", simplify_cells=True)
    return file["classMapping13"]


def test_forty_of_894():
    file = loadmat(FILES / "classMapping40.mat", simplify_cells=True)
    ids = nyuv2.class_ids(40)
    assert ids.shape == (895,)
    assert np.array_equal(ids[1:] + 1, file["mapClass"])
    assert ids[0] == 255
    assert [*NYU40] == [*file["className"]]


def test_thirteen_of_forty(mapping):
    assert np.array_equal(nyuv2.thirteen_of_forty()[1:], mapping["labels13"])
    assert [*NYU13] == [*mapping["classNames"]]


def test_thirteen_of_894(mapping):
    forty = nyuv2.class_ids(40)
    thirteen = nyuv2.class_ids(13)
    assert np.array_equal(thirteen[1:], mapping["labels13"][forty[1:]] - 1)
    assert thirteen[0] == 255
    assert set(thirteen[1:]) == set(range(13))


def test_the_real_label_maps_in_both_codings():
    with np.load(FILES / "label_maps.npz") as maps:
        forty, thirteen = maps["forty"], maps["thirteen"]
        frames = maps["frames"]
    assert forty.shape == thirteen.shape == (41, 480, 640)
    assert np.array_equal(nyuv2.thirteen_of_forty()[forty], thirteen)
    assert set(frames) <= set(nyuv2.frames("val"))
    assert len(np.unique(thirteen)) == 14
    # Through the ids that networks see: 0, unlabelled, is 255 in both.
    ids = np.where(forty == 0, 255, forty - 1).astype(np.uint8)
    thirteen_ids = np.append(nyuv2.thirteen_of_forty()[1:] - 1, [255] * 216)[ids]
    assert np.array_equal(thirteen_ids, np.where(thirteen == 0, 255, thirteen.astype(int) - 1))


def test_the_split():
    file = loadmat(FILES / "splits.mat")
    for split, key in (("train", "trainNdxs"), ("val", "testNdxs")):
        assert nyuv2.frames(split) == file[key].ravel().tolist()
        assert len(nyuv2.frames(split)) == DATASETS["nyuv2"].splits[split]
        assert sorted(nyuv2.frames(split)) == nyuv2.frames(split)
    together = nyuv2.frames("train") + nyuv2.frames("val")
    assert sorted(together) == list(range(1, 1450))
