"""The nouns that everybody shares: tasks, predictions, batches, metric sums and the train state."""

import abc
import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Num

from emanet_jax.errors import UserError

Batch = Mapping[str, Any]  # {"image": (b, h, w, 3), "labels": {task: (b, h, w, k)}, "mask": (b,)}

# Of a batch on the device: (prediction, label, valid) to the mean over valid pixels.
Loss = Callable[
    [Float[Array, "b h w channels"], Num[Array, "b h w k"], Bool[Array, "b h w 1"]],
    Float[Array, ""],
]
_Label = TypeVar("_Label", Array, np.ndarray)


class Examples(Protocol):
    """The examples of a split by index, {"image": (h, w, 3), TASK: (h, w, k), "image_id": str}."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


class MetricSums(struct.PyTreeNode, abc.ABC):
    """A metric's sums over valid pixels; `a + b` is the metric of both sets of pixels."""

    # Checkers of types leave the fields alone: JAX rebuilds pytrees with other leaves than arrays.
    __no_type_check__ = True

    def __add__(self, other: Self) -> Self:
        return jax.tree.map(operator.add, self, other)

    @abc.abstractmethod
    def compute(self) -> dict[str, float]:
        """The metric's values by name, from sums on the host; NaN where no pixel was valid."""

    @abc.abstractmethod
    def higher_is_better(self) -> dict[str, bool]:
        """The direction of every value that `compute` and `per_class` give, by the same names."""

    def per_class(self) -> dict[str, np.ndarray]:
        """Values of every class (classes,) by name, of a metric over classes; NaN as above."""
        return {}


def _unchanged(label: np.ndarray, *_: float) -> np.ndarray:
    return label


