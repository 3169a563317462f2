"""Published ImageNet weights: names and shapes of every file, where it lands, what is refused."""

import functools
import hashlib
import json
import logging
import re

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from huggingface_hub import constants, errors
from safetensors.numpy import save_file

from emanet_jax import convert, models
from emanet_jax.errors import UserError
from emanet_jax.models.weights import pretrained
from emanet_jax.training.experiment import make_experiment
from tests import golden_rules, menu, tiny
from tests.golden_rules import GOLDEN

KEYS = GOLDEN / "pretrained_keys"
FILES = {
    "timm_hrnet_w18_small_v2": "hrnet_w18",
    "torchvision_resnet34": "resnet34",
    "torchvision_resnet50": "resnet50",
    "torchvision_swin_v2_t": "swin_v2_t",
    "torchvision_swin_v2_s": "swin_v2_s",
    "torchvision_swin_v2_b": "swin_v2_b",
    "timm_swinv2_tiny_window8_256": "swin_v2_t",
    "timm_swinv2_small_window8_256": "swin_v2_s",
    "timm_swinv2_base_window8_256": "swin_v2_b",
}
# Parameters of the backbones, without the classifiers.
COUNTS = {
    "hrnet_w18": 3_860_720,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "swin_v2_t": 27_582_570,
    "swin_v2_s": 48_968_442,
    "swin_v2_b": 86_905_848,
}
CLASSIFIERS = ("incre_modules", "downsamp_modules", "final_layer", "classifier", "fc", "head")
TASKS = [menu.task("semseg", 5), menu.task("depth", 1)]


def marked(number, shape):
    """An array that says which one it is, without the memory of its shape."""
    return np.broadcast_to(np.float32(number), shape)


@functools.cache
def published(file):
    """The public file's names and shapes; the i-th array is full of i."""
    keys = json.loads((KEYS / f"{file}.json").read_text())
    return {name: marked(i, shape) for i, (name, shape) in enumerate(keys)}


@functools.cache
def backbone_alone(backbone):
    """The variables of a network that is nothing but this backbone."""
    module = models.BACKBONES[backbone].make()
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    init = functools.partial(module.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), images)
    return {
        collection: {"backbone": jax.tree.map(lambda x: marked(-1, x.shape), tree)}
        for collection, tree in shapes.items()
    }


@pytest.mark.parametrize(("file", "backbone"), FILES.items())
def test_every_public_file_fits_completely(file, backbone):
    state_dict, variables = published(file), backbone_alone(backbone)
    loaded = pretrained.fill_backbones(state_dict, backbone, variables, "x")
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    assert sum(x.size for x in jax.tree.leaves(loaded["params"])) == COUNTS[backbone]
    actual = sorted(float(x.flat[0]) for x in jax.tree.leaves(loaded))
    not_ours = ("num_batches_tracked", "relative_coords_table", "relative_position_index")
    not_ours += ("v_bias",)  # joined to q_bias
    expected = [
        float(i)
        for i, name in enumerate(state_dict)
        if not name.startswith(CLASSIFIERS) and not name.endswith(not_ours)
    ]
    assert actual == expected  # each of them once


def test_weights_land_where_their_names_say():
    loaded = pretrained.fill_backbones(
        published("timm_hrnet_w18_small_v2"), "hrnet_w18", backbone_alone("hrnet_w18"), "x"
    )
    order = list(published("timm_hrnet_w18_small_v2"))
    params, stats = loaded["params"]["backbone"], loaded["batch_stats"]["backbone"]
    kernel = params["stage3_2"]["up_0_2"]["conv"]["kernel"]
    assert kernel.shape == (1, 1, 72, 18)
    assert kernel.flat[0] == order.index("stage3.2.fuse_layers.0.2.0.weight")
    variance = stats["downsample3_3"]["bn"]["var"]
    assert variance.flat[0] == order.index("transition3.3.0.1.running_var")
    loaded = pretrained.fill_backbones(
        published("torchvision_swin_v2_t"), "swin_v2_t", backbone_alone("swin_v2_t"), "x"
    )
    norm = loaded["params"]["backbone"]["last_norm"]["scale"]
    assert norm.flat[0] == list(published("torchvision_swin_v2_t")).index("norm.weight")


def timm_swin():
    """The golden weights of a tiny Swin V2 of timm: tests/golden/swin_v2_timm/make.py."""
    keys = json.loads((GOLDEN / "swin_v2_timm" / "keys.json").read_text())
    return {name: golden_rules.weights(name, tuple(shape)) for name, shape in keys}


