"""What every planner is, what it gives back, and what builds it."""

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
from loopwm.models.ranges import check_positive
from loopwm.planning.coarse import CoarseConfig
from loopwm.planning.rollout import Scoring
from loopwm.planning.seam import AbstractPlanningModel


class CandidateReturns(eqx.Module):
    """Returns of the candidates that a decision weighed, iteration by iteration.

    Normalised units. A coarse iteration's are coarse, but for the best one where it was scored
    again; those of a search tree, which has no iterations, are one entry over the visited actions.
    """

    best: Float[Array, " iterations"]
    """Largest return, shape (iterations,)."""
    mean: Float[Array, " iterations"]
    """Mean over the candidates, shape (iterations,)."""
    spread: Float[Array, " iterations"]
    """Standard deviation over the candidates, shape (iterations,)."""


class PlanStats(eqx.Module):
    """Telemetry of one decision."""

    best: Float[Array, ""]
    """Return of the best sequence of the last iteration, normalised units, scalar."""
    mean: Float[Array, ""]
    """Mean return over the last population, scalar."""
    loops: Float[Array, ""]
    """Inner loops an imagined transition, mean over all that the decision scored, scalar."""
    spread: Float[Array, ""] = eqx.field(default_factory=lambda: jnp.zeros(()))
    """Standard deviation of the returns over the last population, scalar."""
    returns: CandidateReturns | None = None
    """The same over the iterations; None until the decision is made."""


class Plan(eqx.Module):
    """A decision: a `Solution` whose value is the action, plus the next warm start."""

    value: Float[Array, " action"]
    """Encoded action to take now, shape (action,)."""
    result: RESULTS
    stats: PlanStats
    warm_start: Any
    """What the next decision starts from: a plan distribution shifted by one step, or nothing."""


class AbstractPlanner(eqx.Module):
    """Decides by imagining; unbatched, callers vmap."""

    @abc.abstractmethod
    def cold_start(self) -> Any:
        """Warm start before the first decision of an episode."""

    @abc.abstractmethod
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


class PlannerBuilder(abc.ABC):
    """Configuration of a planner, which builds it."""

    @abc.abstractmethod
    def build(self, actions: ActionLayout) -> AbstractPlanner:
        """Builds the planner.

        Args:
            actions: what kind of vector an encoded action is.

        Returns:
            The planner.

        Raises:
            UsageError: it cannot plan such actions.
        """

    @property
    @abc.abstractmethod
    def discrete(self) -> bool | None:
        """Whether it plans over one-hot groups (True) or vectors in [−1, 1]; None is both."""


def elite_weights(scores: Float[Array, " elites"], temperature: float) -> Float[Array, " elites"]:
    """softmax of the elites' scores over their own spread, times temperature; sums to 1.

    Dividing by the spread makes the weights independent of the scale of rewards.
    """
    spread = jnp.std(scores) + 1e-8
    return jax.nn.softmax(temperature * (scores - jnp.max(scores)) / spread)


def check_sizes(name: str, config: Any) -> None:
    """Refuses sizes and a temperature that cannot work, of those that a planner has, by name."""
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for field in dataclasses.fields(config):
        value = given[field.name]
        if field.type in (int, "int") and value < 1 and field.name != "proposals":
            raise UsageError(f"{name}.{field.name} is {value}; it needs to be at least 1.")
    population, coarse = given["population"], given.get("coarse", CoarseConfig())
    if not 0 <= given.get("proposals", 0) < population:
        raise UsageError(
            f"{name}.proposals is {config.proposals}; give 0 up to population − 1 "
            f"({population - 1})."
        )
    if config.elites > population:
        raise UsageError(
            f"{name}.elites is {config.elites}, more than population ({population}); lower it."
        )
    if "temperature" in given:
        check_positive(f"{name}.", config, "temperature")
    coarse.check(
        name,
        iterations=given.get("iterations", 1),
        population=population,
        elites=config.elites,
    )
    if config.horizon == 1 and Scoring.TERMINAL in (config.scoring, coarse.scoring):
        raise UsageError(
            f"{name}.horizon is 1, so terminal scoring defers nothing; raise it, or set scoring "
            "to each_step."
        )
