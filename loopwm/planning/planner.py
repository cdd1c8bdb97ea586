"""What every planner is: init, step, terminate, postprocess over a distribution of plans."""

import abc
import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.actions import ActionLayout
from loopwm.core import RESULTS
from loopwm.errors import UsageError
from loopwm.planning.coarse import CoarseConfig, Effort, Ranker
from loopwm.planning.seam import AbstractPlanningModel, Scoring, propose_sequence


class PlanStats(eqx.Module):
    """Telemetry of one decision."""

    best: Float[Array, ""]
    """Return of the best sequence of the last iteration, normalised units, scalar."""
    mean: Float[Array, ""]
    """Mean return over the last population, scalar."""
    loops: Float[Array, ""]
    """Inner loops an imagined transition, mean over all that the decision scored, scalar."""


class Plan(eqx.Module):
    """A decision: a `Solution` whose value is the action, plus the next warm start."""

    value: Float[Array, " action"]
    """Encoded action to take now, shape (action,)."""
    result: RESULTS
    stats: PlanStats
    warm_start: Any
    """Plan distribution shifted by one step, for the next decision."""


class AbstractPlanner(eqx.Module):
    """Refines a distribution over action sequences; unbatched, callers vmap."""

    horizon: eqx.AbstractVar[int]
    iterations: eqx.AbstractVar[int]
    proposals: eqx.AbstractVar[int]
    population: eqx.AbstractVar[int]
    ranker: eqx.AbstractVar[Ranker]

    @abc.abstractmethod
    def cold_start(self) -> Any:
        """Warm start before the first decision of an episode."""

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
        """Plans one decision.

        Args:
            model: the planning model, its constrained weights resolved.
            z: latent state now, shape (latent,).
            warm_start: from `cold_start` or the previous plan.
            explore: whether to explore, scalar bool.
            key: PRNG key.

        Returns:
            The decision and the next warm start.
        """
        key_propose, key_steps, key_last = jax.random.split(key, 3)
        phases = self.ranker.phases(model, self.iterations)
        # Proposals are scored like all others, so they are as good as the first iteration needs.
        prior = model if phases[0][0] is Effort.FULL else self.ranker.rough(model)
        proposed = jax.vmap(lambda k: propose_sequence(prior, z, self.horizon, key=k))(
            jax.random.split(key_propose, self.proposals)
        )
        keys, state = jax.random.split(key_steps, self.iterations), self.init(warm_start, proposed)
        first, loops, sequences = 0, jnp.zeros(()), 0
        for effort, count in phases:

            def body(state, step_key, effort=effort):
                state = self.step(model, z, state, key=step_key, effort=effort)
                return state, state.stats.loops

            state, spent = jax.lax.scan(body, state, keys[first : first + count])
            imagined = self.ranker.imagined(self.population, effort)
            loops, sequences = loops + imagined * jnp.sum(spent), sequences + count * imagined
            first += count
        state = eqx.tree_at(lambda s: s.stats.loops, state, loops / sequences)
        return self.postprocess(state, explore, key=key_last)


class PlannerBuilder(abc.ABC):
    """Configuration of a planner, which builds it."""

    @abc.abstractmethod
    def build(self, actions: ActionLayout) -> AbstractPlanner:
        """Builds the planner for encoded actions of a kind that it plans over."""

    @property
    @abc.abstractmethod
    def discrete(self) -> bool:
        """Whether it plans over one-hot groups (True) or over vectors in [−1, 1]."""


def elite_weights(scores: Float[Array, " elites"], temperature: float) -> Float[Array, " elites"]:
    """softmax of the elites' scores over their own spread, times temperature; sums to 1.

    Dividing by the spread makes the weights independent of the scale of rewards.
    """
    spread = jnp.std(scores) + 1e-8
    return jax.nn.softmax(temperature * (scores - jnp.max(scores)) / spread)


def check_sizes(name: str, config: Any) -> None:
    """Refuses planner sizes and a temperature that cannot work, naming the key."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type in (int, "int") and value < 1 and field.name != "proposals":
            raise UsageError(f"{name}.{field.name} is {value}; it needs to be at least 1.")
    if config.proposals < 0 or config.proposals >= config.population:
        raise UsageError(
            f"{name}.proposals is {config.proposals}; give 0 up to population − 1 "
            f"({config.population - 1})."
        )
    if config.elites > config.population:
        raise UsageError(
            f"{name}.elites is {config.elites}, more than population ({config.population}); "
            "lower it."
        )
    if not 0.0 < config.temperature < float("inf"):
        raise UsageError(
            f"{name}.temperature is {config.temperature}; give a positive, finite number."
        )
    coarse: CoarseConfig = config.coarse
    coarse.check(
        name,
        iterations=config.iterations,
        population=config.population,
        elites=config.elites,
    )
    if config.horizon == 1 and Scoring.TERMINAL in (config.scoring, coarse.scoring):
        raise UsageError(
            f"{name}.horizon is 1, so terminal scoring defers nothing; raise it, or set scoring "
            "to each_step."
        )