def test_a_swin_of_timm_computes_timms_features():
    network = models.BACKBONES["swin_v2_tiny"].make()
    shapes = backbone_alone("swin_v2_tiny")
    loaded = pretrained.fill_backbones(timm_swin(), "swin_v2_tiny", shapes, "x")
    params = loaded["params"]["backbone"]
    images = np.random.RandomState(0).random_sample((1, 3, 256, 256)).astype(np.float32)
    apply = jax.jit(functools.partial(network.apply, train=False))
    (actual,) = apply({"params": params}, images.transpose(0, 2, 3, 1))
    expected = np.load(GOLDEN / "swin_v2_timm" / "features.npy")
    assert np.abs(actual - expected).max() < 2e-5 * np.abs(expected).max()

    bias = params["windows4_0"]["attn"]["qkv_bias"]
    q, v = (timm_swin()[f"layers.3.blocks.0.attn.{x}_bias"] for x in "qv")
    np.testing.assert_array_equal(bias, [*q, *np.zeros(32), *v])


def test_a_swin_of_its_authors_merges_at_the_end_of_a_stage():
    """Their names are timm's but for that, and have tables that say how large the windows are."""
    timm, shapes = timm_swin(), backbone_alone("swin_v2_tiny")
    theirs = {
        re.sub(r"(\d)\.downsample", lambda x: f"{int(x[1]) - 1}.downsample", name): value
        for name, value in timm.items()
    }
    assert "layers.0.downsample.norm.bias" in theirs and "layers.3.downsample.norm.bias" in timm
    theirs["layers.0.blocks.1.attn_mask"] = np.zeros((64, 64, 64), np.float32)
    table = "layers.0.blocks.1.attn.relative_coords_table"
    theirs[table] = np.zeros((1, 15, 15, 2), np.float32)
    loaded = pretrained.fill_backbones(theirs, "swin_v2_tiny", shapes, "x")
    expected = pretrained.fill_backbones(timm, "swin_v2_tiny", shapes, "x")
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)
    theirs[table] = np.zeros((1, 31, 31, 2), np.float32)
    with pytest.raises(UserError, match=r"has shape \(1, 31, 31, 2\), not \(1, 15, 15, 2\)"):
        pretrained.fill_backbones(theirs, "swin_v2_tiny", shapes, "x")
    del theirs["layers.1.blocks.0.attn.v_bias"]
    with pytest.raises(UserError, match=r"1 are missing .*1 are surplus .*0\.3\.0\.attn\.q_bias"):
        pretrained.fill_backbones(theirs, "swin_v2_tiny", shapes, "x")


def vgg16_bn():
    """VGG-16 with batch norm in torchvision's names: 13 convolutions with biases."""
    state_dict, index, width = {}, 0, 3
    for scale, count in zip((64, 128, 256, 512, 512), (2, 2, 3, 3, 3), strict=True):
        for _ in range(count):
            conv, norm = f"features.{index}", f"features.{index + 1}"
            state_dict[f"{conv}.weight"] = marked(index, (scale, width, 3, 3))
            state_dict[f"{conv}.bias"] = marked(index + 0.5, (scale,))
            for name in ("weight", "bias", "running_mean", "running_var"):
                state_dict[f"{norm}.{name}"] = marked(index + 1, (scale,))
            state_dict[f"{norm}.num_batches_tracked"] = np.zeros((), np.int64)
            width, index = scale, index + 3
        index += 1
    return state_dict | {"classifier.0.weight": marked(0, (4096, 25088))}


def test_vgg_fills_segnets_encoder():
    loaded = pretrained.fill_backbones(vgg16_bn(), "segnet", backbone_alone("segnet"), "x")
    assert set(loaded["params"]["backbone"]) == {"encoder"}
    encoder = loaded["params"]["backbone"]["encoder"]
    assert jax.tree.structure(encoder) == jax.tree.structure(
        backbone_alone("segnet")["params"]["backbone"]["encoder"]
    )
    # VGG-16's layers in its own order: conv 0, 3; 7, 10; 14, 17, 20; 24, 27, 30; 34, 37, 40.
    for (scale, unit), index in {(0, 2): 3, (2, 1): 14, (3, 3): 30, (4, 3): 40}.items():
        layer = encoder[f"scale_{scale}"][f"conv_norm{unit}"]
        assert layer["conv"]["kernel"].flat[0] == index
        assert layer["conv"]["bias"].flat[0] == index + 0.5
        assert layer["bn"]["scale"].flat[0] == index + 1


