"""Metrics: golden values, values by hand, exactness over batches and padding; delta_m."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax.tasks import metrics, tasks_for

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "metrics"
EXPECTED = json.loads((GOLDEN / "metrics.json").read_text())
NYU = {task.name: task for task in tasks_for("nyuv2")}
PASCAL = {task.name: task for task in tasks_for("pascal_context")}
EVERY_METRIC = pytest.mark.parametrize(
    "task",
    [*NYU.values(), *(PASCAL[name] for name in ("saliency", "edge", "human_parts"))],
    ids=lambda task: task.name,
)

OURS = {  # golden name to ours, and the factor between a fraction and a percentage
    "mIoU": ("miou_percent", 100),
    "pix_acc": ("pixel_accuracy_percent", 100),
    "rmse": ("rmse_m", 1),
    "log_rmse": ("log_rmse", 1),
    "rel": ("rel", 1),
    "abs": ("abs_m", 1),
    "mean": ("mean_deg", 1),
    "11.25": ("within_11.25_percent", 100),
    "22.5": ("within_22.5_percent", 100),
    "30": ("within_30_percent", 100),
}


def golden_batches(name: str):
    """Predictions and labels of batches a and b in this project's layout and coding."""
    with np.load(GOLDEN / "metrics.npz") as arrays:
        for batch in "ab":
            prediction = arrays[f"{name}/pred_{batch}"].transpose(0, 2, 3, 1)
            label = arrays[f"{name}/label_{batch}"]
            label = label[..., None] if label.ndim == 3 else label.transpose(0, 2, 3, 1)
            if name == "pascal_normals":
                label = np.where(label == 255, 0, label)
            elif label.shape[-1] == 1 and name != "depth":
                label = np.where(label == -1, 255, label).astype(np.uint8)
            yield jnp.asarray(prediction), jnp.asarray(label)


@pytest.mark.parametrize("name", ["semseg", "depth", "normals"])
def test_golden_metrics_and_losses(name):
    task = NYU[name]
    metric = functools.partial(task.metric, reference=True) if name == "depth" else task.metric
    sums, batch_losses = [], []
    for prediction, label in golden_batches(name):
        valid = task.valid(label)
        sums.append(metric(task.activation(prediction), label, valid))
        batch_losses.append(float(task.loss(prediction, label, valid)))
    values = metrics.total(sums).compute()
    for golden_name, expected in EXPECTED[name]["metrics"].items():
        ours, factor = OURS[golden_name]
        assert values[ours] == pytest.approx(factor * expected, rel=1e-6), golden_name
    assert batch_losses == pytest.approx(EXPECTED[name]["loss_per_batch"], rel=1e-6)


PASCAL_GOLDEN = {  # task: golden entry, its metric, ours
    "semseg": ("pascal_semseg", "mIoU", "miou_percent"),
    "human_parts": ("pascal_human_parts", "mIoU", "miou_percent"),
    "normals": ("pascal_normals", "mean", "mean_deg"),
    "saliency": ("pascal_sal", "maxF", "maxf_percent"),
    "edge": ("pascal_edge", "loss", "loss"),
}


@pytest.mark.parametrize("name", list(PASCAL_GOLDEN))
def test_golden_metrics_and_losses_of_pascal_context(name):
    task = PASCAL[name]
    golden, theirs, ours = PASCAL_GOLDEN[name]
    # The reference code squashes the probabilities of these two once more.
    twice = name in ("saliency", "edge")
    sums, squashed, batch_losses = [], [], []
    for prediction, label in golden_batches(golden):
        valid, activated = task.valid(label), task.activation(prediction)
        sums.append(task.metric(activated, label, valid))
        batch_losses.append(float(task.loss(prediction, label, valid)))
        if twice:
            squashed.append(task.metric(activated, label, valid, reference=True))
    assert batch_losses == pytest.approx(EXPECTED[golden]["loss_per_batch"], rel=1e-6)
    value = metrics.total(sums).compute()[ours]
    right = EXPECTED[f"{golden}_on_probabilities" if twice else golden]["metrics"][theirs]
    assert value == pytest.approx(right, rel=1e-6)
    if twice:
        expected = EXPECTED[golden]["metrics"][theirs]
        assert metrics.total(squashed).compute()[ours] == pytest.approx(expected, rel=1e-6)


def random_maps(task, rng, n=8):
    """A prediction and a label with a tenth of invalid pixels, (n, 6, 5, .)."""
    shape = (n, 6, 5)
    prediction = rng.standard_normal((*shape, task.channels)).astype(np.float32)
    if task.label_dtype == np.uint8:
        label = rng.integers(0, max(task.channels, 2), (*shape, 1)).astype(np.uint8)
    else:
        label = rng.uniform(0.5, 9, (*shape, task.label_channels)).astype(np.float32)
    label = task.zoom(label, 1.0)  # vectors to unit length
    return prediction, np.where(rng.random((*shape, 1)) < 0.1, task.ignore, label).astype(
        label.dtype
    )


