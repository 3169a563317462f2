"""Every network and backbone on one screen, and the one function that builds them.

An entry is a module class with some of its fields bound: `partial(SingleScale, distillation=...)`.
A field is declared once, in the module that uses it, and is set by its name from here, from a
variant or from `config.model.overrides`: `gamma` reaches CTAL wherever in a network it stands.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import flax.linen as nn

from emanet_jax import menu
from emanet_jax.errors import UserError, choose
from emanet_jax.models.backbones.hrnet import HRNet
from emanet_jax.models.backbones.resnet import ResNet
from emanet_jax.models.backbones.segnet import SegNet
from emanet_jax.models.backbones.swin import SwinV2
from emanet_jax.models.distillation import AffinityBlock, PadDistillation, PatternPropagation
from emanet_jax.models.heads import (
    HEADS,
    BottleneckHead,
    DeepLabHead,
    HRNetHead,
    PredictionHead,
)
from emanet_jax.models.layers import BasicBlock, BottleneckBlock, Module
from emanet_jax.models.networks.multi_scale import FusedAffinity, MultiScale, PadPerScale
from emanet_jax.models.networks.segnet import AttentionNet, DecoderPerTask, LatentDistillation
from emanet_jax.models.networks.single_scale import HardSharing, SingleScale, SingleTask

KINDS = {
    "pyramid": "four maps, from 1/4 to 1/32 of the image",
    "single": "one map at 1/32 of the image",
    "segnet": "SegNet, whose encoder and decoder it attends to",
}


class Backbone(NamedTuple):
    """An entry of `BACKBONES`.

    Attributes:
      make: makes the module, images (b, H, W, 3) and `train` to a list of maps, finest first.
      kind: one of `KINDS`.
      settings: fields that a network gets on it, such as its heads.
    """

    make: Module
    kind: str
    settings: Mapping[str, Any] = {}


class Network(NamedTuple):
    """An entry of `NETWORKS`.

    Attributes:
      on: by kind of backbone, what makes the module, (images, train) to `Predictions`, from its
        fields `tasks` and `backbone`.
      variants: fields that a variant sets, where it differs from the defaults.
    """

    on: Mapping[str, Module]
    variants: Mapping[str, Mapping[str, Any]] = {}


_HRNET = {"head": HRNetHead, "refined_head": BottleneckHead}
_RESNET = {"head": DeepLabHead, "refined_head": BottleneckHead}
_SWIN = {"head": DeepLabHead, "refined_head": DeepLabHead, "narrow_norm": True}
_SEGNET = {"head": PredictionHead}

_hrnet = partial(HRNet, stem=64, first_blocks=2, modules=(1, 3, 2), blocks=2)
_resnet = partial(ResNet, stem=64)
_swin = partial(SwinV2, embed_dim=96, heads=(3, 6, 12, 24))

# The tiny ones are for tests: the same layers, few and narrow.
BACKBONES: dict[str, Backbone] = {
    "hrnet_w18": Backbone(partial(_hrnet, widths=(18, 36, 72, 144)), "pyramid", _HRNET),
    "hrnet_tiny": Backbone(
        partial(HRNet, widths=(4, 6, 8, 10), stem=8, first_blocks=1, modules=(1, 1, 1), blocks=1),
        "pyramid",
        _HRNET,
    ),
    "resnet34": Backbone(
        partial(_resnet, block=BasicBlock, widths=(64, 128, 256, 512), blocks=(3, 4, 6, 3)),
        "single",
        _RESNET,
    ),
    "resnet50": Backbone(
        partial(_resnet, block=BottleneckBlock, widths=(256, 512, 1024, 2048), blocks=(3, 4, 6, 3)),
        "single",
        _RESNET,
    ),
    "resnet_tiny": Backbone(
        partial(ResNet, block=BottleneckBlock, stem=8, widths=(8, 12, 16, 24), blocks=(1, 1, 1, 1)),
        "single",
        _RESNET,
    ),
    "swin_v2_t": Backbone(
        partial(_swin, blocks=(2, 2, 6, 2), stochastic_depth=0.2), "single", _SWIN
    ),
    "swin_v2_s": Backbone(
        partial(_swin, blocks=(2, 2, 18, 2), stochastic_depth=0.3), "single", _SWIN
    ),
    "swin_v2_b": Backbone(
        partial(
            SwinV2,
            embed_dim=128,
            blocks=(2, 2, 18, 2),
            heads=(4, 8, 16, 32),
            stochastic_depth=0.5,
        ),
        "single",
        _SWIN,
    ),
    "swin_v2_tiny": Backbone(
        partial(SwinV2, embed_dim=4, blocks=(2, 1, 1, 1), heads=(1, 2, 2, 2), stochastic_depth=0.2),
        "single",
        _SWIN,
    ),
    "segnet": Backbone(partial(SegNet, widths=(64, 128, 256, 512, 512)), "segnet", _SEGNET),
    "segnet_tiny": Backbone(partial(SegNet, widths=(4, 6, 8, 10, 12)), "segnet", _SEGNET),
}

_pad_net = partial(SingleScale, distillation=PadDistillation)
_pap_net = partial(SingleScale, distillation=PatternPropagation)
_ema_net = partial(SingleScale, distillation=AffinityBlock)

NETWORKS: dict[str, Network] = {
    "stl": Network(dict.fromkeys(KINDS, SingleTask)),
    "hps": Network(dict.fromkeys(KINDS, HardSharing)),
    "pad_net": Network({"pyramid": _pad_net, "single": _pad_net, "segnet": DecoderPerTask}),
    "pap_net": Network(
        {"pyramid": _pap_net, "single": _pap_net},
        {"released": {"affinity": "column_stochastic"}},
    ),
    "ema_net": Network(
        {"pyramid": _ema_net, "single": _ema_net}, {"released": {"fusion": "shared"}}
    ),
    "mti_net": Network(
        {"pyramid": partial(MultiScale, distillation=PadPerScale, refined_head=HRNetHead)},
        {"released": {"softmax_over": "neighbours"}},
    ),
    "ema_net_ms": Network(
        {"pyramid": partial(MultiScale, distillation=FusedAffinity)},
        {"released": {"fusion": "shared", "softmax_over": "neighbours"}},
    ),
    "mtan": Network({"segnet": AttentionNet}),
    "ati_net": Network(
        {"segnet": partial(AttentionNet, latent=LatentDistillation)},
        {"released": {"feed_decoder": False}},
    ),
}
VARIANTS = ("paper", "released")


def register_backbone(name: str, entry: Backbone) -> None:
    """Adds a backbone of your own, for `build` and for config.model.backbone.

    Raises:
      UserError: the name is one of this package's, or the kind unknown.
    """
    choose("kind of backbone", entry.kind, KINDS)
    menu.BACKBONES.register(name, entry, BACKBONES)


def register_network(name: str, entry: Network) -> None:
    """Adds a network of your own, for `build` and for config.model.name.

    Raises:
      UserError: the name is one of this package's, or a kind of backbone unknown.
    """
    for kind in entry.on:
        choose("kind of backbone", kind, KINDS)
    menu.NETWORKS.register(name, entry, NETWORKS)


class NamedChannels(Protocol):
    """A task, as far as networks read it."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def channels(self) -> int: ...  # noqa: D102