@dataclasses.dataclass(frozen=True)
class Task:
    """One dense prediction task.

    Attributes:
        name: unique key of predictions and labels.
        channels: of the network's prediction.
        label_channels: k of the label (b, h, w, k).
        label_dtype: of the stored label.
        ignore: a label pixel is invalid if all its channels have this value.
        loss: (prediction (b, h, w, channels), label, valid (b, h, w, 1)) to a scalar.
        activation: prediction to what a person reads (b, h, w, k): ids, metres, unit vectors; every
            pixel by itself.
        metric: (activated prediction, label, valid) to `MetricSums`, inside jit.
        host_metric: a second metric, too intricate for jit: NumPy arrays (h, w, k) of one image's
            activated prediction, label and valid to `MetricSums` with other names.
        primary: the metric that stands for the task in delta_m and checkpoint choice.
        higher_is_better: the direction of `primary`; False for an error.
        to_rgb: label or activated prediction (h, w, k) to uint8 (h, w, 3) without regard to
            validity; `colours` is what pictures use.
        flip: label values (h, w, k) after the map was mirrored left-right.
        zoom: label values (h, w, k) after the image was enlarged by a factor.
        nearest: resample by nearest neighbour; otherwise bilinear.
        class_names: of a classification task, in the order of ids.
        limit: of a quantity, the value that ends its colours; None: classes or vectors. A quantity
            whose label is of whole numbers is a probability, otherwise it is a measurement.
        unit: of a quantity, as "m".
    """

    name: str
    channels: int
    label_channels: int
    label_dtype: type
    ignore: float
    loss: Loss
    activation: Callable[[Array], Array]
    metric: Callable[[Array, Array, Array], MetricSums]
    primary: str
    higher_is_better: bool
    to_rgb: Callable[[np.ndarray], np.ndarray]
    flip: Callable[[np.ndarray], np.ndarray] = _unchanged
    zoom: Callable[[np.ndarray, float], np.ndarray] = _unchanged
    nearest: bool = True
    class_names: tuple[str, ...] = ()
    limit: float | None = None
    unit: str = ""
    host_metric: Callable[[np.ndarray, np.ndarray, np.ndarray], MetricSums] | None = None

    def valid(self, label: _Label) -> _Label:
        """Where a label (..., k), of NumPy or JAX, carries information: bool (..., 1)."""
        channels = (label[..., k : k + 1] != self.ignore for k in range(label.shape[-1]))
        return functools.reduce(operator.or_, channels)  # NumPy reduces a short axis slowly

    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics' values, as `compute()` gives them; the host metric's last."""
        return tuple(name for sums in self._empty_sums() for name in sums.compute())

    def host_metric_names(self) -> tuple[str, ...]:
        """The names of the host metric's values, which not every evaluation gives."""
        return tuple(name for sums in self._empty_sums()[1:] for name in sums.compute())

    def metric_directions(self) -> dict[str, bool]:
        """Whether higher is better, by the name of every value, those of classes included.

        Raises:
            UserError: a metric does not state the direction of one of its values, or that of
                `primary` is not the task's.
        """
        directions: dict[str, bool] = {}
        for sums in self._empty_sums():
            stated = sums.higher_is_better()
            missing = [name for name in (*sums.compute(), *sums.per_class()) if name not in stated]
            if missing:
                raise UserError(
                    f"task '{self.name}': higher_is_better() of {type(sums).__name__} does not "
                    f"state the direction of {', '.join(missing)}."
                )
            directions |= stated
        if directions.get(self.primary) is not self.higher_is_better:
            raise UserError(
                f"task '{self.name}' has primary='{self.primary}' and higher_is_better="
                f"{self.higher_is_better}, but its metrics state: {directions}."
            )
        return directions

    def _empty_sums(self) -> list[MetricSums]:
        """Sums over an image without a valid pixel: the metric's, and the host metric's if any."""
        values, valid = (
            np.zeros((1, 1, 1, self.label_channels), np.float32),
            np.zeros((1,) * 4, bool),
        )
        sums = [self.metric(jnp.asarray(values), jnp.asarray(values), jnp.asarray(valid))]
        if self.host_metric is not None:
            image, nowhere = np.asarray(values[0]), np.asarray(valid[0])
            sums.append(self.host_metric(image, image, nowhere))
        return sums

    def colours(self, values: np.ndarray) -> np.ndarray:
        """Picture (h, w, 3) uint8 of a label or activated prediction; invalid pixels are black."""
        values = np.asarray(values)
        return np.where(self.valid(values), self.to_rgb(values), 0).astype(np.uint8)


class Predictions(NamedTuple):
    """The output of every network, in float32 or better and before any activation.

    Attributes:
        final: {task: (b, H, W, channels)} at image size.
        auxiliary: one dict like it per level of deep supervision, finest first, its maps at their
            own size (the backbone's in the single-scale networks: 1/4 of the image on HRNet).
    """

    final: dict[str, Float[Array, "b H W channels"]]
    auxiliary: tuple[dict[str, Float[Array, "b h w channels"]], ...] = ()


@runtime_checkable
class Model(Protocol):
    """A network, such as any `flax.linen.Module` of images and `train` to `Predictions`."""

    @property
    def init(self) -> Callable[..., Any]:
        """(Random key, images, train=False) to {"params", "batch_stats"}."""

    @property
    def apply(self) -> Callable[..., Any]:
        """(Variables, images, train=...) to `Predictions`, as `flax.linen.Module.apply`."""


class TrainState(struct.PyTreeNode):
    """Everything that a run needs to go on."""

    step: Array  # () int32: number of steps so far
    samples: Array  # () int32: number of training samples so far, and position of the next one
    params: Any
    batch_stats: Any
    balancing: Any  # {"params", "state"} of the method that balances the tasks
    opt_state: optax.OptState  # of (params, balancing["params"])
    rng: Array  # key data; dropout keys are folded from it and the step
    bad_in_row: Array  # () int32: steps up to this one that were skipped, one after the other
    skipped: Array  # () int32: all steps so far that were skipped