@EVERY_METRIC
def test_batches_of_3_3_2_padded_equal_one_batch_of_8(task):
    prediction, label = map(jnp.asarray, random_maps(task, np.random.default_rng(0)))
    valid = task.valid(label)
    whole = task.metric(task.activation(prediction), label, valid)
    parts = []
    for start in (0, 3, 6):
        rows = np.arange(start, start + 3)
        mask = (rows < 8)[:, None, None, None]
        rows = np.minimum(rows, 7)
        activated = task.activation(prediction[rows])
        parts.append(task.metric(activated, label[rows], valid[rows] & mask))
    summed = functools.reduce(lambda a, b: a + b, parts)
    for sums in (summed, metrics.total(parts)):
        for ours, reference in zip(
            jax.tree.leaves(sums), jax.tree.leaves(metrics.total([whole])), strict=True
        ):
            np.testing.assert_allclose(ours, reference, rtol=3e-6)


@EVERY_METRIC
def test_nothing_valid_gives_nan_and_not_zero(task):
    prediction, label = map(jnp.asarray, random_maps(task, np.random.default_rng(1)))
    nothing = jnp.zeros((*label.shape[:3], 1), bool)
    sums = task.metric(task.activation(prediction), label, nothing)
    assert all(np.isnan(v) for v in metrics.total([sums]).compute().values())


