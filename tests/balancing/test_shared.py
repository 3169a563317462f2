"""Which parameters are shared, found from the network, and what every task's gradients cost."""

import collections
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax import balancing
from emanet_jax.balancing.shared import task_dependencies
from emanet_jax.errors import UserError
from emanet_jax.models.remat import rematerialised
from emanet_jax.network import NormalisedImages
from emanet_jax.ops import upcast
from emanet_jax.training import sharding
from emanet_jax.training.experiment import make_experiment
from emanet_jax.types import Predictions
from tests import tiny
from tests.helpers import SIZE, TASKS, random_batch, tiny_model, tiny_training
from tests.menu import tiny as tiny_of_the_menu

TASK_OF = {"semseg": 0, "depth": 1, "normals": 2}


def dependencies_by_module(model, choice="nothing"):
    """{module: numbers of tasks that depend on its parameters}."""
    model, keys = rematerialised(model, choice), {"dropout": jax.random.key(0)}
    images = jnp.zeros((1, *SIZE, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))

    def outputs(params):
        rest = {"batch_stats": jax.tree.map(jnp.ones_like, variables["batch_stats"])}
        found, _ = model.apply(
            {"params": params, **rest}, images, train=True, mutable=["batch_stats"], rngs=keys
        )
        levels = (found.final, *found.auxiliary)
        return [[level[task.name] for level in levels] for task in TASKS]

    paths = jax.tree_util.tree_leaves_with_path(variables["params"])
    found = collections.defaultdict(set)
    for (path, _), who in zip(paths, task_dependencies(outputs, variables["params"]), strict=True):
        found[jax.tree_util.keystr(path[:1], simple=True)].add(who)
    return dict(found)


@pytest.mark.parametrize("choice", ["nothing", "blocks", "everything"])
def test_hps_shares_its_backbone_and_nothing_else(choice):
    found = dependencies_by_module(tiny_model("hps"), choice)
    assert found == {
        "backbone": {(0, 1, 2)},
        "head_semseg": {(0,)},
        "head_depth": {(1,)},
        "head_normals": {(2,)},
    }


def test_ema_net_shares_what_distillation_hands_on():
    found = dependencies_by_module(tiny_model(backbone="hrnet_tiny"))
    everyone = (0, 1, 2)
    assert found["backbone"] == found["fuse"] == {everyone}
    for task, number in TASK_OF.items():
        assert found[f"head_{task}"] == {(number,)}
        # Features go to all tasks; the initial prediction made of them is the task's own.
        assert found[f"initial_{task}"] == {everyone, (number,)}
    assert found["distillation"] == {everyone, (0,), (1,), (2,)}


def test_single_networks_share_nothing():
    found = dependencies_by_module(tiny_of_the_menu("stl", "segnet_tiny", TASKS, SIZE))
    assert {len(who) for module in found.values() for who in module} == {1}


@pytest.mark.parametrize("changes", [{"model.name": "stl"}, {"tasks": ("depth",)}])
def test_a_network_that_shares_nothing_is_said(changes, tmp_path):
    config = tiny.get_config("model=hps,backbone=segnet_tiny")
    with config.unlocked():
        config.model.overrides = {}
        config.data.data_dir = str(tmp_path)
        config.balancing = "mgda"
        config.model.name = changes.get("model.name", "hps")
        config.tasks = changes.get("tasks", config.tasks)
    with pytest.raises(UserError, match=r"config\.balancing is 'mgda'.* none is shared; .*fixed"):
        make_experiment(config)
    with config.unlocked():
        config.task_gradients = "summed"
    with pytest.raises(UserError, match=r"task_gradients is 'summed'; .* looped, vmapped"):
        make_experiment(config)


class Shared(nn.Module):
    """Two shared layers and a head per task, of Flax's own convolutions: compile in a second."""

    dtype: Any = None

    @nn.compact
    def __call__(self, images, train):
        conv = functools.partial(nn.Conv, kernel_size=(3, 3), dtype=self.dtype)
        x = nn.relu(conv(8, name="first")(images))
        x = nn.relu(conv(8, name="second")(x))
        final = {task.name: conv(task.channels, name=f"head_{task.name}")(x) for task in TASKS}
        return Predictions({name: upcast(x) for name, x in final.items()})


