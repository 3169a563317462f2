"""Methods that reconcile the tasks' gradients of shared parameters: a backward pass per task.

Where only dot products are needed, a method is a function of the Gram matrix G^T G (K, K) of the
gradients g to the weights w (K,) of the direction G w. A task without a valid pixel in a batch has
no gradient, and is left out. Parameters of one task alone follow their task's term of the total.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from emanet_jax.balancing import solvers
from emanet_jax.balancing.method import (
    Amount,
    Balancing,
    Combined,
    Positive,
    Share,
    Slopes,
    gram_matrix,
    logarithm,
    summed,
    weighted,
)

_TINY = 1e-30


def _by_gram(weights: Callable[[Array, Any, Array], tuple[Array, Any]], **fields: Any) -> Balancing:
    """The method whose weights are a function (Gram matrix, memory, key) to them and the memory."""

    def combine(slopes: Slopes, gram: Array, _: Array, memory: Any, key: Array) -> Combined:
        w, memory = weights(gram, memory, key)
        w = jnp.where(solvers.present(gram), w, 0)
        return Combined(weighted(w, slopes), w, memory)

    return Balancing(summed, combine=combine, **fields)


def _in_random_order(key: Array, count: int, meet: Callable[[Array, Array, Array], Array]) -> Array:
    """Sum (K,) over tasks i of what its one-hot vector becomes; `meet` takes (it, i, j), all j."""

    def changed(task: Array, key: Array) -> Array:
        start = jax.nn.one_hot(task, count)
        order = jax.random.permutation(key, count)
        return jax.lax.scan(lambda c, j: (meet(c, task, j), None), start, order)[0]

    return jax.vmap(changed)(jnp.arange(count), jax.random.split(key, count)).sum(axis=0)


def pcgrad(count: int, steps_per_epoch: int) -> Balancing:
    """Gradient surgery (Yu et al., arXiv 2001.06782): conflicting parts are projected out.

    The sum over i of g_i, from which for every j in random order, where they conflict,
    (g_i . g_j) / |g_j|^2 g_j is taken.
    """
    del steps_per_epoch

    def weights(gram: Array, memory: dict, key: Array) -> tuple[Array, dict]:
        def meet(c: Array, i: Array, j: Array) -> Array:
            dot = c @ gram[:, j]
            part = dot / jnp.maximum(gram[j, j], _TINY)
            return c.at[j].add(jnp.where((dot < 0) & (i != j), -part, 0).astype(c.dtype))

        return _in_random_order(key, count, meet), memory

    return _by_gram(weights)


def gradvac(count: int, steps_per_epoch: int, *, rate: Share = 0.01) -> Balancing:
    """Gradient vaccine (Wang et al., arXiv 2010.05874): cosines are raised to their usual values.

    As `pcgrad`, but wherever the cosine p of g_i and g_j is below its target t, g_i gets
    |g_i| (t sqrt(1-p^2) - p sqrt(1-t^2)) / (|g_j| sqrt(1-t^2)) g_j, which makes it t. Targets start
    at 0 and follow the gradients' own cosines: t += rate (cosine - t). Of the whole network.
    """
    del steps_per_epoch

    def weights(gram: Array, targets: Array, key: Array) -> tuple[Array, Array]:
        usual, norms = solvers.cosines(gram)

        def meet(c: Array, i: Array, j: Array) -> Array:
            norm = jnp.sqrt(jnp.maximum(c @ gram @ c, _TINY))
            p, t = jnp.clip(c @ gram[:, j] / (norm * norms[j]), -1, 1), targets[i, j]
            sine, least = jnp.sqrt(1 - p**2), jnp.sqrt(jnp.maximum(1 - t**2, 1e-6))
            part = norm * (t * sine - p * least) / (norms[j] * least)
            return c.at[j].add(jnp.where((p < t) & (i != j), part, 0).astype(c.dtype))

        here = solvers.present(gram)
        moved = jnp.where(here & here[:, None], rate * (usual - targets), 0)
        return _in_random_order(key, count, meet), targets + moved

    return _by_gram(weights, memory=lambda _: jnp.zeros((count, count)))


def mgda(count: int, steps_per_epoch: int) -> Balancing:
    """Multiple-gradient descent (Sener and Koltun, arXiv 1810.04650): the least |G w|.

    w at least 0 and summing to 1. No task's loss grows along it, to first order.
    """
    del steps_per_epoch

    def weights(gram: Array, memory: dict, _: Array) -> tuple[Array, dict]:
        return solvers.minimum_on_simplex(gram, jnp.zeros(count), jnp.ones(())), memory

    return _by_gram(weights)


def cagrad(count: int, steps_per_epoch: int, *, radius: Share = 0.5) -> Balancing:
    """Conflict-averse descent (Liu et al., arXiv 2110.14048): the worst task's gain, near the mean.

    The d with the largest min_i g_i . d in |d - g_0| <= radius |g_0|, g_0 the mean gradient: with
    the w of the simplex that has the least g_w . g_0 + radius |g_0| |g_w|, g_w = G w,
    d = g_0 + radius |g_0| / |g_w| g_w.
    """
    del count, steps_per_epoch

    def weights(gram: Array, memory: dict, _: Array) -> tuple[Array, dict]:
        here = solvers.present(gram)
        mean = here / jnp.maximum(here.sum(), 1).astype(gram.dtype)
        reach = radius * jnp.sqrt(jnp.maximum(mean @ gram @ mean, _TINY))
        w = solvers.minimum_on_simplex(gram, gram @ mean, reach)
        square = w @ gram @ w
        seen = square > 1e-12 * jnp.trace(gram)  # else Pareto-stationary: the mean alone
        return mean + jnp.where(seen, reach / jnp.sqrt(jnp.where(seen, square, 1)), 0) * w, memory

    return _by_gram(weights)


def imtl_g(count: int, steps_per_epoch: int) -> Balancing:
    """Impartial learning, its part on gradients (Liu et al., ICLR 2021): equal projections.

    The w that sum to 1 and for which G w has the same projection on every g_i; they may be
    negative. Scaling a loss changes only the length of the direction.
    """
    del count, steps_per_epoch
    return _by_gram(lambda gram, memory, _: (solvers.equal_projections(gram), memory))


def nash_mtl(count: int, steps_per_epoch: int) -> Balancing:
    """Nash bargaining (Navon et al., arXiv 2202.01017): G^T G w = 1 / w.

    The direction's length is sqrt(K). Scaling a loss changes nothing.
    """
    del count, steps_per_epoch
    return _by_gram(lambda gram, memory, _: (solvers.fair(gram, 1.0), memory))


def fairgrad(count: int, steps_per_epoch: int, *, alpha: Positive = 2.0) -> Balancing:
    """Alpha-fair gains (Ban and Ji, arXiv 2402.15638): G^T G w = w^(-1 / alpha).

    `nash_mtl` at alpha 1; the larger it is, the more the worst-off task counts.
    """
    del count, steps_per_epoch
    return _by_gram(lambda gram, memory, _: (solvers.fair(gram, 1 / alpha), memory))


def aligned_mtl(count: int, steps_per_epoch: int) -> Balancing:
    """Aligned gradients (Senushkin et al., arXiv 2305.19000): G B 1, whose condition number is 1.

    B = sqrt(l_min) V l^-1/2 V^T, with l and V of G^T G = V l V^T, makes the columns of G B
    orthogonal and as long as G's least singular value.
    """
    del count, steps_per_epoch
    return _by_gram(lambda gram, memory, _: (solvers.aligned(gram).sum(axis=1), memory))


class Rates(NamedTuple):
    """What GradNorm remembers of the tasks, (K,) each."""

    weights: Array
    first: Array  # losses at the first step that had a valid pixel; 0 before


def gradnorm(
    count: int, steps_per_epoch: int, *, alpha: Amount = 1.5, rate: Positive = 0.025
) -> Balancing:
    """GradNorm (Chen et al., arXiv 1711.02257): gradients as long as the tasks are late.

    The total is sum w L. Every step, w takes one of gradient descent with `rate` on the sum of
    | |w_i g_i| - m r_i^alpha | / m, the target being held; m is the mean norm, r_i the ratio of the
    loss to its first value, over the mean ratio. Then w is scaled to sum to K. Norms are those of
    all shared parameters.
    """
    del steps_per_epoch

    def combine(slopes: Slopes, gram: Array, losses: Array, rates: Rates, _: Array) -> Combined:
        norms = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0))
        here = jnp.maximum(solvers.present(gram).sum(), 1)
        mean = jnp.maximum(norms.sum() / here, _TINY)
        first = jnp.where(rates.first > 0, rates.first, losses)
        ratios = losses / jnp.where(first > 0, first, 1)
        lateness = ratios / jnp.maximum(ratios.sum() / here, _TINY)
        slope = jnp.sign(norms - mean * lateness**alpha) * norms / rates.weights / mean
        weights = jnp.maximum(rates.weights - rate * slope, 1e-3)  # none may become negative
        ones = jnp.ones(count, gram.dtype)
        memory = Rates(count * weights / weights.sum(), first)
        return Combined(weighted(ones, slopes), ones, memory)

    return Balancing(
        total=lambda losses, _, rates, __: jnp.sum(rates.weights * losses),
        memory=lambda _: Rates(jnp.ones(count), jnp.zeros(count)),
        combine=combine,
    )


def graddrop(count: int, steps_per_epoch: int, *, leak: Share = 0.0) -> Balancing:
    """Gradient sign dropout (Chen et al., arXiv 2010.06808): every number takes one sign.

    P = (1 + sum g / sum |g|) / 2, number by number. With probability P the positive parts of the
    tasks' gradients stay, else the negative ones; the others are left out but for `leak`. Of the
    gradients of parameters, where the paper drops those of a layer's activations. A task's weight
    is the share of its squared gradient that stays.
    """
    del steps_per_epoch

    def combine(slopes: Slopes, gram: Array, _: Array, memory: dict, key: Array) -> Combined:
        leaves, tree = jax.tree.flatten(slopes)
        stay = []
        for leaf, number in zip(leaves, jax.random.split(key, len(leaves)), strict=True):
            size = jnp.maximum(jnp.abs(leaf).sum(axis=0), _TINY)
            purity = (1 + leaf.sum(axis=0) / size) / 2
            positive = purity > jax.random.uniform(number, purity.shape, purity.dtype)
            stay.append(jnp.where(jnp.where(positive, leaf > 0, leaf < 0), leaf, leak * leaf))
        products = (a * b for a, b in zip(stay, leaves, strict=True))
        squares = sum(x.reshape(count, -1).sum(axis=1) for x in products)
        weights = squares / jnp.maximum(jnp.diagonal(gram), _TINY)
        direction = jax.tree.unflatten(tree, [leaf.sum(axis=0) for leaf in stay])
        return Combined(direction, weights, memory)

    return Balancing(summed, combine=combine)


def db_mtl(count: int, steps_per_epoch: int, *, decay: Share = 0.9) -> Balancing:
    """Dual balancing (Lin et al., arXiv 2308.12029): logarithms of losses, gradients of one length.

    The total is sum log L; its terms' gradients are averaged over time,
    h = decay h + (1 - decay) g, and the direction is max |h| times the sum of h / |h|. Scaling a
    loss changes nothing. Remembers K gradients of the network's size.
    """
    del steps_per_epoch

    def combine(slopes: Slopes, _: Array, __: Array, memory: Any, ___: Array) -> Combined:
        memory = jax.tree.map(
            lambda h, g: h if g is None else decay * h + (1 - decay) * g, memory, slopes
        )
        norms = jnp.sqrt(jnp.diagonal(gram_matrix(memory)))
        weights = norms.max() / jnp.where(norms > 0, norms, 1)
        shared = jax.tree.map(lambda h, g: None if g is None else h, memory, slopes)
        return Combined(weighted(weights, shared), weights, memory)

    return Balancing(
        total=lambda losses, *_: logarithm(losses).sum(),
        memory=lambda params: jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), params),
        combine=combine,
        affine=False,
    )
