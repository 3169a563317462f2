"""Weights to the reference's names and layouts and back, strictly. Parity is in test_golden."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax import convert, models
from emanet_jax.errors import UserError

TASKS = [SimpleNamespace(name="semseg", channels=5), SimpleNamespace(name="saliency", channels=2)]
MENU = [(name, variant) for name, entry in models.MODELS.items() for variant in entry.variants]
NARROW = {"hps": {}, "ema_net": {"features": 16, "distilled": 8}}


@functools.cache
def random_variables(name, variant="released", size=(32, 64), dtype=np.float32):
    model = models.build(
        name, TASKS, backbone="hrnet_tiny", image_size=size, variant=variant, **NARROW[name]
    )
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    init = functools.partial(model.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), images)
    r = np.random.RandomState(0)
    return jax.tree.map(lambda x: r.standard_normal(x.shape).astype(dtype), shapes)


def assert_equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)
    jax.tree.map(lambda x, y: np.testing.assert_equal(x.dtype, y.dtype), tree, other)


@pytest.mark.parametrize(("name", "variant"), MENU)
def test_round_trip_is_bit_exact(name, variant):
    variables = random_variables(name, variant)
    state_dict = convert.export_torch(variables, name)
    blank = jax.tree.map(np.zeros_like, variables)
    assert_equal(convert.import_torch(state_dict, name, blank), variables)
    again = convert.export_torch(convert.import_torch(state_dict, name, blank), name)
    assert_equal(again, state_dict)


@pytest.mark.parametrize("name", models.MODELS)
def test_no_two_parameters_share_a_name(name):
    variables = random_variables(name)
    state_dict = convert.export_torch(variables, name)
    named = [key for key in state_dict if not key.endswith("num_batches_tracked")]
    assert len(named) == len(jax.tree.leaves(variables))
    assert all("/" not in key and "_semseg" not in key for key in named)
    assert any(".sal." in key for key in named)
    assert not any("saliency" in key for key in named)


def test_layouts():
    variables = random_variables("ema_net")
    state_dict = convert.export_torch(variables, "ema_net")
    params = variables["params"]
    stem = state_dict["backbone.0.conv1.weight"]  # OIHW
    np.testing.assert_array_equal(
        stem[7, 2, 0, 1], params["backbone"]["stem1"]["conv"]["kernel"][0, 1, 2, 7]
    )
    up = state_dict["affinity_learning_module.conv_out.semseg.0.weight"]  # IOHW: transposed
    ours = params["distillation"]["double_semseg"]["kernel"]  # (2, 2, out, in)
    np.testing.assert_array_equal(up[3, 5, 1, 0], ours[1, 0, 5, 3])


def test_target_dtypes_are_kept():
    state_dict = convert.export_torch(random_variables("hps"), "hps")
    with jax.enable_x64(True):
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float64), random_variables("hps")
        )
        imported = convert.import_torch(state_dict, "hps", abstract)
        assert {x.dtype for x in jax.tree.leaves(imported)} == {jnp.dtype(jnp.float64)}
    double = jax.tree.map(np.float64, random_variables("hps"))
    imported = convert.import_torch(state_dict, "hps", double)
    assert {x.dtype for x in jax.tree.leaves(imported)} == {np.dtype(np.float64)}


def test_missing_and_surplus_names_are_all_listed():
    variables = random_variables("hps")
    state_dict = convert.export_torch(variables, "hps")
    for key in ("backbone.conv1.weight", "heads.sal.last_layer.3.bias"):
        state_dict["x." + key] = state_dict.pop(key)
    state_dict["stray.num_batches_tracked"] = np.zeros((), np.int64)
    with pytest.raises(UserError) as error:
        convert.import_torch(state_dict, "hps", variables)
    missing, surplus = str(error.value).split("surplus")
    for key in ("backbone.conv1.weight", "heads.sal.last_layer.3.bias"):
        assert f"'{key}'" in missing
        assert f"'x.{key}'" in surplus
    assert "'stray.num_batches_tracked'" in surplus


def test_counters_are_not_needed():
    variables = random_variables("hps")
    state_dict = convert.export_torch(variables, "hps")
    bare = {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}
    assert len(bare) < len(state_dict)
    assert_equal(convert.import_torch(bare, "hps", variables), variables)


def test_shapes_are_named():
    state_dict = convert.export_torch(random_variables("ema_net", size=(64, 64)), "ema_net")
    with pytest.raises(UserError, match=r"spatial_att\.fusion\.weight gives .*adapt_resolution"):
        convert.import_torch(state_dict, "ema_net", random_variables("ema_net"))


@pytest.mark.parametrize(("file", "network"), [("released", "paper"), ("paper", "released")])
def test_the_other_variant_is_recognised(file, network):
    state_dict = convert.export_torch(random_variables("ema_net", file), "ema_net")
    with pytest.raises(UserError, match=f'variant="{file}"'):
        convert.import_torch(state_dict, "ema_net", random_variables("ema_net", network))


def test_unknown_model():
    with pytest.raises(UserError, match="hps, ema_net"):
        convert.export_torch({}, "hsp")
