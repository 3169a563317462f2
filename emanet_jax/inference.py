"""A run's network with its trained weights, without its data: predict, compare, export need it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath
from flax import linen as nn

from emanet_jax import models, parallel, steps, workdir
from emanet_jax.experiment import first_state, make_network, make_score, open_checkpoints
from emanet_jax.models.ctal import adapt_resolution
from emanet_jax.tasks import Task

# Pixels of the image to one of the grid that fusions are made for, by the backbone's kind.
_STRIDES = {"pyramid": 4, "single": 32, "segnet": 1}


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
    model: nn.Module
    variables: dict[str, Any]
    checkpoint: epath.Path


def load(
    directory: epath.PathLike,
    which: Literal["best", "latest"] = "best",
    image_size: tuple[int, int] | None = None,
) -> Trained:
    """The network of the run in a directory, with the weights of a checkpoint.

    Args:
        directory: a run's workdir.
        which: the best checkpoint (the latest, if none has been evaluated) or the latest.
        image_size: (h, w) to run it at, where it is another than it was trained at.

    Raises:
        UserError: the directory holds no run, or no checkpoint that can be restored.
    """
    directory = epath.Path(directory).absolute()
    config = workdir.load_config(directory)
    tasks, model = make_network(config)
    trained_at = tuple(config.data.image_size)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
        jax.eval_shape(functools.partial(first_state, config, tasks), shapes(model, trained_at)),
    )
    score = make_score(config.checkpoint, tasks, config.host_metrics)
    with open_checkpoints(config, directory, score, read_only=True) as checkpoints:
        step = checkpoints.choose(which)
        state, _ = checkpoints.restore(step, like)
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
    predict = jax.jit(
        functools.partial(
            steps.predict,
            model=trained.model,
            tasks=trained.tasks,
            statistics=trained.config.image_statistics,
        ),
        compiler_options=parallel.compiler_options(parallel.make_mesh(devices=jax.devices()[:1])),
    )
    return functools.partial(predict, jax.device_put(trained.variables))


def shapes(model: nn.Module, image_size: tuple[int, int]) -> dict[str, Any]:
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
    grids = [tuple(side // stride for side in size) for size in (old, new)]
    return {**variables, "params": adapt_resolution(variables["params"], *grids)}
