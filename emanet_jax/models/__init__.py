"""The networks. `build` makes any of them; the registry loads on first use.

So `import emanet_jax.models.ctal` brings CTAL alone, without a backbone.
"""

import importlib
from typing import Any

_LAZY = (
    "BACKBONES",
    "KINDS",
    "NETWORKS",
    "backbones_of",
    "build",
    "register_backbone",
    "register_network",
)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module("emanet_jax.models.registry"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
