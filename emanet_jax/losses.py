"""Per-task losses over valid pixels, and the one rule that adds them up."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from emanet_jax.ops import bilinear, unit_vectors, widen

if TYPE_CHECKING:
    from emanet_jax.models import Predictions
    from emanet_jax.tasks import Task


def masked_mean(values: Array, valid: Array) -> Array:
    """Mean of `values` where `valid` (same shape, bool); exactly 0 when nothing is valid."""
    total = jnp.sum(jnp.where(valid, values, 0))
    return total / jnp.maximum(jnp.sum(valid), 1)


def cross_entropy(prediction: Array, label: Array, valid: Array) -> Array:
    """Softmax cross-entropy in nats.

    Args:
        prediction: logits (b, h, w, classes).
        label: class ids (b, h, w, 1), any integer type.
        valid: (b, h, w, 1) bool.
    """
    label = jnp.where(valid, label, 0)[..., 0].astype(jnp.int32)
    values = optax.softmax_cross_entropy_with_integer_labels(widen(prediction), label)
    return masked_mean(values, valid[..., 0])


def l1(prediction: Array, label: Array, valid: Array) -> Array:
    """Mean absolute error of (b, h, w, 1), in the label's unit."""
    return masked_mean(jnp.abs(widen(prediction) - label), valid)


def cosine(prediction: Array, label: Array, valid: Array) -> Array:
    """1 - <normalised prediction, label> for unit vectors (b, h, w, 3), valid (b, h, w, 1)."""
    product = jnp.sum(unit_vectors(widen(prediction)) * label, axis=-1, keepdims=True)
    return masked_mean(1 - product, valid)


def normals_l1(prediction: Array, label: Array, valid: Array) -> Array:
    """Sum over the 3 channels of |normalised prediction - label|, valid (b, h, w, 1)."""
    error = jnp.abs(unit_vectors(widen(prediction)) - label)
    return masked_mean(jnp.sum(error, axis=-1, keepdims=True), valid)


class LossTerms(NamedTuple):
    """The scalar that is differentiated and what it is made of, before task weights."""

    total: Array
    final: dict[str, Array]
    auxiliary: dict[str, Array]  # mean over the auxiliary levels; 0 where there are none


def multi_task_loss(
    predictions: "Predictions",
    labels: Mapping[str, Array],
    mask: Array,
    tasks: Sequence["Task"],
    weights: Mapping[str, float],
) -> LossTerms:
    """Adds the task losses: sum over t of w_t (L_t(final) + mean over levels of L_t(auxiliary)).

    Args:
        predictions: `final` at label size, `auxiliary` maps at any size; these are upsampled.
        labels: {task: (b, h, w, k)}.
        mask: (b,) bool, False on padding images, which then count nowhere.
        tasks: the tasks to add, each with its own loss and notion of a valid pixel.
        weights: {task: weight}.
    """
    final, auxiliary, total = {}, {}, 0.0
    for task in tasks:
        label = labels[task.name]
        valid = task.valid(label) & mask[:, None, None, None]
        size = label.shape[1:3]
        levels = [
            task.loss(bilinear(level[task.name], size), label, valid)
            for level in predictions.auxiliary
        ]
        final[task.name] = task.loss(predictions.final[task.name], label, valid)
        auxiliary[task.name] = sum(levels) / len(levels) if levels else jnp.zeros(())
        total += weights[task.name] * (final[task.name] + auxiliary[task.name])
    return LossTerms(total, final, auxiliary)
