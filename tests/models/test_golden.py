"""The networks are the reference's: same weights in, same numbers out, also while training."""

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import golden_rules as golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from emanet_jax import convert, models, tasks
from emanet_jax.models.weights.torch_names import torch_name
from emanet_jax.ops import bilinear
from emanet_jax.tasks import losses
from tests.conftest import ROOT


class Case(NamedTuple):
    """What a golden folder is of."""

    model: str
    backbone: str = "hrnet_w18"
    overrides: Mapping[str, Any] = {}
    counted: int = 1  # times that the reference counts (and differentiates) its final loss
    levels: str = "initial_"  # how the outputs name the auxiliary levels
    losses: int | None = None  # held to the reference's; all, and the outputs after them, if None
    run: str = "evaluated"  # what every run of the tests does with it: "trained", "" leaves it out


NO_DROPOUT = {"dropout": 0.0}
NOTHING_DROPPED = NO_DROPOUT | {"stochastic_depth": 0.0}
CASES = {
    "stl": Case("stl", run=""),
    "hps": Case("hps", counted=2, run="trained"),
    "padnet": Case("pad_net"),
    "papnet": Case("pap_net"),
    "emanet": Case("ema_net"),
    "mti_net": Case("mti_net", levels="scale_"),
    "m_emanet": Case("ema_net_ms", levels="scale_"),
    "mtan": Case("mtan", "segnet"),
    "ati_net": Case("ati_net", "segnet"),
    "ati_net_paper": Case("ati_net", "segnet", {"feed_decoder": True}),
    "pad_net_segnet": Case("pad_net", "segnet"),
    "hps_resnet34": Case("hps", "resnet34", NO_DROPOUT, counted=2, losses=3, run=""),
    "hps_resnet50": Case("hps", "resnet50", NO_DROPOUT, counted=2, losses=3),
    "swin_v2_t_stl": Case("stl", "swin_v2_t", NOTHING_DROPPED, run=""),
    "swin_v2_t_hps": Case("hps", "swin_v2_t", NOTHING_DROPPED, counted=2, run=""),
    "swin_v2_t_padnet": Case("pad_net", "swin_v2_t", NOTHING_DROPPED, run=""),
    "swin_v2_t_papnet": Case("pap_net", "swin_v2_t", NOTHING_DROPPED, run=""),
    "swin_v2_t_ctal": Case("ema_net", "swin_v2_t", NOTHING_DROPPED),
    "swin_v2_b_hps": Case("hps", "swin_v2_b", NOTHING_DROPPED, counted=2, run=""),
}
UNUSED = "backbone.fc."  # the reference's ResNets keep their classifier
# Biases in front of a batch norm: their gradients are rounding errors around zero.
NO_GRADIENT = 1e-9


def relative(x, reference):
    return np.linalg.norm(np.asarray(x) - reference) / np.linalg.norm(reference)


@functools.lru_cache(maxsize=1)  # tests of a folder follow each other
def imported(folder, dtype):
    """The network, its variables from the reference's weights, and the images."""
    case, spec = CASES[folder], golden.manifest(folder)
    size = tuple(spec["input"]["shape"][2:])
    model = models.build(
        case.model,
        golden.tasks(folder),
        backbone=case.backbone,
        image_size=size,
        variant="released",
        **case.overrides,
    )
    images = jnp.asarray(golden.images(folder), dtype)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)
    variables = convert.import_torch(golden.state_dict(folder), case.model, shapes)
    return model, variables, images


def activated(maps, todo):
    """What the reference's SegNet networks end in: log-probabilities and unit vectors."""
    return {
        task.name: jax.nn.log_softmax(x) if task.class_names else task.activation(x)
        for task in todo
        for x in [maps[task.name]]
    }


def named_maps(predictions, folder, images):
    """Predictions by the names that the golden arrays have."""
    case, todo = CASES[folder], golden.tasks(folder)
    segnet = models.BACKBONES[case.backbone].kind == "segnet"
    maps = activated(predictions.final, todo) if segnet else dict(predictions.final)
    for scale, level in enumerate(predictions.auxiliary):
        if case.levels == "initial_":
            maps |= {f"initial_{t}": bilinear(x, images.shape[1:3]) for t, x in level.items()}
        else:
            maps |= {f"scale_{scale}/{t}": x for t, x in level.items()}
    return {key.replace("saliency", "sal"): x for key, x in maps.items()}