def test_confusion_by_hand():
    label = jnp.array([0, 0, 1, 1, 255], jnp.uint8).reshape(1, 1, 5, 1)
    prediction = jnp.array([0, 1, 1, 1, 0]).reshape(1, 1, 5, 1)
    sums = metrics.Confusion.of(prediction, label, label != 255, num_classes=3)
    np.testing.assert_array_equal(sums.counts, [[1, 1, 0], [0, 2, 0], [0, 0, 0]])
    np.testing.assert_allclose(sums.iou(), [1 / 2, 2 / 3, np.nan])
    # Class 2 never occurs: left out of the mean, or a zero in it.
    assert sums.compute()["miou_percent"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    zero = sums.replace(absent_class="zero").compute()["miou_percent"]
    assert zero == pytest.approx(100 * (1 / 2 + 2 / 3) / 3)
    assert sums.compute()["pixel_accuracy_percent"] == pytest.approx(75)


def test_depth_by_hand():
    label = jnp.array([2.0, 4.0, 0.0, 1.0]).reshape(1, 1, 4, 1)
    prediction = jnp.array([1.0, 4.5, 9.0, -1.0]).reshape(1, 1, 4, 1)
    values = metrics.DepthErrors.of(prediction, label, label != 0).compute()
    assert values["abs_m"] == pytest.approx((1 + 0.5 + 2) / 3)
    assert values["rel"] == pytest.approx((0.5 + 0.125 + 2) / 3)
    assert values["rmse_m"] == pytest.approx(((1 + 0.25 + 4) / 3) ** 0.5)
    # A negative prediction is within no ratio; 4.5 / 4 is below 1.25.
    assert values["delta1_percent"] == pytest.approx(100 / 3)
    assert values["delta3_percent"] == pytest.approx(100 / 3)
    reference = metrics.DepthErrors.of(prediction, label, label != 0, reference=True).compute()
    assert reference["abs_m"] == pytest.approx((1 + 0.5 + 1) / 3)


def test_angles_by_hand():
    label = jnp.array([[0, 0, 1.0]] * 5).reshape(1, 1, 5, 3)
    degrees = np.array([0.0, 5.0, 20.0, 25.0, 180.0])
    radians = np.deg2rad(degrees)
    vectors = np.stack([np.sin(radians), np.zeros(5), np.cos(radians)], -1) * 3
    prediction = jnp.asarray(vectors, jnp.float32).reshape(1, 1, 5, 3)
    values = metrics.AngleErrors.of(prediction, label, jnp.ones((1, 1, 5, 1), bool)).compute()
    assert values["mean_deg"] == pytest.approx(degrees.mean(), abs=1e-4)
    assert values["median_deg"] == pytest.approx(20, abs=0.05)
    assert values["rmse_deg"] == pytest.approx(np.sqrt(np.mean(degrees**2)), abs=1e-4)
    assert values["within_11.25_percent"] == pytest.approx(40)
    assert values["within_22.5_percent"] == pytest.approx(60)
    assert values["within_30_percent"] == pytest.approx(80)


def angle_errors(degrees):
    radians = np.deg2rad(degrees)[None, None, :, None]
    prediction = np.concatenate([np.sin(radians), 0 * radians, np.cos(radians)], axis=-1)
    label = np.broadcast_to([0.0, 0.0, 1.0], prediction.shape)
    valid = np.ones_like(radians, bool)
    return metrics.AngleErrors.of(*map(jnp.asarray, (prediction, label, valid)))


@pytest.mark.parametrize(
    "degrees",
    [[12.34], [10, 30], [3, 170], [1, 1, 60], [1, 60, 60], [0, 180], [7, 7.01, 50, 90], [20] * 6],
)
def test_median_of_few_angles_is_numpys(degrees):
    errors = angle_errors(np.array(degrees, np.float32))
    assert errors.compute()["median_deg"] == pytest.approx(np.median(degrees), abs=0.051)
    both = metrics.total([errors, errors])
    assert both.compute()["median_deg"] == pytest.approx(np.median(degrees), abs=0.051)


def test_median_of_many_angles_is_interpolated_in_its_bin():
    # Evenly in one bin of 0.05 degrees: far closer than its width.
    degrees = np.linspace(30.001, 30.049, 1001, dtype=np.float32)
    assert angle_errors(degrees).compute()["median_deg"] == pytest.approx(30.025, abs=1e-3)


def test_saliency_by_hand():
    label = jnp.array([1, 1, 0, 0, 255], jnp.uint8).reshape(1, 1, 5, 1)
    prediction = jnp.array([0.92, 0.42, 0.62, 0.12, 0.99]).reshape(1, 1, 5, 1)
    sums = metrics.SaliencyCounts.of(prediction, label, label != 255)
    np.testing.assert_array_equal(sums.hit, [2] * 8 + [1] * 10 + [0])
    np.testing.assert_array_equal(sums.predicted, [4] * 2 + [3] * 6 + [2] * 4 + [1] * 6 + [0])
    # Best above 0.62: precision 1, recall 1/2.
    assert sums.compute()["maxf_percent"] == pytest.approx(100 * 1.3 * 0.5 / (0.3 + 0.5))
    # Counts are pooled: at 0.40, 3 of 4 salient pixels are among the 5 predicted.
    other = metrics.SaliencyCounts.of(1 - prediction, label, label != 255)
    pooled = (sums + other).compute()["maxf_percent"]
    assert pooled == pytest.approx(100 * 1.3 * 3 / (0.3 * 4 + 5))
    nothing = metrics.SaliencyCounts.of(prediction, 0 * label, label != 255)
    assert np.isnan(nothing.compute()["maxf_percent"])


def test_edge_loss_of_saturated_probabilities_is_finite():
    label = jnp.array([1, 0, 1, 0], jnp.uint8).reshape(1, 1, 4, 1)
    prediction = jnp.array([1.0, 0.0, 0.0, 1.0]).reshape(1, 1, 4, 1)
    loss = metrics.EdgeLoss.of(prediction, label, label < 2).compute()["loss"]
    assert loss == pytest.approx(24 * np.log(2) / 4, rel=1e-5)  # 0.95 and 0.05 of it


def test_totals_of_many_batches_lose_no_pixel():
    # 300 times 2^24 pixels: beyond what int32 or float32 sums hold.
    counts = jnp.full((2, 2), 2**24, jnp.int32)
    many = metrics.total([metrics.Confusion(counts)] * 300)
    assert many.counts.dtype == np.int64
    np.testing.assert_array_equal(many.counts, np.full((2, 2), 300 * 2**24))


def test_delta_m_in_its_three_definitions():
    tasks = [NYU["semseg"], NYU["depth"]]
    reference = {
        "semseg/miou_percent": 40.0,
        "semseg/pixel_accuracy_percent": 60.0,
        "depth/rmse_m": 1.0,
    }
    values = {
        "semseg/miou_percent": 44.0,  # +10 %
        "semseg/pixel_accuracy_percent": 63.0,  # +5 %
        "depth/rmse_m": 0.8,  # lower is better: +20 %
    }
    assert metrics.delta_m(values, reference, tasks) == pytest.approx(15)
    assert metrics.delta_m(values, reference, tasks, "task_means") == pytest.approx(13.75)
    assert metrics.delta_m(values, reference, tasks, "all_metrics") == pytest.approx(35 / 3)


def test_delta_m_of_five_tasks_reads_their_primary_metrics():
    reference = {
        "semseg/miou_percent": 50.0,
        "normals/mean_deg": 20.0,
        "saliency/maxf_percent": 80.0,
        "edge/odsf_percent": 40.0,
        "edge/loss": 0.1,
        "human_parts/miou_percent": 60.0,
    }
    gains = {"semseg": 1.10, "normals": 0.95, "saliency": 1.05, "edge": 0.9, "human_parts": 1.0}
    values = {"edge/loss": 0.2} | {
        f"{name}/{PASCAL[name].primary}": gain * reference[f"{name}/{PASCAL[name].primary}"]
        for name, gain in gains.items()
    }
    expected = (10 + 5 + 5 - 10 + 0) / 5
    assert metrics.delta_m(values, reference, list(PASCAL.values())) == pytest.approx(expected)