def test_every_backbone_of_the_menu_has_a_published_form():
    for backbone in menu.BACKBONES:
        assert any(backbone.startswith(start) for start in pretrained.PUBLISHED)


def tiny_backbone(seed=0):
    """A file of hrnet_tiny's weights by their public names, with a classifier."""
    r = np.random.RandomState(seed)
    module = {k: v["backbone"] for k, v in backbone_alone("hrnet_tiny").items()}
    values = jax.tree.map(lambda x: r.standard_normal(x.shape).astype(np.float32), module)
    named = convert.export_torch({k: {"backbone": v} for k, v in values.items()}, "hps")
    state_dict = {name.removeprefix("backbone."): x for name, x in named.items()}
    return values, state_dict | {"classifier.weight": np.zeros((10, 4), np.float32)}


def test_every_task_of_stl_gets_the_backbone():
    model = menu.tiny("stl", "hrnet_tiny", TASKS, (32, 64))
    images = jax.ShapeDtypeStruct((1, 32, 64, 3), jnp.float32)
    variables = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), images
    )
    values, state_dict = tiny_backbone()
    loaded = pretrained.fill_backbones(state_dict, "hrnet_tiny", variables, "x")
    for collection, tree in values.items():
        assert set(loaded[collection]) == {"backbone_semseg", "backbone_depth"}
        for actual in loaded[collection].values():
            jax.tree.map(np.testing.assert_array_equal, actual, tree)


def test_missing_surplus_and_misshapen_names_are_listed():
    _, state_dict = tiny_backbone()
    variables = backbone_alone("hrnet_tiny")
    wrong = {**state_dict, "conv9.weight": state_dict["conv1.weight"], "head.bias": np.zeros(3)}
    del wrong["conv1.weight"], wrong["bn2.running_mean"]
    with pytest.raises(UserError) as error:
        pretrained.fill_backbones(wrong, "hrnet_tiny", variables, "my.pth")
    missing, surplus = str(error.value).split("surplus")
    assert "hrnet_tiny (config.model.pretrained is 'my.pth')" in missing
    assert "backbone.conv1.weight" in missing and "backbone.bn2.running_mean" in missing
    assert "backbone.conv9.weight" in surplus and "backbone.head.bias" in surplus
    wrong = {**state_dict, "conv1.weight": np.zeros((8, 4, 3, 3), np.float32)}
    with pytest.raises(UserError, match=r"conv1.weight gives \(3, 3, 4, 8\) for .*\(3, 3, 3, 8\)"):
        pretrained.fill_backbones(wrong, "hrnet_tiny", variables, "my.pth")
    wrong = {**state_dict, "conv1.weight": state_dict["conv1.weight"].astype(np.int32)}
    with pytest.raises(UserError, match="is of type int32"):
        pretrained.fill_backbones(wrong, "hrnet_tiny", variables, "my.pth")


@pytest.mark.parametrize("prefix", ["net.", "encoder.backbone."])
def test_one_prefix_of_all_names_is_taken_off(prefix, caplog):
    caplog.set_level(logging.INFO, "emanet_jax")
    values, state_dict = tiny_backbone()
    prefixed = {prefix + name: x for name, x in state_dict.items()}
    variables = backbone_alone("hrnet_tiny")
    loaded = pretrained.fill_backbones(prefixed, "hrnet_tiny", variables, "x")
    for collection, tree in values.items():
        jax.tree.map(np.testing.assert_array_equal, loaded[collection]["backbone"], tree)
    assert f"Took '{prefix}' off {len(state_dict)} names" in caplog.text


