"""The small problems of gradient-level methods, for the (K, K) Gram matrix of the gradients.

The Gram matrix is N R N, with the gradients' norms N and cosines R, and the solvers work on R, so
that neither the scale of all gradients nor their different lengths cost digits. Rounding leaves the
least eigenvalues of R unknown: those below `_floor`, 2e-6 in float32, are raised to it. A solution
is thus that of a Gram matrix which differs by at most 2e-6 |g_i| |g_j| from the one that is given,
and what it says of the projections gram w is true to 2e-6 |g_i| sum_j |w_j g_j|; in float64, to
4e-15 of these.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular

from emanet_jax.balancing.base import divisor


def present(gram: Array) -> Array:
    """Which tasks (K,) have a gradient: those without a valid pixel in a batch have none.

    All have where one is not finite, or its square overflows, so that the step is not either.
    """
    squares = jnp.diagonal(gram)
    return (squares > 1e-12 * squares.max()) | ~jnp.isfinite(squares.max())


def cosines(gram: Array) -> tuple[Array, Array]:
    """Cosines (K, K) between gradients, ones on the diagonal, and their norms (K,).

    A gradient that is not `present` is at right angles to all others, its norm a millionth of the
    largest; norms are 1 where all gradients are 0.
    """
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0))
    norms = divisor(jnp.maximum(norms, 1e-6 * norms.max()))
    here = present(gram)
    inside = jnp.clip(gram / norms / norms[:, None], -1, 1)
    inside = jnp.where(here & here[:, None], inside, 0)
    return jnp.where(jnp.eye(len(gram), dtype=bool), 1, inside), norms


def _floor(dtype: jnp.dtype) -> float:
    return 16 * float(jnp.finfo(dtype).eps)


def _definite(gram: Array) -> tuple[Array, Array]:
    """As `cosines`, with all eigenvalues at least `_floor`."""
    matrix, norms = cosines(gram)
    values, vectors = jnp.linalg.eigh(matrix)
    raised = jnp.maximum(_floor(matrix.dtype) - values, 0)
    return matrix + vectors * raised @ vectors.T, norms


def best_for_worst(gram: Array, start: Array, reach: Array) -> Array:
    """The w (K,), at least 0, that adds most to the worst task's gain within a distance.

    Of the directions d = G (start + w) at most `reach` from G start, it has the largest
    min_i g_i . d. The dual problem asks for the point of the simplex, w over its sum, with the
    least w . gram . start + reach sqrt(w . gram . w). Inside a face the solution is known: in
    orthonormal coordinates of the face's gradients, let u be the unit vector along which all their
    gains grow alike, and a the part of G start at right angles to u; there G w is
    sqrt(reach^2 - |a|^2) u - a. The best of the 2^K - 1 faces has the solution.

    Tasks whose gradient is not `present` get 0. Time and memory grow as 2^K: 8 tasks take 255
    systems of 8 equations.

    Args:
        gram: (K, K), positive semidefinite.
        start: (K,).
        reach: at least 0.
    """
    count = len(gram)
    matrix, norms = _definite(gram)
    faces = np.array(list(itertools.product([False, True], repeat=count))[1:])
    inside = faces[:, :, None] & faces[:, None, :]
    roots = jnp.linalg.cholesky(jnp.where(inside, matrix, jnp.eye(count, dtype=matrix.dtype)))
    level, gains = norms.min() / norms, matrix @ (norms * start)
    both = jnp.where(faces[:, :, None], jnp.stack([level, gains], axis=-1), 0)
    both = solve_triangular(roots, both, lower=True)
    up = both[..., 0] / jnp.linalg.norm(both[..., 0], axis=-1, keepdims=True)
    across = both[..., 1] - (both[..., 1] * up).sum(axis=-1, keepdims=True) * up
    height = jnp.sqrt(jnp.maximum(reach**2 - (across**2).sum(axis=-1, keepdims=True), 0))
    w = solve_triangular(roots, (height * up - across)[..., None], lower=True, trans=1)[..., 0]
    # Whatever a face gives, what is not negative of it is compared with the others'.
    w = jnp.maximum(w, 0)
    lengths = jnp.sqrt(((w @ matrix) * w).sum(axis=-1))
    dual = (w @ gains + reach * lengths) / (w @ level)
    allowed = (lengths > 0) & ~(faces & ~present(gram)).any(axis=-1)
    best = jnp.argmin(jnp.where(allowed, dual, jnp.inf))
    return reach * w[best] / divisor(lengths[best]) / norms


def fair(gram: Array, power: float, steps: int = 300) -> Array:
    """The positive w (K,) with gram w = w^-power: Nash bargaining at 1, alpha-fairness at 1/alpha.

    For the weights x of unit gradients it is R x = D x with D = (x / scale)^(-power - 1), where a
    convex function is least. Newton's steps are cut to what provably does not go past the least
    value along them: as x falls by the share m, D grows by (1 - m)^(-power - 1). They end where
    both sides are equal to their rounding. No x is below eps^2 of the largest, where adding its
    gradient changes no digit.

    Args:
        gram: (K, K), positive semidefinite.
        power: positive.
        steps: of the solver, at most; 10 to 40 are usual.
    """
    matrix, norms = _definite(gram)
    unit = jnp.exp(jnp.log(norms).mean())
    scale = (norms / unit) ** ((power - 1) / (power + 1))
    eps = float(jnp.finfo(matrix.dtype).eps)
    rounding, least = (len(gram) + power) * eps, eps**2

    def terms(x: Array) -> tuple[Array, Array, Array]:
        d = (x / scale) ** (-power - 1)
        return d, d * x - matrix @ x, x > least * x.max()

    def unfinished(state: tuple[Array, Array]) -> Array:
        step, x = state
        d, error, free = terms(x)
        size = d * x + jnp.abs(matrix) @ x
        solved = jnp.abs(error) <= rounding * size  # NaN is not, and shows after a step
        return (step < steps) & (free & ~solved).any()

    def newton(state: tuple[Array, Array]) -> tuple[Array, Array]:
        step, x = state
        d, error, free = terms(x)
        change = jnp.linalg.solve(matrix + power * jnp.diag(d), error) / x
        fall = jnp.max(-change, where=free, initial=1e-6)
        length = jnp.minimum(-jnp.expm1(-jnp.log1p(power * fall) / power), 0.9) / fall
        x = x * (1 + length * change)
        return step + 1, jnp.maximum(x, least * x.max())

    _, x = jax.lax.while_loop(unfinished, newton, (jnp.zeros((), jnp.int32), scale))
    return x / norms * unit ** ((power - 1) / (power + 1))


def equal_projections(gram: Array) -> Array:
    """The w (K,), summing to 1, whose combined gradient has one projection on all tasks'."""
    matrix, norms = _definite(gram)
    w = jnp.linalg.solve(matrix, jnp.ones(len(gram), gram.dtype)) / norms
    w = jnp.where(present(gram), w, 0)
    return w / divisor(w.sum())


