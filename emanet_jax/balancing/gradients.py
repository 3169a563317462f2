"""Methods that reconcile the tasks' gradients of shared parameters: a backward pass per task.

Where only dot products are needed, a method is a function of the Gram matrix G^T G (K, K) of the
gradients g to the weights w (K,) of the direction G w. A task without a valid pixel in a batch has
no gradient, and is left out.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from emanet_jax.balancing import solvers
from emanet_jax.balancing.base import (
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Combined,
    GradientBalancing,
    Gram,
    Losses,
    TaskGrads,
    divisor,
    gram_matrix,
    logarithm,
    setting,
    weighted_sum,
)

Weights = Float[Array, " k"]


class GramBalancing(GradientBalancing):
    """A method that needs only the gradients' dot products."""

    @abc.abstractmethod
    def grad_weights(self, gram: Gram, state: Any, key: PRNGKeyArray) -> tuple[Weights, Any]:
        """The weights of the tasks' gradients, and the method's next state."""

    def combine(
        self, grads: TaskGrads, gram: Gram, losses: Losses, state: Any, key: PRNGKeyArray
    ) -> Combined:
        """The weighted sum of the gradients."""
        with jax.default_matmul_precision("highest"):  # GPUs and TPUs would round to 3 digits
            weights, state = self.grad_weights(gram, state, key)
        weights = jnp.where(solvers.present(gram), weights, 0)
        return Combined(weighted_sum(weights, grads), weights, state)


def _in_random_order(
    gram: Gram, key: PRNGKeyArray, meet: Callable[[Array, Array, Array, Array], Array]
) -> Weights:
    """The weights of the sum of all gradients, after each has met all others in random order.

    Args:
        gram: of the gradients.
        key: random.
        meet: gives the multiple of g_j / |g_j| that is added to x, which was g_i / |g_i| at first,
            where x meets g_j; from x . g_j / |g_j|, |x|, i and j.
    """
    cosines, norms = solvers.cosines(gram)
    count, here = len(gram), solvers.present(gram)

    def changed(i: Array, key: PRNGKeyArray) -> Array:
        def met(x: Array, j: Array) -> tuple[Array, None]:
            size = jnp.sqrt(jnp.maximum(x @ cosines @ x, 0))
            added = meet(x @ cosines[:, j], size, i, j)
            return x.at[j].add(jnp.where(here[i] & here[j] & (i != j), added, 0)), None

        start = jax.nn.one_hot(i, count, dtype=gram.dtype)
        return jax.lax.scan(met, start, jax.random.permutation(key, count))[0]

    units = jax.vmap(changed)(jnp.arange(count), jax.random.split(key, count))
    return norms @ units / norms


class PcGrad(GramBalancing):
    """Gradient surgery (Yu et al., arXiv 2001.06782): conflicting parts are projected out."""

    def grad_weights(self, gram: Gram, state: Any, key: PRNGKeyArray) -> tuple[Weights, Any]:
        """The sum of g_i, of which for all j in random order a part along g_j is taken away.

        Where they conflict, it is (g_i . g_j) / |g_j|^2 g_j.
        """

        def meet(dot: Array, size: Array, i: Array, j: Array) -> Array:
            return jnp.maximum(-dot, 0)

        return _in_random_order(gram, key, meet), state


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradVac(GramBalancing):
    """Gradient vaccine (Wang et al., arXiv 2010.05874): cosines are raised to their usual values.

    Cosines are those of the whole network's gradients. Targets start at 0 and follow them:
    t += rate (cosine - t).
    """

    rate: float = setting(0.01, SHARE)

    def init_state(self, params: Any) -> Float[Array, "k k"]:
        """The targets."""
        return jnp.zeros((self.count, self.count))

    def grad_weights(
        self, gram: Gram, state: Float[Array, "k k"], key: PRNGKeyArray
    ) -> tuple[Weights, Float[Array, "k k"]]:
        """As `PcGrad`, but where the cosine p of g_i and g_j is below its target t, it becomes t.

        Added to g_i is |g_i| (t sqrt(1-p^2) - p sqrt(1-t^2)) / (|g_j| sqrt(1-t^2)) g_j.
        """

        def meet(dot: Array, size: Array, i: Array, j: Array) -> Array:
            p, t = jnp.clip(dot / divisor(size), -1, 1), state[i, j]
            sine, least = jnp.sqrt(1 - p**2), jnp.sqrt(jnp.maximum(1 - t**2, 1e-6))
            return jnp.where(p < t, size * (t * sine / least - p), 0)

        here = solvers.present(gram)
        usual, _ = solvers.cosines(gram)
        moved = jnp.where(here & here[:, None], self.rate * (usual - state), 0)
        return _in_random_order(gram, key, meet), state + moved


