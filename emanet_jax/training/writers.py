"""Where a run's scalars and pictures go: metrics.jsonl, panel.png, TensorBoard's tags."""

import hashlib
import io
import json
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from clu import metric_writers
from etils import epath
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb

from emanet_jax.errors import UserError
from emanet_jax.training import workdir

# TensorBoard's tags for the scalars of metrics.jsonl; it groups cards by what stands before "/".
_TAGS = {
    "train/loss": "loss/total",
    "train/learning_rate": "optimizer/learning_rate",
    "train/grad_norm": "optimizer/grad_norm",
    "train/param_norm": "optimizer/param_norm",
    "train/skipped": "optimizer/skipped_steps",
    "train/bad_in_row": "optimizer/skipped_steps_in_a_row",
    "train/images_per_second": "speed/images_per_second",
    "steps_per_sec": "speed/steps_per_second",
    "uptime": "speed/uptime_seconds",
}
_PREFIXES = {
    "eval/": "",
    "train/loss_": "loss/",
    "train/weight_": "balancing/weight_",
    "train/cosine_": "balancing/cosine_",
}
# The first group, with copies of what a person looks for first.
_FIRST = "at_a_glance"
PANEL = f"{_FIRST}/panel"
# The config's values that the table of runs has, those of SHOWN to begin with; the whole config
# stands in the tab "Text".
SHOWN = ("model.name", "model.backbone", "tasks", "balancing", "optimizer.learning_rate")
COLUMNS = (
    *SHOWN,
    *("model.variant", "data.dataset", "data.image_size", "epochs", "batch_size", "precision"),
    *("optimizer.schedule", "optimizer.l2", "seed"),
)


class _Writer(metric_writers.MetricWriter):
    """A CLU writer of the kinds that a subclass defines; it leaves the others out."""

    def _leave_out(self, *_: Any, **__: Any) -> None:
        pass

    write_summaries = write_images = write_videos = write_audios = _leave_out
    write_texts = write_histograms = write_pointcloud = write_hparams = _leave_out


class JsonLinesWriter(_Writer):
    """Scalars as JSON, one line a step: {"step": 10, "train/loss": 2.3}.

    Lines after `resume_step` are dropped when the file is opened: the resumed run writes them anew.
    """

    def __init__(self, path: epath.Path, resume_step: int):
        self._path = path
        self._lines: list[str] = []
        for row in read_scalars(path):
            if row["step"] <= resume_step:
                self._add(row.pop("step"), row)
        self.flush()

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Adds a line, to the file too."""
        self._add(step, scalars)
        self.flush()

    def _add(self, step: int, scalars: Mapping[str, Any]) -> None:
        """NaN and infinities become null, since JSON has no word for them."""
        values = {name: float(value) for name, value in scalars.items()}
        finite = {name: x if math.isfinite(x) else None for name, x in values.items()}
        self._lines.append(json.dumps({"step": int(step), **finite}))

    def flush(self) -> None:
        """Replaces the file at once, so that a reader never sees half of it."""
        part = self._path.with_name(self._path.name + ".part")
        part.write_text("".join(line + "\n" for line in self._lines))
        part.replace(self._path)

    def close(self) -> None:
        """Flushes."""
        self.flush()


def read_scalars(path: epath.Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl, null as NaN; none if there is no such file.

    Raises:
        UserError: the file cannot be read, or a line holds something else.
    """
    try:
        lines = path.read_text().splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); move it away to go on.") from error
    return [_row(path, number, line) for number, line in enumerate(lines, 1)]


def _row(path: epath.Path, number: int, line: str) -> dict[str, float]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    numbers = (int, float, type(None))
    if (
        not isinstance(row, dict)
        or type(row.get("step")) is not int
        or any(type(value) not in numbers for value in row.values())
    ):
        raise UserError(
            f'{path}, line {number} is no object of numbers such as {{"step": 10, '
            '"train/loss": 2.3}; delete it to go on.'
        )
    return {name: math.nan if value is None else value for name, value in row.items()}


