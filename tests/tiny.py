"""Config of the command-line tests: everything as small as it goes, four batches an epoch.

The backbone "smallest" is two layers, for tests of all that is around a network.
"""

from functools import partial
from pathlib import Path

import flax.linen as nn

import emanet_jax
from emanet_jax.config import from_argument
from emanet_jax.models.heads import PredictionHead
from emanet_jax.models.layers import ConvNorm
from emanet_jax.models.registry import Backbone


class Smallest(nn.Module):
    """Images (b, H, W, 3) to one map (b, H/4, W/4, 4)."""

    dtype: str | None = None

    @nn.compact
    def __call__(self, images, train):
        conv_norm = partial(ConvNorm, train=train, dtype=self.dtype)
        return [conv_norm(4, 1, name="last")(conv_norm(4, 3, strides=4, name="stem")(images))]


HEADS = {"head": PredictionHead, "refined_head": PredictionHead}
emanet_jax.register_backbone("smallest", Backbone(Smallest, "pyramid", HEADS))


def get_config(arg=None):
    config = from_argument(arg, backbone="smallest")
    config.data.dataset = "synthrooms"
    config.data.layout = ""
    config.data.image_size = (32, 64)
    config.data.train_examples = 16
    config.data.val_examples = 6
    if config.model.backbone == "smallest":
        config.extension = str(Path(__file__).resolve())
    if config.model.name == "ema_net" or config.model.backbone != "smallest":
        config.model.overrides = {"features": 16, "distilled": 8}
    config.epochs = 3.0
    config.batch_size = 4
    config.eval_batch_size = 4
    config.eval_every_epochs = 1.0
    config.log_every_steps = 2
    config.figure_images = 2
    config.optimizer.learning_rate = 1e-3
    return config.lock()
