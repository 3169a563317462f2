"""Weights to the reference's names and layouts and back, strictly. Parity is in test_golden."""

import functools
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from emanet_jax import convert
from emanet_jax.errors import UserError
from emanet_jax.models.weights import reading
from tests import menu
from tests.menu import MENU, NETWORKS
from tests.torch_files import save_torch

TASKS = [menu.task("semseg", 5), menu.task("saliency", 2)]

# Names in an exported state dict beside parameters and statistics.
BESIDE = ("num_batches_tracked", "relative_coords_table", "relative_position_index")


@functools.cache
def random_variables(name, backbone="hrnet_tiny", variant="released", size=(32, 64)):
    model = menu.tiny(name, backbone, TASKS, size, variant=variant)
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    init = functools.partial(model.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), images)
    r = np.random.RandomState(0)
    return jax.tree.map(lambda x: r.standard_normal(x.shape).astype(np.float32), shapes)


def assert_equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)
    jax.tree.map(lambda x, y: np.testing.assert_equal(x.dtype, y.dtype), tree, other)


@pytest.mark.parametrize(("name", "backbone", "variant"), MENU)
def test_round_trip_is_bit_exact(name, backbone, variant):
    variables = random_variables(name, backbone, variant)
    state_dict = convert.export_torch(variables, name)
    blank = jax.tree.map(np.zeros_like, variables)
    assert_equal(convert.import_torch(state_dict, name, blank), variables)
    again = convert.export_torch(convert.import_torch(state_dict, name, blank), name)
    assert_equal(again, state_dict)


@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
def test_files_of_both_kinds_are_bit_exact(name, backbone, tmp_path):
    variables = random_variables(name, backbone)
    state_dict = convert.export_torch(variables, name)
    save_torch(tmp_path / "theirs.pth", state_dict)
    save_file(state_dict, tmp_path / "ours.safetensors")
    for path in tmp_path.iterdir():
        read = reading.read_state_dict(path)
        assert_equal(read, state_dict)
        blank = jax.tree.map(np.zeros_like, variables)
        assert_equal(convert.import_torch(read, name, blank), variables)


@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
def test_no_two_parameters_share_a_name(name, backbone):
    variables = random_variables(name, backbone)
    state_dict = convert.export_torch(variables, name)
    named = [key for key in state_dict if not key.endswith(BESIDE)]
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
    ours = params["distillation"]["double_semseg"]["kernel"]  # HWIO, turned
    np.testing.assert_array_equal(up[3, 5, 1, 0], ours[0, 1, 3, 5])


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


def test_missing_and_surplus_names_are_listed():
    variables = random_variables("hps")
    state_dict = convert.export_torch(variables, "hps")
    for key in ("backbone.conv1.weight", "heads.sal.last_layer.3.bias"):
        state_dict["x." + key] = state_dict.pop(key)
    state_dict["stray.num_batches_tracked"] = np.zeros((), np.int64)
    with pytest.raises(UserError) as error:
        convert.import_torch(state_dict, "hps", variables)
    count, total = len(jax.tree.leaves(variables)), len(state_dict)
    keys = ["backbone.conv1.weight", "heads.sal.last_layer.3.bias"]
    others = ["stray.num_batches_tracked", *(f"x.{key}" for key in keys)]
    assert str(error.value) == (
        f"the state dict does not fit hps: of {count} names, 2 are missing ({', '.join(keys)}); of "
        f"its {total}, 3 are surplus ({', '.join(others)})."
    )


def test_of_many_names_the_first_are_listed():
    variables = random_variables("hps")
    with pytest.raises(UserError) as error:
        convert.import_torch({f"{i:04}": np.zeros(1) for i in range(5000)}, "hps", variables)
    rest = len(jax.tree.leaves(variables)) - 5
    assert f" and {rest} more); of its 5000," in str(error.value)
    assert "5000 are surplus (0000, 0001, 0002, 0003, 0004 and 4,995 more)." in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("prefix", ["net.", "student.net.", "module."])
