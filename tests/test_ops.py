"""Operations that many parts share, against NumPy and JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax import ops


@pytest.mark.parametrize("size", [(6, 8), (12, 16), (3, 4), (5, 11), (1, 1)])
def test_bilinear_is_linear_interpolation_without_antialiasing(size):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 8, 3)), jnp.float32)
    expected = jax.image.resize(x, (2, *size, 3), "linear", antialias=False)
    np.testing.assert_allclose(ops.bilinear(x, size), expected, atol=1e-6)


def test_weights_of_interpolation_by_hand():
    expected = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_array_equal(ops.linear_weights(2, 4), expected)
    np.testing.assert_allclose(ops.linear_weights(7, 3).sum(1), 1)


def test_global_norm_is_that_of_all_numbers():
    rng = np.random.default_rng(0)
    tree = {"a": rng.standard_normal((3, 5)), "b": [rng.standard_normal(7), np.float32(2)]}
    expected = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree)))
    assert float(ops.global_norm(tree)) == pytest.approx(expected, rel=1e-6)
    assert float(ops.global_norm({"a": ()})) == 0
    assert np.isnan(ops.global_norm({**tree, "c": np.array([np.nan, 1])}))
    # Of ten million numbers, the last digits of one sum after the other would be lost.
    many = jnp.full(10_000_000, 0.1)
    assert float(ops.global_norm(many)) == pytest.approx(np.sqrt(1e5), rel=1e-5)
