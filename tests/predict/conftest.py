"""A network that costs nothing."""

import ml_collections
import numpy as np
import pytest
from etils import epath

from emanet_jax import inference
from emanet_jax.network import NormalisedImages
from emanet_jax.types import Predictions
from tests.helpers import TASKS


class _Linear:
    """Stands in for a network: the maps are sums of an image's channels."""

    def init(self, rngs, images, train):
        raise NotImplementedError  # its weights are given

    def apply(self, variables, image, train):
        del train
        return Predictions({task: image @ weight for task, weight in variables.items()})


@pytest.fixture(scope="module")
def linear():
    """A trained network that costs nothing."""
    config = ml_collections.ConfigDict({"data": {"image_size": (32, 64)}})
    rng = np.random.default_rng(1)
    weights = {t.name: rng.normal(size=(3, t.channels)).astype(np.float32) for t in TASKS}
    model = NormalisedImages(_Linear(), "unit")
    return inference.Trained(config, TASKS, model, weights, epath.Path("0"))
