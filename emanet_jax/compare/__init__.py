"""Runs side by side: tables, delta_m, curves and pictures; `python -m emanet_jax.compare`."""
