"""The files that a run's numbers and figures go to: metrics.jsonl, figure.png and TensorBoard's."""

import io
import json
import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import jax
import numpy as np
from etils import epath
from PIL import Image

from emanet_jax.errors import UserError
from emanet_jax.training import workdir

if TYPE_CHECKING:
    from clu.metric_writers import MetricWriter

# TensorBoard groups its cards by what stands before "/". The first beginning of a name in
# metrics.jsonl that fits is replaced.
_GROUPS = {
    "train/loss_": "loss/",
    "train/loss": "loss/total",
    "train/weight_": "balancing/weight_",
    "train/cosine_": "balancing/cosine_",
    "train/images_per_second": "speed/images_per_second",
    "train/": "optimizer/",
    "eval/": "",
}
_FIRST = "at_a_glance"  # the group that TensorBoard shows first
FIGURE = f"{_FIRST}/figure"


def tag(name: str) -> str:
    """TensorBoard's tag of a scalar of metrics.jsonl."""
    old = next(prefix for prefix in (*_GROUPS, "") if name.startswith(prefix))
    return _GROUPS.get(old, "") + name.removeprefix(old)


class Writer:
    """Writes a run's scalars and figures, on the first process only.

    Args:
        directory: the run's workdir.
        resume_step: that the run goes on from.
        main: tags of the scalars that TensorBoard shows a second time, in its first group.
        tensorboard: whether to write for TensorBoard too, which takes CLU and TensorFlow.

    Attributes:
        tensorboard: CLU's writer, if there is one.
    """

    def __init__(
        self, directory: epath.Path, resume_step: int, main: Collection[str], tensorboard: bool
    ) -> None:
        self._directory, self._main = directory, main
        self._metrics: MetricsFile | None = None
        self.tensorboard: MetricWriter | None = None
        if jax.process_index() == 0:
            self._metrics = MetricsFile(directory / workdir.METRICS, resume_step)
            if tensorboard:
                self.tensorboard = _tensorboard(directory / workdir.TENSORBOARD)

    def hparams(self, values: Mapping[str, str | int | float | bool]) -> None:
        """Hyper-parameters, for TensorBoard's table of runs."""
        if self.tensorboard:
            self.tensorboard.write_hparams(dict(values))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a line to metrics.jsonl, which is on disk when this returns."""
        if self._metrics:
            self._metrics.write(step, values)
        if self.tensorboard:
            tagged = {tag(name): value for name, value in values.items()}
            main = {f"{_FIRST}/{x.replace('/', '_')}": tagged[x] for x in self._main if x in tagged}
            self.tensorboard.write_scalars(step, tagged | main)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Images {tag: (h, w, 3) uint8}, for TensorBoard."""
        if self.tensorboard:
            self.tensorboard.write_images(step, {name: x[None] for name, x in images.items()})

    def figure(self, step: int, figure: np.ndarray) -> None:
        """The newest figure (h, w, 3) uint8, as a file of its own too."""
        self.images(step, {FIGURE: figure})
        if jax.process_index() == 0:
            content = io.BytesIO()
            Image.fromarray(figure).save(content, format="PNG", compress_level=1)  # half the time
            workdir.write(self._directory / workdir.FIGURE, content.getvalue())

    def flush(self) -> None:
        """Returns when everything is on disk."""
        if self.tensorboard:
            self.tensorboard.flush()

    def close(self) -> None:
        """Flushes, and ends TensorBoard's file."""
        if self.tensorboard:
            self.tensorboard.close()


def _tensorboard(folder: epath.Path) -> "MetricWriter":
    """CLU's writer, which writes in the background; TensorFlow is imported only here."""
    import tensorflow as tf
    from clu import metric_writers

    tf.config.set_visible_devices([], "GPU")  # or TensorFlow takes their memory to encode images
    return metric_writers.create_default_writer(folder)


class MetricsFile:
    """Scalars as JSON, one line a step and kind: {"step": 10, "train/loss": 2.3}.

    Lines after `resume_step` are dropped when the file is opened: the resumed run writes them anew.
    """

    def __init__(self, path: epath.Path, resume_step: int):
        rows = [row for row in read_scalars(path) if row["step"] <= resume_step]
        self._path, self._lines = path, [_line(row) for row in rows]
        self._replace()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds a line, which is in the file when this returns."""
        self._lines.append(_line({"step": step, **scalars}))
        self._replace()

    def _replace(self) -> None:
        """Writes the file anew: buckets cannot append, and a reader never sees half a line."""
        workdir.write(self._path, "".join(self._lines))


def _line(row: Mapping[str, float]) -> str:
    """NaN and infinities become null, since JSON has no word for them."""
    values = {name: float(x) if math.isfinite(x) else None for name, x in row.items()}
    return json.dumps(values | {"step": int(row["step"])}) + "\n"


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
    if (
        not isinstance(row, dict)
        or type(row.get("step")) is not int
        or any(type(value) not in (int, float, type(None)) for value in row.values())
    ):
        raise UserError(
            f'{path}, line {number} is no object of numbers such as {{"step": 10, '
            '"train/loss": 2.3}; delete it to go on.'
        )
    return {name: math.nan if value is None else value for name, value in row.items()}


def read_evaluations(path: epath.Path) -> dict[int, dict[str, float]]:
    """{step: {"task/metric": value}} of every evaluation in a metrics.jsonl."""
    evaluations = {}
    for row in read_scalars(path):
        values = {k.removeprefix("eval/"): v for k, v in row.items() if k.startswith("eval/")}
        if values:
            evaluations[int(row["step"])] = values
    return evaluations
