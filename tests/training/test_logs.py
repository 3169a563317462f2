"""Tables, durations, metrics.jsonl, and the figure."""

import json
import math
import types

import numpy as np
import pytest
from etils import epath
from PIL import Image

from emanet_jax.config import default_config
from emanet_jax.errors import UserError
from emanet_jax.tasks import figures, metrics, tasks_for
from emanet_jax.training import evaluation, logs, workdir, writers


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0s"), (59, "59s"), (61, "1m01s"), (3599.6, "1h00m"), (7512, "2h05m")]
)
def test_durations(seconds, text):
    assert logs.duration(seconds) == text


def test_a_table_aligns_its_columns():
    lines = logs.table({"first": {"a/b": 1.0, "c": 12.3456}, "last (9)": {"a/b": 2.5, "c": 0.1}})
    assert lines.splitlines() == [
        "metric  first  last (9)",
        "-----------------------",
        "a/b         1       2.5",
        "c       12.35       0.1",
    ]


def test_a_table_shows_what_only_some_columns_have():
    lines = logs.table({"first": {"c": 1.0}, "last": {"a/b": 2.5, "c": 0.1}})
    assert lines.splitlines()[2:] == ["a/b         -   2.5", "c           1   0.1"]


def test_a_resumed_log_drops_what_lies_after_the_checkpoint(tmp_path):
    path = epath.Path(tmp_path) / "metrics.jsonl"
    with_nan = writers.MetricsFile(path, resume_step=0)
    with_nan.write(1, {"train/loss": math.nan})
    with_nan.write(2, {"train/loss": np.float32(2)})
    with_nan.write(2, {"eval/depth/abs_m": 0.5})
    with_nan.write(3, {"train/loss": 3})
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # strict JSON has no NaN

    resumed = writers.MetricsFile(path, resume_step=2)
    resumed.write(3, {"train/loss": 4})
    rows = writers.read_scalars(path)
    assert [row["step"] for row in rows] == [1, 2, 2, 3]
    assert math.isnan(rows[0]["train/loss"]) and rows[-1]["train/loss"] == 4
    assert writers.read_evaluations(path) == {2: {"depth/abs_m": 0.5}}


def test_a_line_is_in_the_file_once_it_is_written(tmp_path):
    path = epath.Path(tmp_path) / "metrics.jsonl"
    writer = writers.MetricsFile(path, resume_step=0)
    writer.write(1, {"train/loss": 0.5})
    assert writers.read_scalars(path) == [{"step": 1, "train/loss": 0.5}]


def test_a_metric_without_a_valid_pixel_is_null_in_the_files_of_an_evaluation(tmp_path):
    (semseg,) = tasks_for("nyuv2", ["semseg"])
    nothing = metrics.Confusion(np.zeros((13, 13), int))
    experiment = types.SimpleNamespace(
        tasks=(semseg,), config=default_config(), tensorboard=False, total_steps=4
    )
    values = {f"semseg/{name}": value for name, value in nothing.compute().items()}
    figure = np.zeros((2, 2, 3), np.uint8)
    with logs.TrainLog(experiment, epath.Path(tmp_path), 0) as log:
        log.evaluation(4, evaluation.Evaluation(values, {"semseg": nothing}, figure))
    results, by_class = (
        json.loads((tmp_path / name).read_text(), parse_constant=pytest.fail)
        for name in (workdir.RESULTS, workdir.PER_CLASS)
    )
    assert results == {
        "step": 4,
        "semseg/miou_percent": None,
        "semseg/pixel_accuracy_percent": None,
    }
    nulls = dict.fromkeys(semseg.class_names)
    assert by_class == {"step": 4, "semseg/iou_percent": nulls}


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        "3",
        '{"train/loss": 1.0}',
        '{"step": 1.5}',
        '{"step": 1, "x": "a"}',
        '{"step": 1, "x": %s}',
    ],
)
def test_a_line_of_something_else_is_one_sentence(tmp_path, line):
    path = epath.Path(tmp_path) / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line.replace("%s", "9" * 400))
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is no object of numbers"):
        writers.read_scalars(path)


def test_of_all_images_the_newest_figure_is_a_file(tmp_path):
    writer = writers.Writer(epath.Path(tmp_path), 0, tensorboard=False)
    for k in (1, 2):
        writer.figure(k, np.full((4, 6, 3), k, np.uint8))
        writer.images(k, {"semseg/confusion_matrix": np.zeros((9, 9, 3), np.uint8)})
    with Image.open(tmp_path / workdir.FIGURE) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.full((4, 6, 3), 2))


def test_an_image_grid_shows_every_label_and_prediction_in_its_place():
    tasks = tasks_for("nyuv2")
    images = np.full((2, 32, 64, 3), 0.5, np.float32)
    labels = {
        "semseg": np.full((2, 32, 64, 1), 4, np.uint8),
        "depth": np.zeros((2, 32, 64, 1), np.float32),
        "normals": np.zeros((2, 32, 64, 3), np.float32) + np.array([0, 0, -1], np.float32),
    }
    predictions = {**labels, "semseg": np.full((2, 32, 64, 1), 11)}
    grid = figures.image_grid(images, labels, predictions, tasks)
    assert grid.dtype == np.uint8 and grid.shape[2] == 3
    tiles = 4 * 64 + 6  # enlarged to 256 pixels, and the margin
    centres = [grid[90, 6 + i * tiles + 128] for i in range(7)]
    floor, wall = (tasks[0].colours(np.full((1, 1, 1), k))[0, 0] for k in (4, 11))
    expected = [(128,) * 3, floor, wall, (0,) * 3, (0,) * 3, (127, 127, 255), (127, 127, 255)]
    np.testing.assert_array_equal(centres, expected)