def backbones_of(name: str) -> tuple[str, ...]:
    """The backbones that network `name` can be built on, its usual one first."""
    return tuple(key for key, entry in BACKBONES.items() if entry.kind in NETWORKS[name].on)


def build(
    name: str,
    tasks: Sequence[NamedChannels],
    *,
    image_size: tuple[int, int],
    backbone: str = "hrnet_w18",
    variant: str = "paper",
    **overrides: Any,
) -> nn.Module:
    """Builds a network as a Linen module: `(images, train)` to `Predictions`.

    Args:
      name: one of `NETWORKS`.
      tasks: to predict, in the order that they share axes in.
      image_size: (H, W) of the images, multiples of 32.
      backbone: one of `BACKBONES`.
      variant: "paper", or "released" for the behaviour of the authors' code (docs/protocols.md).
      **overrides: fields of the network, of a part of it or of the backbone, by their names; they
        go before the variant's.

    Raises:
      UserError: an unknown name or a backbone that the network cannot use, with the choices, or a
        size that no backbone takes.
    """
    network = choose("model", name, NETWORKS)
    kind = choose("backbone", backbone, BACKBONES).kind
    choose("variant", variant, dict.fromkeys(VARIANTS))
    if kind not in network.on:
        needed = " or ".join(KINDS[kind] for kind in network.on)
        raise UserError(
            f"{name} cannot be built on {backbone}, which gives {KINDS[kind]}: it needs "
            f"{needed}; choose from {', '.join(backbones_of(name))}."
        )
    if not tasks:
        raise UserError("tasks is empty; name at least one task.")
    if len(image_size) != 2 or any(side <= 0 or side % 32 for side in image_size):
        raise UserError(f"image_size is {image_size}; height and width must be multiples of 32.")

    known = overrides_of(name, backbone)
    for field, value in overrides.items():
        choose(f"override of {name} on {backbone}", field, known)
        _check_override(field, value, known[field])
    heads = {f: choose(f, overrides[f], HEADS) for f in _HEAD_FIELDS if f in overrides}
    options = {**network.variants.get(variant, {}), **overrides, **heads}
    make = _bind(_on(name, backbone), options)
    return make(tasks=tuple((task.name, task.channels) for task in tasks))


