"""Cross-entropy method over sequences of discrete actions."""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.actions import ActionLayout
from loopwm.core import RESULTS
from loopwm.errors import UsageError
from loopwm.models import categories
from loopwm.planning.coarse import CoarseConfig, Effort, Ranker
from loopwm.planning.iterative import AbstractIterativePlanner
from loopwm.planning.planner import (
    Plan,
    PlannerBuilder,
    PlanStats,
    check_sizes,
    elite_weights,
)
from loopwm.planning.rollout import Scoring


@dataclasses.dataclass(frozen=True)
class CategoricalCEMConfig(PlannerBuilder):
    """Settings of the categorical cross-entropy method."""

    horizon: int = 5
    """K: imagined steps a sequence."""
    population: int = 64
    """Sequences scored an iteration, proposals included."""
    proposals: int = 12
    """Sequences of the policy prior among them."""
    iterations: int = 3
    """Refits a decision."""
    elites: int = 12
    """Best sequences that the refit uses."""
    temperature: float = 1.0
    """Sharpness of the elites' weights, in units of one over their spread."""
    momentum: float = 0.1
    """Share of the old probabilities kept in a refit."""
    floor: float = 0.02
    """Probability mass spread evenly over all categories of a group when sampling, and when
    exploring."""
    scoring: Scoring = Scoring.EACH_STEP
    """Where a sequence's score asks for rewards: each_step, or terminal (see `score`)."""
    coarse: CoarseConfig = CoarseConfig()
    """Coarse-to-fine planning, off by default."""

    def __post_init__(self):
        """Refuses sizes that cannot work."""
        check_sizes("planning.categorical_cem", self)
        if not (0.0 <= self.momentum < 1.0 and 0.0 <= self.floor <= 1.0):
            raise UsageError(
                f"planning.categorical_cem.momentum and floor are {self.momentum} and "
                f"{self.floor}; give values in [0, 1) and [0, 1]."
            )

    @property
    def discrete(self) -> bool:
        """True: one-hot groups."""
        return True

    def build(self, actions: ActionLayout) -> "CategoricalCEM":
        """Builds the planner; a `UsageError` for actions that are no one-hot groups."""
        if actions.groups is None:
            raise UsageError("Categorical CEM cannot plan Box actions; use mppi.")
        return CategoricalCEM(
            config=self,
            groups=actions.groups,
            horizon=self.horizon,
            iterations=self.iterations,
            proposals=self.proposals,
            population=self.population,
            ranker=Ranker(self.elites, self.scoring, self.coarse),
        )


class CEMState(eqx.Module):
    """Independent categorical distributions, one a step and a group."""

    probabilities: Float[Array, "horizon action"]
    stats: PlanStats


class CategoricalCEM(AbstractIterativePlanner):
    r"""Categorical CEM with policy proposals.

    Each iteration draws sequences of one-hot actions from $p_k$, adds the policy's, scores them
    in imagination, and moves $p_k$ to the weighted frequencies of the elites' actions. An action of
    several groups has a distribution for each, and all are refitted to the same elites.

    Source: Rubinstein and Kroese 2004, "The Cross-Entropy Method", section 4 (discrete case),
        with TD-MPC2's weights (arXiv 2310.16828).
    """

    config: CategoricalCEMConfig = eqx.field(static=True)
    groups: categories.Groups = eqx.field(static=True)
    horizon: int = eqx.field(static=True)
    iterations: int = eqx.field(static=True)
    proposals: int = eqx.field(static=True)
    population: int = eqx.field(static=True)
    ranker: Ranker
    proposals_stay: ClassVar[bool] = True

    def cold_start(self) -> Float[Array, "horizon action"]:
        """Uniform probabilities within each group, shape (horizon, action)."""
        even = (1.0 / categories.counts(self.groups)).astype(np.float32)
        return jnp.asarray(np.tile(even, (self.horizon, 1)))

    def init(self, warm_start: Float[Array, "horizon action"]) -> CEMState:
        """Half the previous decision's probabilities, half uniform."""
        uniform = self.cold_start()
        return CEMState(
            probabilities=0.5 * warm_start + 0.5 * uniform,
            stats=PlanStats(jnp.zeros(()), jnp.zeros(()), jnp.zeros(())),
        )

    def stages(self) -> tuple["CategoricalCEM", ...]:
        """Itself in each iteration."""
        return (self,) * self.iterations

    def draw(self, state: CEMState, *, key: PRNGKeyArray) -> Float[Array, "drawn horizon action"]:
        """From the distributions, with a floor under every category."""
        drawn = self.config.population - self.config.proposals
        logits = jnp.log(self._floored(state.probabilities))
        return categories.draw(logits, self.groups, drawn, key=key)

    def refit(
        self,
        state: CEMState,
        sequences: Float[Array, "elites horizon action"],
        values: Float[Array, " elites"],
        effort: Effort = Effort.FULL,
    ) -> CEMState:
        """Probabilities move to the weighted frequencies of the sequences' actions."""
        weights = elite_weights(values, self.config.temperature)
        frequencies = jnp.einsum("e,eha->ha", weights, sequences)
        kept = self.config.momentum
        probabilities = kept * state.probabilities + (1.0 - kept) * frequencies
        return CEMState(probabilities, state.stats)

    def postprocess(self, state: CEMState, explore: Array, *, key: PRNGKeyArray) -> Plan:
        """Each group's most probable first category; exploring, a draw from its probabilities."""
        first = state.probabilities[0]
        drawn = categories.draw(jnp.log(self._floored(first)), self.groups, key=key)
        finite = jnp.all(jnp.isfinite(first))
        return Plan(
            value=jnp.where(explore, drawn, categories.most_likely(first, self.groups)),
            result=RESULTS.where(finite, RESULTS.successful, RESULTS.nonfinite),
            stats=state.stats,
            warm_start=jnp.concatenate([state.probabilities[1:], self.cold_start()[:1]]),
        )

    def _floored(self, probabilities: Array) -> Array:
        floor = self.config.floor
        even = (floor / categories.counts(self.groups)).astype(np.float32)
        return (1.0 - floor) * probabilities + jnp.broadcast_to(even, probabilities.shape)
