"""A run's trained network, without its data: for predict, compare, export and convert."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath
from PIL import Image

from emanet_jax import cpu, models
from emanet_jax.data import geometry
from emanet_jax.models.ctal import adapt_resolution
from emanet_jax.ops import upcast
from emanet_jax.training import sharding, steps, workdir
from emanet_jax.training.checkpoint import Checkpoints
from emanet_jax.training.experiment import checkpoint_policy, first_state, make_network
from emanet_jax.types import Model, Task

# Pixels of the image to one of the grid that fusions are made for, by the backbone's kind.
_STRIDES = {"pyramid": 4, "single": 32, "segnet": 1}
_PIECE = 2**16  # pixels that are activated at a time, whatever the image's size


class Trained(NamedTuple):
    """A network that has been trained; `config.data.image_size` is the size that it takes.

    Attributes:
        config: of the run.
        tasks: that it predicts.
        model: the network.
        variables: {"params", "batch_stats"}, NumPy arrays.
        checkpoint: the folder of the weights; its name is the training step.
    """

    config: ml_collections.ConfigDict
    tasks: tuple[Task, ...]
    model: Model
    variables: dict[str, Any]
    checkpoint: epath.Path


def load(
    directory: epath.PathLike,
    which: str = "best",
    image_size: tuple[int, int] | None = None,
) -> Trained:
    """The network of the run in a directory, with the weights of a checkpoint.

    Args:
        directory: a run's workdir.
        which: "best" for the best checkpoint (the latest, if none has been evaluated), or "latest".
        image_size: (h, w) to run it at, where it is another than it was trained at.

    Raises:
        UserError: the directory holds no run, or no checkpoint that can be restored.
    """
    directory = workdir.absolute(directory)
    config = workdir.load_config(directory)
    tasks, model = make_network(config)
    trained_at = tuple(config.data.image_size)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
        jax.eval_shape(functools.partial(first_state, config, tasks), shapes(model, trained_at)),
    )
    policy = checkpoint_policy(config, tasks)
    with Checkpoints(directory / workdir.CHECKPOINTS, policy, read_only=True) as checkpoints:
        step = checkpoints.choose(which)
        state = checkpoints.restore(step, like)
        place = checkpoints.path(step)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    if image_size and image_size != trained_at:
        config = at_size(config, image_size)
        tasks, model = make_network(config)
        variables = resized(variables, config.model.backbone, trained_at, image_size)
    return Trained(config, tasks, model, jax.device_get(variables), place)


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


class AnySize:
    """A trained network for images of any size, each of its own.

    All go through the network at its size, so a batch may mix them. Its maps are brought to an
    image's size before their activation, which makes borders of classes smooth and keeps normals
    unit vectors. Nothing is compiled but the network for one batch size and the activations.

    Args:
        trained: the network.
        batch_size: of the network.
    """

    def __init__(self, trained: Trained, batch_size: int) -> None:
        self.tasks = trained.tasks
        self.batch_size = batch_size
        self._image_size = tuple(trained.config.data.image_size)
        self._predict = _compiled(_predict_raw, trained)
        self._activate = {task.name: jax.jit(task.activation) for task in trained.tasks}

    def raw(self, images: Sequence[np.ndarray]) -> list[Raw]:
        """The network's maps, at its size, of up to `batch_size` images (h, w, 3) uint8."""
        batch = np.zeros((self.batch_size, *self._image_size, 3), np.uint8)
        for row, image in zip(batch, images, strict=False):
            row[:] = geometry.resize_image(image, self._image_size)
        maps = jax.device_get(self._predict(batch))
        return [jax.tree.map(lambda x, i=i: x[i], maps) for i in range(len(images))]

    def maps(self, raw: Raw, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
        """A person's maps of one image, at any (h, w), from its part of `raw`.

        At the network's own size it is what `predictor` gives, to the bit.

        Returns:
            {task: (h, w, k)}: class ids as uint8, all else as float32.
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
        h, w = image_size
        channels = [Image.fromarray(np.ascontiguousarray(x)) for x in np.moveaxis(raw, -1, 0)]
        rows, pixels = max(1, _PIECE // w), max(_PIECE, w)
        finished = np.empty((h, w, task.label_channels), dtype)
        for top in range(0, h, rows):
            band = finished[top : top + rows]
            start, end = (y * raw.shape[0] / h for y in (top, top + len(band)))
            box = (0, start, raw.shape[1], end)
            piece = np.zeros((1, 1, pixels, len(channels)), np.float32)  # the same for all images
            for k, channel in enumerate(channels):
                part = channel.resize((w, len(band)), Image.Resampling.BILINEAR, box)
                piece[0, 0, : part.width * part.height, k] = np.asarray(part).ravel()
            values = np.asarray(self._activate[task.name](piece))[0, 0]
            band[:] = values[: len(band) * w].reshape(band.shape)
        return finished


def shapes(model: Model, image_size: tuple[int, int]) -> dict[str, Any]:
    """The network's {"params", "batch_stats"}, abstract."""
    images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    init = functools.partial(model.init, train=False)
    return {"batch_stats": {}} | dict(jax.eval_shape(init, jax.random.key(0), images))


def at_size(
    config: ml_collections.ConfigDict, image_size: tuple[int, int]
) -> ml_collections.ConfigDict:
    """The config with another (h, w)."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.image_size = image_size
    return config


def resized(
    variables: Mapping[str, Any], backbone: str, old: tuple[int, int], new: tuple[int, int]
) -> dict[str, Any]:
    """Variables for images of another size (h, w): CTAL's fusions are made for one."""
    stride = _STRIDES[models.BACKBONES[backbone].kind]
    grids = ((h // stride, w // stride) for h, w in (old, new))
    return {**variables, "params": adapt_resolution(variables["params"], *grids)}
