"""Every mesh computes the same: losses and parameters of every network of the menu."""

import functools

import jax
import numpy as np
import optax
import pytest

from emanet_jax import balancing, models
from emanet_jax.errors import UserError
from emanet_jax.network import NormalisedImages
from emanet_jax.training import sharding, steps
from tests.helpers import TASKS, WEIGHTS, random_batch
from tests.menu import NETWORKS, tiny

SIZE = (256, 32)  # four devices get 64 rows each
MESHES = {"4x1": 1, "2x2": 2, "1x4": 4}  # devices that share an image: config.mesh.spatial
STEPS = 5

# Every network on its usual kind of backbone, and the plainest one on the others.
USUAL = [
    (name, backbone)
    for i, (name, backbone) in enumerate(NETWORKS)
    if name == "hps" or name not in dict(NETWORKS[:i])
]
QUICK = [("hps", "resnet_tiny")]  # test_steps has EMA-Net on two meshes


def training(name, backbone):
    """A fresh state in float64, and a step of plain gradient descent.

    Adam would turn noise around zero into steps of full size.
    """
    tasks = TASKS[:1] if name == "stl" else TASKS
    model = NormalisedImages(tiny(name, backbone, tasks, SIZE), "imagenet")
    # With larger steps ATI-Net blows rounding errors up a hundredfold a step, on any mesh.
    optimizer = optax.sgd(1e-4, momentum=0.9)
    weights = {task.name: WEIGHTS[task.name] for task in tasks}
    balance = balancing.make_balancing("fixed", weights, steps_per_epoch=2)
    step = functools.partial(
        steps.train_step,
        model=model,
        tasks=tasks,
        balancing=balance,
        optimizer=optimizer,
        grads_fn=balancing.grads_fn_for(balance, tasks),
    )
    state = jax.jit(functools.partial(steps.create_state, model, optimizer, balance, SIZE, 0))()
    return in_float64(jax.device_get(state)), step


def in_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else x, tree)


def trained(start, step, mesh):
    """Losses, and parameters, statistics and summed-up gradients after some steps on a mesh."""
    on_all, losses = sharding.replicated(mesh), []
    with jax.enable_x64(True):
        jitted = jax.jit(step, donate_argnums=0, out_shardings=on_all)
        state = jax.device_put(start, on_all)
        for seed in range(STEPS):
            state, scalars = jitted(state, sharding.to_devices(random_batch(4, seed, SIZE), mesh))
            losses.append(float(scalars["loss"]))
        return losses, jax.device_get((state.params, state.batch_stats, state.opt_state))


@pytest.fixture(autouse=True)
def forgotten():
    """Frees what a test has compiled.

    XLA:CPU maps memory kernel by kernel, 13 thousand times for one of these programs: several of
    them exceed what Linux allows a process (vm.max_map_count), and compiling or caching crashes.
    """
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 1e6)
    yield
    jax.config.update(name, before)
    jax.clear_caches()


@pytest.fixture(scope="module")
def on_one_device():
    """(fresh state, step, losses, end) of a network on one device, worked out once."""

    @functools.cache
    def worked_out(name, backbone):
        start, step = training(name, backbone)
        return start, step, *trained(start, step, sharding.make_mesh(1, jax.devices()[:1]))

    return worked_out


@pytest.mark.parametrize(
    "mesh", [pytest.param(x, marks=pytest.mark.slow) if x == "4x1" else x for x in MESHES]
)
@pytest.mark.parametrize(
    "name, backbone",
    [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow) for pair in USUAL],
)
def test_every_mesh_computes_the_same(on_one_device, name, backbone, mesh):
    start, step, expected_losses, expected = on_one_device(name, backbone)
    losses, end = trained(start, step, sharding.make_mesh(MESHES[mesh]))
    assert losses == pytest.approx(expected_losses, rel=1e-9)
    assert losses[0] != losses[-1]
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(end), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6 * max(1, np.abs(a).max()))


def test_the_menu_is_covered():
    assert {name for name, _ in USUAL} == set(models.NETWORKS)
    assert {models.BACKBONES[backbone].kind for _, backbone in USUAL} == {
        entry.kind for entry in models.BACKBONES.values()
    }


def test_images_are_shared_between_devices_of_one_process():
    mesh = sharding.make_mesh(2)
    batch = sharding.to_devices(random_batch(4, size=(128, 32)), mesh)
    shapes = {shard.data.shape for shard in batch["image"].addressable_shards}
    assert shapes == {(2, 64, 32, 3)}
    assert {shard.data.shape for shard in batch["mask"].addressable_shards} == {(2,)}
    with pytest.raises(UserError, match=r"images are 192 pixels high.*multiple of 256"):
        sharding.check_spatial((192, 64), sharding.make_mesh(4))
