"""Imports what commands need, once, before they are forked: multiprocessing's preload module."""

import gc
import importlib

for name in (
    "emanet_jax.compare.report",
    "emanet_jax.convert.runs",
    "emanet_jax.export.writing",
    "emanet_jax.models.cost",
    "emanet_jax.predict.loops",
    "emanet_jax.training.loop",
    "tensorflow_datasets",
    "scipy.io",
    "PIL.Image",
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
    "tensorflow",
):
    importlib.import_module(name)
gc.freeze()  # or every fork copies what its own collections touch
