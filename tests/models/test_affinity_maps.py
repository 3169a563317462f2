"""One pixel's rows of the affinities are the rows of the definition's P x P matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax import models
from emanet_jax.errors import UserError
from emanet_jax.models.affinity_maps import affinity_rows, of_network
from emanet_jax.models.ctal import CrossTaskAffinity
from emanet_jax.tasks import tasks_for

H, W, C = 3, 4, 5
TASKS = ("normals", "depth", "semseg")  # no order of the alphabet


def ctal_and_features(fusion):
    r = np.random.RandomState(0)
    features = {task: r.standard_normal((2, H, W, C)) for task in TASKS}
    module = CrossTaskAffinity(fusion, "shifted", gamma=0.5, tasks=TASKS)
    shapes = jax.eval_shape(module.init, jax.random.key(0), features)["params"]
    params = jax.tree.map(lambda x: jnp.asarray(r.standard_normal(x.shape), jnp.float32), shapes)
    return module, features, params


def definition(features, params, fusion):
    """{task: A} and {task: G}, (P, P) of the first image, by loops."""
    own = {}
    for task in TASKS:
        f = features[task][0].reshape(H * W, C)
        f = f / np.linalg.norm(f, axis=1, keepdims=True)
        own[task] = f @ f.T
    mixed = {}
    for task in TASKS:
        weights = params["fusion" if fusion == "shared" else f"fusion_{task}"]
        g = np.zeros((H * W, H * W)) + np.asarray(weights["bias"])[:, None]
        for y, x in np.ndindex(H, W):
            for dy, dx in np.ndindex(3, 3):
                ny, nx = y + dy - 1, x + dx - 1
                if 0 <= ny < H and 0 <= nx < W:
                    for k, other in enumerate(TASKS):
                        weight = np.asarray(weights["kernel"])[dy, dx, k]
                        g[:, y * W + x] += weight * own[other][:, ny * W + nx]
        mixed[task] = g
    return own, mixed


@pytest.mark.parametrize("fusion", ["task_specific", "shared"])
def test_rows_are_those_of_the_definition_and_diffuse_to_the_modules_output(fusion):
    module, features, params = ctal_and_features(fusion)
    own, mixed = definition(features, params, fusion)
    refined = module.apply({"params": params}, features)
    for row, column in ((0, 0), (1, 2), (2, 3)):
        rows = affinity_rows(features, params, (row, column), TASKS)
        i = row * W + column
        for task in TASKS:
            for found, whole in ((rows.own, own), (rows.mixed, mixed)):
                assert found[task].shape == (2, H, W)
                np.testing.assert_allclose(
                    found[task][0].ravel(), whole[task][i], rtol=1e-5, atol=1e-5
                )
            kernel, bias = (params[f"value_{task}"][name] for name in ("kernel", "bias"))
            values = bias + jax.lax.conv_general_dilated(
                jnp.float32(features[task]),
                jnp.float32(kernel),
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            diffused = jnp.einsum("bhw,bhwc->bc", rows.mixed[task], values)
            expected = 0.5 * diffused + 0.5 * features[task][:, row, column]
            np.testing.assert_allclose(
                refined[task][:, row, column], expected, rtol=1e-4, atol=1e-4
            )


def tiny(name, **overrides):
    tasks = tasks_for("synthrooms")
    model = models.build(name, tasks, backbone="hrnet_tiny", image_size=(32, 64), **overrides)
    images = jax.random.normal(jax.random.key(0), (1, 32, 64, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(1), images)
    r = np.random.RandomState(0)
    variables = {
        "params": jax.tree.map(lambda x: np.float32(r.normal(0, 0.3, x.shape)), shapes["params"]),
        "batch_stats": jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes["batch_stats"]),
    }
    return model, variables, images


def test_a_networks_rows_are_on_its_grid():
    model, variables, images = tiny("ema_net", features=16, distilled=8)
    rows = of_network(model, variables, images, place=(0.5, 0.99))
    assert set(rows.own) == set(rows.mixed) == {"semseg", "depth", "normals"}
    for task, row in rows.own.items():
        assert row.shape == rows.mixed[task].shape == (1, 8, 16)
        np.testing.assert_allclose(row[0, 4, 15], 1, rtol=1e-5)  # alike with itself
        assert float(row.max()) <= 1 + 1e-5
    with pytest.raises(UserError, match="place is"):
        of_network(model, variables, images, place=(0.5, 1.0))


def test_a_network_without_ctal_is_named():
    model, variables, images = tiny("hps")
    with pytest.raises(UserError, match="no CTAL"):
        of_network(model, variables, images, place=(0.5, 0.5))
