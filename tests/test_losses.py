"""Losses: values by hand, empty batches, padding, deep supervision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax import losses
from emanet_jax.models import Predictions
from emanet_jax.tasks import tasks_for

TASKS = tasks_for("nyuv2")
WEIGHTS = {"semseg": 1.0, "depth": 2.0, "normals": 0.5}


def random_batch(b=3, h=4, w=6, seed=0):
    """Predictions at image size and at a quarter of it, labels, and a mask."""
    rng = np.random.default_rng(seed)

    def maps(scale):
        return {
            t.name: jnp.asarray(rng.standard_normal((b, h // scale, w // scale, t.channels)))
            for t in TASKS
        }

    normals = rng.standard_normal((b, h, w, 3))
    labels = {
        "semseg": jnp.asarray(rng.integers(0, 13, (b, h, w, 1)), jnp.uint8),
        "depth": jnp.asarray(rng.uniform(0.5, 9, (b, h, w, 1)), jnp.float32),
        "normals": jnp.asarray(normals / np.linalg.norm(normals, axis=-1, keepdims=True)),
    }
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


def test_a_normal_that_sums_to_zero_is_valid():
    normal = jnp.array([1.0, -1.0, 0.0]).reshape(1, 1, 1, 3) / jnp.sqrt(2.0)
    task = next(t for t in TASKS if t.name == "normals")
    assert bool(task.valid(normal).all())
    assert task.loss(-normal, normal, task.valid(normal)) == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize("empty", ["labels", "mask"])
def test_no_valid_pixel_gives_zero_loss_and_finite_gradients(empty):
    predictions, labels, mask = random_batch()
    predictions.final["normals"] = jnp.zeros_like(predictions.final["normals"])
    if empty == "mask":
        mask = jnp.zeros_like(mask)
    else:
        labels = {t.name: jnp.full_like(labels[t.name], t.ignore) for t in TASKS}

    def total(p):
        return losses.multi_task_loss(p, labels, mask, TASKS, WEIGHTS).total

    value, grads = jax.value_and_grad(total)(predictions)
    assert value == 0
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_array_equal(leaf, 0)


def test_gradients_are_finite_at_zero_predictions():
    predictions, labels, mask = random_batch()
    zeros = jax.tree.map(jnp.zeros_like, predictions)
    grads = jax.grad(lambda p: losses.multi_task_loss(p, labels, mask, TASKS, WEIGHTS).total)(zeros)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))
    assert any(bool((leaf != 0).any()) for leaf in jax.tree.leaves(grads))


def test_padding_changes_nothing():
    predictions, labels, mask = random_batch()
    pad = lambda x: jnp.concatenate([x, jnp.full_like(x[:2], 3)])  # noqa: E731
    padded = losses.multi_task_loss(
        jax.tree.map(pad, predictions),
        jax.tree.map(pad, labels),
        jnp.concatenate([mask, jnp.zeros(2, bool)]),
        TASKS,
        WEIGHTS,
    )
    plain = losses.multi_task_loss(predictions, labels, mask, TASKS, WEIGHTS)
    assert padded.total == pytest.approx(float(plain.total), rel=1e-6)
