"""SegNet and the networks that look inside it. Parity with the reference is in test_golden."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from emanet_jax import models
from emanet_jax.models.backbones.segnet import max_pool, max_unpool, segnet_conv
from emanet_jax.models.networks.segnet import bilinear_corners
from emanet_jax.models.weights.torch_names import torch_name

SIZE = (32, 64)
CHANNELS = {"semseg": 5, "depth": 1, "normals": 3}
TWO = ("semseg", "depth")


def random(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def with_ties():
    """(2, 4, 6, 3) of few values, so that many windows have several maxima."""
    return np.random.RandomState(1).randint(-2, 2, (2, 4, 6, 3)).astype(np.float32)


def windows_of(x):
    """(index of the window, its 4 values row by row, their places in x)."""
    b, h, w, c = x.shape
    for at in np.ndindex(b, h // 2, w // 2, c):
        n, y, z, k = at
        cells = [(n, 2 * y + i // 2, 2 * z + i % 2, k) for i in range(4)]
        yield at, [x[cell] for cell in cells], cells


def test_pooling_takes_the_first_of_the_largest():
    x = with_ties()
    pooled, places = max_pool(x)
    assert pooled.shape == places.shape == (2, 2, 3, 3)
    ties = 0
    for at, values, _ in windows_of(x):
        assert pooled[at] == max(values)
        assert places[at] == values.index(max(values))
        ties += values.count(max(values)) > 1
    assert ties > 10


def test_gradient_of_pooling_goes_to_the_place_alone():
    x, weights = with_ties(), random(2, 2, 3, 3)
    gradient = jax.grad(lambda x: (max_pool(x)[0] * weights).sum())(x)
    expected = np.zeros_like(x)
    for at, values, cells in windows_of(x):
        expected[cells[values.index(max(values))]] = weights[at]
    np.testing.assert_array_equal(gradient, expected)


def test_unpooling_puts_values_back_at_their_places():
    pooled, places = max_pool(with_ties())
    values, weights = random(*pooled.shape), random(2, 4, 6, 3, seed=1)
    unpooled, backward = jax.vjp(lambda v: max_unpool(v, places), values)
    expected, gradient = np.zeros((2, 4, 6, 3), np.float32), np.zeros_like(values)
    for at, _, cells in windows_of(expected):
        expected[cells[places[at]]] = values[at]
        gradient[at] = weights[cells[places[at]]]
    np.testing.assert_array_equal(unpooled, expected)
    np.testing.assert_array_equal(backward(weights)[0], gradient)


def test_pooling_what_was_unpooled_gives_it_back():
    _, places = max_pool(random(1, 8, 4, 2))
    values = np.abs(random(1, 4, 2, 2, seed=1))
    again, same = max_pool(max_unpool(values, places))
    np.testing.assert_array_equal(again, values)
    np.testing.assert_array_equal(same, places)


def test_corners_stay_corners_by_hand():
    x = np.array([[0.0, 3.0], [6.0, 27.0]], np.float32).reshape(1, 2, 2, 1)
    expected = [[0, 1, 2, 3], [2, 5, 8, 11], [4, 9, 14, 19], [6, 13, 20, 27]]
    np.testing.assert_allclose(bilinear_corners(x, (4, 4))[0, :, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(6, 10), (3, 5), (4, 7), (1, 5)])
def test_corners_stay_corners_by_the_formula(size):
    x = random(2, 3, 5, 4)
    y = bilinear_corners(x, size)
    for i, j in np.ndindex(*size):
        row, column = i * 2 / max(size[0] - 1, 1), j * 4 / (size[1] - 1)
        top, left = min(int(row), 1), min(int(column), 3)
        down, right = row - top, column - left
        upper = (1 - right) * x[:, top, left] + right * x[:, top, left + 1]
        lower = (1 - right) * x[:, top + 1, left] + right * x[:, top + 1, left + 1]
        np.testing.assert_allclose(y[:, i, j], (1 - down) * upper + down * lower, atol=1e-5)


def test_one_pixel_is_spread_everywhere():
    x = random(1, 1, 1, 3)
    np.testing.assert_array_equal(bilinear_corners(x, (2, 4)), np.broadcast_to(x, (1, 2, 4, 3)))


def test_xavier_normal():
    layer = segnet_conv(300, 900, 3)  # 2.4 million numbers
    params = layer.init(jax.random.key(3), jnp.zeros((1, 4, 4, 300)))["params"]
    x = np.asarray(params["kernel"]) / np.sqrt(2 / 10800)
    assert abs(x.mean()) < 0.005
    # Shares of a normal distribution within 1, 2, 3 and 4 deviations.
    for bound, share in {1: 0.682689, 2: 0.954500, 3: 0.997300, 4: 0.999937}.items():
        assert (np.abs(x) < bound).mean() == pytest.approx(share, abs=2e-3 / bound**2)
    np.testing.assert_array_equal(params["bias"], np.zeros(900))


@functools.cache
def network(name, tasks=tuple(CHANNELS), **options):
    options = {"latent_widths": (8, 6, 4)} | options if name == "ati_net" else options
    tasks = [SimpleNamespace(name=task, channels=CHANNELS.get(task, 2)) for task in tasks]
    return models.build(name, tasks, backbone="segnet_tiny", image_size=SIZE, **options)


@functools.cache
def started(model):
    """Its first variables, and images."""
    images = jax.random.uniform(jax.random.key(1), (2, *SIZE, 3))
    init = jax.jit(functools.partial(model.init, train=False))
    return init(jax.random.key(0), images), images


def watched(model, variables, images):
    """Predictions in training, statistics after them, and what every call of every layer gave."""
    apply = functools.partial(model.apply, train=True, capture_intermediates=True)
    predictions, state = jax.jit(
        functools.partial(apply, mutable=["batch_stats", "intermediates"])
    )(variables, images)
    seen = flatten_dict(state["intermediates"], sep="/")
    calls = {name.removesuffix("/__call__"): x for name, x in seen.items()}
    return predictions, state["batch_stats"], calls


def test_all_convolutions_start_as_the_family_does():
    variables, _ = started(network("ati_net", TWO))
    for path, x in flatten_dict(variables["params"], sep="/").items():
        if path.endswith("/bias"):
            np.testing.assert_array_equal(x, 0, err_msg=path)
        if path.endswith("/kernel") and x.size > 400:
            fans = np.prod(x.shape[:-1]) + np.prod(x.shape[:2]) * x.shape[-1]
            assert x.std() == pytest.approx(np.sqrt(2 / fans), rel=0.15), path


def test_shared_convolutions_count_every_task_in_order():
    model = network("mtan", TWO)
    variables, images = started(model)
    _, batch_stats, seen = watched(model, variables, images)
    for name in ["down_0", "down_4", "up_4", "up_0"]:
        mean, calls = 0.0, seen[f"{name}/conv"]
        assert len(calls) == len(TWO)
        for x in calls:
            mean = 0.9 * mean + 0.1 * x.mean((0, 1, 2))
        np.testing.assert_allclose(batch_stats[name]["bn"]["mean"], mean, atol=1e-6)
        assert np.abs(calls[0].mean((0, 1, 2)) - calls[-1].mean((0, 1, 2))).max() > 1e-4
    # Task after task, scale by scale: the first call is the first task's.
    mask = seen["encoder_mask_0_semseg"][0]
    attended = mask * seen["backbone/encoder/scale_0"][0][1]
    kernel = variables["params"]["down_0"]["conv"]["kernel"]
    first = jax.lax.conv(
        jnp.moveaxis(attended, -1, 1), jnp.transpose(kernel, (3, 2, 0, 1)), (1, 1), "SAME"
    )
    np.testing.assert_allclose(seen["down_0/conv"][0], jnp.moveaxis(first, 1, -1), atol=1e-5)


def test_distilled_map_reaches_the_shared_decoder_alone():
    variables, images = started(network("ati_net", TWO))
    (fed, _, calls_fed), (ignored, _, calls_ignored) = (
        watched(network("ati_net", TWO, feed_decoder=feed), variables, images)
        for feed in (True, False)
    )
    same = functools.partial(np.testing.assert_allclose, atol=1e-4)
    own = ("backbone/encoder", "latent", "encoder_mask", "down_")
    before = [name for name in calls_fed if name.startswith(own)]
    assert len(before) > 50
    for name in before:
        jax.tree.map(same, calls_fed[name], calls_ignored[name])
    for one, other in zip(calls_fed["up_4"], calls_ignored["up_4"], strict=True):
        same(one, other)  # where the tasks' own paths turn
    changed = [
        (calls["backbone/decoder/scale_4/conv_norm1"][0] for calls in (calls_fed, calls_ignored))
    ]
    changed += [(fed.final[task], ignored.final[task]) for task in TWO]
    for one, other in changed:
        assert np.abs(one - other).max() > 1e-2


@pytest.mark.parametrize("name", ["mtan", "ati_net", "pad_net", "hps", "stl"])
def test_names_of_tasks_that_the_reference_does_not_know(name):
    known = ("semseg", "depth", "normals")
    tasks = (*known, "saliency", "human_parts", "flow")
    images = jax.ShapeDtypeStruct((1, *SIZE, 3), jnp.float32)
    init = functools.partial(network(name, tasks).init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), images)
    paths = [path[1:] for path in flatten_dict(variables)]
    names = {torch_name("/".join(path), name) for path in paths}
    assert len(names) == len(paths)
    for task in ("sal", "human_parts", "flow"):
        assert any(f".{task}." in key for key in names)
    if name not in ("hps", "stl"):  # which the reference has not on SegNet
        assert {key.split(".")[0].lstrip("_") for key in names} >= {
            "pred_task1",
            "pred_task2",
            "pred_task3",
            "pred_task",
        }
