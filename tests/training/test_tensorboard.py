"""TensorBoard's own data server finds a run's scalars, images and table of runs, once each."""

import contextlib
import io
import math
import subprocess
import sys
import types

import numpy as np
import pytest
from etils import epath
from PIL import Image
from tensorboard.context import RequestContext
from tensorboard.data import server_ingester
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tensorboard.util import grpc_util

from emanet_jax.tasks import metrics, tasks_for
from emanet_jax.training import charts, logs, workdir, writers
from tests.conftest import ROOT

CONFIG = {"model.name": "ema_net", "batch_size": 8, "optimizer.learning_rate": 1e-3, "tasks": "()"}
PLAIN = RequestContext()


def write(folder, resume_step, steps, factor=1.0, **config):
    """Writes a run from its start to its end: scalars and a figure a step."""
    folder.mkdir(exist_ok=True)
    writer = writers.Writer(epath.Path(folder), resume_step, tensorboard=True)
    writer.hparams(CONFIG | config)
    for step in steps:
        writer.scalars(step, {"train/loss": factor * step, "eval/depth/rmse_m": factor})
        writer.figure(step, np.full((4, 6, 3), step, np.uint8))
    writer.close()


@contextlib.contextmanager
def served(folder):
    """Opens what TensorBoard's data server, its default reader, finds in a folder."""
    ingester = server_ingester.SubprocessServerDataIngester(
        server_binary=server_ingester.get_server_binary(),
        logdir=str(folder),
        reload_interval=1,
        channel_creds_type=grpc_util.ChannelCredsType.LOCAL,
        samples_per_plugin={"scalars": 0, "images": 0},
    )
    ingester.start()
    yield ingester.data_provider


def scalars(provider, run):
    """{tag: [(step, value)]}."""
    found = provider.read_scalars(PLAIN, experiment_id="", plugin_name="scalars", downsample=100)
    return {tag: [(x.step, x.value) for x in series] for tag, series in found[run].items()}


def table_of_runs(provider):
    """[({column: value}, {metric: last value})] of the tab HPARAMS."""
    context = backend_context.Context(types.SimpleNamespace(data_provider=provider))
    request = api_pb2.ListSessionGroupsRequest(slice_size=9, include_metrics=True)
    request.allowed_statuses.extend([api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_RUNNING])
    groups = list_session_groups.Handler(PLAIN, context, "", request).run().session_groups
    return [
        (
            {name: x.string_value or x.number_value for name, x in group.hparams.items()},
            {value.name.tag: value.value for value in group.metric_values},
        )
        for group in groups
    ]


@pytest.mark.parametrize(
    "name, tag",
    [
        ("train/loss", "loss/total"),
        ("train/loss_depth", "loss/depth"),
        ("train/loss_depth_auxiliary", "loss/depth_auxiliary"),
        ("train/weight_depth", "balancing/weight_depth"),
        ("train/cosine_semseg_depth", "balancing/cosine_semseg_depth"),
        ("train/grad_norm", "optimizer/grad_norm"),
        ("train/images_per_second", "speed/images_per_second"),
        ("eval/semseg/miou_percent", "semseg/miou_percent"),
        ("of/tomorrow", "of/tomorrow"),
    ],
)
def test_tags_stand_in_groups(name, tag):
    assert writers.tag(name) == tag


def test_a_resumed_run_is_there_once(tmp_path):
    write(tmp_path / "run", 0, range(1, 7))
    write(tmp_path / "run", 3, range(4, 6), factor=10.0)
    expected = [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50)]
    with served(tmp_path) as provider:
        found = scalars(provider, "run/tensorboard")
        assert found["loss/total"] == expected
        assert found["depth/rmse_m"] == [(1, 1), (2, 1), (3, 1), (4, 10), (5, 10)]
        assert not [tag for tag in found if tag.startswith(writers.FIRST)]  # it cuts their curves
        figures = provider.read_blob_sequences(
            PLAIN, experiment_id="", plugin_name="images", downsample=100
        )["run/tensorboard"][writers.FIGURE]
        assert [figure.step for figure in figures] == [1, 2, 3, 4, 5]
        width, height, content = (
            provider.read_blob(PLAIN, blob_key=x.blob_key) for x in figures[-1].values
        )
    assert (width, height) == (b"6", b"4")
    image = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(image, np.full((4, 6, 3), 5))


