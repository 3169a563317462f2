"""TensorBoard's own reader finds a run's scalars, pictures and table of runs, once each."""

import io
import re
import types

import numpy as np
import pytest
from etils import epath
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from emanet_jax.tasks import metrics, tasks_for
from emanet_jax.training import charts, logs, writers

METRICS = ("semseg/miou_percent", "depth/rmse_m")
CONFIG = {"model.name": "ema_net", "batch_size": 8, "optimizer.learning_rate": 1e-3, "tasks": "()"}


def start(folder, resume_step, steps, factor=1.0):
    """A run's writer from its start to its end: a scalar and a picture a step."""
    writer = writers.TensorBoardWriter(epath.Path(folder) / "tensorboard", resume_step, METRICS)
    writer.write_hparams(CONFIG)
    for step in steps:
        writer.write_scalars(step, {"train/loss": factor * step, "eval/depth/rmse_m": factor})
        writer.write_images(step, {writers.PANEL: np.full((1, 4, 6, 3), step, np.uint8)})
    writer.close()


def read(folder):
    """(multiplexer, names of the runs) of what TensorBoard reads in a folder."""
    multiplexer = EventMultiplexer(tensor_size_guidance={"images": 0, "scalars": 0})
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    return multiplexer


def points(multiplexer, tag, run="run/tensorboard"):
    return [
        (event.step, float(event.tensor_proto.float_val[0]))
        for event in multiplexer.Tensors(run, tag)
    ]


def table_of_runs(multiplexer, folder):
    """{run: ({column: value}, {metric: last value})}, and the columns in their order."""
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    context = backend_context.Context(types.SimpleNamespace(data_provider=provider))
    plain = RequestContext()
    request = api_pb2.ListSessionGroupsRequest(slice_size=9)
    request.allowed_statuses.extend([api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_RUNNING])
    groups = list_session_groups.Handler(plain, context, "", request).run().session_groups
    rows = {
        group.name: (
            {name: x.string_value or x.number_value for name, x in group.hparams.items()},
            {value.name.tag: value.value for value in group.metric_values},
        )
        for group in groups
    }
    found = context.hparams_metadata(plain, "")
    experiment = context.experiment_from_metadata(plain, "", True, found, None)
    return rows, [info.name for info in experiment.hparam_infos]


@pytest.mark.parametrize(
    "name, tag",
    [
        ("train/loss", "loss/total"),
        ("train/loss_depth", "loss/depth"),
        ("train/loss_depth_auxiliary", "loss/depth_auxiliary"),
        ("train/weight_depth", "balancing/weight_depth"),
        ("train/cosine_semseg_depth", "balancing/cosine_semseg_depth"),
        ("train/grad_norm", "optimizer/grad_norm"),
        ("eval/semseg/miou_percent", "semseg/miou_percent"),
        ("steps_per_sec", "speed/steps_per_second"),
        ("train/of_tomorrow", "train/of_tomorrow"),
    ],
)
def test_tags_stand_in_groups(name, tag):
    assert writers.tag(name) == tag


def test_a_resumed_run_is_there_once(tmp_path):
    start(tmp_path / "run", 0, range(1, 7))
    start(tmp_path / "run", 3, range(4, 6), factor=10.0)
    found = read(tmp_path)
    expected = [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50)]
    assert points(found, "loss/total") == points(found, "at_a_glance/loss_total") == expected
    panels = found.Tensors("run/tensorboard", writers.PANEL)
    assert [event.step for event in panels] == [1, 2, 3, 4, 5]
    width, height, content = panels[-1].tensor_proto.string_val
    assert (width, height) == (b"6", b"4")
    picture = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(picture, np.full((4, 6, 3), 5))


def test_the_table_of_runs_has_hyperparameters_and_final_metrics(tmp_path):
    start(tmp_path / "a" / "run", 0, [1, 2], factor=0.5)
    start(tmp_path / "b" / "run", 0, [1, 2], factor=0.25)
    start(tmp_path / "b" / "run", 2, [3], factor=0.125)
    rows, columns = table_of_runs(read(tmp_path), tmp_path)
    assert columns == ["model.name", "optimizer.learning_rate", "tasks", "batch_size"]
    assert len(rows) == 2 and all(re.fullmatch("run [0-9a-f]{4}", name) for name in rows)
    assert [x[1]["depth/rmse_m"] for x in rows.values()] in ([0.5, 0.125], [0.125, 0.5])
    for values, _ in rows.values():
        assert values["model.name"] == "ema_net" and values["batch_size"] == 8


def test_confusion_matrix_and_bars_show_their_numbers():
    task, *_ = tasks_for("nyuv2")
    counts = np.zeros((13, 13), int)
    counts[0, 0], counts[1, 0] = 5, 10  # class 1 is always taken for class 0; 2.. never occur
    shown = logs.pictures([task], {"semseg": metrics.Confusion(counts)})
    assert set(shown) == {"semseg/confusion_matrix", "semseg/iou_percent_by_class"}
    matrix = charts.confusion_matrix(counts, task.class_names)
    np.testing.assert_array_equal(shown["semseg/confusion_matrix"][0], matrix)
    size = 40  # of a cell; the last one ends 8 pixels before the lower right corner
    left, top = matrix.shape[1] - 8 - 13 * size, matrix.shape[0] - 8 - 13 * size
    corners = [tuple(matrix[top + row * size + 2, left + 2 + col * size]) for row, col in CELLS]
    assert corners == [(8, 48, 107), (255,) * 3, (8, 48, 107), (255,) * 3, (225,) * 3]

    bars = shown["semseg/iou_percent_by_class"][0]
    colour = task.colours(np.zeros((1, 1, 1), int))[0, 0]
    full = int((bars == colour).all(-1).sum(1).max())
    assert full == pytest.approx(400 / 3, abs=3)  # 5 / (5 + 10)


CELLS = ((0, 0), (0, 1), (1, 0), (1, 1), (2, 5))


@pytest.mark.parametrize("dataset, classes", [("cityscapes", 7), ("nyuv2", 40)])
def test_pictures_of_few_and_many_classes_hold_every_class(dataset, classes):
    task, *_ = tasks_for(dataset, classes=classes)
    matrix = charts.confusion_matrix(np.eye(classes), task.class_names)
    dark = (matrix == (8, 48, 107)).all(-1)
    assert sum(np.diff(dark.any(0).astype(int)) == 1) == classes  # as many cells side by side
    assert max(matrix.shape) < 1200
    bars = charts.bars(np.linspace(0, 100, classes), task, "iou_percent")
    assert bars.shape[0] >= classes * 20
