"""Evaluation with a fake step: metrics that need the host, and when they are made."""

import json
import types

import jax
import ml_collections
import numpy as np
import pytest

from emanet_jax.errors import UserError
from emanet_jax.tasks import figures, metrics, tasks_for
from emanet_jax.tasks.boundaries import BoundaryCounts
from emanet_jax.training import evaluation, sharding
from emanet_jax.training.experiment import make_score

TASKS = tasks_for("pascal_context", ["saliency", "edge"])
FIVE = tasks_for("pascal_context")
REAL = 6  # images; the second batch of 4 is padded with 2


def images_and_labels(seed=0):
    """Probabilities (8, 16, 24, 3), labels with a tenth of ignored pixels, and the mask."""
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 255], (8, 16, 24, 1), p=[0.8, 0.1, 0.1]).astype(np.uint8)
    return rng.random((8, 16, 24, 3)).astype(np.float32), label, np.arange(8) < REAL


def fake_experiment(spatial):
    """An experiment whose network calls the image's channels saliency and edge."""
    mesh = sharding.make_mesh(spatial)

    def eval_step(_, batch):
        predictions = {t.name: batch["image"][..., i : i + 1] for i, t in enumerate(TASKS)}
        mask = batch["mask"][:, None, None, None]
        labels = batch["labels"]
        sums = {
            t.name: t.metric(predictions[t.name], labels[t.name], t.valid(labels[t.name]) & mask)
            for t in TASKS
        }
        return sums, predictions

    shardings = (sharding.replicated(mesh), sharding.maps(mesh))
    step = jax.jit(eval_step, out_shardings=shardings)
    return types.SimpleNamespace(tasks=TASKS, mesh=mesh, eval_step=step, figure_images=3)


def batches():
    image, label, mask = images_and_labels()
    for start in (0, 4):
        rows = slice(start, start + 4)
        labels = {task.name: label[rows] for task in TASKS}
        yield {"image": image[rows], "labels": labels, "mask": mask[rows]}


@pytest.mark.parametrize("spatial", [1, 2])
def test_host_metrics_see_every_real_image_once_on_any_mesh(spatial):
    experiment = fake_experiment(spatial)
    values, _, figure = evaluation.evaluate(experiment, None, batches())
    assert list(values) == ["saliency/maxf_percent", "edge/loss", "edge/odsf_percent"]
    image, label, _ = images_and_labels()
    by_image = [
        BoundaryCounts.of(image[i, ..., 1:2], label[i], label[i] != 255) for i in range(REAL)
    ]
    expected = metrics.total(by_image).compute()["odsf_percent"]
    assert values["edge/odsf_percent"] == pytest.approx(expected)
    first = next(batches())
    maps = {task.name: first["image"][:3, ..., i : i + 1] for i, task in enumerate(TASKS)}
    labels = {name: label[:3] for name, label in first["labels"].items()}
    np.testing.assert_array_equal(
        figure, figures.image_grid(first["image"][:3], labels, maps, TASKS)
    )
    without = evaluation.evaluate(experiment, None, batches(), host_metrics=False)
    assert without.values == {k: v for k, v in values.items() if k != "edge/odsf_percent"}


@pytest.mark.parametrize(
    "host_metrics, last, asked",
    [
        ("always", False, True),
        ("always", True, True),
        ("last", False, False),
        ("last", True, True),
        ("never", False, False),
        ("never", True, False),
    ],
)
def test_the_config_says_when_host_metrics_are_made(host_metrics, last, asked):
    assert evaluation.wants_host_metrics(host_metrics, last) is asked


def checkpoint_config(best_metric="", reference=""):
    return ml_collections.ConfigDict({"best_metric": best_metric, "reference": reference})


@pytest.mark.parametrize("host_metrics", ["last", "never"])
@pytest.mark.parametrize("best_metric", ["edge/odsf_percent", "delta_m"])
def test_checkpoints_are_not_ranked_by_what_most_evaluations_lack(best_metric, host_metrics):
    with pytest.raises(UserError, match=r"needs edge/odsf_percent at every evaluation"):
        make_score(checkpoint_config(best_metric), FIVE, host_metrics)


def test_an_edge_network_is_ranked_by_its_boundary_f_or_as_the_config_says():
    edge = tasks_for("pascal_context", ["edge"])
    with pytest.raises(UserError, match=r"config.host_metrics is 'last'"):
        make_score(checkpoint_config(), edge, "last")
    assert make_score(checkpoint_config(), edge, "always")({"edge/odsf_percent": 60.0}) == 60
    assert make_score(checkpoint_config("edge/loss"), edge, "last")({"edge/loss": 0.2}) == -0.2
    assert make_score(checkpoint_config(), FIVE, "last")({"semseg/miou_percent": 50.0}) == 50


def test_delta_m_of_five_tasks_ranks_checkpoints_and_asks_for_a_whole_reference(tmp_path):
    reference = {f"{task.name}/{task.primary}": 40.0 for task in FIVE}
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"step": 9, **reference}))
    score = make_score(checkpoint_config("delta_m", str(path)), FIVE, "always")
    assert score(reference) == 0
    assert score(reference | {"edge/odsf_percent": 42.0}) == pytest.approx(5 / 5)
    path.write_text(json.dumps({**reference, "edge/odsf_percent": None}))  # as NaN is written
    with pytest.raises(UserError, match=r"results.json', has nan for edge/odsf_percent"):
        make_score(checkpoint_config("delta_m", str(path)), FIVE, "always")
    del reference["human_parts/miou_percent"]
    path.write_text(json.dumps(reference))
    with pytest.raises(UserError, match=r"results.json', lacks human_parts/miou_percent"):
        make_score(checkpoint_config("delta_m", str(path)), FIVE, "always")
