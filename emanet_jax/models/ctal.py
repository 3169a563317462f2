"""Cross-Task Affinity Learning (CTAL), exactly, in memory linear in the number of pixels.

Source: "Cross-Task Affinity Learning for Multitask Dense Scene Predictions" (arXiv 2401.11124),
intra-task, inter-task and task-specific diffusion. For n tasks with features of c channels on an
(h, w) grid of P = h * w pixels, flattened row by row:

    A_k(i, p) = <f_k(i), f_k(p)>                          f: features, each pixel a unit vector
    G_t(i, p) = b_t(i) + sum_k sum_d w_t(i, k, d) A_k(i, p + d)      d: the 3 x 3 neighbourhood
    R_t(i) = gamma * sum_p V_t(p) G_t(i, p) + (1 - gamma) F_t(i)     V = conv3x3(F)

G is a grouped convolution with one filter per pixel i. Nothing between A and R is non-linear, so
the sum over p may go inside, where it leaves c x c matrices S and no P x P array:

    sum_p V_t(p) G_t(i, p) = b_t(i) sum_p V_t(p) + sum_k sum_d w_t(i, k, d) S_tkd f_k(i)
    S_tkd = sum_p V_t(p) f_k(p + d)^T
"""

import functools
import logging
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jaxtyping import Array, Float

from emanet_jax.errors import UserError, choose
from emanet_jax.models.affinity import IMPLEMENTATIONS
from emanet_jax.models.layers import conv, fan_in_uniform, uniform_bias
from emanet_jax.ops import bilinear, unit_vectors, wide_dtype

FUSIONS = {"task_specific": "fusion_{task}", "shared": "fusion"}  # names of their parameters
QUADRATIC_BYTES = 512 * 2**20  # "auto" never makes P x P arrays that take more than this together
MOMENTS = {"mu", "nu", "trace"}  # Optax's names for running means of gradients and their squares
BETWEEN_ARRAYS = 50  # cost of a multiply-add there, in those of a product: see benchmarks/NOTES.md


def choose_implementation(
    b: int, n: int, c: int, pixels: int, fusions: int, itemsize: int
) -> tuple[str, str]:
    """Chooses for "auto", with the reason: the fewer operations, within QUADRATIC_BYTES.

    Multiply-adds per image: `shifted` takes 2 P^2 n c in products (affinities, diffusion) and
    9 P^2 n fusions between arrays (mixing); `factorized` 18 P n^2 c^2 in products (S and its use).
    One between arrays counts as BETWEEN_ARRAYS: it waits for memory.
    """
    work = {
        "shifted": pixels**2 * (2 * n * c + BETWEEN_ARRAYS * 9 * n * fusions),
        "factorized": 18 * pixels * (n * c) ** 2,
    }
    choice = min(work, key=lambda name: work[name])
    why = ", ".join(f"{name} {count:.2g}" for name, count in work.items()) + " operations per image"
    if choice == "shifted" and b * (n + fusions) * pixels**2 * itemsize > QUADRATIC_BYTES:
        choice = "factorized"
        why = f"P x P arrays of the batch would take more than {QUADRATIC_BYTES / 2**20:.0f} MiB"
    return choice, f"{n} tasks, {pixels} pixels, {c} channels: {why}"


@functools.cache
def _log_once(message: str) -> None:
    logging.getLogger(__name__).info(message)


class FusionKernel(nn.Module):
    """The parameters of one grouped convolution: a 3 x 3 x n filter and a bias for every pixel."""

    tasks: int

    @nn.compact
    def __call__(self, h: int, w: int) -> tuple[jax.Array, jax.Array]:
        """Kernel (3, 3, n, h * w), as `feature_group_count=h * w` wants it, and bias (h * w,)."""
        if self.has_variable("params", "bias"):
            made_for: int = self.get_variable("params", "bias").size
            if made_for != h * w:
                raise UserError(
                    f"{'/'.join(self.path)} was made for {made_for} pixels and the features have "
                    f"{h} x {w}: pass the params through models.ctal.adapt_resolution(params, "
                    f"old_hw, new_hw=({h}, {w})), hw being the features' grid, first."
                )
        n, pixels = self.tasks, h * w
        kernel = self.param("kernel", fan_in_uniform, (3, 3, n, pixels))
        bias = self.param("bias", uniform_bias(9 * n), (pixels,))
        return jnp.asarray(kernel), jnp.asarray(bias)


