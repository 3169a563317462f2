"""From a config to its network, and its variables at another size, without data or checkpoints."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array

from emanet_jax import models
from emanet_jax.config import check_config
from emanet_jax.models.ctal import adapt_resolution
from emanet_jax.tasks import tasks_for
from emanet_jax.types import Model, Task

# What networks compute in. Parameters, statistics, losses and CTAL's sums are float32 in both.
PRECISIONS: dict[str, dict[str, Any]] = {"float32": {}, "bfloat16": {"dtype": jnp.bfloat16}}

# Pixels of the image to one of the grid that fusions are made for, by the backbone's kind.
_STRIDES = {"pyramid": 4, "single": 32, "segnet": 1}

# Mean and standard deviation of RGB in [0, 1]; "unit" feeds images as they are (released CNN code).
IMAGE_STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


@dataclasses.dataclass(frozen=True)
class NormalisedImages:
    """A network that takes images as they are stored: (b, h, w, 3), uint8 or in [0, 1].

    Attributes:
        network: takes images that are normalised.
        statistics: a key of `IMAGE_STATISTICS`.
    """

    network: Model
    statistics: str

    def init(self, rngs: Any, images: Array, **kwargs: Any) -> Any:
        """The network's variables."""
        return self.network.init(rngs, normalise(images, self.statistics), **kwargs)

    def apply(self, variables: Any, images: Array, **kwargs: Any) -> Any:
        """The network's predictions."""
        return self.network.apply(variables, normalise(images, self.statistics), **kwargs)


def normalise(images: Array, statistics: str) -> Array:
    """Images (b, h, w, 3), uint8 or in [0, 1], to what a backbone expects."""
    mean, std = IMAGE_STATISTICS[statistics]
    images = images / 255 if images.dtype == jnp.uint8 else images
    return (images - jnp.asarray(mean, images.dtype)) / jnp.asarray(std, images.dtype)


def make_network(
    config: ml_collections.ConfigDict,
) -> tuple[tuple[Task, ...], NormalisedImages]:
    """The tasks, and the network that predicts them of images as they are stored.

    Raises:
        UserError: a value of the config is none that it may have, or does not fit the others.
    """
    check_config(config)
    tasks = tasks_for(config.data.dataset, config.tasks, config.data.classes)
    model = models.build(
        config.model.name,
        tasks,
        backbone=config.model.backbone,
        image_size=tuple(config.data.image_size),
        variant=config.model.variant,
        **config.model.overrides,
        **PRECISIONS[config.precision],
    )
    return tasks, NormalisedImages(model, config.image_statistics)


def abstract_variables(model: Model, image_size: tuple[int, int]) -> dict[str, Any]:
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


def resized_variables(
    variables: Mapping[str, Any], backbone: str, old: tuple[int, int], new: tuple[int, int]
) -> dict[str, Any]:
    """Variables for images of another size (h, w): CTAL's fusions are made for one."""
    stride = _STRIDES[models.BACKBONES[backbone].kind]
    grids = ((h // stride, w // stride) for h, w in (old, new))
    return {**variables, "params": adapt_resolution(variables["params"], *grids)}