class TensorBoardWriter(_Writer):
    """Scalars, pictures and hyper-parameters as TensorBoard reads them, in a file a start.

    TensorBoard drops what earlier files hold after `resume_step`: the resumed run writes it anew.

    Args:
        folder: for the file.
        resume_step: that the run goes on from.
        metrics: tags of the main scalars: their last values stand beside the hyper-parameters.
    """

    def __init__(self, folder: epath.Path, resume_step: int, metrics: Sequence[str]):
        folder.mkdir(parents=True, exist_ok=True)
        import tensorflow as tf  # whose writer knows buckets too; it starts no device

        name = f"events.out.tfevents.{time.time():020.9f}.{socket.gethostname()}.{os.getpid()}"
        self._records = tf.io.TFRecordWriter(str(folder / name))
        self._metrics, self._folder = metrics, folder
        self._write(Event(file_version="brain.Event:2"))
        restart = SessionLog(status=SessionLog.START)
        self._write(Event(step=resume_step + 1, session_log=restart))

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """A point each, under the tag that `tag` gives; main ones a second time, in front.

        They are handed to the system at once, for a TensorBoard that is watching.
        """
        for name, value in scalars.items():
            place = tag(name)
            self._write(Event(step=step, summary=scalar_pb(place, float(value))))
            if place in ("loss/total", *self._metrics):
                copy = f"{_FIRST}/{place.replace('/', '_')}"
                self._write(Event(step=step, summary=scalar_pb(copy, float(value))))
        self.flush()

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Pictures {tag: (n, h, w, 3) uint8}."""
        for name, pictures in images.items():
            _, h, w, _ = pictures.shape
            strings = [str(w).encode(), str(h).encode(), *map(png, pictures)]
            shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(strings))])
            tensor = TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=strings)
            metadata = create_summary_metadata(display_name=None, description=None)
            value = Summary.Value(tag=name, tensor=tensor, metadata=metadata)
            self._write(Event(step=step, summary=Summary(value=[value])))

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Markdown {tag: text}."""
        for name, text in texts.items():
            self._write(Event(step=step, summary=text_pb(name, text)))

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """This run's row in the table of runs: COLUMNS of the hyper-parameters, and the metrics.

        Its name is the workdir's, with a mark of its path.
        """
        infos = [
            # TensorBoard shows five columns until it is told otherwise: those that "differ", and
            # the others by name.
            api_pb2.HParamInfo(name=name, type=_data_type(hparams[name]), differs=name in SHOWN)
            for name in COLUMNS
            if name in hparams
        ]
        metrics = [hparams_api.Metric(name).as_proto() for name in self._metrics]
        experiment = api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics)
        value = Summary.Value(
            tag=hparams_metadata.EXPERIMENT_TAG,
            metadata=hparams_metadata.create_summary_metadata(
                HParamsPluginData(experiment=experiment)
            ),
            tensor=hparams_metadata.NULL_TENSOR,
        )
        self._write(Event(summary=Summary(value=[value])))
        run = self._folder.parent
        # Of one name, runs would be one row with means.
        name = f"{run.name} {hashlib.sha256(str(run).encode()).hexdigest()[:4]}"
        self._write(Event(summary=hparams_api.hparams_pb(dict(hparams), trial_id=name)))
        rows = "".join(f"| {name} | `{value!r}` |\n" for name, value in hparams.items())
        self.write_texts(0, {"config": f"| key | value |\n|---|---|\n{rows}"})

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        """Hands everything to the system."""
        self._records.flush()

    def close(self) -> None:
        """Ends the file."""
        self._records.close()


class PanelWriter(_Writer):
    """The newest panel as a file of its own."""

    def __init__(self, path: epath.Path):
        self._path = path

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Leaves them out."""

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Replaces the file if the panel, (1, h, w, 3) uint8, is among the pictures."""
        if PANEL in images:
            workdir.write(self._path, png(images[PANEL][0]))

    def flush(self) -> None:
        """Nothing is held back."""

    close = flush


def _data_type(value: Any) -> Any:
    if isinstance(value, bool):
        return api_pb2.DATA_TYPE_BOOL
    return api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64


def tag(name: str) -> str:
    """TensorBoard's tag of a scalar of metrics.jsonl; other names stay as they are."""
    if name in _TAGS:
        return _TAGS[name]
    prefix = next((x for x in _PREFIXES if name.startswith(x)), "")
    return _PREFIXES.get(prefix, "") + name.removeprefix(prefix)


def png(picture: np.ndarray) -> bytes:
    """A picture (h, w, 3) uint8 as the bytes of a PNG file."""
    content = io.BytesIO()
    # Half the time of the usual level for a tenth more bytes.
    Image.fromarray(picture).save(content, format="PNG", compress_level=1)
    return content.getvalue()


def make_writer(
    directory: epath.Path, resume_step: int, metrics: Sequence[str]
) -> metric_writers.MetricWriter:
    """Writes to TensorBoard, metrics.jsonl and panel.png in the background; first process only.

    `metrics` are those that TensorBoard's table of runs shows.
    """
    if jax.process_index() > 0:
        return metric_writers.MultiWriter([])
    return metric_writers.AsyncMultiWriter(
        [
            TensorBoardWriter(directory / workdir.TENSORBOARD, resume_step, metrics),
            JsonLinesWriter(directory / workdir.METRICS, resume_step),
            PanelWriter(directory / workdir.PANEL),
        ]
    )
