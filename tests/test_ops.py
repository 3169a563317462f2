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
