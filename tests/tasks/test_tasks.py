"""The Task record: order, subsets, errors, flips and zooms, colours."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import emanet_jax
from emanet_jax import menu
from emanet_jax.errors import UserError
from emanet_jax.tasks import (
    DATASETS,
    DatasetSpec,
    depth,
    losses,
    palettes,
    registry,
    saliency,
    semseg,
    tasks_for,
)
from emanet_jax.training.checkpoint import Checkpoints, Policy
from emanet_jax.training.experiment import make_score
from emanet_jax.types import MetricSums
from tests.conftest import ROOT

EVERY_TASK = [
    pytest.param(task, id=f"{spec.name}-{task.name}{task.channels}")
    for spec in DATASETS.values()
    for task in (*spec.tasks, *spec.other_classes)
]
PASCAL = {task.name: task for task in tasks_for("pascal_context")}


def some_label(task, seed=0):
    rng = np.random.default_rng(seed)
    if task.label_dtype == np.uint8:
        label = rng.integers(0, max(task.channels, 2), (6, 8, 1))
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


def test_the_five_tasks_of_pascal_context():
    channels = {name: task.channels for name, task in PASCAL.items()}
    expected = {"semseg": 21, "normals": 3, "saliency": 2, "edge": 1, "human_parts": 7}
    assert list(channels.items()) == list(expected.items())  # their order too
    assert PASCAL["normals"].loss is losses.normals_l1
    assert tasks_for("nyuv2", ["normals"])[0].loss is losses.cosine


@pytest.mark.parametrize(
    "dataset, classes, count, last",
    [
        ("nyuv2", None, 13, "window"),
        ("nyuv2", 0, 13, "window"),
        ("nyuv2", 13, 13, "window"),
        ("nyuv2", 40, 40, "otherprop"),
        ("cityscapes", 0, 19, "bicycle"),
        ("cityscapes", 7, 7, "vehicle"),
        ("pascal_context", 21, 21, "tvmonitor"),
    ],
)
def test_the_number_of_classes_picks_the_table(dataset, classes, count, last):
    semseg, *rest = tasks_for(dataset, classes=classes)
    assert (semseg.name, semseg.channels) == ("semseg", count)
    assert len(semseg.class_names) == count and semseg.class_names[-1] == last
    assert tuple(rest) == DATASETS[dataset].tasks[1:]


def test_a_number_of_classes_that_does_not_exist_names_the_choices():
    with pytest.raises(UserError, match=r"config.data.classes is 12 but nyuv2 has 13 or 40"):
        tasks_for("nyuv2", classes=12)
    with pytest.raises(UserError, match=r"is 40 but synthrooms has 13 classes"):
        tasks_for("synthrooms", classes=40)


@pytest.mark.parametrize("names", [["sky"], [], ["depth", "depth"]])
def test_wrong_subsets_are_one_sentence_with_the_choices(names):
    with pytest.raises(UserError, match="choose one or more of semseg, depth, normals"):
        tasks_for("nyuv2", names)


def test_unknown_dataset_lists_the_known_ones():
    with pytest.raises(UserError, match=r"'mars'.*synthrooms, nyuv2"):
        tasks_for("mars")


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "DATASETS", dict(DATASETS))
    monkeypatch.setattr(menu, "TASKS", dict(menu.TASKS))
    monkeypatch.setattr(menu, "LAYOUTS", dict(menu.LAYOUTS))


TOYS = {"duck": (255, 255, 0), "ball": (255, 0, 0)}


@pytest.mark.usefixtures("own_registry")
def test_a_data_set_is_registered_from_outside(tmp_path):
    spec = DatasetSpec(
        "toys", (semseg(TOYS), depth()), builder=lambda data, tasks: (data.seed, tasks)
    )
    emanet_jax.register_dataset(spec)
    assert [task.name for task in tasks_for("toys")] == ["semseg", "depth"]
    assert "toys" in menu.DATASETS and menu.TASKS["toys"] == ("semseg", "depth")
    assert tasks_for("toys", ["semseg"])[0].class_names == ("duck", "ball")
    trained, data = tasks_for("toys", ["depth"]), ml_collections.ConfigDict({"seed": 3})
    assert registry.spec_of("toys").make_builder(data, trained) == (3, trained)
    emanet_jax.register_dataset(dataclasses.replace(spec, tasks=spec.tasks[:1]))  # replaces it
    assert [task.name for task in tasks_for("toys")] == ["semseg"]
    with pytest.raises(UserError, match="data set 'nyuv2' is one of this package's own"):
        emanet_jax.register_dataset(dataclasses.replace(spec, name="nyuv2"))
    assert len(tasks_for("nyuv2")) == 3
    for wrong in ((), (depth(), depth())):
        with pytest.raises(UserError, match="'others' has the tasks"):
            emanet_jax.register_dataset(dataclasses.replace(spec, name="others", tasks=wrong))


@pytest.mark.usefixtures("own_registry")
def test_a_task_takes_the_place_of_its_namesake_or_the_last_one():
    mine = dataclasses.replace(depth(), loss=losses.cosine)
    emanet_jax.register_task(mine, dataset="nyuv2")
    emanet_jax.register_task(saliency(), dataset="nyuv2")
    names = [task.name for task in tasks_for("nyuv2")]
    assert names == ["semseg", "depth", "normals", "saliency"]
    assert tasks_for("nyuv2", ["depth"]) == (mine,)
    assert tasks_for("nyuv2", classes=40)[0].channels == 40
    with pytest.raises(UserError, match="data set is 'mars'; choose from"):
        emanet_jax.register_task(mine, dataset="mars")


def test_the_public_names_exist_and_load_nothing_before_they_are_used():
    assert all(getattr(emanet_jax, name) for name in emanet_jax.__all__)
    assert set(emanet_jax.__all__) <= set(dir(emanet_jax))
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        emanet_jax.no_such_name  # noqa: B018
    program = "import sys, emanet_jax; print({'jax', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stderr


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


@pytest.mark.parametrize("task", [p for p in EVERY_TASK if p.values[0].class_names])
def test_class_colours_differ(task):
    ids = np.arange(task.channels).reshape(1, -1, 1)
    assert len(np.unique(task.colours(ids)[0], axis=0)) == task.channels


def test_pascal_colours_follow_their_rule():
    # Bits 0, 1, 2 of the id are the highest bits of red, green, blue; bits 3, 4, 5 the next.
    for index, colour in enumerate(palettes.PASCAL21.values()):
        bits = [index >> k & 1 for k in range(6)]
        assert colour == tuple(128 * bits[c] + 64 * bits[c + 3] for c in range(3))


@pytest.mark.parametrize("name", ["saliency", "edge"])
def test_labels_and_probabilities_share_their_greys(name):
    task = PASCAL[name]
    label = np.array([0, 1, 255], np.uint8).reshape(1, 3, 1)
    dark, white, ignored = task.colours(label)[0]
    assert (white == 255).all() and (ignored == 0).all() and (dark > 0).all()
    prediction = np.asarray(task.activation(np.zeros((1, 1, 2, task.channels), np.float32)))
    assert prediction.shape == (1, 1, 2, 1)
    grey = task.colours(prediction[0])[0, 0]
    assert (dark < grey).all() and (grey < white).all()
    np.testing.assert_array_equal(task.colours(np.array([[[1.0], [0.0]]]))[0], [white, dark])


@pytest.mark.parametrize("task", EVERY_TASK)
def test_the_primary_metric_is_one_of_the_metrics(task):
    names = task.metric_names()
    assert task.primary in names and len(set(names)) == len(names)
    assert set(task.host_metric_names()) < set(names)


# In every data set: whatever counts errors is better lower, whatever counts hits higher.
ERRORS = {"rmse", "abs", "rel", "log_rmse", "mean_deg", "median_deg", "rmse_deg", "loss"}


@pytest.mark.parametrize("task", EVERY_TASK)
def test_every_metric_value_has_a_direction(task):
    directions = task.metric_directions()
    assert set(task.metric_names()) <= set(directions)
    for name, higher in directions.items():
        assert higher is (name.removesuffix("_m") not in ERRORS), name
    assert task.higher_is_better is directions[task.primary]


class Similarity(MetricSums):
    value: jax.Array

    @classmethod
    def of(cls, prediction, label, valid):
        return cls(jnp.sum(prediction * label * valid))

    def compute(self):
        return {"ssim": float(self.value)}

    def higher_is_better(self):
        return {"ssim": True}


class Undirected(Similarity):
    def higher_is_better(self):
        return {}


def with_ssim(metric=Similarity, higher_is_better=True):
    return dataclasses.replace(
        PASCAL["saliency"], metric=metric.of, primary="ssim", higher_is_better=higher_is_better
    )


def test_a_value_without_a_direction_or_with_two_is_one_sentence():
    with pytest.raises(UserError, match=r"'saliency': .* of Undirected does not state .* ssim"):
        with_ssim(Undirected).metric_directions()
    with pytest.raises(UserError, match=r"primary='ssim' and higher_is_better=False, but"):
        with_ssim(higher_is_better=False).metric_directions()


def test_a_metric_of_any_name_keeps_the_best_checkpoint(tmp_path):
    config = ml_collections.ConfigDict({"best_metric": "", "reference": ""})
    score = make_score(config, (with_ssim(),), "always")
    policy = Policy(score, keep_latest=1, keep_best=1)
    with Checkpoints(tmp_path / "checkpoints", policy) as checkpoints:
        for step, value in ((1, 0.3), (2, 0.9), (3, 0.5)):
            checkpoints.save({"step": jnp.int32(step)}, step, {"saliency/ssim": value})
        assert checkpoints.choose("best") == 2 and checkpoints.choose("latest") == 3


def test_boundary_f_is_the_metric_that_needs_the_host():
    assert PASCAL["edge"].host_metric_names() == ("odsf_percent",)
    assert PASCAL["semseg"].host_metric_names() == ()
