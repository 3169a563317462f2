"""The menu at its smallest: every network on a tiny backbone of every kind that it takes."""

from types import SimpleNamespace

import pytest

from emanet_jax import models
from emanet_jax.models import registry

# Of the named fields that set widths, beside a tiny backbone's own.
WIDTHS = {"features": 16, "distilled": 8, "latent_widths": (10, 8, 6)}

NETWORKS = [
    (name, backbone)
    for name in models.NETWORKS
    for backbone in models.backbones_of(name)
    if backbone.endswith("_tiny")
]


BACKBONES = [name for name in models.BACKBONES if name != "smallest"]  # which tests/tiny.py adds


def variants(name):
    """The network's variants that differ, the default first."""
    return ["paper", *models.NETWORKS[name].variants]


FIRST = dict(reversed(NETWORKS))  # {network: the first of its tiny backbones}


def marks(name, backbone, variant="paper"):
    """In every run each network once; its other backbones and variants in the slow run."""
    every_run = backbone == FIRST[name] and variant == "paper"
    return () if every_run else pytest.mark.slow


def slow_but(names, name):
    """In every run these names, in the slow run the others too."""
    return () if name in names else pytest.mark.slow


# Each in its default variant on every kind of backbone, in all its variants on the first.
MENU = [
    pytest.param(name, backbone, variant, marks=marks(name, backbone, variant))
    for name, backbone in NETWORKS
    for variant in (variants(name) if backbone == FIRST[name] else ["paper"])
]


def task(name, channels):
    """What `models.build` reads of a task."""
    return SimpleNamespace(name=name, channels=channels)


def widths(name, backbone):
    """The named fields that make a network narrow."""
    fields = registry.overrides_of(name, backbone)
    return {field: width for field, width in WIDTHS.items() if field in fields}


def tiny(name, backbone, tasks, size, **options):
    """A network of the menu with few and narrow layers of all its kinds."""
    options = widths(name, backbone) | options
    return models.build(name, tasks, backbone=backbone, image_size=size, **options)
