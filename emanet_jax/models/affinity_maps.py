"""CTAL's view of an image: one pixel's row of the affinities, before and after tasks are mixed.

In the terms of `ctal.py`, for a pixel i: A_t(i, p) is the likeness of task t's features at i and p,
and G_t(i, p) the share of V_t(p) that CTAL adds to its features at i. One row takes P numbers a
task, where the whole matrices take P x P.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from emanet_jax.errors import UserError
from emanet_jax.models.ctal import CrossTaskAffinity
from emanet_jax.ops import unit_vectors, wide_dtype


class AffinityRows(NamedTuple):
    """One pixel's rows {task: (b, h, w)} on the features' grid.

    Attributes:
      own: A_t(i, .), cosines of the task's features, from -1 to 1; 1 at the pixel itself.
      mixed: G_t(i, .), after the fusion of all tasks' rows; its sign counts.
    """

    own: dict[str, jax.Array]
    mixed: dict[str, jax.Array]


def affinity_rows(
    features: Mapping[str, jax.Array],
    params: Mapping[str, Any],
    pixel: tuple[int, int],
    tasks: tuple[str, ...] | None = None,
) -> AffinityRows:
    """The rows of one pixel.

    Args:
      features: {task: (b, h, w, c)}, what a `CrossTaskAffinity` is given.
      params: that module's own.
      pixel: (row, column) on the grid.
      tasks: their order on the fusions' axis, as the module's.
    """
    tasks = tasks or tuple(sorted(features))
    row, column = pixel
    own = {}
    for task in tasks:
        f, dtype = unit_vectors(features[task]), wide_dtype(features[task].dtype)
        own[task] = jnp.einsum("bpqc,bc->bpq", f, f[:, row, column], preferred_element_type=dtype)
    stacked = jnp.stack([own[task] for task in tasks], axis=-1)  # (b, h, w, n)
    _, _, w, _ = stacked.shape
    mixed = {}
    for task in tasks:
        fusion = params["fusion" if "fusion" in params else f"fusion_{task}"]
        kernel, bias = (fusion[name][..., row * w + column] for name in ("kernel", "bias"))
        mixed[task] = bias + lax.conv_general_dilated(
            stacked,
            kernel[..., None].astype(stacked.dtype),  # (3, 3, n, 1)
            window_strides=(1, 1),
            padding=[(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ).squeeze(-1)
    return AffinityRows(own, mixed)


def of_network(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array, place: tuple[float, float]
) -> AffinityRows:
    """The rows of the grid's pixel at one place of images that a network with CTAL looks at.

    Args:
      model: EMA-Net or EMA-Net-MS.
      variables: {"params", "batch_stats"}, made for the images' size.
      images: (b, h, w, 3), normalised as the network was trained.
      place: (row, column) as shares of height and width, from 0 up to but not including 1.

    Raises:
      UserError: the network has no CTAL, or the place is outside of the images.
    """
    if not all(0 <= share < 1 for share in place):
        raise UserError(f"place is {place}; both shares must be at least 0 and below 1.")
    found: list[AffinityRows] = []

    def look(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if isinstance(module, CrossTaskAffinity) and context.method_name == "__call__":
            features, params = args[0], module.variables["params"]
            h, w = next(iter(features.values())).shape[1:3]
            pixel = math.floor(place[0] * h), math.floor(place[1] * w)
            found.append(affinity_rows(features, params, pixel, module.tasks))
        return call(*args, **kwargs)

    @jax.jit
    def rows(variables: Mapping[str, Any], images: jax.Array) -> AffinityRows:
        with nn.intercept_methods(look):
            model.apply(variables, images, train=False)
        if not found:
            raise UserError("this network has no CTAL to look into; take an ema_net or ema_net_ms.")
        return found.pop()

    return rows(variables, images)
