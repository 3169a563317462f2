"""Every network and backbone, and the one function that builds them."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from emanet_jax.errors import UserError
from emanet_jax.models.backbones import hrnet, resnet, swin
from emanet_jax.models.backbones import segnet as segnet_backbone
from emanet_jax.models.networks import multi_scale, segnet, single_scale
from emanet_jax.types import Task


class Backbone(NamedTuple):
    """A backbone of the menu.

    Attributes:
      make: its named fields to the module, images (b, H, W, 3) to a list of maps, finest first.
      kind: "pyramid" (maps at 1/4, 1/8, 1/16, 1/32), "single" (one map at 1/32) or "segnet".
      settings: named fields that a network gets on it, such as its heads.
    """

    make: Callable[..., nn.Module]
    kind: str
    settings: Mapping[str, Any] = {}


class Network(NamedTuple):
    """A network of the menu.

    Attributes:
      make: ((task, channels), ...), the backbone and named fields to the module.
      kinds: of the backbones that it can be built on.
      variants: the named fields that each variant sets.
      make_on: instead of `make`, on kinds of backbones where the network is another.
    """

    make: Callable[..., nn.Module]
    kinds: tuple[str, ...]
    variants: Mapping[str, Mapping[str, Any]] = {"paper": {}, "released": {}}
    make_on: Mapping[str, Callable[..., nn.Module]] = {}


MODELS = {
    "stl": Network(single_scale.stl, ("pyramid", "single", "segnet")),
    "hps": Network(single_scale.hps, ("pyramid", "single", "segnet")),
    "pad_net": Network(
        single_scale.pad_net,
        ("pyramid", "single", "segnet"),
        make_on={"segnet": segnet.pad_net},
    ),
    "pap_net": Network(
        single_scale.pap_net,
        ("pyramid", "single"),
        {"paper": {"affinity": "row_stochastic"}, "released": {"affinity": "column_stochastic"}},
    ),
    "ema_net": Network(
        single_scale.ema_net,
        ("pyramid", "single"),
        {"paper": {"fusion": "task_specific"}, "released": {"fusion": "shared"}},
    ),
    "mti_net": Network(
        multi_scale.mti_net,
        ("pyramid",),
        {"paper": {"softmax_over": "tasks"}, "released": {"softmax_over": "neighbours"}},
    ),
    "ema_net_ms": Network(
        multi_scale.ema_net_ms,
        ("pyramid",),
        {
            "paper": {"fusion": "task_specific", "softmax_over": "tasks"},
            "released": {"fusion": "shared", "softmax_over": "neighbours"},
        },
    ),
    "mtan": Network(segnet.mtan, ("segnet",)),
    "ati_net": Network(
        segnet.ati_net,
        ("segnet",),
        {"paper": {"feed_decoder": True}, "released": {"feed_decoder": False}},
    ),
}

# What networks do differently on a backbone, by the names of their fields.
_HRNET = {"head": "hrnet", "refined_head": "bottleneck", "narrow_norm": False}
_RESNET = {"head": "deeplab", "refined_head": "bottleneck", "narrow_norm": False}
_SWIN = {"head": "deeplab", "refined_head": "deeplab", "narrow_norm": True}
_SEGNET = {"head": "prediction"}

BACKBONES = {
    "hrnet_w18": Backbone(hrnet.hrnet_w18, "pyramid", _HRNET),
    "hrnet_tiny": Backbone(hrnet.hrnet_tiny, "pyramid", _HRNET),
    "resnet34": Backbone(resnet.resnet34, "single", _RESNET),
    "resnet50": Backbone(resnet.resnet50, "single", _RESNET),
    "resnet_tiny": Backbone(resnet.resnet_tiny, "single", _RESNET),
    "swin_v2_t": Backbone(swin.swin_v2_t, "single", _SWIN),
    "swin_v2_s": Backbone(swin.swin_v2_s, "single", _SWIN),
    "swin_v2_b": Backbone(swin.swin_v2_b, "single", _SWIN),
    "swin_v2_tiny": Backbone(swin.swin_v2_tiny, "single", _SWIN),
    "segnet": Backbone(segnet_backbone.segnet, "segnet", _SEGNET),
    "segnet_tiny": Backbone(segnet_backbone.segnet_tiny, "segnet", _SEGNET),
}

KINDS = {
    "pyramid": "four maps, from 1/4 to 1/32 of the image",
    "single": "one map at 1/32 of the image",
    "segnet": "SegNet, whose encoder and decoder it attends to",
}


def backbones_of(name: str) -> tuple[str, ...]:
    """The backbones that network `name` can be built on, its usual one first."""
    return tuple(key for key, entry in BACKBONES.items() if entry.kind in MODELS[name].kinds)


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
      UserError: an unknown name or a backbone that the network cannot use, with the choices, or a
        size that no backbone takes.
    """
    network = _choose("model", name, MODELS)
    trunk = _choose("backbone", backbone, BACKBONES)
    settings = _choose("variant", variant, network.variants)
    if trunk.kind not in network.kinds:
        needed = " or ".join(KINDS[kind] for kind in network.kinds)
        raise UserError(
            f"{name} cannot be built on {backbone}, which gives {KINDS[trunk.kind]}: it needs "
            f"{needed}; choose from {', '.join(backbones_of(name))}."
        )
    if not tasks:
        raise UserError("tasks is empty; name at least one task.")
    if len(image_size) != 2 or any(side <= 0 or side % 32 for side in image_size):
        raise UserError(f"image_size is {image_size}; height and width must be multiples of 32.")

    make = network.make_on.get(trunk.kind, network.make)
    fields, trunk_fields = _named_fields(make), _named_fields(trunk.make)
    for field in overrides:
        _choose(f"override of {name} on {backbone}", field, sorted(fields | trunk_fields))
        _check_override(field, overrides[field], make if field in fields else trunk.make)
    options = {**trunk.settings, **settings, **overrides}
    return make(
        tuple((task.name, task.channels) for task in tasks),
        trunk.make(**{k: v for k, v in options.items() if k in trunk_fields}),
        **{k: v for k, v in options.items() if k in fields},
    )


def _named_fields(make: Callable[..., nn.Module]) -> set[str]:
    parameters = inspect.signature(make).parameters.values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


# What an override may be, by the type that the field is annotated with.
_OVERRIDES: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    int: ("a positive whole number", lambda x: type(x) is int and 0 < x <= 65536),
    float: ("a finite number", lambda x: type(x) in (int, float) and math.isfinite(x)),
    bool: ("True or False", lambda x: type(x) is bool),
    str: ("text", lambda x: isinstance(x, str)),
    tuple[int, ...]: (
        "positive whole numbers",
        lambda x: isinstance(x, tuple) and all(type(n) is int and 0 < n <= 65536 for n in x),
    ),
}


def _check_override(field: str, value: Any, make: Callable[..., nn.Module]) -> None:
    """Raises UserError if an override is not of the type that the field has."""
    annotation = inspect.signature(make).parameters[field].annotation
    words, fits = _OVERRIDES.get(annotation, ("", lambda _: True))
    if not fits(value):
        raise UserError(f"config.model.overrides.{field} is {value!r}; it must be {words}.")


def _choose(what: str, value: str, choices: Any) -> Any:
    if value not in choices:
        raise UserError(f"unknown {what} {value!r}; choose from {', '.join(choices)}.")
    return choices[value] if isinstance(choices, Mapping) else value
