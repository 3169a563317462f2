"""The menu: every network and backbone, and the one function that builds them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from emanet_jax.errors import UserError
from emanet_jax.models import multitask
from emanet_jax.models.backbones import hrnet
from emanet_jax.models.multitask import Predictions
from emanet_jax.tasks import Task

__all__ = ["BACKBONES", "MODELS", "Predictions", "build"]


class Entry(NamedTuple):
    """A network of the menu: who makes it, and what each of its variants sets."""

    make: Callable[..., nn.Module]
    variants: Mapping[str, Mapping[str, Any]]


MODELS = {
    "hps": Entry(multitask.hps, {"paper": {}, "released": {}}),
    "ema_net": Entry(
        multitask.ema_net,
        {"paper": {"fusion": "task_specific"}, "released": {"fusion": "shared"}},
    ),
}

BACKBONES = {
    "hrnet_w18": hrnet.hrnet_w18,
    "hrnet_tiny": hrnet.hrnet_tiny,
}


def build(
    name: str,
    tasks: Sequence[Task],
    *,
    image_size: tuple[int, int],
    backbone: str = "hrnet_w18",
    variant: str = "paper",
    **overrides: Any,
) -> nn.Module:
    """A network of the menu as a Linen module: `(images, train)` to `Predictions`.

    Args:
      name: one of MODELS.
      tasks: what to predict, in the order that they share axes in; only `.name` and `.channels`
        are read.
      image_size: (H, W) of the images, multiples of 32.
      backbone: one of BACKBONES.
      variant: "paper", or "released" for what the authors' code does (README, deviations).
      **overrides: named fields of the network or the backbone, above the variant's.

    Raises:
      UserError: an unknown name, with the choices, or a size that no backbone takes.
    """
    entry = _choose("model", name, MODELS)
    make_backbone = _choose("backbone", backbone, BACKBONES)
    settings = _choose("variant", variant, entry.variants)
    if not tasks:
        raise UserError("tasks is empty; name at least one task.")
    if len(image_size) != 2 or any(side <= 0 or side % 32 for side in image_size):
        raise UserError(f"image_size is {image_size}; height and width must be multiples of 32.")

    fields, backbone_fields = _named_fields(entry.make), _named_fields(make_backbone)
    for field in overrides:
        _choose(f"override of {name} on {backbone}", field, sorted(fields | backbone_fields))
    options = {**settings, **overrides}
    trunk = make_backbone(**{k: v for k, v in options.items() if k in backbone_fields})
    return entry.make(
        tuple((task.name, task.channels) for task in tasks),
        trunk,
        **{k: v for k, v in options.items() if k in fields},
    )


def _named_fields(make: Callable[..., nn.Module]) -> set[str]:
    parameters = inspect.signature(make).parameters.values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


def _choose(what: str, value: str, choices: Any) -> Any:
    if value not in choices:
        raise UserError(f"unknown {what} {value!r}; choose from {', '.join(choices)}.")
    return choices[value] if isinstance(choices, Mapping) else value
