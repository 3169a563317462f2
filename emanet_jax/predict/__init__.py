"""Photos, videos and cameras through a trained network: `python -m emanet_jax.predict`."""
