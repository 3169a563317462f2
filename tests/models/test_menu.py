"""Every network of the menu, found by iterating over it, holds the model contract."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax import models
from emanet_jax.errors import UserError

SIZE = (64, 96)
CHANNELS = {"semseg": 5, "depth": 1, "normals": 3, "edge": 1}
TASKS = [SimpleNamespace(name=name, channels=c) for name, c in CHANNELS.items()]
NARROW = {"hps": {}, "ema_net": {"features": 16, "distilled": 8}}
# Biases in front of a batch norm, which takes them away again.
NO_GRADIENT = ("fuse/conv/bias", "double_semseg/bias", "double_depth/bias", "double_normals/bias")

MENU = [(name, variant) for name, entry in models.MODELS.items() for variant in entry.variants]


def tiny(name, tasks=TASKS[:3], **options):
    options = NARROW[name] | options
    return models.build(name, tasks, backbone="hrnet_tiny", image_size=SIZE, **options)


def shapes_of(model):
    """Abstract variables and predictions."""
    images = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), images)
    return variables, jax.eval_shape(functools.partial(model.apply, train=False), variables, images)


@functools.cache
def trained_once(name, variant):
    """One forward and backward pass in training mode, and two in evaluation mode."""
    model = tiny(name, variant=variant)
    images = jax.random.uniform(jax.random.key(1), (2, *SIZE, 3))
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), images)

    def loss(params):
        predictions, updates = model.apply(
            variables | {"params": params}, images, train=True, mutable=["batch_stats"]
        )
        total = sum(jnp.square(x - 1).mean() for x in jax.tree.leaves(predictions))
        return total, (predictions, updates["batch_stats"])

    gradients, (predictions, batch_stats) = jax.jit(jax.grad(loss, has_aux=True))(
        variables["params"]
    )
    evaluate = jax.jit(functools.partial(model.apply, train=False, mutable=["batch_stats"]))
    evaluated = [evaluate(variables, images) for _ in range(2)]
    return variables, gradients, predictions, batch_stats, evaluated


def paths(tree):
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), np.asarray(x)


@pytest.mark.parametrize(("name", "variant"), MENU)
def test_no_parameter_is_dead(name, variant):
    _, gradients, *_ = trained_once(name, variant)
    for path, gradient in paths(gradients):
        assert np.isfinite(gradient).all(), path
        assert np.any(gradient != 0) or path.endswith(NO_GRADIENT), path


@pytest.mark.parametrize(("name", "variant"), MENU)
def test_batch_statistics_move_in_training_alone(name, variant):
    variables, _, _, batch_stats, evaluated = trained_once(name, variant)
    before = dict(paths(variables["batch_stats"]))
    for path, after in paths(batch_stats):
        assert np.any(after != before[path]), path
    for path, after in paths(evaluated[0][1]["batch_stats"]):
        np.testing.assert_array_equal(after, before[path], err_msg=path)


@pytest.mark.parametrize(("name", "variant"), MENU)
def test_evaluation_is_deterministic(name, variant):
    *_, evaluated = trained_once(name, variant)
    jax.tree.map(np.testing.assert_array_equal, *evaluated)


@pytest.mark.parametrize("tasks", [TASKS[1:2], TASKS[::2], TASKS])
@pytest.mark.parametrize(("name", "variant"), MENU)
def test_any_tasks_at_image_size(name, variant, tasks):
    _, predictions = shapes_of(tiny(name, tasks, variant=variant))
    expected = {task.name: (2, *SIZE, task.channels) for task in tasks}
    assert {task: x.shape for task, x in predictions.final.items()} == expected
    for level in predictions.auxiliary:
        quarter = {t: (b, h // 4, w // 4, c) for t, (b, h, w, c) in expected.items()}
        assert {task: x.shape for task, x in level.items()} == quarter


def test_levels_of_deep_supervision():
    assert {name: len(shapes_of(tiny(name))[1].auxiliary) for name in models.MODELS} == {
        "hps": 0,
        "ema_net": 1,
    }


@pytest.mark.parametrize("backbone", models.BACKBONES)
def test_backbones_give_maps_finest_first(backbone):
    images = jax.ShapeDtypeStruct((1, *SIZE, 3), jnp.float32)
    init = functools.partial(models.BACKBONES[backbone].make().init_with_output, train=False)
    maps, _ = jax.eval_shape(init, jax.random.key(0), images)
    h, w = SIZE
    assert [x.shape[1:3] for x in maps] == [(h // s, w // s) for s in (4, 8, 16, 32)]


@pytest.mark.parametrize("name", models.MODELS)
def test_bfloat16_computes_in_half_and_predicts_in_float32(name):
    variables, predictions = shapes_of(tiny(name, dtype=jnp.bfloat16))
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert {x.dtype for x in jax.tree.leaves(predictions)} == {jnp.dtype(jnp.float32)}
    model = tiny(name, dtype=jnp.bfloat16)
    images = jnp.zeros((1, *SIZE, 3))
    text = str(jax.make_jaxpr(functools.partial(model.apply, train=False))(variables, images))
    convolutions = [line for line in text.splitlines() if "= conv_general_dilated[" in line]
    assert convolutions
    assert all(":bf16[" in line for line in convolutions)


def test_nearest_upsampling_is_another_network():
    bilinear, nearest = (tiny("hps", upsampling=u) for u in ("bilinear", "nearest"))
    images = jax.random.uniform(jax.random.key(1), (1, *SIZE, 3))
    variables = jax.jit(functools.partial(bilinear.init, train=False))(jax.random.key(0), images)
    a, b = (
        jax.jit(functools.partial(model.apply, train=False))(variables, images)
        for model in (bilinear, nearest)
    )
    assert np.abs(a.final["depth"] - b.final["depth"]).max() > 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "hsp"}, "unknown model 'hsp'; choose from hps, ema_net"),
        ({"backbone": "vgg"}, "choose from hrnet_w18"),
        ({"variant": "draft"}, "choose from paper, released"),
        ({"gama": 0.1}, "unknown override of ema_net on hrnet_w18 'gama'; choose from .*gamma"),
        ({"image_size": (60, 96)}, "multiples of 32"),
        ({"image_size": (0, 96)}, "multiples of 32"),
        ({"tasks": []}, "at least one task"),
    ],
)
def test_wrong_choices_are_the_users_to_mend(change, message):
    choices = {"name": "ema_net", "tasks": TASKS, "image_size": SIZE} | change
    with pytest.raises(UserError, match=message):
        models.build(**choices)


def test_wrong_values_of_overrides_name_the_choices():
    with pytest.raises(UserError, match="bilinear, nearest"):
        shapes_of(tiny("hps", upsampling="cubic"))
    with pytest.raises(UserError, match="task_specific, shared"):
        shapes_of(tiny("ema_net", fusion="none"))
