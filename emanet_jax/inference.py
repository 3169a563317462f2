"""Trained networks without their data: loaded by `load`, called on pictures of any size."""

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import jax
import ml_collections
import numpy as np
from etils import epath

from emanet_jax import cpu, saved
from emanet_jax.data import geometry
from emanet_jax.errors import UserError, needs
from emanet_jax.network import abstract_variables, at_size, make_network, resized_variables
from emanet_jax.ops import upcast
from emanet_jax.training import sharding, steps, workdir
from emanet_jax.types import Model, Task

_PIECE = 2**16  # pixels that are activated at a time, whatever the image's size


class Trained(NamedTuple):
    """A network that has been trained; `config.data.image_size` is the size that it takes.

    Attributes:
        config: of the run.
        tasks: that it predicts.
        model: the network.
        variables: {"params", "batch_stats"}, NumPy arrays.
        checkpoint: the folder of the weights; of a run's, its name is the training step.
    """

    config: ml_collections.ConfigDict
    tasks: tuple[Task, ...]
    model: Model
    variables: dict[str, Any]
    checkpoint: epath.Path


def load(
    source: epath.PathLike,
    *,
    checkpoint: str = "best",
    image_size: tuple[int, int] | None = None,
    batch_size: int = 1,
) -> "Predictor":
    """Loads a trained network, ready to be called.

        model = emanet_jax.load("runs/quickstart")
        depth = model("photo.jpg")["depth"]  # (h, w, 1), in metres

    Args:
        source: a run's workdir, a folder that `save_pretrained` has made, or a repository on
            Hugging Face by its name, owner/name, where there is no folder OWNER here.
        checkpoint: of a run: "best" for the best one (the latest, if none has been evaluated), or
            "latest".
        image_size: (h, w) to run it at, where it is another than it was trained at.
        batch_size: images that go through the network together.

    Raises:
        UserError: the source holds no network, or a damaged one.
    """
    return Predictor(load_trained(source, checkpoint, image_size), batch_size)


def load_trained(
    source: epath.PathLike,
    which: str = "best",
    image_size: tuple[int, int] | None = None,
) -> Trained:
    """The network and the weights of a source, as `load` takes them.

    Raises:
        UserError: as `load`.
    """
    folder = workdir.absolute(epath.Path(source).expanduser())
    if not folder.parent.exists() and saved.is_repository(str(source)):
        folder = saved.fetch_repository(str(source))
    trained = (_load_saved if workdir.is_saved(folder) else _load_run)(folder, which)
    trained_at = tuple(trained.config.data.image_size)
    if image_size and image_size != trained_at:
        config = at_size(trained.config, image_size)
        tasks, model = make_network(config)
        variables = resized_variables(
            trained.variables, config.model.backbone, trained_at, image_size
        )
        trained = trained._replace(config=config, tasks=tasks, model=model, variables=variables)
    return trained._replace(variables=jax.device_get(trained.variables))


def _load_saved(folder: epath.Path, _: str) -> Trained:
    config, arrays = saved.read(folder)
    tasks, model = make_network(config)
    expected = abstract_variables(model, tuple(config.data.image_size))
    variables = saved.variables_of(folder, arrays, expected)
    return Trained(config, tasks, model, variables, folder)


