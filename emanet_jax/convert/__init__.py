"""Weights of PyTorch networks to ours and back; `python -m emanet_jax.convert` is the command.

The functions load on first use, so that the command answers wrong flags before.
"""

import importlib
from typing import Any

_LAZY = ("export_torch", "import_torch")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module("emanet_jax.models.weights.transfer"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
