"""Procedural rooms: what stands where, ray casting, light, and what a recording does to it."""

from emanet_jax.synthetic.render import render_room

__all__ = ["render_room"]