def test_the_table_of_runs_has_hyperparameters_and_final_metrics(tmp_path):
    write(tmp_path / "a", 0, [1, 2], factor=0.5, seed=1)
    write(tmp_path / "b", 0, [1, 2], factor=0.25, seed=2)
    write(tmp_path / "b", 2, [3], factor=0.125, seed=2)
    with served(tmp_path) as provider:
        rows = table_of_runs(provider)
    assert sorted((row["seed"], values["depth/rmse_m"]) for row, values in rows) == [
        (1, 0.5),
        (2, 0.125),
    ]
    for row, _ in rows:
        assert row == CONFIG | {"seed": row["seed"]}


def test_without_tensorboard_there_is_none_and_nothing_of_it_is_loaded(tmp_path):
    code = (
        "import sys; from etils import epath; from emanet_jax.training import loop, writers;"
        "w = writers.Writer(epath.Path(sys.argv[1]), 0, tensorboard=False);"
        "w.hparams({}); w.scalars(1, {'train/loss': 1.0}); w.flush(); w.close();"
        "print({'clu', 'tensorflow', 'tensorboard', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"
    assert [path.name for path in tmp_path.iterdir()] == [workdir.METRICS]


def test_confusion_matrix_and_bars_show_their_numbers():
    task, *_ = tasks_for("nyuv2")
    counts = np.zeros((13, 13), int)
    counts[0, 0], counts[1, 0] = 5, 10  # class 1 is always taken for class 0; 2.. never occur
    drawn = logs.draw_charts([task], {"semseg": metrics.Confusion(counts)})
    assert set(drawn) == {"semseg/confusion_matrix", "semseg/iou_percent_by_class"}
    matrix = charts.confusion_matrix(counts, task.class_names)
    np.testing.assert_array_equal(drawn["semseg/confusion_matrix"], matrix)
    # Two full cells below each other in the first column; eleven rows without pixels are grey.
    rows, columns = np.nonzero((matrix == FULL).all(-1))
    grey = np.nonzero((matrix == 211).all(-1).mean(1) > 0.5)[0]
    cell = np.ptp(columns) + 1
    assert np.ptp(rows) + 1 == pytest.approx(2 * cell, abs=2)
    assert len(grey) == pytest.approx(11 * cell, rel=0.04) and grey.min() > rows.max()

    bars = drawn["semseg/iou_percent_by_class"]
    colour = task.colours(np.zeros((1, 1, 1), int))[0, 0]
    length = (bars == colour).all(-1).sum(1).max()
    full = charts.bars(np.full(13, 100.0), task, "")
    longest = (full == colour).all(-1).sum(1).max()
    assert length / longest == pytest.approx(1 / 3, abs=0.01)  # 5 / (5 + 10)


def test_the_first_group_has_the_loss_and_each_task_s_metric_whole():
    tasks = tasks_for("nyuv2", ["semseg", "depth"])
    rows = [{"step": n, "train/loss": 1e6 / n**3} for n in range(1, 101)]
    rows += [{"step": n, "eval/depth/rmse_m": 0.1 * n} for n in (50, 100)]
    rows += [{"step": 50, "eval/semseg/miou_percent": math.nan}]
    drawn = logs.draw_curves(tasks, rows)
    assert set(drawn) == {"at_a_glance/loss_total", "at_a_glance/depth_rmse_m"}
    row, column = ends_of_the_line(drawn["at_a_glance/loss_total"])
    # From the first value to the last, and not in a corner: they span six powers of ten.
    assert np.ptp(row) > 0.6 * 320 and np.ptp(column) > 0.6 * 480
    middle = row[np.argmin(abs(column - column.mean()))]
    assert middle < row.min() + 0.95 * np.ptp(row)


def ends_of_the_line(picture):
    """Rows and columns of the pixels of a chart's line."""
    return np.nonzero((picture == (31, 119, 180)).all(-1))


FULL = (8, 48, 107)  # the colour of 100 %


@pytest.mark.parametrize("dataset, classes", [("cityscapes", 7), ("nyuv2", 40)])
def test_charts_of_few_and_many_classes_hold_every_class(dataset, classes):
    task, *_ = tasks_for(dataset, classes=classes)
    matrix = charts.confusion_matrix(np.eye(classes), task.class_names)
    full = (matrix == FULL).all(-1)
    starts = np.argmax(full, axis=1)[full.any(1)]  # of the diagonal's cell, row by row
    assert len(np.unique(starts[1:][np.diff(starts) > 5])) == classes - 1
    assert max(matrix.shape) < 1500
    bars = charts.bars(np.linspace(0, 100, classes), task, "iou_percent")
    assert bars.shape[0] >= classes * 20