def aligned(gram: Array) -> Array:
    """B (K, K), for which the gradients times B are orthogonal and of the least singular value.

    B = sqrt(l_min) V l^-1/2 V^T of the Gram matrix's eigenvalues l and eigenvectors V; directions
    in which rounding leaves nothing to see, v . gram . v < 2 _floor |N v|^2, are left out.
    """
    matrix, norms = _definite(gram)
    norms = jnp.where(present(gram), norms / norms.max(), 0)
    values, vectors = _graded_eigh(matrix * norms * norms[:, None])
    noise = _floor(matrix.dtype) * ((norms[:, None] * vectors) ** 2).sum(axis=0)
    seen = values > 2 * noise
    least = jnp.where(seen, values, jnp.inf).min()
    factors = jnp.where(seen, jnp.sqrt(least / jnp.where(seen, values, 1)), 0)
    return vectors * factors @ vectors.T


def _graded_eigh(matrix: Array, sweeps: int = 6) -> tuple[Array, Array]:
    """Eigenvalues (K,) and eigenvectors (K, K) of a positive definite matrix, by Jacobi rotations.

    Unlike with `jnp.linalg.eigh`, small eigenvalues keep their digits where they are small because
    rows are (Demmel and Veselic, SIAM J. Matrix Anal. Appl. 13, 1992).
    """
    count = len(matrix)
    pairs = jnp.array([*itertools.combinations(range(count), 2)] * sweeps, int).reshape(-1, 2)

    def rotate(state: tuple[Array, Array], pair: Array) -> tuple[tuple[Array, Array], None]:
        matrix, vectors = state
        i, j = pair
        off = matrix[i, j]
        ratio = (matrix[j, j] - matrix[i, i]) / divisor(2 * off)
        tangent = jnp.where(ratio < 0, -1, 1) / (jnp.abs(ratio) + jnp.sqrt(1 + ratio**2))
        cosine = 1 / jnp.sqrt(1 + tangent**2)
        cosine, sine = jnp.where(off == 0, 1, cosine), jnp.where(off == 0, 0, tangent * cosine)
        turn = jnp.eye(count, dtype=matrix.dtype).at[i, i].set(cosine).at[j, j].set(cosine)
        turn = turn.at[i, j].set(sine).at[j, i].set(-sine)
        return (turn.T @ matrix @ turn, vectors @ turn), None

    start = (matrix, jnp.eye(count, dtype=matrix.dtype))
    (matrix, vectors), _ = jax.lax.scan(rotate, start, pairs)
    return jnp.diagonal(matrix), vectors
