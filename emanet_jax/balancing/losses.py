"""Methods that weigh the tasks' losses: one backward pass, whatever the number of tasks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from emanet_jax.balancing.method import Amount, Balancing, Positive, logarithm, summed


def equal(count: int, steps_per_epoch: int) -> Balancing:
    """Equal weights: the sum of the losses as they are, the config's task weights left out."""
    del count, steps_per_epoch
    return Balancing(summed, task_weights=False)


def fixed(count: int, steps_per_epoch: int) -> Balancing:
    """The sum of the losses, each times its weight in the config."""
    del count, steps_per_epoch
    return Balancing(summed)


def uncertainty(count: int, steps_per_epoch: int) -> Balancing:
    """Homoscedastic uncertainty (Kendall et al., arXiv 1705.07115): sum of L exp(-s)/2 + s/2.

    The log-variances s start at -0.5 and are trained with the network.
    """
    del steps_per_epoch
    return Balancing(
        total=lambda losses, s, *_: jnp.sum(losses * jnp.exp(-s) / 2 + s / 2),
        trained=jnp.full(count, -0.5),
    )


def imtl_l(count: int, steps_per_epoch: int) -> Balancing:
    """Impartial learning, its part on losses (Liu et al., ICLR 2021): sum of L exp(s) - s.

    The s start at 0 and are trained with the network; at the optimum every L exp(s) is 1, so that
    scaling a loss changes nothing in the end.
    """
    del steps_per_epoch
    return Balancing(
        total=lambda losses, s, *_: jnp.sum(losses * jnp.exp(s) - s), trained=jnp.zeros(count)
    )


class Means(NamedTuple):
    """What DWA remembers of the tasks' losses, (K,) each but the counts."""

    running: Array  # sum of the losses of the epoch that goes on
    steps: Array  # () of that epoch so far
    epochs: Array  # () before it
    last: Array  # mean loss of the last epoch
    previous: Array  # mean loss of the epoch before it


def dwa(count: int, steps_per_epoch: int, *, temperature: Positive = 2.0) -> Balancing:
    """Dynamic weight average (Liu et al., arXiv 1803.10704): slowly falling losses weigh more.

    K softmax(r / T) with r the ratio of a task's mean losses over the last two epochs; ones until
    there are two. Scaling a loss changes no weight.
    """

    def total(losses: Array, _: dict, means: Means, __: Array) -> Array:
        ratio = means.last / jnp.where(means.previous > 0, means.previous, 1)
        weights = count * jax.nn.softmax(ratio / temperature)
        return jnp.sum(jnp.where(means.epochs < 2, 1, weights) * losses)

    def remember(losses: Array, means: Means) -> Means:
        running, steps = means.running + losses, means.steps + 1
        going_on = means._replace(running=running, steps=steps)
        over = Means(0 * running, 0 * steps, means.epochs + 1, running / steps, means.last)
        return jax.tree.map(lambda a, b: jnp.where(steps == steps_per_epoch, a, b), over, going_on)

    def memory(_: object) -> Means:
        losses, counts = jnp.zeros((3, count)), jnp.zeros(2, jnp.int32)
        return Means(losses[0], counts[0], counts[1], losses[1], losses[2])

    return Balancing(total, memory=memory, remember=remember)


def rlw(count: int, steps_per_epoch: int) -> Balancing:
    """Random loss weighting (Lin et al., arXiv 2111.10603): softmax of normal draws, every step."""
    del steps_per_epoch

    def total(losses: Array, _: dict, __: dict, key: Array) -> Array:
        return jnp.sum(jax.nn.softmax(jax.random.normal(key, (count,))) * losses)

    return Balancing(total)


def gls(count: int, steps_per_epoch: int) -> Balancing:
    """Geometric loss strategy (Chennupati et al., arXiv 1904.08492): (product of L)^(1/K).

    Scaling a loss scales the total: the direction stays. Tasks without a valid pixel do not count.
    """
    del count, steps_per_epoch

    def total(losses: Array, *_: object) -> Array:
        return jnp.exp(logarithm(losses).sum() / jnp.maximum((losses > 0).sum(), 1))

    return Balancing(total, affine=False)


class WarmUp(NamedTuple):
    """What the smooth Tchebycheff remembers of its first steps."""

    sums: Array  # (K,) of the losses
    steps: Array  # ()


def stch(
    count: int, steps_per_epoch: int, *, mu: Positive = 1.0, warmup_epochs: Amount = 1.0
) -> Balancing:
    """Smooth Tchebycheff (Lin et al., arXiv 2402.19078): K mu log sum exp(f / mu), a soft maximum.

    f = log(L / n), with n a task's mean loss over the first `warmup_epochs`, in which the total is
    the sum of log L: logarithms and n make up for the losses' scales, so that scaling a loss
    changes no direction. The smaller mu is, the more the worst task alone counts.
    """
    warmup_steps = max(1, round(warmup_epochs * steps_per_epoch))

    def total(losses: Array, _: dict, memory: WarmUp, __: Array) -> Array:
        start = memory.sums / jnp.maximum(memory.steps, 1)
        above = logarithm(losses) - logarithm(start)
        terms = jnp.where(losses > 0, above / mu, -1e4)  # tasks without a valid pixel do not count
        worst = count * mu * jax.nn.logsumexp(terms)
        return jnp.where(memory.steps < warmup_steps, logarithm(losses).sum(), worst)

    def remember(losses: Array, memory: WarmUp) -> WarmUp:
        going_on = memory.steps < warmup_steps
        return WarmUp(memory.sums + jnp.where(going_on, losses, 0), memory.steps + going_on)

    start = WarmUp(jnp.zeros(count), jnp.zeros((), jnp.int32))
    return Balancing(total, memory=lambda _: start, remember=remember, affine=False)


def famo(
    count: int, steps_per_epoch: int, *, rate: Positive = 0.025, decay: Amount = 0.001
) -> Balancing:
    """Fast adaptive optimisation (Liu et al., arXiv 2306.03792): losses that fall at one rate.

    The total is c sum z log L with z = softmax(xi), xi from 0, and c = 1 / sum(z / L), so that the
    weights c z / L sum to 1. After the step, with the losses L' of the same batch:
    xi -= rate (J (log L - log L') + decay xi), J = diag(z) - z z^T. Scaling a loss changes no z.
    L' costs a forward pass: the next batch's losses would do without it, but what they differ by
    comes from its images more than from the step.
    """
    del steps_per_epoch

    def total(losses: Array, _: dict, xi: Array, __: Array) -> Array:
        z = jax.nn.softmax(xi)
        sum_of_slopes = jnp.sum(jnp.where(losses > 0, z / jnp.where(losses > 0, losses, 1), 0))
        scale = jnp.where(sum_of_slopes > 0, 1 / jnp.where(sum_of_slopes > 0, sum_of_slopes, 1), 0)
        return jax.lax.stop_gradient(scale) * jnp.sum(z * logarithm(losses))

    def look_back(before: Array, after: Array, xi: Array) -> Array:
        z = jax.nn.softmax(xi)
        gain = logarithm(before) - logarithm(after)
        return xi - rate * (z * gain - z * (z @ gain) + decay * xi)

    return Balancing(total, memory=lambda _: jnp.zeros(count), look_back=look_back, affine=False)
