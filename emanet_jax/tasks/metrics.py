"""Metrics as pytrees of sums: made on the device for a batch, added, computed once on the host.

Sums make a metric exact for any split into batches, devices and processes. Names carry the unit:
`_percent`, `_m` (metres), `_deg` (degrees).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Num, Shaped

from emanet_jax.ops import unit_vectors, upcast
from emanet_jax.tasks.losses import Valid, balanced_bce
from emanet_jax.types import MetricSums, Task

_Sums = TypeVar("_Sums")
Count = Int[Array, ""]
Sum = Float[Array, ""]


def total(batches: Sequence[_Sums]) -> _Sums:
    """Adds sums, or trees of them, on the host in float64 and int64: no digit is lost."""

    def add(*leaves: np.ndarray) -> np.ndarray:
        wide = np.int64 if np.issubdtype(leaves[0].dtype, np.integer) else np.float64
        return np.asarray(np.sum(np.stack(leaves), axis=0, dtype=wide))

    return jax.tree.map(add, *jax.device_get(list(batches)))


def _count(condition: Bool[Array, "*shape"], valid: Bool[Array, "*shape"]) -> Count:
    return jnp.sum(condition & valid, dtype=jnp.int32)


def _masked_sum(values: Float[Array, "*shape"], valid: Bool[Array, "*shape"]) -> Sum:
    return jnp.sum(jnp.where(valid, values, 0))


def _ratio(numerator: Any, denominator: Any) -> float:
    return float(numerator / denominator) if denominator else float("nan")


class Confusion(MetricSums):
    """Confusion matrix of pixels: rows are labels, columns predictions."""

    counts: Int[Array, "classes classes"]
    absent_class: Literal["skip", "zero"] = struct.field(pytree_node=False, default="skip")

    @classmethod
    def of(
        cls,
        prediction: Shaped[Array, "b h w 1"],
        label: Num[Array, "b h w 1"],
        valid: Valid,
        num_classes: int,
        absent_class: Literal["skip", "zero"] = "skip",
    ) -> "Confusion":
        """Counts class ids where valid."""
        cell = label.astype(jnp.int32) * num_classes + prediction.astype(jnp.int32)
        cell = jnp.where(valid, cell, num_classes**2).ravel()
        counts = jnp.bincount(cell, length=num_classes**2 + 1)[:-1].astype(jnp.int32)
        return cls(counts.reshape(num_classes, num_classes), absent_class)

    def iou(self) -> np.ndarray:
        """Intersection over union per class as a fraction; NaN for a class that never occurs."""
        counts = np.asarray(self.counts, np.float64)
        union = counts.sum(0) + counts.sum(1) - np.diag(counts)
        return np.divide(np.diag(counts), union, out=np.full(len(counts), np.nan), where=union > 0)

    def higher_is_better(self) -> dict[str, bool]:
        """Shares of right pixels: higher is better."""
        return {"miou_percent": True, "pixel_accuracy_percent": True, "iou_percent": True}

    def compute(self) -> dict[str, float]:
        """`miou_percent` and `pixel_accuracy_percent`.

        A class in neither label nor prediction is left out of the mean, or counts 0 with
        `absent_class="zero"` (the reference's PASCAL code).
        """
        counts, iou = np.asarray(self.counts, np.float64), self.iou()
        if self.absent_class == "zero" and counts.any():
            iou = np.nan_to_num(iou)
        present = iou[~np.isnan(iou)]
        return {
            "miou_percent": 100 * _ratio(present.sum(), len(present)),
            "pixel_accuracy_percent": 100 * _ratio(np.trace(counts), counts.sum()),
        }

    def per_class(self) -> dict[str, np.ndarray]:
        """`iou_percent`."""
        return {"iou_percent": 100 * self.iou()}


class DepthErrors(MetricSums):
    """Sums of depth errors; `unit` ends the names of absolute errors (metres: "m")."""

    count: Count
    absolute: Sum
    relative: Sum
    squared: Sum
    log_squared: Sum
    within: Int[Array, "3"]  # ratio below 1.25, 1.25^2, 1.25^3
    unit: str = struct.field(pytree_node=False, default="m")

    @classmethod
    def of(
        cls,
        prediction: Float[Array, "b h w 1"],
        label: Num[Array, "b h w 1"],
        valid: Valid,
        unit: str = "m",
        reference: bool = False,
    ) -> "DepthErrors":
        """Sums of the errors where valid.

        Predictions are cut to at least 1e-9 where a logarithm or ratio needs it;
        `reference=True` cuts them for every error, as the reference code does.
        """
        prediction = upcast(prediction)
        positive = jnp.maximum(prediction, 1e-9)
        prediction = positive if reference else prediction
        label = jnp.where(valid, label, 1)
        error = jnp.abs(prediction - label)
        ratio = jnp.maximum(positive / label, label / positive)
        return cls(
            count=_count(valid, valid),
            absolute=_masked_sum(error, valid),
            relative=_masked_sum(error / label, valid),
            squared=_masked_sum(error**2, valid),
            log_squared=_masked_sum((jnp.log(positive) - jnp.log(label)) ** 2, valid),
            within=jnp.stack([_count(ratio < 1.25**power, valid) for power in (1, 2, 3)]),
            unit=unit,
        )

    def higher_is_better(self) -> dict[str, bool]:
        """Errors: lower is better; shares within a ratio: higher."""
        unit = self._suffix
        errors = (f"rmse{unit}", f"abs{unit}", "rel", "log_rmse")
        shares = ("delta1_percent", "delta2_percent", "delta3_percent")
        return dict.fromkeys(errors, False) | dict.fromkeys(shares, True)

    @property
    def _suffix(self) -> str:
        return f"_{self.unit}" if self.unit else ""

    def compute(self) -> dict[str, float]:
        """Absolute, relative, root mean square and logarithmic error; shares within 1.25^k."""
        unit = self._suffix
        within = [100 * _ratio(n, self.count) for n in self.within]
        return {
            f"rmse{unit}": _ratio(self.squared, self.count) ** 0.5,
            f"abs{unit}": _ratio(self.absolute, self.count),
            "rel": _ratio(self.relative, self.count),
            "log_rmse": _ratio(self.log_squared, self.count) ** 0.5,
            "delta1_percent": within[0],
            "delta2_percent": within[1],
            "delta3_percent": within[2],
        }


_ANGLE_BINS_PER_DEGREE = 20


class AngleErrors(MetricSums):
    """Sums of angles between unit vectors, in degrees, and their histogram in 1/20 degree bins."""

    count: Count
    angle: Sum
    squared: Sum
    within: Int[Array, "3"]  # below 11.25, 22.5, 30 degrees
    histogram: Int[Array, "3600"]  # over 0..180 degrees

    @classmethod
    def of(
        cls, prediction: Float[Array, "b h w 3"], label: Float[Array, "b h w 3"], valid: Valid
    ) -> "AngleErrors":
        """Sums of the angles between vectors where valid."""
        p, q = unit_vectors(upcast(prediction)), unit_vectors(upcast(label))
        # Half-angle form: arccos of a product loses half of the digits near 0 and 180 degrees.
        apart, along = jnp.linalg.norm(p - q, axis=-1), jnp.linalg.norm(p + q, axis=-1)
        angle = jnp.rad2deg(2 * jnp.arctan2(apart, along))[..., None]
        bins = 180 * _ANGLE_BINS_PER_DEGREE
        index = jnp.clip(jnp.floor(angle * _ANGLE_BINS_PER_DEGREE), 0, bins - 1).astype(jnp.int32)
        index = jnp.where(valid, index, bins).ravel()
        return cls(
            count=_count(valid, valid),
            angle=_masked_sum(angle, valid),
            squared=_masked_sum(angle**2, valid),
            within=jnp.stack([_count(angle < limit, valid) for limit in (11.25, 22.5, 30.0)]),
            histogram=jnp.bincount(index, length=bins + 1)[:-1].astype(jnp.int32),
        )

    def higher_is_better(self) -> dict[str, bool]:
        """Angles: lower is better; shares within an angle: higher."""
        angles = ("mean_deg", "median_deg", "rmse_deg")
        shares = ("within_11.25_percent", "within_22.5_percent", "within_30_percent")
        return dict.fromkeys(angles, False) | dict.fromkeys(shares, True)

    def compute(self) -> dict[str, float]:
        """Mean, median, rmse; shares within.

        The median is `numpy.median`'s, to 0.05 degrees: that of an even number of pixels is the
        mean of the middle two, and those of a bin are taken to lie evenly in it.
        """
        within = [100 * _ratio(n, self.count) for n in self.within]
        return {
            "mean_deg": _ratio(self.angle, self.count),
            "median_deg": self._median(),
            "rmse_deg": _ratio(self.squared, self.count) ** 0.5,
            "within_11.25_percent": within[0],
            "within_22.5_percent": within[1],
            "within_30_percent": within[2],
        }

    def _median(self) -> float:
        count = int(self.count)
        if not count:
            return float("nan")
        counts = np.asarray(self.histogram, np.int64)
        upto = np.cumsum(counts)
        middle = np.array([(count - 1) // 2, count // 2])  # ranks from 0
        bins = np.searchsorted(upto, middle, side="right")
        inside = (middle + 0.5 - (upto - counts)[bins]) / counts[bins]
        return float(np.mean(bins + inside) / _ANGLE_BINS_PER_DEGREE)


_THRESHOLDS = np.arange(1, 20) / 20  # 0.05, 0.10, ..., 0.95


class SaliencyCounts(MetricSums):
    """Counts of pixels for the F-measure of saliency, at thresholds 0.05, 0.10, ..., 0.95."""

    hit: Int[Array, "19"]  # salient and predicted so
    predicted: Int[Array, "19"]
    salient: Count

    @classmethod
    def of(
        cls,
        prediction: Float[Array, "b h w 1"],
        label: Num[Array, "b h w 1"],
        valid: Valid,
        reference: bool = False,
    ) -> "SaliencyCounts":
        """Counts of probabilities above the thresholds.

        `reference=True` applies a sigmoid to the probabilities first, as the reference code does.
        """
        probability = jax.nn.sigmoid(prediction) if reference else prediction
        salient = label > 0.5
        above = [probability > threshold for threshold in _THRESHOLDS]
        return cls(
            hit=jnp.stack([_count(a & salient, valid) for a in above]),
            predicted=jnp.stack([_count(a, valid) for a in above]),
            salient=_count(salient, valid),
        )

    def higher_is_better(self) -> dict[str, bool]:
        """As of every F-measure."""
        return {"maxf_percent": True}

    def compute(self) -> dict[str, float]:
        """`maxf_percent`: best F over the thresholds, beta^2 = 0.3; NaN if nothing is salient."""
        if not self.salient:
            return {"maxf_percent": float("nan")}
        # F = (1 + beta^2) P R / (beta^2 P + R), multiplied out.
        f_measure = 1.3 * np.asarray(self.hit) / (0.3 * self.salient + np.asarray(self.predicted))
        return {"maxf_percent": 100 * float(f_measure.max())}


class EdgeLoss(MetricSums):
    """Sum of the balanced cross-entropy of edge probabilities."""

    count: Count
    value: Sum

    @classmethod
    def of(
        cls,
        prediction: Float[Array, "b h w 1"],
        label: Num[Array, "b h w 1"],
        valid: Valid,
        reference: bool = False,
    ) -> "EdgeLoss":
        """Sum over probabilities where valid.

        `reference=True` takes the probabilities for logits, as the reference code does.
        """
        probability = upcast(prediction)
        # Probabilities that were rounded to 0 or 1 keep the finite loss of a logit of 16.6.
        logit = jax.scipy.special.logit(jnp.clip(probability, 2**-24, 1 - 2**-24))
        logit = probability if reference else logit
        mean, count = balanced_bce(logit, label, valid), _count(valid, valid)
        return cls(count=count, value=mean * count)

    def higher_is_better(self) -> dict[str, bool]:
        """As of every loss: lower is better."""
        return {"loss": False}

    def compute(self) -> dict[str, float]:
        """`loss`: the mean over pixels, in nats."""
        return {"loss": _ratio(self.value, self.count)}


def directions(tasks: Sequence[Task]) -> dict[str, bool]:
    """Whether higher is better, {"task/metric": bool}, of every metric value of the tasks."""
    return {
        f"{task.name}/{name}": higher
        for task in tasks
        for name, higher in task.metric_directions().items()
    }


def delta_m(
    values: Mapping[str, float | int],
    reference: Mapping[str, float | int],
    tasks: Sequence[Task],
    definition: Literal["primary", "task_means", "all_metrics"] = "primary",
) -> float:
    """Mean relative gain over a single-task run in percent; papers mix three definitions.

    Args:
        values: {"task/metric": value} of the multi-task run.
        reference: the same names for the single-task run.
        tasks: the tasks to average over.
        definition: "primary": one metric per task; "task_means": the mean of each task's metrics
            first; "all_metrics": the flat mean over every metric.
    """
    higher_is_better = directions(tasks)

    def gain(name: str) -> float:
        sign = 1 if higher_is_better[name] else -1
        return sign * 100 * (values[name] - reference[name]) / reference[name]

    per_task = [
        [f"{task.name}/{task.primary}"]
        if definition == "primary"
        else [name for name in values if name.startswith(f"{task.name}/")]
        for task in tasks
    ]
    gains = [[gain(name) for name in names] for names in per_task]
    if definition == "all_metrics":
        return float(np.mean(np.concatenate(gains)))
    return float(np.mean([np.mean(g) for g in gains]))
