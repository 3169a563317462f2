"""Backbones by themselves: lists of feature maps with channels and strides."""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from flax.typing import Dtype
from jaxtyping import Array

from emanet_jax.config import IMAGENET
from emanet_jax.errors import UserError, choose
from emanet_jax.models.registry import BACKBONES, fields_of
from emanet_jax.models.weights.pretrained import load_pretrained

_SIZE = 256  # of the image that shapes are found with; every backbone takes it


@dataclasses.dataclass(frozen=True)
class Features:
    """A backbone with its weights, which gives a map for every scale, finest first.

    Call it on images (b, H, W, 3), normalised as `emanet_jax.network.normalise` does, with sides
    that are multiples of 32. In a network of your own, train `module` from `variables`:
    `module.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})`.

    Attributes:
        name: of the backbone.
        module: the Linen module, (images, train) to the list of maps.
        variables: {"params", "batch_stats"}.
        channels: c of every map (b, h, w, c).
        strides: H / h of every map.
        summary: where the weights come from.
    """

    name: str
    module: nn.Module
    variables: dict[str, Any]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    summary: str

    @functools.cached_property
    def _apply(self) -> Any:
        return jax.jit(functools.partial(self.module.apply, train=False))

    def __call__(self, images: Array) -> list[Array]:
        """The maps of evaluation, compiled once for every shape of images."""
        return self._apply(self.variables, images)


def backbone(
    name: str, *, pretrained: bool | str = False, seed: int = 0, dtype: Dtype | None = None
) -> Features:
    """Builds a backbone that gives the maps of all its scales, as timm's `features_only` does.

    HRNet, ResNet and Swin V2 have four, at 1/4 to 1/32 of the image; SegNet's encoder has five, at
    1/1 to 1/16. Of Swin V2's the last one is normalised.

    Args:
        name: one of `emanet_jax.models.BACKBONES`.
        pretrained: True for its usual ImageNet weights; or a file or a repository of weights, as
            config.model.pretrained takes them; False for random ones.
        seed: of random weights.
        dtype: that layers compute in; float32.

    Raises:
        UserError: the name is unknown, or the weights cannot be found or do not fit.
    """
    entry = choose("backbone", name, BACKBONES)
    all_scales = {"all_scales": True} if "all_scales" in fields_of(entry.make) else {}
    module = entry.make(dtype=dtype, **all_scales)
    images = jnp.zeros((1, _SIZE, _SIZE, 3))
    init = functools.partial(module.init, train=False)
    key = jax.random.key(seed, impl="rbg")  # threefry compiles slowly
    variables: dict[str, Any] = {"batch_stats": {}} | dict(jax.jit(init)(key, images))
    summary = f"{name} with random weights of seed {seed}."
    if pretrained:
        source = IMAGENET.get(name, "") if pretrained is True else pretrained
        if not source:
            raise UserError(
                f"{name} has no usual ImageNet weights; choose from {', '.join(IMAGENET)}, or give "
                "a file or a repository."
            )
        inside = {kind: {"backbone": tree} for kind, tree in variables.items()}
        loaded, summary = load_pretrained(source, name, inside)
        filled = {kind: flatten_dict(tree["backbone"]) for kind, tree in loaded.items()}
        variables = {
            kind: unflatten_dict(flatten_dict(tree) | filled.get(kind, {}))
            for kind, tree in variables.items()
        }
    apply = functools.partial(module.apply, train=False)
    maps = jax.eval_shape(apply, variables, images)
    strides = tuple(math.ceil(_SIZE / x.shape[1]) for x in maps)
    return Features(name, module, variables, tuple(x.shape[-1] for x in maps), strides, summary)
