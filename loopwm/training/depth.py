"""Depth in training: how many loops the transitions of each sequence get."""

import dataclasses
import enum
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.models.ranges import check_not_negative


class DepthLaw(enum.StrEnum):
    """How the depth of a training sequence is chosen."""

    FIXED = "fixed"
    """The model's depth."""
    UNIFORM = "uniform"
    """Uniform over 1 … max_depth."""
    POISSON = "poisson"
    """Poisson with mean μ, clamped to 1 … max_depth."""
    LEARNED = "learned"
    """The same with a μ that is learned: what more loops save against what they cost."""
    CURRICULUM = "curriculum"
    """The same with a μ that moves from `start` to `mean` over `updates` updates."""


_SCALE_RATE = 0.05
"""Step of the running mean of squared gradients, an update."""


@dataclasses.dataclass(frozen=True)
class TrainingDepth:
    """Law of the training depth."""

    law: DepthLaw = DepthLaw.FIXED
    """fixed, uniform, poisson, learned or curriculum."""
    mean: float | None = None
    """μ before clamping: of law poisson, at the start of learned, at the end of curriculum. The
    model's depth when null."""
    max_depth: int | None = None
    """Largest depth drawn; when null, three times the largest of the model's depth, `mean` and
    `start`."""
    start: float = 1.0
    """μ at the start of a curriculum."""
    updates: int = 1_000
    """Updates over which a curriculum moves μ, linearly."""
    loop_cost: float = 1e-3
    """Price of a loop in units of the model's loss. Law learned alone."""
    rate: float = 1e-2
    """Step of log μ against its estimated gradient, whose typical size counts as 1. Law learned
    alone."""

    def __post_init__(self):
        """Refuses numbers outside their ranges, and a law that is none."""
        object.__setattr__(self, "law", member(DepthLaw, self.law, "learner.depth.law"))
        if (self.mean is not None and not 0.0 < self.mean < 1e6) or not 0.0 < self.start < 1e6:
            raise UsageError(
                f"learner.depth.mean is {self.mean} and start {self.start}; give positive numbers "
                "below 1,000,000."
            )
        if self.updates < 1 or (self.max_depth is not None and self.max_depth < 1):
            raise UsageError(
                f"learner.depth.max_depth is {self.max_depth} and updates {self.updates}; give at "
                "least 1."
            )
        check_not_negative("learner.depth.", self, "loop_cost")
        if not 0.0 < self.rate < 1.0:
            raise UsageError(f"learner.depth.rate is {self.rate}; give a value in (0, 1).")

    def mean_for(self, model_depth: int) -> float:
        """μ in loops, for a model of that depth."""
        return float(model_depth) if self.mean is None else self.mean

    def largest_for(self, model_depth: int) -> int:
        """Largest depth drawn, in loops, for a model of that depth."""
        if self.max_depth is not None:
            return self.max_depth
        largest_mean = max(self.mean_for(model_depth), self.start)
        return max(3 * model_depth, round(3.0 * largest_mean))

    def reached_for(self, model_depth: int) -> int:
        """Largest depth that training uses, in loops, for a model of that depth."""
        return model_depth if self.law is DepthLaw.FIXED else self.largest_for(model_depth)


class LearnedDepth(eqx.Module):
    """μ as it is learned."""

    log_mean: Float[Array, ""]
    """log μ, scalar."""
    square: Float[Array, ""]
    """Running mean of the squared estimates of its gradient, scalar; 0 before the first."""


def init_learned(config: TrainingDepth, model_depth: int) -> LearnedDepth | None:
    """μ before the first update; None for a law that learns none."""
    if config.law is not DepthLaw.LEARNED:
        return None
    log_mean = jnp.log(jnp.asarray(config.mean_for(model_depth), jnp.float32))
    return LearnedDepth(log_mean, jnp.zeros((), jnp.float32))


