"""Planners that refine a distribution over action sequences: init, step, postprocess."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.planning.coarse import Effort, Ranker
from loopwm.planning.planner import AbstractPlanner, CandidateReturns, Plan
from loopwm.planning.seam import AbstractPlanningModel, propose_sequence


class AbstractIterativePlanner(AbstractPlanner):
    """Refines a distribution over action sequences, an iteration at a time."""

    horizon: eqx.AbstractVar[int]
    iterations: eqx.AbstractVar[int]
    proposals: eqx.AbstractVar[int]
    population: eqx.AbstractVar[int]
    ranker: eqx.AbstractVar[Ranker]

    @abc.abstractmethod
    def init(self, warm_start: Any, proposed: Float[Array, "proposals horizon action"]) -> Any:
        """State before the first iteration.

        Args:
            warm_start: plan distribution of the previous decision, shifted.
            proposed: sequences of the policy prior, shape (proposals, horizon, action).

        Returns:
            The planner's state.
        """

    @abc.abstractmethod
    def stages(self) -> tuple["AbstractIterativePlanner", ...]:
        """Whose `step` makes each iteration: itself, or copies with a population of their own."""

    @abc.abstractmethod
    def step(
        self,
        model: AbstractPlanningModel,
        z: Float[Array, " latent"],
        state: Any,
        *,
        key: PRNGKeyArray,
        effort: Effort = Effort.FULL,
    ) -> Any:
        """One iteration: sample, score at the given effort, refit."""

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
        # Proposals are scored like all others, so they are as good as the first iteration needs.
        prior = model if phases[0][1] is Effort.FULL else self.ranker.rough(model)
        proposed = jax.vmap(lambda k: propose_sequence(prior, z, self.horizon, key=k))(
            jax.random.split(key_propose, self.proposals)
        )
        keys, state = jax.random.split(key_steps, self.iterations), self.init(warm_start, proposed)
        first, loops, seen = 0, jnp.zeros(()), []
        for stage, effort, count in phases:

            def body(state, step_key, stage=stage, effort=effort):
                state = stage.step(model, z, state, key=step_key, effort=effort)
                return state, state.stats

            state, stats = jax.lax.scan(body, state, keys[first : first + count])
            imagined = self.ranker.imagined(stage.population, effort)
            loops = loops + imagined * jnp.sum(stats.loops)
            seen.append(CandidateReturns(stats.best, stats.mean, stats.spread))
            first += count
        state = eqx.tree_at(lambda s: s.stats.loops, state, loops / self.sequences(model))
        return state, jax.tree.map(lambda *parts: jnp.concatenate(parts), *seen)

    def sequences(self, model: AbstractPlanningModel) -> int:
        """Sequences that a search scores on this model, those scored again counted twice."""
        return sum(
            count * self.ranker.imagined(stage.population, effort)
            for stage, effort, count in self._phases(model)
        )

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

    @abc.abstractmethod
    def refit(
        self,
        state: Any,
        sequences: Float[Array, "sequences horizon action"],
        values: Float[Array, " sequences"],
    ) -> Any:
        """The state after an iteration that found these sequences; its stats stay as they are.

        Args:
            state: the state before.
            sequences: best first, shape (sequences, horizon, action).
            values: their returns, falling, shape (sequences,).

        Returns:
            The state, fit to them.
        """


def with_returns(plan: Plan, returns: CandidateReturns) -> Plan:
    """The plan with the candidates' returns among its telemetry."""
    return eqx.tree_at(lambda p: p.stats.returns, plan, returns, is_leaf=lambda leaf: leaf is None)
