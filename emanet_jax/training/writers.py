"""The files that a run's numbers and figures go to: metrics.jsonl, figure.png and TensorBoard's."""

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import numpy as np
from etils import epath
from PIL import Image

from emanet_jax import strict_json
from emanet_jax.errors import UserError, needs
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
# The group that TensorBoard shows first. It holds pictures alone, as TensorBoard's own charts leave
# out a curve's highest and lowest twentieth, and of short ones at least a point at either end.
FIRST = "at_a_glance"
FIGURE = f"{FIRST}/figure"


def tag(name: str) -> str:
    """TensorBoard's tag of a scalar of metrics.jsonl."""
    old = next(prefix for prefix in (*_GROUPS, "") if name.startswith(prefix))
    return _GROUPS.get(old, "") + name.removeprefix(old)


class Writer:
    """Writes a run's scalars and figures, on the first process only.

    Args:
        directory: the run's workdir.
        resume_step: that the run goes on from.
        tensorboard: whether to write for TensorBoard too, which takes CLU and TensorFlow.

    Attributes:
        tensorboard: CLU's writer, if there is one.
    """

    def __init__(self, directory: epath.Path, resume_step: int, tensorboard: bool) -> None:
        self._directory = directory
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
            self.tensorboard.write_scalars(step, {tag(name): x for name, x in values.items()})

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
    with needs("clu", "--config.writers=jsonl does without"):
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
    values = {name: float(x) for name, x in row.items()}
    return strict_json.dumps(values | {"step": int(row["step"])}) + "\n"


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
        if type(row["step"]) is not int:
            raise TypeError("a step is a whole number")
        if any(type(value) not in (int, float, type(None)) for value in row.values()):
            raise TypeError("values are numbers")
        return strict_json.numbers(row)
    except (LookupError, OverflowError, TypeError, ValueError) as error:
        raise UserError(
            f'{path}, line {number} is no object of numbers such as {{"step": 10, '
            '"train/loss": 2.3}; delete it to go on.'
        ) from error


def read_evaluations(path: epath.Path) -> dict[int, dict[str, float]]:
    """{step: {"task/metric": value}} of every evaluation in a metrics.jsonl."""
    evaluations = {}
    for row in read_scalars(path):
        values = {k.removeprefix("eval/"): v for k, v in row.items() if k.startswith("eval/")}
        if values:
            evaluations[int(row["step"])] = values
    return evaluations
