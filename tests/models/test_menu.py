"""Every network of the menu, found by iterating over it, holds the model contract."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax import models
from emanet_jax.errors import UserError
from tests import menu
from tests.menu import MENU, NETWORKS, slow_but

SIZE = (64, 96)
CHANNELS = {"semseg": 5, "depth": 1, "normals": 3, "edge": 1, "human_parts": 7, "x": 2}
TASKS = [menu.task(name, channels) for name, channels in CHANNELS.items()]
# Biases in front of a batch norm, which takes them away again, and what the one hidden unit of a
# tiny squeeze-and-excitation is wired to: it may sleep (test_golden has the gradients of more).
NO_GRADIENT = r"(.*/)?(conv\d?|double_\w+)/bias|propagate_\d/select_\w+/(squeeze/.*|excite/kernel)"
# What the released code computes and never reads: exported with the rest, trained by nothing.
UNREAD = {("ati_net", "released"): r"latent/.*"}
# Levels of deep supervision; the others, and all networks on SegNet, have none.
LEVELS = {"pad_net": 1, "pap_net": 1, "ema_net": 1, "mti_net": 4, "ema_net_ms": 4}
DEEPLAB_ON_RESNET = {("stl", "resnet_tiny"), ("hps", "resnet_tiny")}
# The scales of a backbone's maps.
STRIDES = {"pyramid": (4, 8, 16, 32), "single": (32,), "segnet": (1,)}


def tiny(name, backbone=None, tasks=TASKS[:3], **options):
    return menu.tiny(name, backbone or menu.FIRST[name], tasks, SIZE, **options)


def shapes_of(model):
    """Abstract variables and predictions."""
    images = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), images)
    return variables, jax.eval_shape(functools.partial(model.apply, train=False), variables, images)


@functools.cache
def trained_once(name, backbone, variant):
    """A forward and backward pass in training mode, another draw of it, two in evaluation mode."""
    model = tiny(name, backbone, TASKS[:2], variant=variant)
    images = jax.random.uniform(jax.random.key(1), (2, *SIZE, 3))
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), images)

    def loss(params, key):
        predictions, updates = model.apply(
            variables | {"params": params},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        total = sum(jnp.square(x - 1).mean() for x in jax.tree.leaves(predictions))
        return total, (predictions, updates["batch_stats"])

    step = jax.jit(jax.grad(loss, has_aux=True))
    gradients, (*trained, batch_stats) = step(variables["params"], jax.random.key(2))
    _, (again, _) = step(variables["params"], jax.random.key(3))
    evaluate = jax.jit(functools.partial(model.apply, train=False, mutable=["batch_stats"]))
    evaluated = [evaluate(variables, images) for _ in range(2)]
    return variables, gradients, (*trained, again), batch_stats, evaluated


def paths(tree):
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), np.asarray(x)


# Gradients take long to compile: of two networks in every run, of all in the slow one.
TRAINED = [
    pytest.param(*case.values, marks=case.marks or slow_but(("hps", "ema_net"), case.values[0]))
    for case in MENU
]


@pytest.mark.parametrize(("name", "backbone", "variant"), TRAINED)
def test_no_parameter_is_dead(name, backbone, variant):
    _, gradients, *_ = trained_once(name, backbone, variant)
    for path, gradient in paths(gradients):
        assert np.isfinite(gradient).all(), path
        if (name, variant) in UNREAD and re.fullmatch(UNREAD[name, variant], path):
            np.testing.assert_array_equal(gradient, 0, err_msg=path)
        else:
            assert np.any(gradient != 0) or re.fullmatch(NO_GRADIENT, path), path


@pytest.mark.parametrize(("name", "backbone", "variant"), TRAINED)
def test_batch_statistics_move_in_training_alone(name, backbone, variant):
    variables, _, _, batch_stats, evaluated = trained_once(name, backbone, variant)
    before = dict(paths(variables["batch_stats"]))
    for path, after in paths(batch_stats):
        assert np.any(after != before[path]), path
    for path, after in paths(evaluated[0][1]["batch_stats"]):
        np.testing.assert_array_equal(after, before[path], err_msg=path)


@pytest.mark.parametrize(("name", "backbone", "variant"), TRAINED)
def test_evaluation_is_deterministic_and_training_where_nothing_drops(name, backbone, variant):
    _, _, trained, _, evaluated = trained_once(name, backbone, variant)
    jax.tree.map(np.testing.assert_array_equal, *evaluated)
    drops = "swin" in backbone or (name, backbone) in {
        ("stl", "resnet_tiny"),
        ("hps", "resnet_tiny"),
    }
    same = jax.tree.map(np.array_equal, *trained)
    assert all(jax.tree.leaves(same)) != drops
    assert not (drops and any(same.final.values()))


@pytest.mark.parametrize("tasks", [TASKS[1:2], TASKS], ids=len)
@pytest.mark.parametrize(
    ("name", "backbone"),
    [pytest.param(*pair, marks=menu.marks(*pair)) for pair in NETWORKS],
)
def test_any_tasks_at_image_size(name, backbone, tasks):
    _, predictions = shapes_of(tiny(name, backbone, tasks))
    expected = {task.name: (2, *SIZE, task.channels) for task in tasks}
    assert {task: x.shape for task, x in predictions.final.items()} == expected
    kind = models.BACKBONES[backbone].kind
    assert len(predictions.auxiliary) == (0 if kind == "segnet" else LEVELS.get(name, 0))
    strides = STRIDES[kind]
    for level, stride in zip(predictions.auxiliary, strides, strict=False):
        smaller = {t: (b, h // stride, w // stride, c) for t, (b, h, w, c) in expected.items()}
        assert {task: x.shape for task, x in level.items()} == smaller


@pytest.mark.parametrize("name", models.NETWORKS)
def test_variants_are_one_network_but_for_what_they_document(name):
    """Building a variant is setting its named fields by hand, each to another value."""
    released = models.NETWORKS[name].variants.get("released", {})
    assert repr(tiny(name, **released)) == repr(tiny(name, variant="released"))
    for field, value in released.items():
        others = {key: x for key, x in released.items() if key != field}
        assert repr(tiny(name, **others)) != repr(tiny(name, **released)), value


def test_single_tasks_are_networks_of_their_own():
    together, _ = shapes_of(tiny("stl", tasks=TASKS[:2]))
    for task in TASKS[:2]:
        alone, _ = shapes_of(tiny("hps", tasks=[task]))
        for kind, tree in alone.items():
            mine = {"backbone": together[kind].pop(f"backbone_{task.name}")}
            name = f"head_{task.name}"
            assert tree == mine | {name: together[kind].pop(name)}
    assert not any(together.values())


@pytest.mark.parametrize("backbone", menu.BACKBONES)
def test_backbones_give_maps_finest_first(backbone):
    images = jax.ShapeDtypeStruct((1, *SIZE, 3), jnp.float32)
    init = functools.partial(models.BACKBONES[backbone].make().init_with_output, train=False)
    maps, _ = jax.eval_shape(init, jax.random.key(0), images)
    h, w = SIZE
    strides = STRIDES[models.BACKBONES[backbone].kind]
    assert [x.shape[1:3] for x in maps] == [(h // s, w // s) for s in strides]


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
        ({"name": "hsp"}, "model is 'hsp'; choose from stl, hps"),
        ({"backbone": "vgg"}, "choose from hrnet_w18"),
        ({"variant": "draft"}, "choose from paper, released"),
        ({"gama": 0.1}, "override of ema_net on hrnet_w18 is 'gama'; choose from .*gamma"),
        ({"image_size": (60, 96)}, "multiples of 32"),
        ({"image_size": (0, 96)}, "multiples of 32"),
        ({"tasks": []}, "at least one task"),
        ({"name": "mti_net", "backbone": "resnet_tiny"}, "needs four maps.*choose from hrnet_w18"),
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
    with pytest.raises(UserError, match="row_stochastic, column_stochastic"):
        shapes_of(tiny("pap_net", affinity="none"))
    with pytest.raises(UserError, match="tasks, neighbours"):
        shapes_of(tiny("mti_net", softmax_over="channels"))
    with pytest.raises(UserError, match="hrnet, bottleneck"):
        shapes_of(tiny("stl", head="none"))
