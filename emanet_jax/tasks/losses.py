"""Per-task losses over valid pixels, and the one rule that adds them up."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from emanet_jax.ops import bilinear, unit_vectors, upcast
from emanet_jax.types import Predictions, Task


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
    values = optax.softmax_cross_entropy_with_integer_labels(upcast(prediction), label)
    return masked_mean(values, valid[..., 0])


def l1(prediction: Array, label: Array, valid: Array) -> Array:
    """Mean absolute error of (b, h, w, 1), in the label's unit."""
    return masked_mean(jnp.abs(upcast(prediction) - label), valid)


def cosine(prediction: Array, label: Array, valid: Array) -> Array:
    """1 - <normalised prediction, label> for unit vectors (b, h, w, 3), valid (b, h, w, 1)."""
    product = jnp.sum(unit_vectors(upcast(prediction)) * label, axis=-1, keepdims=True)
    return masked_mean(1 - product, valid)


def normals_l1(prediction: Array, label: Array, valid: Array) -> Array:
    """Sum over the 3 channels of |normalised prediction - label|, valid (b, h, w, 1)."""
    error = jnp.abs(unit_vectors(upcast(prediction)) - label)
    return masked_mean(jnp.sum(error, axis=-1, keepdims=True), valid)


def balanced_cross_entropy(prediction: Array, label: Array, valid: Array) -> Array:
    """Two-class cross-entropy in nats, in which rare positives weigh as much as negatives.

    With p the share of positives among all valid pixels of the batch, positives weigh 1 - p and
    negatives p; the sum is divided by the number of valid pixels.

    Args:
        prediction: logits (b, h, w, 2).
        label: (b, h, w, 1), 1 = positive, 0 = negative.
        valid: (b, h, w, 1) bool.
    """
    logits, positive = upcast(prediction), label[..., 0] > 0.5
    share = masked_mean(positive.astype(logits.dtype), valid[..., 0])
    values = optax.softmax_cross_entropy_with_integer_labels(logits, positive.astype(jnp.int32))
    return masked_mean(values * jnp.where(positive, 1 - share, share), valid[..., 0])


def balanced_bce(
    prediction: Array, label: Array, valid: Array, positive_weight: float = 0.95
) -> Array:
    """Binary cross-entropy in nats; positives weigh w = `positive_weight`, negatives 1 - w.

    Args:
        prediction: logits (b, h, w, 1).
        label: (b, h, w, 1), 1 = positive, 0 = negative.
        valid: (b, h, w, 1) bool.
        positive_weight: between 0 and 1.
    """
    logit = upcast(prediction)
    values = jnp.where(
        label > 0.5,
        positive_weight * jax.nn.softplus(-logit),
        (1 - positive_weight) * jax.nn.softplus(logit),
    )
    return masked_mean(values, valid)


class LossTerms(NamedTuple):
    """The total of the fixed weights and what it is made of: `weighted` adds up to it.

    `final` and `auxiliary` are before task weights.
    """

    total: Array
    weighted: dict[str, Array]
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
    final, auxiliary, weighted = {}, {}, {}
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
        weighted[task.name] = weights[task.name] * (final[task.name] + auxiliary[task.name])
    return LossTerms(sum(weighted.values()), weighted, final, auxiliary)
