"""Planners that refine a distribution over action sequences: init, step, postprocess."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.planning.coarse import Effort, Ranker
from loopwm.planning.planner import AbstractPlanner, CandidateReturns, Plan, PlanStats
from loopwm.planning.rollout import Rollouts
from loopwm.planning.seam import AbstractPlanningModel


class AbstractIterativePlanner(AbstractPlanner):
    """Refines a distribution over action sequences, an iteration at a time."""

    horizon: eqx.AbstractVar[int]
    iterations: eqx.AbstractVar[int]
    proposals: eqx.AbstractVar[int]
    population: eqx.AbstractVar[int]
    ranker: eqx.AbstractVar[Ranker]
    proposals_stay: eqx.AbstractClassVar[bool]
    """Whether the policy's sequences compete in every iteration, and not in the first alone."""

    @abc.abstractmethod
    def init(self, warm_start: Any) -> Any:
        """State before the first iteration.

        Args:
            warm_start: plan distribution of the previous decision, shifted.

        Returns:
            The planner's state.
        """

    @abc.abstractmethod
    def stages(self) -> tuple["AbstractIterativePlanner", ...]:
        """Who makes each iteration: itself, or copies with a population of their own."""

    @abc.abstractmethod
    def draw(
        self, state: Any, *, key: PRNGKeyArray
    ) -> Float[Array, "population_less_proposals horizon action"]:
        """What an iteration weighs beside the policy's sequences.

        Args:
            state: the planner's state.
            key: PRNG key.

        Returns:
            Sequences, as many as the population leaves; of all of it in an iteration in which the
            policy's do not compete.
        """

    @abc.abstractmethod
    def refit(
        self,
        state: Any,
        sequences: Float[Array, "sequences horizon action"],
        values: Float[Array, " sequences"],
        effort: Effort = Effort.FULL,
    ) -> Any:
        """The state after an iteration that found these sequences; its stats stay as they are.

        Args:
            state: the state before.
            sequences: best first, shape (sequences, horizon, action).
            values: their returns, falling, shape (sequences,).
            effort: how they were scored.

        Returns:
            The state, fit to them.
        """

    @abc.abstractmethod
    def postprocess(self, state: Any, explore: Array, *, key: PRNGKeyArray) -> Plan:
        """The decision after the last iteration; `explore` (scalar bool) adds exploration."""

    def __call__(
        self,
        model: AbstractPlanningModel,
        z: Float[Array, " latent"],
        warm_start: Any,
        explore: Array,
        *,
        key: PRNGKeyArray,
    ) -> Plan:
        """Searches, then decides."""
        key_propose, key_steps, key_last = jax.random.split(key, 3)
        state, returns = self.search(
            model, z, warm_start, key_propose=key_propose, key_steps=key_steps
        )
        return with_returns(self.postprocess(state, explore, key=key_last), returns)

    def search(
        self,
        model: AbstractPlanningModel,
        z: Float[Array, " latent"],
        warm_start: Any,
        *,
        key_propose: PRNGKeyArray,
        key_steps: PRNGKeyArray,
    ) -> tuple[Any, CandidateReturns]:
        """All iterations of a decision.

        Args:
            model: the planning model, its constrained weights resolved.
            z: latent state now, shape (latent,).
            warm_start: from `cold_start` or the previous plan.
            key_propose: PRNG key of the policy's proposals.
            key_steps: PRNG key of the iterations.

        Returns:
            The state after the last one, its loops those of the whole search, and the candidates'
            returns.
        """
        phases = self._phases(model)
        keys, state = jax.random.split(key_steps, self.iterations), self.init(warm_start)
        # The first iteration by itself: beside what it draws, the policy acts out its sequences.
        stage, effort, _ = phases[0]
        state, pool, spent = stage.iterate(
            model, z, state, effort, key=keys[0], proposals=self.proposals, key_propose=key_propose
        )
        seen = [jax.tree.map(lambda x: x[None], _returns(state))]
        proposed = pool.first(self.proposals) if self.proposals_stay else None
        coarse = effort is not Effort.FULL
        for number, (stage, effort, count) in enumerate(phases):
            done = sum(earlier for _, _, earlier in phases[:number])
            own = keys[max(done, 1) : done + count]
            if not len(own):
                continue
            again = coarse and effort is Effort.FULL  # known by coarse scores alone

            def body(state, key, stage=stage, effort=effort, again=again):
                state, _, loops = stage.iterate(
                    model, z, state, effort, key=key, known=proposed, again=again
                )
                return state, (_returns(state), loops)

            state, (returns, loops) = jax.lax.scan(body, state, own)
            spent = spent + jnp.sum(loops)
            seen.append(returns)
        state = eqx.tree_at(lambda s: s.stats.loops, state, spent / self.sequences(model))
        best, mean, spread = (jnp.concatenate(parts) for parts in zip(*seen, strict=True))
        return state, CandidateReturns(best, mean, spread)

    def iterate(
        self,
        model: AbstractPlanningModel,
        z: Float[Array, " latent"],
        state: Any,
        effort: Effort = Effort.FULL,
        *,
        key: PRNGKeyArray,
        proposals: int = 0,
        key_propose: PRNGKeyArray | None = None,
        known: Rollouts | None = None,
        again: bool = False,
    ) -> tuple[Any, Rollouts, Float[Array, ""]]:
        """One iteration: draw, score, refit.

        Args:
            model: the planning model at full depth.
            z: latent state now, shape (latent,).
            state: the planner's state.
            effort: how the population is scored.
            key: PRNG key of what is drawn.
            proposals: sequences that the policy prior acts out beside it.
            key_propose: PRNG key of these.
            known: sequences of an earlier iteration that compete with their scores.
            again: score those once more instead, since theirs are of another depth.

        Returns:
            The state, all sequences with their first scores, and the loops spent, a transition's
            mean times the number of sequences imagined, scalar.
        """
        drawn = self.draw(state, key=key)
        if known is not None and again:
            drawn, known = jnp.concatenate([known.actions, drawn]), None
        found, pool = self.ranker(
            model, z, drawn, effort, known=known, proposals=proposals, key=key_propose
        )
        state = self.refit(state, found.actions, found.value, effort)
        stats = PlanStats(found.value[0], found.mean, found.loops, found.spread)
        state = eqx.tree_at(lambda s: s.stats, state, stats)
        return state, pool, found.loops * found.imagined

    def sequences(self, model: AbstractPlanningModel) -> int:
        """Sequences that a search imagines on this model, those scored again counted twice."""
        phases = self._phases(model)
        total = sum(
            count * self.ranker.imagined(stage.population, effort)
            for stage, effort, count in phases
        )
        if not self.proposals_stay:
            return total
        # Known scores are not computed again, unless they were coarse and are asked for in full.
        coarse = phases[0][1] is not Effort.FULL
        kept = sum(c for _, effort, c in phases if not (coarse and effort is Effort.FULL)) - 1
        return total - kept * self.proposals

    def _phases(
        self, model: AbstractPlanningModel
    ) -> list[tuple["AbstractIterativePlanner", Effort, int]]:
        """Stages and efforts in order, and for how many iterations in a row they hold."""
        efforts = [
            effort
            for effort, count in self.ranker.phases(model, self.iterations)
            for _ in range(count)
        ]
        phases: list[tuple[AbstractIterativePlanner, Effort, int]] = []
        for stage, effort in zip(self.stages(), efforts, strict=True):
            if phases and phases[-1][0] is stage and phases[-1][1] is effort:
                phases[-1] = (stage, effort, phases[-1][2] + 1)
            else:
                phases.append((stage, effort, 1))
        return phases


class AbstractBoxSampler(AbstractIterativePlanner):
    """An iterative planner over vectors whose best sequences can be improved from outside."""

    @abc.abstractmethod
    def candidates(self, state: Any) -> Float[Array, "elites horizon action"]:
        """Best sequences of the last iteration, best first, shape (elites, horizon, action)."""


def _returns(state: Any) -> tuple[Array, Array, Array]:
    """Largest, mean and deviation of the returns in the iteration that made this state."""
    return state.stats.best, state.stats.mean, state.stats.spread


def with_returns(plan: Plan, returns: CandidateReturns) -> Plan:
    """The plan with the candidates' returns among its telemetry."""
    return eqx.tree_at(lambda p: p.stats.returns, plan, returns, is_leaf=lambda leaf: leaf is None)
