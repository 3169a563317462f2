"""Swin V2 against plain loops over windows, and what is random in it while training."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from emanet_jax.errors import UserError
from emanet_jax.models.backbones import swin
from emanet_jax.models.registry import BACKBONES


def random(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def randomised(shapes, seed=0):
    """Numbers for abstract parameters that leave none of them without a say."""
    r = np.random.RandomState(seed)
    return jax.tree.map(
        lambda x: np.float32(r.standard_normal(x.shape) / np.sqrt(max(x.shape[0], 4))), shapes
    )


def attention(heads, shifted, x):
    """The jitted function of parameters and map, and parameters."""
    module = swin.WindowAttention(heads, shifted)
    params = randomised(jax.eval_shape(module.init, jax.random.key(0), x))["params"]
    params["logit_scale"] = np.linspace(1, 6, heads, dtype=np.float32)[:, None, None]
    return jax.jit(lambda params, x: module.apply({"params": params}, x)), params


def position_bias(params, offset):
    """One entry per head, for (row, column) of a token minus those of one that it looks at."""
    spaced = [np.sign(d) * np.log2(1 + abs(d) * 8 / 7) / 3 for d in offset]
    hidden = np.maximum(spaced @ params["position1"]["kernel"] + params["position1"]["bias"], 0)
    return 16 / (1 + np.exp(-hidden @ params["position2"]["kernel"]))


def looped_attention(params, x, heads, shifted):
    """Window by window, token by token; (h, w, c) to the same."""
    h, w, c = x.shape
    padded = [-(-side // 8) * 8 for side in (h, w)]
    step = [4 if shifted and side > 8 else 0 for side in padded]
    windows = {}
    for row in range(padded[0]):
        for column in range(padded[1]):
            place = [(p - s) % side for p, s, side in zip((row, column), step, padded, strict=True)]
            around = (row < step[0], column < step[1])  # came to the last window from the first
            token = x[row, column] if row < h and column < w else np.zeros(c)
            window = windows.setdefault((place[0] // 8, place[1] // 8), [])
            window.append((row, column, place, around, token))

    y = np.zeros((*padded, c))
    bias = np.copy(params["qkv_bias"])
    bias[c : 2 * c] = 0
    scales = np.exp(np.minimum(params["logit_scale"].ravel(), np.log(100)))
    for window in windows.values():
        qkv = np.array([token for *_, token in window]) @ params["qkv"]["kernel"] + bias
        q, k, v = np.moveaxis(qkv.reshape(-1, 3, heads, c // heads), 1, 0)
        q, k = (z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-12) for z in (q, k))
        for i, (row, column, place, around, _) in enumerate(window):
            logits = scales * np.einsum("hd,khd->kh", q[i], k)
            for j, (_, _, other, theirs, _) in enumerate(window):
                logits[j] += position_bias(params, np.subtract(place, other))
                logits[j] -= 100 * (theirs != around)
            weights = np.exp(logits - logits.max(0))
            y[row, column] = np.einsum("kh,khd->hd", weights / weights.sum(0), v).ravel()
    y = y @ params["proj"]["kernel"] + params["proj"]["bias"]
    return y[:h, :w]


@pytest.mark.parametrize(
    ("size", "shifted"),
    [
        ((8, 16), True),  # one window covers the rows: the shift is along the columns alone
        ((16, 6), True),  # and the other way round, with padding
        ((11, 18), True),
        ((11, 18), False),
        ((5, 8), True),  # a single window
    ],
)
def test_attention_equals_a_loop_over_windows(size, shifted):
    x = random(1, *size, 6)
    attend, params = attention(2, shifted, x)
    y = attend(params, x)[0]
    np.testing.assert_allclose(y, looped_attention(params, x[0], 2, shifted), rtol=1e-3, atol=2e-5)
    moved = looped_attention(params, x[0], 2, not shifted)
    assert (np.abs(y - moved).max() > 1e-2) == (max(size) > 8)


def test_keys_have_no_bias_and_gradients_are_finite_in_padding():
    x = random(1, 3, 9, 4)
    attend, params = attention(2, True, x)
    gradients = jax.jit(jax.grad(lambda p, x: jnp.square(attend(p, x)).sum(), (0, 1)))(params, x)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    queries, keys, values = np.split(gradients[0]["qkv_bias"], 3)
    assert np.any(queries) and np.any(values) and not np.any(keys)
    changed = params | {"qkv_bias": params["qkv_bias"] + np.float32(np.repeat([0, 9, 0], 4))}
    np.testing.assert_array_equal(attend(changed, x), attend(params, x))


def test_position_tables():
    table, index = swin.coordinate_table(), swin.position_index()
    assert table.shape == (15, 15, 2)
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table[7, 7], 0)
    np.testing.assert_allclose(table[0, 14], [-np.log2(9) / 3, np.log2(9) / 3], rtol=1e-6)
    np.testing.assert_allclose(table[8, 5], [np.log2(15 / 7) / 3, -np.log2(23 / 7) / 3], rtol=1e-6)
    assert index.shape == (64, 64)
    assert index[0, 63] == 0
    assert (np.diag(index) == 112).all()
    assert index[8, 0] - index[0, 0] == 15  # a row below
    assert index[1, 0] - index[0, 0] == 1


@pytest.mark.parametrize("size", [(4, 6), (3, 6), (5, 3)])
def test_merging_pads_odd_sides_with_zeros(size):
    x = random(2, *size, 3)
    module = swin.PatchMerging()
    params = randomised(jax.eval_shape(module.init, jax.random.key(0), x))["params"]
    y = jax.jit(module.apply)({"params": params}, x)
    h, w = size
    assert y.shape == (2, (h + 1) // 2, (w + 1) // 2, 6)
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            corners = [(0, 0), (1, 0), (0, 1), (1, 1)]
            places = [(2 * i + row, 2 * j + column) for row, column in corners]
            tokens = [x[:, r, c] if r < h and c < w else np.zeros((2, 3)) for r, c in places]
            z = np.concatenate(tokens, axis=-1) @ params["reduction"]["kernel"]
            z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)
            expected = z * params["norm"]["scale"] + params["norm"]["bias"]
            np.testing.assert_allclose(y[:, i, j], expected, atol=1e-5)


@functools.cache
def tiny(size=(64, 96), **options):
    model = BACKBONES["swin_v2_tiny"].make(**options)
    images = random(4, *size, 3)
    init = functools.partial(model.init, train=False)
    return model, randomised(jax.eval_shape(init, jax.random.key(0), images)), images


def test_sides_need_not_be_multiples_of_a_window():
    model, variables, _ = tiny()
    images = jax.ShapeDtypeStruct((1, 160, 288, 3), jnp.float32)
    maps = jax.eval_shape(functools.partial(model.apply, train=False), variables, images)
    assert [x.shape for x in maps] == [(1, 5, 9, 32)]


def test_sharding_over_the_batch_changes_nothing():
    model, variables, images = tiny()
    run = jax.jit(functools.partial(model.apply, train=False))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    sharded = run(variables, jax.device_put(images, NamedSharding(mesh, PartitionSpec("data"))))
    assert sharded[0].sharding.spec == PartitionSpec("data")
    np.testing.assert_allclose(sharded[0], run(variables, images)[0], atol=1e-5)


def test_bfloat16_normalises_in_float32():
    model, variables, images = tiny(dtype=jnp.bfloat16)
    run = functools.partial(model.apply, train=False)
    assert jax.eval_shape(run, variables, images)[0].dtype == jnp.bfloat16
    text = str(jax.make_jaxpr(run)(variables, images))
    for operation in ("exp ", "rsqrt ", "reduce_max["):
        lines = [line for line in text.splitlines() if f"= {operation}" in line]
        assert lines
        assert all("bf16" not in line for line in lines)

    small = random(1, 8, 16, 16)
    attend, params = attention(2, True, small)
    exact = attend(params, small)
    half = jax.jit(swin.WindowAttention(2, True, jnp.bfloat16).apply)({"params": params}, small)
    assert np.linalg.norm(half - exact) < 0.03 * np.linalg.norm(exact)


def test_depth_scales_the_branches_of_each_image():
    x = random(3, 2, 3, 4)
    block = swin.Block(2, False)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x, np.ones((2, 3)))
    apply, params = jax.jit(block.apply), randomised(shapes)["params"]

    def branches(scale):
        return apply({"params": params}, x, np.float32(scale)) - x

    both, first = branches([[1, 0, 1], [1, 0, 0]]), branches([[1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(both[1], 0)
    np.testing.assert_allclose(both[2], first[2], atol=1e-6)
    assert np.abs(both[0] - first[0]).max() > 0.1
    np.testing.assert_allclose(branches([[2, 0, 0], [0, 0, 0]])[0], 2 * first[0], atol=1e-5)


def test_depth_is_drawn_per_image_and_branch_and_keeps_the_mean():
    rates = np.array([0, 0.3])
    scales = np.asarray(swin.draw_scales(jax.random.key(0), rates, 4000))
    np.testing.assert_array_equal(scales[0], 1)
    np.testing.assert_allclose(np.unique(scales[1]), [0, 1 / 0.7], rtol=1e-6)
    np.testing.assert_allclose(scales[1].mean(-1), 1, atol=0.03)
    assert abs(np.corrcoef(*scales[1])[0, 1]) < 0.05


def test_rates_of_depth_rise_linearly_over_the_blocks():
    model, variables, images = tiny(stochastic_depth=0.4)

    @jax.jit
    def scales():
        seen = {}

        def record(call, args, kwargs, context):
            if isinstance(context.module, swin.Block):
                seen[context.module.name] = args[1]
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(0)})
        return jnp.array([*seen.values()])

    rates = 1 - 1 / np.asarray(scales()).max((1, 2))
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4], atol=1e-6)


def test_only_training_is_random_and_not_at_rate_zero():
    model, variables, images = tiny(stochastic_depth=0.5)
    train = jax.jit(
        lambda key: model.apply(variables, images, train=True, rngs={"dropout": key})[0]
    )
    assert np.abs(train(jax.random.key(0)) - train(jax.random.key(1))).max() > 1e-3
    evaluated = jax.jit(functools.partial(model.apply, train=False))(variables, images)[0]
    certain = BACKBONES["swin_v2_tiny"].make(stochastic_depth=0.0)
    trained = jax.jit(functools.partial(certain.apply, train=True))(variables, images)[0]
    np.testing.assert_allclose(trained, evaluated, atol=1e-6)


def test_depth_must_be_a_rate():
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    model = BACKBONES["swin_v2_tiny"].make(stochastic_depth=1.0)
    with pytest.raises(UserError, match=r"stochastic_depth is 1\.0; it must be in \[0, 1\)"):
        jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)


def test_size_of_the_one_without_golden_data():
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    init = functools.partial(BACKBONES["swin_v2_s"].make().init, train=False)
    params = jax.eval_shape(init, jax.random.key(0), images)["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == 48_968_442
