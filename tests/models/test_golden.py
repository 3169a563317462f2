"""The networks are the reference's: same weights in, same numbers out, also while training."""

import functools
from types import SimpleNamespace

import golden_rules as golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from emanet_jax import convert, losses, models, tasks
from emanet_jax.models.ctal import IMPLEMENTATIONS, CrossTaskAffinity
from emanet_jax.ops import bilinear

NETWORKS = {"hps": "hps", "emanet": "ema_net"}  # golden folder: our model
LOSS_COUNTED = {"hps": 2, "ema_net": 1}  # the reference differentiates the HPS loss twice over
# Biases in front of a batch norm: their gradients are rounding errors around zero.
NO_GRADIENT = 1e-9


def relative(x, reference):
    return np.linalg.norm(np.asarray(x) - reference) / np.linalg.norm(reference)


def imported(folder, dtype):
    """The network, its variables from the reference's weights, and the images."""
    spec = golden.manifest(folder)
    todo = [SimpleNamespace(name=t, channels=c) for t, c in spec["tasks"].items()]
    size = tuple(spec["input"]["shape"][2:])
    model = models.build(NETWORKS[folder], todo, image_size=size, variant="released")
    images = jnp.asarray(golden.images(folder), dtype)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)
    variables = convert.import_torch(golden.state_dict(folder), NETWORKS[folder], shapes)
    return model, variables, images


@pytest.mark.parametrize("folder", NETWORKS)
@pytest.mark.parametrize(("x64", "tolerance"), [(False, 1e-5), (True, 4e-8)])
def test_evaluation_outputs(folder, x64, tolerance):
    spec, reference = golden.manifest(folder), golden.outputs(folder)
    with jax.enable_x64(x64):
        model, variables, images = imported(folder, jnp.float64 if x64 else jnp.float32)
        assert sum(x.size for x in jax.tree.leaves(variables["params"])) == spec["num_params"]
        predictions = jax.jit(functools.partial(model.apply, train=False))(variables, images)
        maps = dict(predictions.final)
        for level in predictions.auxiliary:
            maps |= {f"initial_{t}": bilinear(x, images.shape[1:3]) for t, x in level.items()}
        keys = {key.removeprefix("eval/") for key in reference if key.startswith("eval/")}
        assert maps.keys() == keys
        for key, x in maps.items():
            seen = golden.seen(x, spec["output_stride"])
            assert relative(seen, reference[f"eval/{key}"]) < tolerance, key


@pytest.mark.slow
@pytest.mark.parametrize("folder", NETWORKS)
def test_training(folder):
    """Losses before each Adam step, gradients of the first, and outputs after the last."""
    spec, reference, name = golden.manifest(folder), golden.outputs(folder), NETWORKS[folder]
    todo = tasks.tasks_for("nyuv2")
    with jax.enable_x64(True):
        model, variables, images = imported(folder, jnp.float64)
        labels = {t: jnp.asarray(x) for t, x in golden.labels(folder).items()}
        mask = jnp.ones(len(images), bool)
        weights = {task.name: float(LOSS_COUNTED[name]) for task in todo}
        adam = spec["adam"]
        optimizer = optax.chain(
            optax.add_decayed_weights(adam["weight_decay"]),
            optax.scale_by_adam(),
            optax.scale(-adam["lr"]),
        )

        def loss(params, batch_stats):
            predictions, updates = model.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            terms = losses.multi_task_loss(predictions, labels, mask, todo, weights)
            return terms.total, (terms, updates["batch_stats"])

        @jax.jit
        def step(params, batch_stats, state):
            gradients, (terms, batch_stats) = jax.grad(loss, has_aux=True)(params, batch_stats)
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), batch_stats, state, terms, gradients

        params, batch_stats = variables["params"], variables["batch_stats"]
        state = optimizer.init(params)
        for i, expected in enumerate(spec["losses"]):
            before = params
            params, batch_stats, state, terms, gradients = step(params, batch_stats, state)
            np.testing.assert_allclose(terms.total, expected["total"], rtol=1e-6)
            for task in todo:
                final, initial = terms.final[task.name], terms.auxiliary[task.name]
                np.testing.assert_allclose(final, expected["final"][task.name], rtol=1e-6)
                if name != "hps":  # has no auxiliary level; the reference repeats its final loss
                    np.testing.assert_allclose(initial, expected["initial"][task.name], rtol=1e-6)
            if i == 0:
                check_gradient_norms(gradients, spec["grad_norm_step0"], name)

        variables = {"params": before, "batch_stats": batch_stats}
        predictions = jax.jit(functools.partial(model.apply, train=False))(variables, images)
        for task, x in predictions.final.items():
            seen = golden.seen(x, max(spec["output_stride"], 2))
            assert relative(seen, reference[f"after/{task}"]) < 4e-8, task


