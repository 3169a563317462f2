"""The small problems of gradient-level methods: a fixed number of steps on a (K, K) Gram matrix."""

import jax
import jax.numpy as jnp
from jax import Array

_TINY = 1e-30
_RIDGE = 1e-5  # beside the ones on the diagonal of cosines: what float32 tells from singular


def present(gram: Array) -> Array:
    """Which tasks (K,) have a gradient: those without a valid pixel in a batch have none."""
    squares = jnp.diagonal(gram)
    return squares > 1e-12 * squares.max()


def cosines(gram: Array) -> tuple[Array, Array]:
    """Cosines (K, K) between gradients, ones on the diagonal, and their norms (K,).

    A gradient that is not `present` is at right angles to all others, its norm a millionth of the
    largest.
    """
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0))
    norms = jnp.maximum(norms, jnp.maximum(1e-6 * norms.max(), _TINY**0.5))
    inside = jnp.clip(gram / norms / norms[:, None], -1, 1)
    return jnp.where(jnp.eye(len(gram), dtype=bool), 1, inside), norms


def minimum_on_simplex(gram: Array, linear: Array, scale: Array, steps: int = 100) -> Array:
    """The w (K,), at least 0 and summing to 1, with the least linear.w + scale sqrt(w.gram.w).

    Tasks whose gradient is not `present` get 0.

    Every step moves weight between the pair that gains most by it, to the exact minimum on that
    line. With q(t) = w.gram.w + 2 b t + a t^2 the square under the root, d its least value and
    r = -(linear's derivative) / scale, u = q'(t) / 2 solves u / sqrt(u^2 / a + d) = r there.

    Args:
        gram: (K, K), positive semidefinite.
        linear: (K,).
        scale: positive.
        steps: of the solver.
    """
    count = len(gram)
    unit = jnp.maximum(jnp.diagonal(gram).max(), _TINY)
    gram, linear, scale = gram / unit, linear / unit, scale / jnp.sqrt(unit)
    usable = present(gram)

    def step(_: Array, w: Array) -> Array:
        gradient = gram @ w
        square = jnp.maximum(w @ gradient, _TINY)
        gains = linear + scale * gradient / jnp.sqrt(square)
        best = jnp.argmin(jnp.where(usable, gains, jnp.inf))
        worst = jnp.argmax(jnp.where(w > 0, gains, -jnp.inf))
        line = jax.nn.one_hot(best, count, dtype=w.dtype) - jax.nn.one_hot(
            worst, count, dtype=w.dtype
        )
        a = jnp.maximum(line @ gram @ line, 1e-12)
        b, r = line @ gradient, -(line @ linear) / scale
        d, room = jnp.maximum(square - b**2 / a, 0), 1 - r**2 / a
        u = jnp.sign(r) * jnp.sqrt(r**2 * d / jnp.maximum(room, 1e-12))
        far = jnp.where(room > 0, (u - b) / a, jnp.where(r > 0, jnp.inf, 0))
        return jnp.maximum(w + jnp.clip(far, 0, w[worst]) * line, 0)

    start = usable / jnp.maximum(usable.sum(), 1).astype(gram.dtype)
    w = jax.lax.fori_loop(0, steps, step, start)
    return w / jnp.maximum(w.sum(), _TINY)


def fair(gram: Array, power: float, steps: int = 25) -> Array:
    """The positive w (K,) with gram w = w^-power: Nash bargaining at 1, alpha-fairness at 1/alpha.

    They are where sum of x.R.x / 2 - c phi(x), phi' = x^-power, is least, which is convex; R are
    the cosines, x the weights of unit gradients and c their norms^(power - 1). Newton's steps, each
    as long as gains most of 1, 1/2, ... 1/2048.

    Args:
        gram: (K, K), positive semidefinite.
        power: positive.
        steps: of the solver.
    """
    matrix, norms = cosines(gram)
    matrix = matrix + _RIDGE * jnp.eye(len(gram), dtype=gram.dtype)
    unit = jnp.exp(jnp.log(norms).mean())
    c = (norms / unit) ** (power - 1)
    lengths = 0.5 ** jnp.arange(12, dtype=gram.dtype)

    def value(x: Array) -> Array:
        phi = jnp.log(x) if power == 1 else x ** (1 - power) / (1 - power)
        return jnp.where((x > 0).all(), x @ matrix @ x / 2 - (c * phi).sum(), jnp.inf)

    def step(_: Array, x: Array) -> Array:
        gradient = matrix @ x - c * x**-power
        curvature = matrix + jnp.diag(power * c * x ** (-power - 1))
        candidates = x - lengths[:, None] * jnp.linalg.solve(curvature, gradient)
        values = jax.vmap(value)(candidates)
        best = jnp.nanargmin(values)
        return jnp.where(values[best] <= value(x), candidates[best], x)

    x = jax.lax.fori_loop(0, steps, step, c ** (1 / (1 + power)))
    return x / norms * unit ** ((power - 1) / (power + 1))


def equal_projections(gram: Array) -> Array:
    """The w (K,), summing to 1, whose combined gradient has one projection on all tasks'."""
    matrix, norms = cosines(gram)
    ones = jnp.ones(len(gram), gram.dtype)
    w = jnp.linalg.solve(matrix + _RIDGE * jnp.diag(ones), ones) / norms
    w = jnp.where(present(gram), w, 0)
    return w / jnp.where(w.sum() == 0, 1, w.sum())


def aligned(gram: Array) -> Array:
    """B (K, K), for which the gradients times B are orthogonal and of the least singular value.

    B = sqrt(l_min) V l^-1/2 V^T of the Gram matrix's eigenvalues l and eigenvectors V; directions
    in which float32 sees nothing are left out.
    """
    values, vectors = jnp.linalg.eigh(gram)
    seen = values > jnp.maximum(1e-6 * values.max(), _TINY)
    least = jnp.where(seen, values, jnp.inf).min()
    factors = jnp.where(seen, jnp.sqrt(jnp.where(seen, least / jnp.where(seen, values, 1), 0)), 0)
    return vectors * factors @ vectors.T