class Mgda(GramBalancing):
    """Multiple-gradient descent (Sener and Koltun, arXiv 1810.04650).

    No task's loss grows along the direction, to first order.
    """

    def grad_weights(self, gram: Gram, state: Any, key: PRNGKeyArray) -> tuple[Weights, Any]:
        """The w with the least |G w|, at least 0 and summing to 1."""
        # The direction, of all that are as long, in which the worst task gains most.
        w = solvers.best_for_worst(
            gram, jnp.zeros(self.count, gram.dtype), jnp.ones((), gram.dtype)
        )
        return w / divisor(w.sum()), state


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaGrad(GramBalancing):
    """Conflict-averse descent (Liu et al., arXiv 2110.14048): the worst task's gain, near the mean.

    The d with the largest min_i g_i . d in |d - g_0| <= radius |g_0|, g_0 the mean gradient.
    """

    radius: float = setting(0.5, SHARE)

    def grad_weights(self, gram: Gram, state: Any, key: PRNGKeyArray) -> tuple[Weights, Any]:
        """The direction g_0 + radius |g_0| / |g_w| g_w, g_w = G w.

        Of all w of the simplex, this one has the least g_w . g_0 + radius |g_0| |g_w|.
        """
        here = solvers.present(gram)
        mean = here / jnp.maximum(here.sum(), 1).astype(gram.dtype)
        reach = self.radius * jnp.sqrt(jnp.maximum(mean @ gram @ mean, 0))
        return mean + solvers.best_for_worst(gram, mean, reach), state


class ImtlG(GramBalancing):
    """Impartial learning, its part on gradients (Liu et al., ICLR 2021): equal projections.

    Scaling a loss changes only the length of the direction.
    """

    def grad_weights(self, gram: Gram, state: Any, key: PRNGKeyArray) -> tuple[Weights, Any]:
        """The w that sum to 1 and give G w the same projection on all g_i; some may be negative."""
        return solvers.equal_projections(gram), state


class NashMtl(GramBalancing):
    """Nash bargaining (Navon et al., arXiv 2202.01017). Scaling a loss changes nothing."""

    def grad_weights(self, gram: Gram, state: Any, key: PRNGKeyArray) -> tuple[Weights, Any]:
        """The w with G^T G w = 1 / w, which makes the direction sqrt(K) long."""
        return solvers.fair(gram, 1.0), state


@dataclasses.dataclass(frozen=True, kw_only=True)
class FairGrad(GramBalancing):
    """Alpha-fair gains (Ban and Ji, arXiv 2402.15638).

    `NashMtl` at alpha 1; the larger it is, the more the worst-off task counts.
    """

    alpha: float = setting(2.0, POSITIVE)

    def grad_weights(self, gram: Gram, state: Any, key: PRNGKeyArray) -> tuple[Weights, Any]:
        """The w with G^T G w = w^(-1 / alpha)."""
        return solvers.fair(gram, 1 / self.alpha), state


class AlignedMtl(GramBalancing):
    """Aligned gradients (Senushkin et al., arXiv 2305.19000), whose condition number is 1."""

    def grad_weights(self, gram: Gram, state: Any, key: PRNGKeyArray) -> tuple[Weights, Any]:
        """B 1, with B = sqrt(l_min) V l^-1/2 V^T and G^T G = V l V^T.

        The columns of G B are orthogonal and as long as G's least singular value.
        """
        return solvers.aligned(gram).sum(axis=1), state