def check_gradient_norms(gradients, expected, name):
    norms = {
        convert.torch_name("/".join(path), name): float(jnp.linalg.norm(g.ravel()))
        for path, g in flatten_dict(gradients).items()
    }
    assert norms.keys() == expected.keys()
    for key, norm in norms.items():
        if expected[key] > NO_GRADIENT:
            assert norm == pytest.approx(expected[key], rel=1e-6), key


@pytest.mark.parametrize("folder", NETWORKS)
def test_names_and_shapes_are_the_references(folder):
    _, variables, _ = imported(folder, jnp.float32)
    exported = convert.export_torch(variables, NETWORKS[folder])
    assert {key: list(x.shape) for key, x in exported.items()} == {
        key: shape for key, shape, _ in golden.manifest(folder)["state_dict"]
    }
    for key, x in golden.state_dict(folder).items():
        np.testing.assert_array_equal(exported[key], x, err_msg=key)


@pytest.mark.parametrize(
    ("name", "dataset", "size", "count"),
    [
        ("hps", "nyuv2", (288, 384), 4_086_457),
        ("ema_net", "nyuv2", (288, 384), 6_057_216),
        ("hps", "cityscapes", (128, 256), 4_013_560),
        ("ema_net", "cityscapes", (128, 256), 5_262_854),
    ],
)
def test_full_size_parameter_counts(name, dataset, size, count):
    model = models.build(name, tasks.tasks_for(dataset), image_size=size, variant="released")
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    init = functools.partial(model.init, train=False)
    params = jax.eval_shape(init, jax.random.key(0), images)["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == count
    assert sum(x.size for x in jax.tree.leaves(params["backbone"])) == 3_860_720


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("fusion", ["shared", "task_specific"])
def test_ctal_alone(fusion, implementation):
    with np.load(golden.GOLDEN / "ctal" / "ctal.npz") as arrays:
        reference = dict(arrays)

    def nhwc(key):
        return jnp.asarray(reference[key].transpose(0, 2, 3, 1), jnp.float64)

    def hwio(key):
        return jnp.asarray(reference[key].transpose(2, 3, 1, 0), jnp.float64)

    def vector(key):
        return jnp.asarray(reference[key], jnp.float64)

    names = ("t0", "t1", "t2")
    with jax.enable_x64(True):
        module = CrossTaskAffinity(fusion=fusion, implementation=implementation, gamma=0.05)
        features = {t: nhwc(f"features/{t}") for t in names}
        params = {}
        for t in names:
            kernel, bias = hwio(f"value_kernel_oihw/{t}"), vector(f"value_bias/{t}")
            params[f"value_{t}"] = {"kernel": kernel, "bias": bias}
            kernel, bias = hwio(f"fusion_kernel_oihw/{t}"), vector(f"fusion_bias/{t}")
            params[f"fusion_{t}"] = {"kernel": kernel, "bias": bias}
        if fusion == "shared":
            params["fusion"] = params["fusion_t0"]
            params = {key: x for key, x in params.items() if not key.startswith("fusion_")}

        def loss(params, features):
            refined = module.apply({"params": params}, features)
            return sum(jnp.sum(x**2) for x in refined.values()), refined

        gradients, refined = jax.grad(loss, (0, 1), has_aux=True)(params, features)
        for t in names:
            assert relative(refined[t], nhwc(f"{fusion}/{t}")) < 4e-8
        if fusion == "shared":
            for t in names:
                assert relative(gradients[1][t], nhwc(f"shared_grad_features/{t}")) < 4e-8
            kernel = hwio("shared_grad_fusion_kernel_oihw")
            assert relative(gradients[0]["fusion"]["kernel"], kernel) < 4e-8
            bias = vector("shared_grad_fusion_bias")
            assert relative(gradients[0]["fusion"]["bias"], bias) < 4e-8
