"""Weights of PyTorch networks to ours and back; `python -m emanet_jax.convert` is the command."""

from emanet_jax.models.weights.transfer import export_torch, import_torch

__all__ = ["export_torch", "import_torch"]