def _load_run(directory: epath.Path, which: str) -> Trained:
    with needs():  # which loading saved networks can spare
        from emanet_jax.training.checkpoint import Checkpoints
        from emanet_jax.training.experiment import checkpoint_policy, first_state
    config = workdir.load_config(directory)
    tasks, model = make_network(config)
    variables = abstract_variables(model, tuple(config.data.image_size))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
        jax.eval_shape(functools.partial(first_state, config, tasks), variables),
    )
    policy, folder = checkpoint_policy(config, tasks), directory / workdir.CHECKPOINTS
    with _without_notices(), Checkpoints(folder, policy, read_only=True) as checkpoints:
        step = checkpoints.choose(which)
        state = checkpoints.restore(step, like)
        place = checkpoints.path(step)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return Trained(config, tasks, model, variables, place)


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """Leaves out Orbax's warnings, that what is opened for reading alone is not written to."""

    def is_news(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING or "orbax" not in record.pathname

    log = logging.getLogger("absl")
    log.addFilter(is_news)
    try:
        yield
    finally:
        log.removeFilter(is_news)


def predictor(trained: Trained) -> Callable[[np.ndarray], dict[str, jax.Array]]:
    """Images (b, h, w, 3), uint8 or in [0, 1], of the network's size to what a person reads.

    Compiled for every batch size that it meets; the result is {task: (b, h, w, k)} on the device.
    """
    return _compiled(steps.predict, trained)


def _compiled(predict: Callable[..., Any], trained: Trained) -> Callable[[np.ndarray], Any]:
    """Compiles a function such as `steps.predict` for a network on one device."""
    network = functools.partial(
        predict,
        model=trained.model,
        tasks=trained.tasks,
    )
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    jitted = cpu.jit(network, mesh)
    return functools.partial(jitted, jax.device_put(trained.variables))


# Of one image {task: (before, after the activation)}, (h, w, c) and (h, w, k).
Raw = Mapping[str, tuple[np.ndarray, np.ndarray]]


def _predict_raw(
    variables: Mapping[str, Any],
    image: jax.Array,
    *,
    model: Model,
    tasks: Sequence[Task],
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """`steps.predict` with every map before its activation beside it."""
    predictions: Any = model.apply(variables, image, train=False)
    final = predictions.final
    return {t.name: (upcast(final[t.name]), t.activation(final[t.name])) for t in tasks}


Image = np.ndarray | str | os.PathLike
Maps = dict[str, np.ndarray]


class Predictor:
    """A trained network for images of any size, each of its own.

    All go through the network at its size, so a batch may mix them. Its maps are brought to an
    image's size before their activation, which makes borders of classes smooth and keeps normals
    unit vectors. Nothing is compiled but the network for one batch size and the activations.

    Args:
        trained: the network.
        batch_size: of the network.
    """

    def __init__(self, trained: Trained, batch_size: int = 1) -> None:
        self.trained = trained
        self.tasks = trained.tasks
        self.batch_size = batch_size
        self._image_size = tuple(trained.config.data.image_size)
        self._predict = _compiled(_predict_raw, trained)
        self._activate = {task.name: jax.jit(task.activation) for task in trained.tasks}

    @overload
    def __call__(self, images: Image) -> Maps: ...

    @overload
    def __call__(self, images: list[Image] | tuple[Image, ...]) -> list[Maps]: ...

    def __call__(self, images: Image | list[Image] | tuple[Image, ...]) -> Maps | list[Maps]:
        """Predicts every task of one image, or of several.

        Args:
            images: a picture's path or an array (h, w, 3), uint8 or in [0, 1]; a batch of arrays
                (b, h, w, 3); or a list of paths and arrays of any sizes.

        Returns:
            By task, maps (h, w, k) of one image or (b, h, w, k) of a batch; of a list, a list of
            the first. Class ids are uint8; quantities in their units (depth in metres),
            probabilities and unit vectors are float32.

        Raises:
            UserError: an image cannot be read, or is of another shape or range.
        """
        if isinstance(images, (str, os.PathLike)):
            return self._predict_all([images])[0]
        if isinstance(images, (list, tuple)):
            return self._predict_all(images)
        array = np.asarray(images)
        if array.ndim != 4:
            return self._predict_all([array])[0]
        maps = self._predict_all(list(array))
        return {task.name: np.stack([x[task.name] for x in maps]) for task in self.tasks}

    def _predict_all(self, images: Sequence[Image]) -> list[Maps]:
        arrays, maps = [_pixels(x) for x in images], []
        for start in range(0, len(arrays), self.batch_size):
            batch = arrays[start : start + self.batch_size]
            maps += [
                self.maps(raw, x.shape[:2]) for raw, x in zip(self.raw(batch), batch, strict=True)
            ]
        return maps

    def __repr__(self) -> str:
        model, size = self.trained.config.model, "x".join(map(str, self._image_size))
        tasks = ", ".join(task.name for task in self.tasks)
        return f"<{model.name} on {model.backbone} at {size}: {tasks}; {self.trained.checkpoint}>"

    def raw(self, images: Sequence[np.ndarray]) -> list[Raw]:
        """The network's maps, at its size, of up to `batch_size` images (h, w, 3)."""
        kinds = {image.dtype for image in images}
        if len(kinds) > 1:  # floats are in [0, 1]
            images = [x / np.float32(255) if x.dtype == np.uint8 else x for x in images]
        dtype = np.uint8 if kinds == {np.dtype(np.uint8)} else np.float32
        batch = np.zeros((self.batch_size, *self._image_size, 3), dtype)
        for row, image in zip(batch, images, strict=False):
            row[:] = geometry.resize_image(image, self._image_size)
        maps = jax.device_get(self._predict(batch))
        return [jax.tree.map(lambda x, i=i: x[i], maps) for i in range(len(images))]

    def maps(self, raw: Raw, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
        """A person's maps of one image, at any (h, w), from its part of `raw`.

        At the network's own size it is what `predictor` gives, to the bit.

        Returns:
            By task, maps (h, w, k), class ids as uint8, all else as float32.
        """
        return {task.name: self._finish(task, raw[task.name], image_size) for task in self.tasks}

    def _finish(
        self, task: Task, maps: tuple[np.ndarray, np.ndarray], image_size: tuple[int, int]
    ) -> np.ndarray:
        """Bilinear resize and activation, in bands of rows: large images have many channels."""
        dtype = np.uint8 if task.class_names else np.float32
        raw, activated = maps
        if image_size == raw.shape[:2]:
            return activated.astype(dtype)
        with needs():
            from PIL import Image as Pillow
        h, w = image_size
        channels = [Pillow.fromarray(np.ascontiguousarray(x)) for x in np.moveaxis(raw, -1, 0)]
        rows, pixels = max(1, _PIECE // w), max(_PIECE, w)
        finished = np.empty((h, w, task.label_channels), dtype)
        for top in range(0, h, rows):
            band = finished[top : top + rows]
            start, end = (y * raw.shape[0] / h for y in (top, top + len(band)))
            box = (0, start, raw.shape[1], end)
            piece = np.zeros((1, 1, pixels, len(channels)), np.float32)  # the same for all images
            for k, channel in enumerate(channels):
                part = channel.resize((w, len(band)), Pillow.Resampling.BILINEAR, box)
                piece[0, 0, : part.width * part.height, k] = np.asarray(part).ravel()
            values = np.asarray(self._activate[task.name](piece))[0, 0]
            band[:] = values[: len(band) * w].reshape(band.shape)
        return finished


def _pixels(image: Image) -> np.ndarray:
    """An image's array (h, w, 3), uint8 or float32 in [0, 1].

    Raises:
        UserError: it is none.
    """
    if isinstance(image, (str, os.PathLike)):
        with needs():
            from emanet_jax.data import files
        return files.read_photo(Path(image).expanduser())
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[-1] != 3 or not array.size:
        raise UserError(
            f"an image is of the shape {array.shape}; it must be (h, w, 3), or (b, h, w, 3) of "
            "several."
        )
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating) or not (array.min() >= 0 and array.max() <= 1):
        raise UserError(
            f"an image of {array.dtype} has values from {array.min():.6g} to {array.max():.6g}; it "
            "must be uint8, or of floating-point numbers in [0, 1]."
        )
    return array.astype(np.float32)
