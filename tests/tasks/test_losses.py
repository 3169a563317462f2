"""Losses: values by hand, empty batches, padding, deep supervision."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from emanet_jax.tasks import losses, tasks_for
from emanet_jax.types import Predictions

TASKS = tasks_for("nyuv2")
WEIGHTS = {
    "semseg": 1.0,
    "depth": 2.0,
    "normals": 0.5,
    "saliency": 3.0,
    "edge": 4.0,
    "human_parts": 1.5,
}
BOTH = pytest.mark.parametrize(
    "tasks", [TASKS, tasks_for("pascal_context")], ids=["nyuv2", "pascal_context"]
)


def random_batch(tasks=TASKS, b=3, h=4, w=6, seed=0):
    """Predictions at image size and at a quarter of it, labels, and a mask."""
    rng = np.random.default_rng(seed)

    def maps(scale):
        return {
            t.name: jnp.asarray(rng.standard_normal((b, h // scale, w // scale, t.channels)))
            for t in tasks
        }

    def label(task):
        if task.label_dtype == np.uint8:
            return rng.integers(0, max(task.channels, 2), (b, h, w, 1))
        return task.zoom(rng.uniform(0.5, 9, (b, h, w, task.label_channels)), 1.0)

    labels = {t.name: jnp.asarray(label(t).astype(t.label_dtype)) for t in tasks}
    return Predictions(maps(1), (maps(2),)), labels, jnp.ones(b, bool)


def test_one_rule_adds_final_and_mean_of_auxiliary():
    predictions, labels, mask = random_batch()
    both = losses.multi_task_loss(predictions, labels, mask, TASKS, WEIGHTS)
    twice = predictions._replace(auxiliary=predictions.auxiliary * 2)
    again = losses.multi_task_loss(twice, labels, mask, TASKS, WEIGHTS)
    none = losses.multi_task_loss(predictions._replace(auxiliary=()), labels, mask, TASKS, WEIGHTS)
    expected = sum(WEIGHTS[t.name] * (both.final[t.name] + both.auxiliary[t.name]) for t in TASKS)
    assert both.total == pytest.approx(float(expected))
    assert again.total == pytest.approx(float(both.total))
    assert none.total == pytest.approx(
        float(sum(WEIGHTS[t.name] * both.final[t.name] for t in TASKS))
    )


def test_shapes_and_types_are_checked_while_tests_run():
    maps, valid = jnp.zeros((2, 3, 4, 1)), jnp.ones((2, 3, 4, 1), bool)
    losses.l1(maps, maps, valid)
    for wrong in (
        (jnp.zeros((2, 3, 4, 2)), maps, valid),
        (maps, maps[:, :2], valid),
        (maps, maps, valid[..., 0]),
        (maps, maps, maps),
    ):
        with pytest.raises(jaxtyping.TypeCheckError):
            losses.l1(*wrong)


def test_values_by_hand():
    one = jnp.ones((1, 1, 1, 1), bool)
    logits = jnp.log(jnp.array([0.2, 0.5, 0.3])).reshape(1, 1, 1, 3)
    label = jnp.full((1, 1, 1, 1), 1, jnp.uint8)
    assert losses.cross_entropy(logits, label, one) == pytest.approx(-np.log(0.5))
    prediction = jnp.array([3.0, 0.0, 4.0]).reshape(1, 1, 1, 3)
    up = jnp.array([0.0, 0.0, 1.0]).reshape(1, 1, 1, 3)
    assert losses.cosine(prediction, up, one) == pytest.approx(0.2)
    assert losses.normals_l1(prediction, up, one) == pytest.approx(0.6 + 0.2)
    assert losses.l1(jnp.full((1, 1, 1, 1), 3.0), jnp.full((1, 1, 1, 1), 5.0), one) == 2


def test_balanced_losses_by_hand():
    label = jnp.array([1, 0, 0, 0, 255], jnp.uint8).reshape(1, 1, 5, 1)
    valid = label != 255
    # One positive of four pixels: it weighs 3/4 and the others 1/4; each costs log 2 at 0.
    saliency = losses.balanced_cross_entropy(jnp.zeros((1, 1, 5, 2)), label, valid)
    assert saliency == pytest.approx((0.75 + 3 * 0.25) * np.log(2) / 4)
    sure = jnp.zeros((1, 1, 5, 2)).at[..., 1].set(jnp.array([np.log(3.0), 0, 0, 0, 9]))
    assert losses.balanced_cross_entropy(sure, label, valid) == pytest.approx(
        (0.75 * np.log(4 / 3) + 3 * 0.25 * np.log(2)) / 4
    )
    logits = jnp.array([np.log(3.0), 0, 0, -1000, 50]).reshape(1, 1, 5, 1)
    assert losses.balanced_bce(logits, label, valid) == pytest.approx(
        (0.95 * np.log(4 / 3) + 2 * 0.05 * np.log(2)) / 4
    )
    assert losses.balanced_bce(logits, label, valid, positive_weight=0.5) == pytest.approx(
        (0.5 * np.log(4 / 3) + 2 * 0.5 * np.log(2)) / 4
    )


def test_a_normal_that_sums_to_zero_is_valid():
    normal = jnp.array([1.0, -1.0, 0.0]).reshape(1, 1, 1, 3) / jnp.sqrt(2.0)
    task = next(t for t in TASKS if t.name == "normals")
    assert bool(task.valid(normal).all())
    assert task.loss(-normal, normal, task.valid(normal)) == pytest.approx(2, abs=1e-6)


@BOTH
@pytest.mark.parametrize("empty", ["labels", "mask"])
def test_no_valid_pixel_gives_zero_loss_and_finite_gradients(tasks, empty):
    predictions, labels, mask = random_batch(tasks)
    predictions.final["normals"] = jnp.zeros_like(predictions.final["normals"])
    if empty == "mask":
        mask = jnp.zeros_like(mask)
    else:
        labels = {t.name: jnp.full_like(labels[t.name], t.ignore) for t in tasks}

    def total(p):
        return losses.multi_task_loss(p, labels, mask, tasks, WEIGHTS).total

    value, grads = jax.value_and_grad(total)(predictions)
    assert value == 0
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_array_equal(leaf, 0)


@BOTH
def test_gradients_are_finite_at_zero_predictions(tasks):
    predictions, labels, mask = random_batch(tasks)
    zeros = jax.tree.map(jnp.zeros_like, predictions)
    grads = jax.grad(lambda p: losses.multi_task_loss(p, labels, mask, tasks, WEIGHTS).total)(zeros)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))
    assert any(bool((leaf != 0).any()) for leaf in jax.tree.leaves(grads))


@BOTH
def test_padding_changes_nothing(tasks):
    predictions, labels, mask = random_batch(tasks)
    pad = lambda x: jnp.concatenate([x, jnp.full_like(x[:2], 3)])  # noqa: E731
    padded = losses.multi_task_loss(
        jax.tree.map(pad, predictions),
        jax.tree.map(pad, labels),
        jnp.concatenate([mask, jnp.zeros(2, bool)]),
        tasks,
        WEIGHTS,
    )
    plain = losses.multi_task_loss(predictions, labels, mask, tasks, WEIGHTS)
    assert padded.total == pytest.approx(float(plain.total), rel=1e-6)