class Rates(NamedTuple):
    """The tasks' weights and first losses in GradNorm."""

    weights: Weights
    first: Losses  # at the first step that had a valid pixel; 0 before


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradNorm(GradientBalancing):
    """GradNorm (Chen et al., arXiv 1711.02257): gradients as long as the tasks are late.

    Norms are those of all shared parameters.
    """

    alpha: float = setting(1.5, NOT_NEGATIVE)
    rate: float = setting(0.025, POSITIVE)

    def init_state(self, params: Any) -> Rates:
        """Equal weights."""
        return Rates(jnp.ones(self.count), jnp.zeros(self.count))

    def total(self, losses: Losses, params: Any, state: Rates, key: PRNGKeyArray) -> Array:
        """Sum of w L."""
        return jnp.sum(state.weights * losses)

    def combine(
        self, grads: TaskGrads, gram: Gram, losses: Losses, state: Rates, key: PRNGKeyArray
    ) -> Combined:
        """The sum of the gradients of w L, and the next w.

        These take a step of gradient descent with `rate` on the sum of | |w_i g_i| - m r_i^alpha |
        / m, the target being held, and are scaled to sum to K; m is the mean norm, r_i the ratio of
        the loss to its first value, over the mean ratio.
        """
        norms = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0))
        here = jnp.maximum(solvers.present(gram).sum(), 1)
        mean = divisor(norms.sum() / here)
        first = jnp.where(state.first > 0, state.first, losses)
        ratios = losses / divisor(first)
        lateness = ratios / divisor(ratios.sum() / here)
        grad = jnp.sign(norms - mean * lateness**self.alpha) * norms / state.weights / mean
        weights = jnp.maximum(state.weights - self.rate * grad, 1e-3)  # none may become negative
        ones = jnp.ones(self.count, gram.dtype)
        state = Rates(self.count * weights / weights.sum(), first)
        return Combined(weighted_sum(ones, grads), ones, state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradDrop(GradientBalancing):
    """Gradient sign dropout (Chen et al., arXiv 2010.06808): every number takes one sign.

    Of the gradients of parameters, where the paper drops those of a layer's activations.
    """

    leak: float = setting(0.0, SHARE)

    def combine(
        self, grads: TaskGrads, gram: Gram, losses: Losses, state: Any, key: PRNGKeyArray
    ) -> Combined:
        """The positive parts with probability P = (1 + sum g / sum |g|) / 2, else the negative.

        This is drawn number by number. The other parts are left out but for `leak`. A task's weight
        is the share of its squared gradient that stays.
        """
        leaves, tree = jax.tree.flatten(grads)
        stay = []
        for leaf, number in zip(leaves, jax.random.split(key, len(leaves)), strict=True):
            purity = (1 + leaf.sum(axis=0) / divisor(jnp.abs(leaf).sum(axis=0))) / 2
            positive = purity > jax.random.uniform(number, purity.shape, purity.dtype)
            keep = jnp.where(positive, leaf > 0, leaf < 0)
            stay.append(jnp.where(keep, leaf, self.leak * leaf))
        products = (a * b for a, b in zip(stay, leaves, strict=True))
        squares = sum(x.reshape(self.count, -1).sum(axis=1) for x in products)
        weights = squares / divisor(jnp.diagonal(gram))
        direction = jax.tree.unflatten(tree, [leaf.sum(axis=0) for leaf in stay])
        return Combined(direction, weights, state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DbMtl(GradientBalancing):
    """Dual balancing (Lin et al., arXiv 2308.12029): logarithms of losses, gradients of one length.

    Scaling a loss changes nothing. The state holds K gradients of the network's size.
    """

    decay: float = setting(0.9, SHARE)

    affine = False

    def init_state(self, params: Any) -> TaskGrads:
        """The running means h of the tasks' gradients."""
        return jax.tree.map(lambda x: jnp.zeros((self.count, *x.shape), x.dtype), params)

    def total(self, losses: Losses, params: Any, state: Any, key: PRNGKeyArray) -> Array:
        """Sum of log L."""
        return logarithm(losses).sum()

    def combine(
        self, grads: TaskGrads, gram: Gram, losses: Losses, state: TaskGrads, key: PRNGKeyArray
    ) -> Combined:
        """Max |h| times the sum of h / |h|, h = decay h + (1 - decay) g."""
        decay = self.decay
        state = jax.tree.map(
            lambda h, g: h if g is None else decay * h + (1 - decay) * g, state, grads
        )
        norms = jnp.sqrt(jnp.diagonal(gram_matrix(state)))
        weights = norms.max() / divisor(norms)
        shared = jax.tree.map(lambda h, g: None if g is None else h, state, grads)
        return Combined(weighted_sum(weights, shared), weights, state)
