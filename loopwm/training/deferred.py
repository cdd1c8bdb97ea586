"""Deferred decoding: K actions rolled in latent space, one decode, three terms."""

import dataclasses
import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.models import AbstractWorldModel, present
from loopwm.models.ranges import check_not_negative


class Curriculum(enum.StrEnum):
    """How K grows with the updates."""

    CONSTANT = "constant"
    """K from the first update on."""
    LINEAR = "linear"
    """Each of first, first + 1, …, K for an equal share of the ramp, then K."""


@dataclasses.dataclass(frozen=True)
class DeferredConfig:
    """Deferred decoding in training; off unless K is given.

    Its other two weights are the learner's: `reconstruction_weight` of the terminal error and
    `consistency_weight` (α) of the distance to the encoded observations.
    """

    steps: int | None = None
    """K: actions before the one decode, at most learner.sequence; null decodes each step."""
    curriculum: Curriculum = Curriculum.CONSTANT
    """How K is reached: constant or linear."""
    first: int = 1
    """K of the first update, with curriculum linear."""
    ramp: int = 1_000
    """Updates until K is reached, with curriculum linear."""
    drawn: bool = False
    """Whether K is drawn for every sequence, uniform from first to the K of the curriculum, so
    that states on the way are decoded as well, each in some sequences."""
    movement_weight: float = 0.01
    """β: weight of the length of the latent path beyond K·C."""
    movement_limit: float = 1.0
    """C: free length of the latent path a step, in the 2-norm."""

    def __post_init__(self):
        """Refuses numbers outside their ranges, and a curriculum that is none."""
        kind = member(Curriculum, self.curriculum, "learner.deferred.curriculum")
        object.__setattr__(self, "curriculum", kind)
        if self.steps is not None and not 1 <= self.first <= self.steps:
            raise UsageError(
                f"learner.deferred.steps is {self.steps} and first {self.first}; give "
                "1 <= first <= steps."
            )
        if self.ramp < 1:
            raise UsageError(f"learner.deferred.ramp is {self.ramp}; give at least 1 update.")
        check_not_negative("learner.deferred.", self, "movement_weight", "movement_limit")

    def horizon(self, updates: Int[Array, ""] | int) -> Int[Array, ""]:
        r"""K after that many updates, scalar.

        With curriculum linear $K_u = \min(K, K_0 + \lfloor (K - K_0 + 1)\, u / \mathrm{ramp}
        \rfloor)$.

        Args:
            updates: updates done, scalar.

        Raises:
            UsageError: deferred decoding is off.
        """
        if self.steps is None:
            raise UsageError("learner.deferred.steps is null, so there is no K; give a number.")
        if self.curriculum is Curriculum.CONSTANT:
            return jnp.asarray(self.steps, jnp.int32)
        # Held at the ramp's end, which keeps the product within 32 bits.
        passed = jnp.minimum(jnp.asarray(updates, jnp.int32), self.ramp)
        grown = self.first + (self.steps - self.first + 1) * passed // self.ramp
        return jnp.minimum(self.steps, grown).astype(jnp.int32)

    def horizons(
        self, updates: Int[Array, ""] | int, count: int, *, key: PRNGKeyArray
    ) -> Int[Array, " count"]:
        """K of every sequence of a batch after that many updates, shape (count,).

        Args:
            updates: updates done, scalar.
            count: sequences of the batch.
            key: PRNG key of what is drawn, if K is.

        Raises:
            UsageError: deferred decoding is off.
        """
        largest = self.horizon(updates)
        if not self.drawn:
            return jnp.broadcast_to(largest, (count,))
        return jax.random.randint(key, (count,), self.first, largest + 1, jnp.int32)


class DeferredTerms(NamedTuple):
    """The three terms of one sequence, unweighted."""

    terminal: Float[Array, ""]
    """Squared error of the one decoded observation, an entry, scalar."""
    consistency: Float[Array, ""]
    """Mean over k of ‖z_k − sg E(o_k)‖², a latent entry, scalar."""
    movement: Float[Array, ""]
    """max(0, Σ‖z_k − z_{k−1}‖ − K·C), scalar."""


def movement_excess(
    states: Float[Array, "steps_plus_one latent"], count: Int[Array, ""] | int, limit: float
) -> Float[Array, ""]:
    r"""$\max\big(0, \sum_{k=1}^{K} \|z_k - z_{k-1}\| - K C\big)$, scalar.

    Args:
        states: z_0, z_1, …, shape (at least K + 1, latent).
        count: K.
        limit: C.
    """
    squares = jnp.sum(jnp.diff(states, axis=0) ** 2, axis=-1)
    # The gradient of a norm at 0 would be NaN; it is taken as 0.
    lengths = jnp.where(squares > 0.0, jnp.sqrt(jnp.where(squares > 0.0, squares, 1.0)), squares)
    inside = jnp.arange(len(lengths)) < count
    return jnp.maximum(jnp.sum(jnp.where(inside, lengths, 0.0)) - count * limit, 0.0)


def deferred_terms(
    model: AbstractWorldModel,
    observation: Float[Array, "steps_plus_one observation"],
    encoded: Float[Array, "steps_plus_one latent"],
    after: Float[Array, "steps latent"],
    valid: Bool[Array, " steps"],
    steps: Int[Array, ""],
    limit: float,
) -> DeferredTerms:
    r"""Terminal error, consistency, and movement beyond the limit.

    $$\|D(z_K) - o_K\|^2, \qquad \frac1K\sum_{k=1}^{K} \|z_k - \mathrm{sg}\,E(o_k)\|^2, \qquad
    \max\Big(0, \sum_{k=1}^{K}\|z_k - z_{k-1}\| - K C\Big)$$

    with $z_0 = E(o_0)$, $z_{k+1}$ the transition of $z_k$, and both squared norms an entry. The
    imagined states live where the encoder's do, so the projection of the source is the identity.
    An episode that ends within K steps is decoded at its last step.

    Args:
        model: the world model, constrained weights resolved.
        observation: normalised o_0 … o_H, shape (H + 1, observation).
        encoded: E(o_0) … E(o_H), shape (H + 1, latent).
        after: z_1 … z_H, shape (H, latent).
        valid: whether a step belongs to the episode, shape (H,): true up to some step, then false.
        steps: K, scalar in 1..H.
        limit: C.

    Returns:
        The three terms; zero where no step is valid.

    Source: LoopWM (arXiv 2606.18208), deferred decoding.
    """
    count = jnp.minimum(steps, jnp.sum(valid))
    some = jnp.maximum(count, 1)
    any_valid = (count > 0).astype(after.dtype)
    error = jnp.mean((model.decode(after[some - 1]) - observation[some]) ** 2)
    after, encoded = present(model, after), present(model, encoded)
    distance = jnp.mean((after - jax.lax.stop_gradient(encoded[1:])) ** 2, axis=-1)
    inside = jnp.arange(len(after)) < count
    return DeferredTerms(
        terminal=any_valid * error,
        consistency=jnp.sum(jnp.where(inside, distance, 0.0)) / some,
        movement=movement_excess(jnp.concatenate([encoded[:1], after]), count, limit),
    )