def test_a_prefix_of_the_network_itself_stays(caplog):
    """Without its classifier, all names of a VGG begin with `features.`."""
    caplog.set_level(logging.INFO, "emanet_jax")
    features = {name: x for name, x in vgg16_bn().items() if name.startswith("features.")}
    expected = pretrained.fill_backbones(vgg16_bn(), "segnet", backbone_alone("segnet"), "x")
    for prefix in ("", "net."):
        prefixed = {prefix + name: x for name, x in features.items()}
        loaded = pretrained.fill_backbones(prefixed, "segnet", backbone_alone("segnet"), "x")
        jax.tree.map(np.testing.assert_array_equal, loaded, expected)
    assert caplog.text.count("Took ") == 1 and "Took 'net.' off" in caplog.text


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("timm/swinv2_tiny_window16_256.ms_in1k", "16"),
        ("timm/swinv2_base_window12to16_192to256.ms_in22k_ft_in1k", "12to16"),
        ("weights/swinv2_small_patch4_window16_256.pth", "16"),
    ],
)
def test_weights_of_other_windows_are_refused_by_their_name(hub, name, windows):
    """Their names and shapes are those of windows of 8."""
    with pytest.raises(UserError, match=rf"{name}', of windows of {windows} tokens; swin_v2_t has"):
        pretrained.load_pretrained(name, "swin_v2_t", {})
    with pytest.raises(UserError, match="cannot be fetched"):
        pretrained.load_pretrained("timm/swinv2_tiny_window8_256.ms_in1k", "swin_v2_t", {})


def test_half_precision_files_are_widened():
    values, state_dict = tiny_backbone()
    half = {name: x.astype(np.float16) for name, x in state_dict.items()}
    loaded = pretrained.fill_backbones(half, "hrnet_tiny", backbone_alone("hrnet_tiny"), "x")
    for path, x in flatten_dict(loaded).items():
        collection, _, *rest = path
        assert x.dtype == np.float32
        expected = flatten_dict(values)[collection, *rest].astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(x, expected)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("name", "file"),
    [("own/er.net", "model.safetensors"), ("own/er.net:weights/a.pth", "weights/a.pth")],
)
def test_a_repository_is_found_in_the_cache(hub, name, file):
    folder = hub / "models--own--er.net"
    path = folder / "snapshots" / "0123abc" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abc")
    assert pretrained.find(name) == path


def test_offline_is_one_sentence(hub):
    name = "timm/hrnet_w18_small_v2.ms_in1k"
    with pytest.raises(UserError, match=f"model.safetensors of {name} cannot be fetched") as error:
        pretrained.find(name)
    assert "cannot be reached" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (errors.RepositoryNotFoundError, "there is no such repository"),
        (errors.GatedRepoError, "its owner's consent"),
        (errors.EntryNotFoundError, "the repository has no such file"),
        (errors.HfHubHTTPError, "503: busy"),
        (OSError, "503: busy"),
    ],
)
def test_what_the_hub_says_is_one_sentence(hub, monkeypatch, kind, why):
    def download(*_):
        error = kind.__new__(kind)
        error.args = ("503:\nbusy",)
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(UserError, match=why) as error:
        pretrained.find("own/er:x.bin")
    assert "x.bin of own/er cannot be fetched" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["hrnet", "/no/where", "a/b/c", "a/", "../x"])
def test_what_is_neither_a_file_nor_a_repository(name):
    with pytest.raises(UserError, match=r"neither a file of weights .* nor a repository"):
        pretrained.find(name)


def test_a_missing_file_is_no_repository(hub):
    with pytest.raises(UserError, match=r"'weights/hrnet\.pth', but there is no such file"):
        pretrained.find("weights/hrnet.pth")


def test_a_file_is_found_before_a_repository(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "er").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert pretrained.find("own/er").read_bytes() == b"x"


def test_a_run_starts_from_the_file(tmp_path, caplog):
    caplog.set_level(logging.INFO, "emanet_jax")
    values, state_dict = tiny_backbone()
    path = tmp_path / "backbone.safetensors"
    save_file(state_dict, path)
    config = tiny.get_config("model=hps,backbone=hrnet_tiny")
    with config.unlocked():
        config.model.overrides = {}
        config.data.data_dir = str(tmp_path / "records")
        config.model.pretrained = str(path)
    experiment = make_experiment(config)
    state, fresh = experiment.initial_state(), experiment.init()
    for collection in ("params", "batch_stats"):
        actual, start = getattr(state, collection), getattr(fresh, collection)
        jax.tree.map(np.testing.assert_array_equal, actual["backbone"], values[collection])
        rest = {k: v for k, v in actual.items() if k != "backbone"}
        jax.tree.map(
            np.testing.assert_array_equal, rest, {k: v for k, v in start.items() if k in rest}
        )
    on_all = experiment.abstract_state().step.sharding
    assert all(x.sharding == on_all for x in jax.tree.leaves(state))
    logged = caplog.text
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"hrnet_tiny starts from {path}" in logged and digest in logged
    assert f"{len(state_dict)} tensors" in logged
