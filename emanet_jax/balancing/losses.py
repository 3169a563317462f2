"""Methods that weigh the tasks' losses: one backward pass, whatever the number of tasks."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from emanet_jax.balancing.base import (
    NOT_NEGATIVE,
    POSITIVE,
    Balancing,
    Losses,
    logarithm,
    setting,
)


class Fixed(Balancing):
    """The sum of the losses, each times its weight in the config."""


class Equal(Balancing):
    """Equal weights: the sum of the losses as they are."""

    @property
    def task_weights(self) -> Mapping[str, float]:
        """Ones, whatever the config has."""
        return dict.fromkeys(self.config_weights, 1.0)


class Uncertainty(Balancing):
    """Homoscedastic uncertainty (Kendall et al., arXiv 1705.07115): trained log-variances."""

    def init_params(self) -> Losses:
        """The log-variances s, which are trained with the network."""
        return jnp.full(self.count, -0.5)

    def total(self, losses: Losses, params: Losses, state: Any, key: PRNGKeyArray) -> Array:
        """Sum of L exp(-s)/2 + s/2."""
        return jnp.sum(losses * jnp.exp(-params) / 2 + params / 2)


class ImtlL(Balancing):
    """Impartial learning, its part on losses (Liu et al., ICLR 2021).

    At the optimum every L exp(s) is 1, so that scaling a loss changes nothing in the end.
    """

    def init_params(self) -> Losses:
        """The logarithms s of the scales, which are trained with the network."""
        return jnp.zeros(self.count)

    def total(self, losses: Losses, params: Losses, state: Any, key: PRNGKeyArray) -> Array:
        """Sum of L exp(s) - s."""
        return jnp.sum(losses * jnp.exp(params) - params)


class EpochMeans(NamedTuple):
    """The losses that DWA has seen."""

    running: Losses  # summed over the epoch that goes on
    steps: Int[Array, ""]  # of that epoch so far
    epochs: Int[Array, ""]  # before it
    last: Losses  # means of the last epoch
    previous: Losses  # means of the epoch before it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dwa(Balancing):
    """Dynamic weight average (Liu et al., arXiv 1803.10704): slowly falling losses weigh more.

    Scaling a loss changes no weight.
    """

    temperature: float = setting(2.0, POSITIVE)

    def init_state(self, params: Any) -> EpochMeans:
        """No epoch so far."""
        losses, counts = jnp.zeros((3, self.count)), jnp.zeros(2, jnp.int32)
        return EpochMeans(losses[0], counts[0], counts[1], losses[1], losses[2])

    def total(self, losses: Losses, params: Any, state: EpochMeans, key: PRNGKeyArray) -> Array:
        """Sum of w L, w = K softmax(r / temperature).

        r are the ratios of the mean losses of the last two epochs; until there are two, w are 1.
        """
        ratio = state.last / jnp.where(state.previous > 0, state.previous, 1)
        weights = self.count * jax.nn.softmax(ratio / self.temperature)
        return jnp.sum(jnp.where(state.epochs < 2, 1, weights) * losses)

    def update_state(self, losses: Losses, state: EpochMeans) -> EpochMeans:
        """Adds a step to the epoch's sums, or its means to the epochs'."""
        running, steps = state.running + losses, state.steps + 1
        going_on = state._replace(running=running, steps=steps)
        over = EpochMeans(0 * running, 0 * steps, state.epochs + 1, running / steps, state.last)
        last_step = steps == self.steps_per_epoch
        return jax.tree.map(lambda a, b: jnp.where(last_step, a, b), over, going_on)


class Rlw(Balancing):
    """Random loss weighting (Lin et al., arXiv 2111.10603): softmax of normal draws."""

    def total(self, losses: Losses, params: Any, state: Any, key: PRNGKeyArray) -> Array:
        """Sum of w L with random w, which sum to 1."""
        return jnp.sum(jax.nn.softmax(jax.random.normal(key, (self.count,))) * losses)


class Gls(Balancing):
    """Geometric loss strategy (Chennupati et al., arXiv 1904.08492).

    Scaling a loss scales the total: the direction stays. Tasks without a valid pixel do not count.
    """

    affine = False

    def total(self, losses: Losses, params: Any, state: Any, key: PRNGKeyArray) -> Array:
        """(Product of L)^(1/K)."""
        return jnp.exp(logarithm(losses).sum() / jnp.maximum((losses > 0).sum(), 1))


class WarmUp(NamedTuple):
    """The losses of the smooth Tchebycheff's first steps."""

    sums: Losses
    steps: Int[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stch(Balancing):
    """Smooth Tchebycheff (Lin et al., arXiv 2402.19078): a soft maximum of the losses.

    Logarithms and the losses of the first `warmup_epochs` make up for the losses' scales, so that
    scaling a loss changes no direction. The smaller mu is, the more the worst task alone counts.
    """

    mu: float = setting(1.0, POSITIVE)
    warmup_epochs: float = setting(1.0, NOT_NEGATIVE)

    affine = False

    @property
    def warmup_steps(self) -> int:
        """The number of steps in `warmup_epochs`, at least 1."""
        return max(1, round(self.warmup_epochs * self.steps_per_epoch))

    def init_state(self, params: Any) -> WarmUp:
        """No loss so far."""
        return WarmUp(jnp.zeros(self.count), jnp.zeros((), jnp.int32))

    def total(self, losses: Losses, params: Any, state: WarmUp, key: PRNGKeyArray) -> Array:
        """K mu log sum exp(f / mu), f = log(L / n), n the mean loss of the warm-up.

        During the warm-up it is the sum of log L.
        """
        start = state.sums / jnp.maximum(state.steps, 1)
        above = logarithm(losses) - logarithm(start)
        # Tasks without a valid pixel do not count.
        terms = jnp.where(losses > 0, above / self.mu, -1e30)
        worst = self.count * self.mu * jax.nn.logsumexp(terms)
        return jnp.where(state.steps < self.warmup_steps, logarithm(losses).sum(), worst)

    def update_state(self, losses: Losses, state: WarmUp) -> WarmUp:
        """Sums the losses up until the warm-up is over."""
        going_on = state.steps < self.warmup_steps
        return WarmUp(state.sums + jnp.where(going_on, losses, 0), state.steps + going_on)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Famo(Balancing):
    """Fast adaptive optimisation (Liu et al., arXiv 2306.03792): losses that fall at one rate.

    Scaling a loss changes no z.
    """

    rate: float = setting(0.025, POSITIVE)
    decay: float = setting(0.001, NOT_NEGATIVE)

    affine = False

    def init_state(self, params: Any) -> Float[Array, " k"]:
        """The logits xi of z."""
        return jnp.zeros(self.count)

    def total(
        self, losses: Losses, params: Any, state: Float[Array, " k"], key: PRNGKeyArray
    ) -> Array:
        """Sum of c z log L, c = 1 / sum(z / L), so that the weights c z / L sum to 1."""
        z = jax.nn.softmax(state)
        weights = jnp.sum(jnp.where(losses > 0, z / jnp.where(losses > 0, losses, 1), 0))
        scale = jnp.where(weights > 0, 1 / jnp.where(weights > 0, weights, 1), 0)
        return jax.lax.stop_gradient(scale) * jnp.sum(z * logarithm(losses))

    def post_step(
        self, losses: Losses, losses_after: Callable[[], Losses], state: Float[Array, " k"]
    ) -> Float[Array, " k"]:
        """Subtracts rate (J (log L - log L') + decay xi) from xi, J = diag(z) - z z^T.

        L' are the losses of the same batch after the step. The next batch's would spare a forward
        pass, but what they differ by comes from its images more than from the step.
        """
        z = jax.nn.softmax(state)
        gain = logarithm(losses) - logarithm(losses_after())
        return state - self.rate * (z * gain - z * (z @ gain) + self.decay * state)