def test_one_prefix_of_all_names_is_taken_off(prefix, caplog):
    caplog.set_level("INFO")
    variables = random_variables("hps")
    state_dict = convert.export_torch(variables, "hps")
    prefixed = {prefix + name: x for name, x in state_dict.items()}
    blank = jax.tree.map(np.zeros_like, variables)
    assert_equal(convert.import_torch(prefixed, "hps", blank), variables)
    assert f"Took '{prefix}' off {len(state_dict)} names" in caplog.text


def test_two_prefixes_are_not_taken_off():
    variables = random_variables("hps")
    state_dict = convert.export_torch(variables, "hps")
    halves = {f"{'ab'[i % 2]}.{name}": x for i, (name, x) in enumerate(state_dict.items())}
    with pytest.raises(UserError, match=r"are surplus \(a\.backbone"):
        convert.import_torch(halves, "hps", variables)


def test_shapes_of_another_network_are_few():
    state_dict = convert.export_torch(random_variables("hps"), "hps")
    halved = {name: x[:1] if x.ndim else x for name, x in state_dict.items()}
    with pytest.raises(UserError, match=r"is of another hps .* gives .* and \d+ more\.") as error:
        convert.import_torch(halved, "hps", random_variables("hps"))
    assert len(str(error.value)) < 1500


def test_a_repeated_number_of_another_shape_takes_no_memory():
    state_dict = convert.export_torch(random_variables("hps"), "hps")
    state_dict["backbone.bn1.bias"] = np.broadcast_to(np.float32(1), (2**15, 2**14, 1))
    variables = random_variables("hps")
    tracemalloc.start()
    with pytest.raises(UserError, match=r"bn1\.bias gives \(32768, 16384, 1\)"):
        convert.import_torch(state_dict, "hps", variables)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_a_swin_of_other_windows_is_refused():
    variables = random_variables("hps", "swin_v2_tiny")
    state_dict = convert.export_torch(variables, "hps")
    name = "backbone.0.1.0.attn.relative_coords_table"
    state_dict[name] = np.zeros((1, 31, 31, 2), np.float32)
    with pytest.raises(UserError, match=rf"{name} has shape \(1, 31, 31, 2\), .* windows of 8 x 8"):
        convert.import_torch(state_dict, "hps", variables)


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


@pytest.mark.parametrize("name", ["ema_net", "ema_net_ms"])
@pytest.mark.parametrize(("file", "network"), [("released", "paper"), ("paper", "released")])
def test_the_other_variant_is_recognised(name, file, network):
    state_dict = convert.export_torch(random_variables(name, variant=file), name)
    with pytest.raises(UserError, match=f'variant="{file}"'):
        convert.import_torch(state_dict, name, random_variables(name, variant=network))


def test_unknown_model():
    with pytest.raises(UserError, match="stl, hps"):
        convert.export_torch({}, "hsp")


@pytest.mark.parametrize(
    ("theirs", "exact"), [(np.float16, True), (np.float32, True), (np.float64, False)]
)
def test_other_widths_are_converted(theirs, exact):
    variables = random_variables("hps")
    state_dict = convert.export_torch(variables, "hps")
    state_dict = {name: x.astype(theirs) for name, x in state_dict.items()}
    name = "backbone.conv1.weight"
    if not exact:
        state_dict[name] = state_dict[name] * (1 + 1e-12)
    imported = convert.import_torch(state_dict, "hps", variables)
    assert {x.dtype for x in jax.tree.leaves(imported)} == {np.dtype(np.float32)}
    kernel = imported["params"]["backbone"]["stem1"]["conv"]["kernel"]
    expected = state_dict[name].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected.astype(np.float32))
    assert np.array_equal(kernel, expected) == exact


def test_numbers_that_are_not_floating_point_are_refused():
    variables = random_variables("hps")
    state_dict = convert.export_torch(variables, "hps")
    state_dict["backbone.bn1.bias"] = state_dict["backbone.bn1.bias"].astype(np.int64)
    with pytest.raises(UserError, match=r"backbone\.bn1\.bias is of type int64"):
        convert.import_torch(state_dict, "hps", variables)
