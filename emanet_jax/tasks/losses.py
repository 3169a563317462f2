"""Per-task losses over valid pixels, and the one rule that adds them up."""

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Num

from emanet_jax.ops import bilinear, unit_vectors, upcast
from emanet_jax.types import Predictions, Task

Scalar = Float[Array, ""]
Valid = Bool[Array, "b h w 1"]


def masked_mean(values: Float[Array, "*shape"], valid: Bool[Array, "*shape"]) -> Scalar:
    """Mean of `values` where `valid`; exactly 0 when nothing is valid."""
    total = jnp.sum(jnp.where(valid, values, 0))
    return total / jnp.maximum(jnp.sum(valid), 1)


def cross_entropy(
    prediction: Float[Array, "b h w classes"], label: Num[Array, "b h w 1"], valid: Valid
) -> Scalar:
    """Softmax cross-entropy of logits in nats; labels are class ids."""
    label = jnp.where(valid, label, 0)[..., 0].astype(jnp.int32)
    values = optax.softmax_cross_entropy_with_integer_labels(upcast(prediction), label)
    return masked_mean(values, valid[..., 0])


def l1(prediction: Float[Array, "b h w 1"], label: Float[Array, "b h w 1"], valid: Valid) -> Scalar:
    """Mean absolute error in the label's unit."""
    return masked_mean(jnp.abs(upcast(prediction) - label), valid)


def cosine(
    prediction: Float[Array, "b h w 3"], label: Float[Array, "b h w 3"], valid: Valid
) -> Scalar:
    """1 - <normalised prediction, label> for labels that are unit vectors."""
    product = jnp.sum(unit_vectors(upcast(prediction)) * label, axis=-1, keepdims=True)
    return masked_mean(1 - product, valid)


def normals_l1(
    prediction: Float[Array, "b h w 3"], label: Float[Array, "b h w 3"], valid: Valid
) -> Scalar:
    """Sum over the 3 channels of |normalised prediction - label|, labels being unit vectors."""
    error = jnp.abs(unit_vectors(upcast(prediction)) - label)
    return masked_mean(jnp.sum(error, axis=-1, keepdims=True), valid)


def balanced_cross_entropy(
    prediction: Float[Array, "b h w 2"], label: Num[Array, "b h w 1"], valid: Valid
) -> Scalar:
    """Two-class cross-entropy of logits in nats; rare positives weigh as much as negatives.

    With p the share of positives (label 1) among all valid pixels of the batch, positives weigh
    1 - p and negatives p; the sum is divided by the number of valid pixels.
    """
    logits, positive = upcast(prediction), label[..., 0] > 0.5
    share = masked_mean(positive.astype(logits.dtype), valid[..., 0])
    values = optax.softmax_cross_entropy_with_integer_labels(logits, positive.astype(jnp.int32))
    return masked_mean(values * jnp.where(positive, 1 - share, share), valid[..., 0])


def balanced_bce(
    prediction: Float[Array, "b h w 1"],
    label: Num[Array, "b h w 1"],
    valid: Valid,
    positive_weight: float = 0.95,
) -> Scalar:
    """Binary cross-entropy of logits in nats.

    Args:
        prediction: logits.
        label: 1 = positive, 0 = negative.
        valid: pixels that count.
        positive_weight: w, between 0 and 1; positives weigh w, negatives 1 - w.
    """
    logit = upcast(prediction)
    values = jnp.where(
        label > 0.5,
        positive_weight * jax.nn.softplus(-logit),
        (1 - positive_weight) * jax.nn.softplus(logit),
    )
    return masked_mean(values, valid)


class LossTerms(NamedTuple):
    """The total with fixed weights, and its terms by task: `weighted` adds up to it.

    `final` and `auxiliary` are before task weights.
    """

    total: Scalar
    weighted: dict[str, Scalar]
    final: dict[str, Scalar]
    auxiliary: dict[str, Scalar]  # mean over the auxiliary levels; 0 where there are none


def multi_task_loss(
    predictions: Predictions,
    labels: Mapping[str, Num[Array, "b h w _"]],
    mask: Bool[Array, " b"],
    tasks: Sequence[Task],
    weights: Mapping[str, float],
) -> LossTerms:
    """Adds the task losses: sum over t of w_t (L_t(final) + mean over levels of L_t(auxiliary)).

    Args:
        predictions: `final` at label size, `auxiliary` maps at any size; these are upsampled.
        labels: by task.
        mask: False on padding images, which then count nowhere.
        tasks: the tasks to add, each with its own loss and notion of a valid pixel.
        weights: {task: weight}.
    """
    final: dict[str, Scalar] = {}
    auxiliary: dict[str, Scalar] = {}
    weighted: dict[str, Scalar] = {}
    for task in tasks:
        label = labels[task.name]
        _, h, w, _ = label.shape
        valid = task.valid(label) & mask[:, None, None, None]
        levels = [
            task.loss(bilinear(level[task.name], (h, w)), label, valid)
            for level in predictions.auxiliary
        ]
        final[task.name] = task.loss(predictions.final[task.name], label, valid)
        auxiliary[task.name] = _sum(levels) / len(levels) if levels else jnp.zeros(())
        weighted[task.name] = weights[task.name] * (final[task.name] + auxiliary[task.name])
    return LossTerms(_sum(weighted.values()), weighted, final, auxiliary)


def _sum(values: Iterable[Scalar]) -> Scalar:
    return functools.reduce(operator.add, values)
