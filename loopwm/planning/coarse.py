"""Coarse-to-fine scoring: everything at a small depth, the best again at full depth."""

import dataclasses
import enum

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.planning.rollout import Rollouts, Scoring, rollouts
from loopwm.planning.seam import AbstractPlanningModel


class Rescoring(enum.StrEnum):
    """Which coarse iterations score their best sequences again at full depth."""

    EVERY = "every"
    """Each of them, before its refit."""
    LAST = "last"
    """The last of them; the earlier ones refit by coarse scores."""
    NEVER = "never"
    """None: later iterations, at full depth, correct what they got wrong."""


class Effort(enum.Enum):
    """How one iteration scores its population."""

    FULL = enum.auto()
    """Every sequence at full depth."""
    COARSE = enum.auto()
    """Every sequence at the coarse depth."""
    RESCORED = enum.auto()
    """Every sequence at the coarse depth, the best again at full depth."""


@dataclasses.dataclass(frozen=True)
class CoarseConfig:
    """Coarse-to-fine planning; off unless a depth is given."""

    depth: int | None = None
    """Loops of a coarse transition, at most the model's own; null scores all at full depth."""
    iterations: int | None = None
    """First iterations that are coarse, the others being at full depth; null means all."""
    rescoring: Rescoring = Rescoring.EVERY
    """Which coarse iterations re-score: every, last or never."""
    rescored: int | None = None
    """Best sequences scored again at full depth, at least the elites; null means as many."""
    scoring: Scoring = Scoring.EACH_STEP
    """Where the coarse score asks for rewards: each_step, or terminal alone."""

    def check(self, name: str, *, iterations: int, population: int, elites: int) -> None:
        """Refuses what cannot work.

        Args:
            name: dotted name of the planner's settings, for the message.
            iterations: refits a decision.
            population: sequences an iteration.
            elites: sequences that a refit uses.

        Raises:
            UsageError: a number is out of range, or nothing would ever be scored at full depth.
        """
        member(Scoring, self.scoring, f"{name}.coarse.scoring")
        rescoring = member(Rescoring, self.rescoring, f"{name}.coarse.rescoring")
        for key in ("depth", "iterations"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UsageError(f"{name}.coarse.{key} is {value}; give at least 1, or null.")
        if self.rescored is not None and not elites <= self.rescored <= population:
            raise UsageError(
                f"{name}.coarse.rescored is {self.rescored}; give elites ({elites}) up to "
                f"population ({population})."
            )
        if rescoring is Rescoring.NEVER and self.coarse_iterations(iterations) == iterations:
            raise UsageError(
                f"{name}.coarse.rescoring is never and all {iterations} iterations are coarse, so "
                "nothing is scored at full depth; give fewer coarse.iterations."
            )

    def coarse_iterations(self, iterations: int) -> int:
        """How many of a decision's iterations are coarse, 0 where the depth is null."""
        if self.depth is None:
            return 0
        return iterations if self.iterations is None else min(self.iterations, iterations)


class Ranking(eqx.Module):
    """The best sequences of a population."""

    actions: Float[Array, "elites horizon action"]
    """They themselves, best first, shape (elites, horizon, action)."""
    value: Float[Array, " elites"]
    """Their scores, falling."""
    mean: Float[Array, ""]
    """Mean score of the whole population, coarse where it was scored coarsely, scalar."""
    spread: Float[Array, ""]
    """Standard deviation of the same scores, scalar."""
    loops: Float[Array, ""]
    """Inner loops an imagined transition, re-scored ones counted as further ones and known ones
    not at all, scalar."""
    imagined: int = eqx.field(static=True)
    """Sequences that were imagined for it."""


class Ranker(eqx.Module):
    """Scores a population and finds its elites, at the effort that an iteration gets."""

    elites: int = eqx.field(static=True)
    """Sequences that a refit uses."""
    scoring: Scoring = eqx.field(static=True)
    """Where the full score asks for rewards."""
    coarse: CoarseConfig = eqx.field(static=True)

    def rough(self, model: AbstractPlanningModel) -> AbstractPlanningModel:
        """The model at the coarse depth: itself where that is its own depth, or coarse is off."""
        return model if self.coarse.depth is None else model.at_depth(self.coarse.depth)

    def phases(
        self, model: AbstractPlanningModel, iterations: int
    ) -> tuple[tuple[Effort, int], ...]:
        """Efforts of a decision's iterations, in order, and for how many each holds.

        A constant schedule, the coarse score being the full one, is one phase of full effort: the
        same program as without coarse-to-fine planning, so the same decision to the last bit.

        Args:
            model: the planning model at full depth.
            iterations: refits a decision.

        Returns:
            Pairs (effort, iterations), the counts positive and adding up to `iterations`.
        """
        coarse = self.coarse.coarse_iterations(iterations)
        if self.rough(model) is model and self.coarse.scoring == self.scoring:
            coarse = 0
        again = {Rescoring.EVERY: coarse, Rescoring.LAST: min(coarse, 1), Rescoring.NEVER: 0}
        rescored = again[self.coarse.rescoring]
        found = (
            (Effort.COARSE, coarse - rescored),
            (Effort.RESCORED, rescored),
            (Effort.FULL, iterations - coarse),
        )
        return tuple((effort, count) for effort, count in found if count)

    def imagined(self, scored: int, effort: Effort) -> int:
        """Sequences imagined in an iteration of that effort that scores so many."""
        return scored + (self._rescored if effort is Effort.RESCORED else 0)

    @property
    def _rescored(self) -> int:
        return self.elites if self.coarse.rescored is None else self.coarse.rescored

    def __call__(
        self,
        model: AbstractPlanningModel,
        z: Float[Array, " latent"],
        drawn: Float[Array, "drawn horizon action"],
        effort: Effort = Effort.FULL,
        *,
        known: Rollouts | None = None,
        proposals: int = 0,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Ranking, Rollouts]:
        """Scores a population and finds its elites.

        Args:
            model: the planning model at full depth.
            z: latent state now, shape (latent,).
            drawn: action sequences, shape (drawn, horizon, action).
            effort: full, coarse, or coarse with the best scored again.
            known: sequences that compete with the scores they have from an earlier iteration,
                whose first scores were at the same depth.
            proposals: sequences that the policy prior acts out beside the drawn ones.
            key: PRNG key of the proposals.

        Returns:
            The elites, by their scores at full depth unless the effort is coarse; and all
            sequences with their first scores: known ones, proposals, drawn ones.
        """
        full = effort is Effort.FULL
        seen, asked = (model, self.scoring) if full else (self.rough(model), self.coarse.scoring)
        scored = rollouts(seen, z, drawn, asked, proposals=proposals, key=key)
        loops, imagined = jnp.sum(scored.loops), self.imagined(len(scored.value), effort)
        pool = scored if known is None else known.then(scored)
        hopeful = pool.actions
        if effort is Effort.RESCORED:
            _, index = jax.lax.top_k(pool.value, self._rescored)
            again = rollouts(model, z, pool.actions[index], self.scoring)
            hopeful, loops = again.actions, loops + jnp.sum(again.loops)
            value, best = jax.lax.top_k(again.value, self.elites)
        else:
            value, best = jax.lax.top_k(pool.value, self.elites)
        ranking = Ranking(
            actions=hopeful[best],
            value=value,
            mean=jnp.mean(pool.value),
            spread=jnp.std(pool.value),
            loops=loops / imagined,
            imagined=imagined,
        )
        return ranking, pool