def cases(every_run):
    """The folders; those are slow in whose case every run does none of `every_run`."""
    return [
        pytest.param(folder, marks=() if case.run in every_run else pytest.mark.slow)
        for folder, case in CASES.items()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("folder", CASES)
def test_evaluation_outputs_in_float32(folder):
    check_evaluation(folder, x64=False, tolerance=1e-5)


@pytest.mark.parametrize("folder", cases(["evaluated", "trained"]))
def test_evaluation_outputs(folder):
    check_evaluation(folder, x64=True, tolerance=4e-8)


def check_evaluation(folder, x64, tolerance):
    spec, reference = golden.manifest(folder), golden.outputs(folder)
    with jax.enable_x64(x64):
        model, variables, images = imported(folder, jnp.float64 if x64 else jnp.float32)
        predictions = jax.jit(functools.partial(model.apply, train=False))(variables, images)
        maps = named_maps(predictions, folder, images)
        keys = {key.removeprefix("eval/") for key in reference if key.startswith("eval/")}
        assert maps.keys() == keys
        for key, x in maps.items():
            seen = golden.seen(x, spec["output_stride"])
            assert relative(seen, reference[f"eval/{key}"]) < tolerance, key


@pytest.mark.parametrize("folder", cases(["evaluated", "trained"]))
def test_names_shapes_and_counts_are_the_references(folder):
    with jax.enable_x64(True):
        _, variables, _ = imported(folder, jnp.float64)
    spec, state_dict = golden.manifest(folder), golden.state_dict(folder)
    unused = {key: x for key, x in state_dict.items() if key.startswith(UNUSED)}
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert count + sum(x.size for x in unused.values()) == spec["num_params"]
    exported = convert.export_torch(variables, CASES[folder].model)
    assert {key: list(x.shape) for key, x in exported.items()} == {
        key: shape for key, shape, _ in spec["state_dict"] if key not in unused
    }
    for key in state_dict.keys() - unused.keys():
        np.testing.assert_array_equal(exported[key], state_dict[key], err_msg=key)


@pytest.mark.parametrize(
    "folder", [p for p in cases(["trained"]) if golden.manifest(p.values[0])["adam"]["steps"]]
)
def test_training(folder):
    """Losses before each Adam step, gradients of the first, and outputs after the last."""
    spec, reference, case = golden.manifest(folder), golden.outputs(folder), CASES[folder]
    todo = golden.tasks(folder)
    with jax.enable_x64(True):
        model, variables, images = imported(folder, jnp.float64)
        labels = {t: jnp.asarray(x) for t, x in golden.labels(folder).items()}
        mask = jnp.ones(len(images), bool)
        weights = {t: case.counted * weight for t, weight in golden.loss_weights(folder).items()}
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
        for i, expected in enumerate(spec["losses"][: case.losses]):
            before = params
            params, batch_stats, state, terms, gradients = step(params, batch_stats, state)
            np.testing.assert_allclose(terms.total, expected["total"], rtol=1e-6)
            for task, theirs in zip(todo, spec["tasks"], strict=True):
                final, initial = terms.final[task.name], terms.auxiliary[task.name]
                np.testing.assert_allclose(final, expected["final"][theirs], rtol=1e-6)
                if initial != 0:  # without an auxiliary level, the reference repeats its final loss
                    np.testing.assert_allclose(initial, expected["initial"][theirs], rtol=1e-6)
            if i == 0:
                check_gradient_norms(gradients, spec["grad_norm_step0"], case.model)
        if case.losses is not None:
            return

        variables = {"params": before, "batch_stats": batch_stats}
        predictions = jax.jit(functools.partial(model.apply, train=False))(variables, images)
        maps = named_maps(predictions, folder, images)
        for theirs in spec["tasks"]:
            seen = golden.seen(maps[theirs], max(spec["output_stride"], 2))
            assert relative(seen, reference[f"after/{theirs}"]) < 4e-8, theirs


def check_gradient_norms(gradients, expected, name):
    norms = {
        torch_name("/".join(path), name): float(jnp.linalg.norm(g.ravel()))
        for path, g in flatten_dict(gradients).items()
    }
    assert norms.keys() == {key for key in expected if not key.startswith(UNUSED)}
    for key, norm in norms.items():
        if expected[key] is None:  # nothing that the loss reads depends on it
            assert norm == 0, key
        elif expected[key] > NO_GRADIENT:
            assert norm == pytest.approx(expected[key], rel=1e-6), key


@pytest.mark.parametrize(
    ("name", "dataset", "size", "count"),
    [
        ("stl", "nyuv2", (288, 384), 11_807_897),
        ("hps", "nyuv2", (288, 384), 4_086_457),
        ("pad_net", "nyuv2", (288, 384), 12_077_440),
        ("pap_net", "nyuv2", (288, 384), 4_780_425),
        ("ema_net", "nyuv2", (288, 384), 6_057_216),
        ("mti_net", "nyuv2", (288, 384), 12_638_901),
        ("ema_net_ms", "nyuv2", (288, 384), 11_149_783),
        ("stl", "cityscapes", (128, 256), 7_874_280),
        ("hps", "cityscapes", (128, 256), 4_013_560),
        ("pad_net", "cityscapes", (128, 256), 7_008_262),
        ("pap_net", "cityscapes", (128, 256), 4_501_770),
        ("ema_net", "cityscapes", (128, 256), 5_262_854),
        ("mti_net", "cityscapes", (128, 256), 8_566_734),
        ("ema_net_ms", "cityscapes", (128, 256), 8_474_086),
    ],
)
def test_full_size_parameter_counts(name, dataset, size, count, backbone="hrnet_w18"):
    model = models.build(
        name, tasks.tasks_for(dataset), backbone=backbone, image_size=size, variant="released"
    )
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    init = functools.partial(model.init, train=False)
    params = jax.eval_shape(init, jax.random.key(0), images)["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
    ("name", "count"), [("mtan", 44_229_073), ("ati_net", 45_716_497), ("pad_net", 45_938_641)]
)
def test_full_size_parameter_counts_on_segnet(name, count):
    test_full_size_parameter_counts(name, "nyuv2", (288, 384), count, backbone="segnet")


def test_the_readme_states_the_references_numbers_of_parameters():
    rows = re.findall(
        r"^\| `(\w+)` \| \w.* \| ([\d,]+) \|$", (ROOT / "README.md").read_text(), re.M
    )
    assert len(rows) == 8
    folders = {case.model: folder for folder, case in reversed(CASES.items())}
    for name, count in rows:
        assert int(count.replace(",", "")) == golden.manifest(folders[name])["num_params"], name