def mean_depth(
    config: TrainingDepth,
    model_depth: int,
    updates: Int[Array, ""],
    learned: LearnedDepth | None = None,
) -> Float[Array, ""]:
    """μ of a Poisson law before clamping, scalar.

    Args:
        config: the law.
        model_depth: depth of the model.
        updates: updates made so far, scalar.
        learned: μ where it is learned.

    Returns:
        μ at this update.
    """
    if learned is not None:
        return jnp.exp(learned.log_mean)
    end = config.mean_for(model_depth)
    if config.law is not DepthLaw.CURRICULUM:
        return jnp.asarray(end, jnp.float32)
    share = jnp.minimum(updates / config.updates, 1.0)
    return config.start + (end - config.start) * share


def draw_counts(
    key: PRNGKeyArray, config: TrainingDepth, model_depth: int, mean: Float[Array, ""], count: int
) -> Int[Array, " count"]:
    """Depths before clamping, one a sequence: uniform over 1 … max_depth, or Poisson(mean).

    Args:
        key: PRNG key.
        config: the law; not fixed.
        model_depth: depth of the model.
        mean: μ, scalar, from `mean_depth`.
        count: number of sequences.

    Returns:
        Integers of shape (count,); to be clamped to 1 … `config.largest_for(model_depth)`.
    """
    if config.law is DepthLaw.UNIFORM:
        return jax.random.randint(key, (count,), 1, config.largest_for(model_depth) + 1)
    return jax.random.poisson(key, mean, (count,))


def log_mean_gradient(
    counts: Int[Array, " count"],
    losses: Float[Array, " count"],
    mean: Float[Array, ""],
    largest: int,
    loop_cost: float,
) -> Float[Array, ""]:
    r"""Estimated derivative of E[L(T) + c T] in log μ, T = clamp(N), N ~ Poisson(μ).

    The score-function estimator with a leave-one-out baseline,

    $$\frac{1}{n} \sum_i (N_i - \mu)\,(R_i - \bar R_{-i}), \qquad R_i = L_i + c\,T_i,$$

    where N − μ is the derivative of log p(N; μ) in log μ. It is unbiased: T is a function of N, so
    the score of N is the right one, and the baseline of a sequence is independent of its N.

    Args:
        counts: N_i before clamping, shape (n,) with n at least 2.
        losses: L_i, loss of each sequence at its depth, shape (n,).
        mean: μ, scalar.
        largest: largest depth.
        loop_cost: c, in units of the loss.

    Returns:
        The estimate, scalar.

    Sources: Williams 1992 (REINFORCE); Kool, van Hoof and Welling 2019, the leave-one-out baseline.
    """
    cost = losses + loop_cost * jnp.clip(counts, 1, largest)
    size = len(counts)
    advantage = (cost - jnp.mean(cost)) * (size / (size - 1))
    return jnp.mean((counts - mean) * advantage)


def move_mean(
    learned: LearnedDepth, gradient: Float[Array, ""], config: TrainingDepth, model_depth: int
) -> LearnedDepth:
    r"""μ after a step against the gradient in log μ, within 1 … largest depth.

    $$\log\mu \leftarrow \log\mu - \mathrm{rate}\; g / \sqrt{v},$$

    with v a running mean of g²: the losses of a run have no scale that is known beforehand.

    Args:
        learned: μ and v.
        gradient: g, scalar, from `log_mean_gradient`.
        config: rate and limits.
        model_depth: depth of the model.

    Returns:
        The new μ and v.
    """
    square = learned.square + _SCALE_RATE * (gradient**2 - learned.square)
    # Sequences of one length and loss give a gradient of exactly 0, and 0 as its scale.
    scale = jnp.sqrt(jnp.where(square == 0.0, 1.0, square))
    log_mean = learned.log_mean - config.rate * gradient / scale
    largest = math.log(config.largest_for(model_depth))
    return LearnedDepth(jnp.clip(log_mean, 0.0, largest), square)