class CrossTaskAffinity(nn.Module):
    """Refines every task's features by the affinities between pixels that all tasks see.

    Attributes:
      fusion: "task_specific" (the paper: one grouped convolution per task) or "shared" (the
        released code: one for all).
      implementation: "factorized", "shifted" or "grouped_conv", all with the same parameters and
        results, or "auto": see `choose_implementation`.
      gamma: share of the diffused values in the result.
      tasks: the order of the tasks on the fusions' axis; None takes the names sorted, because jit
        sorts a dict's keys and any other order would be lost there.
      dtype: what to compute in; None promotes features and parameters.
    """

    fusion: str = "task_specific"
    implementation: str = "auto"
    gamma: float = 0.05
    tasks: tuple[str, ...] | None = None
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, features: Mapping[str, Float[Array | np.ndarray, "b h w c"]]
    ) -> dict[str, Float[Array, "b h w c"]]:
        """{task: (b, h, w, c)} to the same.

        Raises:
          UserError: an unknown choice, or fusions that were made for another resolution.
        """
        fusion_name = choose("fusion", self.fusion, FUSIONS)
        choose("implementation", self.implementation, {"auto": None, **IMPLEMENTATIONS})
        tasks = self.tasks or tuple(sorted(features))
        if set(tasks) != set(features):
            raise UserError(
                f"tasks are {', '.join(tasks)} but the features' {', '.join(features)}."
            )
        b, h, w, c = features[tasks[0]].shape
        n = len(tasks)

        value = functools.partial(conv, c, c, 3, dtype=self.dtype)
        values = [value(name=f"value_{task}")(features[task]) for task in tasks]
        names = dict.fromkeys(fusion_name.format(task=task) for task in tasks)
        fusions = [FusionKernel(n, name=name)(h, w) for name in names]
        kernel, bias = (jnp.stack(parts) for parts in zip(*fusions, strict=True))

        s = len(fusions)
        v = jnp.stack(values, axis=3).reshape(b, h, w, s, n // s, c)
        f = jnp.stack([unit_vectors(jnp.asarray(features[task])) for task in tasks], axis=3)
        name, why = self.chosen(features)
        if self.implementation == "auto" and not self.is_initializing():
            _log_once(f"CTAL runs {name} ({why}).")  # the batch of an initialisation never comes
        diffused = IMPLEMENTATIONS[name](f.astype(v.dtype), v, kernel, bias).reshape(b, h, w, n * c)
        parts = jnp.split(diffused, n, axis=-1)  # backwards one array, where n slices would be n
        return {
            task: (self.gamma * part + (1 - self.gamma) * features[task]).astype(v.dtype)
            for task, part in zip(tasks, parts, strict=True)
        }

    def chosen(
        self, features: Mapping[str, Float[Array | np.ndarray, "b h w c"]]
    ) -> tuple[str, str]:
        """The implementation that these features {task: (b, h, w, c)} are refined by, and why."""
        if self.implementation != "auto":
            return self.implementation, "as asked for"
        n, one = len(features), next(iter(features.values()))
        b, h, w, c = one.shape
        fusions = 1 if self.fusion == "shared" else n
        itemsize = wide_dtype(self.dtype or one.dtype).itemsize
        b = b if isinstance(b, int) else 1  # a symbol, in an export for batches of any size
        return choose_implementation(b, n, c, h * w, fusions, itemsize)


def adapt_resolution(params: Any, old_hw: tuple[int, int], new_hw: tuple[int, int]) -> Any:
    """Params whose fusions were made for features of one grid, resized for another.

    A fusion is a field over the grid: it is resampled bilinearly, and multiplied by P_old / P_new
    because the diffusion sums over P pixels. Adam's moments of a fusion are resampled only: with
    more pixels, a weight has more terms to act on and a smaller share of the mean loss, so that its
    gradients stay as they were. Everything else is returned as it is.

    Args:
      params: any tree that holds `fusion` kernels (3, 3, n, P) and biases (P,), such as a network's
        params or a whole TrainState.
      old_hw: the features' grid (image size / 4 on HRNet) that they were made for.
      new_hw: the grid to run at.

    Raises:
      UserError: a fusion that was not made for `old_hw`.
    """
    old, new = math.prod(old_hw), math.prod(new_hw)

    def adapt(path: tuple, leaf: Array | np.ndarray) -> Array | np.ndarray:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if "/fusion" not in f"/{name}" or old_hw == new_hw:
            return leaf
        if leaf.shape[-1] != old:
            raise UserError(
                f"{name} was made for {leaf.shape[-1]} pixels, not for old_hw = {old_hw}."
            )
        field = jnp.moveaxis(leaf.reshape(-1, *old_hw), 0, -1)[None]
        scale = 1 if MOMENTS & set(name.split("/")) else old / new
        field = bilinear(field, new_hw) * scale
        return jnp.moveaxis(field[0], -1, 0).reshape(*leaf.shape[:-1], new)

    return jax.tree_util.tree_map_with_path(adapt, params)
