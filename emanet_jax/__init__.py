"""EMA-Net, Cross-Task Affinity Learning and their peers in JAX and Flax.

The public names, each imported from its module when it is first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "CrossTaskAffinity": "emanet_jax.models.ctal",
    "DatasetSpec": "emanet_jax.tasks.registry",
    "Predictor": "emanet_jax.inference",
    "Task": "emanet_jax.types",
    "backbone": "emanet_jax.models.features",
    "build": "emanet_jax.models.registry",
    "export_torch": "emanet_jax.models.weights.transfer",
    "import_torch": "emanet_jax.models.weights.transfer",
    "load": "emanet_jax.inference",
    "push_to_hub": "emanet_jax.hub",
    "register_backbone": "emanet_jax.models.registry",
    "register_dataset": "emanet_jax.tasks.registry",
    "register_network": "emanet_jax.models.registry",
    "register_task": "emanet_jax.tasks.registry",
    "save_pretrained": "emanet_jax.hub",
    "tasks_for": "emanet_jax.tasks.registry",
}

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