def shared_training(dtype=None, **settings):
    return tiny_training(NormalisedImages(Shared(dtype), "imagenet"), **settings)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_one_forward_pass_and_one_backward_pass_per_task_of_shared_layers_alone(accumulate):
    def convolutions(method, **changes):
        state, step = shared_training(method=method, accumulate=accumulate, **changes)
        text = str(jax.make_jaxpr(step)(state, random_batch(2)))
        return text.count("conv_general_dilated[")

    # Backwards a convolution takes two, for its kernel and its input; the images need none.
    shared, heads = 2, len(TASKS)
    forward, backward, backward_heads = shared + heads, 2 * shared - 1, 2 * heads
    assert convolutions("fixed") == forward + backward + backward_heads
    assert convolutions("mgda") == forward + len(TASKS) * backward + backward_heads
    # All at once, one operation stands for all tasks.
    at_once = convolutions("mgda", task_gradients="vmapped")
    assert at_once == forward + backward + backward_heads


@pytest.fixture(scope="module")
def looped():
    """A start, and the state and scalars after a step that takes tasks one after the other."""
    state, step = shared_training(method="cagrad")
    start = in_float64(jax.device_get(state))
    with jax.enable_x64(True):
        return start, step, jax.device_get(jax.jit(step)(start, random_batch(4)))


def in_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else x, tree)


def assert_same(found, expected):
    for name, value in expected[1].items():
        assert float(found[1][name]) == pytest.approx(float(value), rel=1e-7), name
    for a, b in zip(*(jax.tree.leaves(x[0].opt_state) for x in (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_all_tasks_at_once_are_the_same(looped):
    start, _, expected = looped
    with jax.enable_x64(True):
        _, step = shared_training(method="cagrad", task_gradients="vmapped")
        assert_same(jax.device_get(jax.jit(step)(start, random_batch(4))), expected)


def test_four_devices_equal_one(looped):
    start, step, expected = looped
    mesh = sharding.make_mesh()
    on_all = sharding.replicated(mesh)
    with jax.enable_x64(True):
        jitted = jax.jit(step, donate_argnums=0, out_shardings=on_all)
        batch = sharding.to_devices(random_batch(4), mesh)
        found = jax.device_get(jitted(jax.device_put(start, on_all), batch))
    assert_same(found, expected)


def test_the_scalars_name_weights_and_cosines(looped):
    _, _, (_, scalars) = looped
    assert {name for name in scalars if name.startswith("weight_")} == {
        "weight_semseg",
        "weight_depth",
        "weight_normals",
    }
    cosines = {name: float(x) for name, x in scalars.items() if name.startswith("cosine_")}
    assert cosines.keys() == {
        "cosine_semseg_depth",
        "cosine_semseg_normals",
        "cosine_depth_normals",
    }
    assert all(0 < abs(x) < 1 for x in cosines.values())


def test_a_task_s_own_parameters_follow_its_loss_alone(looped):
    start, _, (end, _) = looped
    with jax.enable_x64(True):
        _, step = shared_training(method="fixed")
        plain = start.replace(balancing={"params": {}, "state": {}})
        summed, _ = jax.device_get(jax.jit(step)(plain, random_batch(4)))
    moments = [state.opt_state[-1][0].mu[0] for state in (end, summed)]
    for task in TASK_OF:
        ours, theirs = (jax.tree.leaves(x[f"head_{task}"]) for x in moments)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12)
    ours, theirs = (x["second"]["kernel"] for x in moments)
    assert not np.allclose(ours, theirs, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(set(balancing.methods_on("gradients")) - {"cagrad"}))
def test_four_devices_equal_one_with_every_method(method):
    state, step = tiny_training(tiny_model("hps", "segnet_tiny"), method=method)
    mesh, start = sharding.make_mesh(), in_float64(jax.device_get(state))
    on_all = sharding.replicated(mesh)
    with jax.enable_x64(True):
        expected = jax.device_get(jax.jit(step)(start, random_batch(4)))
        jitted = jax.jit(step, out_shardings=on_all)
        batch = sharding.to_devices(random_batch(4), mesh)
        assert_same(jax.device_get(jitted(jax.device_put(start, on_all), batch)), expected)


def test_bfloat16_gives_float32_gradients_that_are_near():
    ends = []
    for dtype in (None, jnp.bfloat16):
        state, step = shared_training(dtype, method="nash_mtl")
        state, scalars = jax.jit(step)(state, random_batch(4))
        assert state.skipped == 0
        assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
        ends.append(scalars)
    for name in ("weight_semseg", "weight_depth", "weight_normals", "grad_norm"):
        assert float(ends[1][name]) == pytest.approx(float(ends[0][name]), rel=0.1)