def overrides_of(name: str, backbone: str) -> dict[str, Any]:
    """The fields that `build` can set in a network on a backbone, {name: annotated type}."""
    return fields_of(_on(name, backbone))


_HEAD_FIELDS = ("head", "refined_head")  # set by a name of HEADS
_GIVEN = ("name", "parent", "tasks")  # by the module that makes a part


def _on(name: str, backbone: str) -> partial:
    """A network with the settings that it gets on a backbone."""
    entry = BACKBONES[backbone]
    make = partial(NETWORKS[name].on[entry.kind], backbone=entry.make)
    fixed = make.keywords
    return _bind(make, {key: x for key, x in entry.settings.items() if key not in fixed})


class _Entry(NamedTuple):
    """An entry taken apart: those of its fields that have a value, bound or by default."""

    module: Callable[..., nn.Module]
    values: dict[str, Any]
    types: dict[str, Any]

    def parts(self) -> dict[str, Module]:
        """The fields whose values make modules in their turn."""
        made = (Module, Module | None)
        return {key: x for key, x in self.values.items() if x and self.types[key] in made}


def _taken_apart(make: Module) -> _Entry:
    entry = partial(make)  # flat, also where `make` is a partial
    fields = dataclasses.fields(entry.func)  # type: ignore[arg-type]
    defaults = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
    values = {key: x for key, x in (defaults | entry.keywords).items() if key not in _GIVEN}
    return _Entry(entry.func, values, {f.name: f.type for f in fields})


def _bind(make: Module, options: Mapping[str, Any]) -> partial:
    """Sets fields by name; the outermost part that has a field of that name gets it."""
    entry = _taken_apart(make)
    own = {key: x for key, x in options.items() if key in entry.values}
    entry = entry._replace(values=entry.values | own)
    inner = {key: x for key, x in options.items() if key not in own}
    parts = {key: _bind(part, inner) for key, part in entry.parts().items()}
    return partial(entry.module, **entry.values | parts)


def fields_of(make: Module) -> dict[str, Any]:
    """The annotated types of the fields that can be overridden: of the parts, the heads alone."""
    entry = _taken_apart(make)
    parts, found = entry.parts(), dict[str, Any]()
    for part in parts.values():
        found |= fields_of(part)
    found |= {key: entry.types[key] for key in entry.values if key not in parts}
    return found | {key: str for key in _HEAD_FIELDS if key in parts}


# Values that an override may have, by the type that the field is annotated with.
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


def _check_override(field: str, value: Any, annotation: Any) -> None:
    """Raises UserError if an override is not of the type that the field has."""
    words, fits = _OVERRIDES.get(annotation, ("", lambda _: True))
    if not fits(value):
        raise UserError(f"config.model.overrides.{field} is {value!r}; it must be {words}.")
