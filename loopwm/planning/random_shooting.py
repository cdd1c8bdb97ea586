"""Random shooting: the planner that every other one has to beat."""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.actions import ActionLayout
from loopwm.core import RESULTS
from loopwm.models import categories
from loopwm.planning.coarse import CoarseConfig, Effort, Ranker
from loopwm.planning.iterative import AbstractIterativePlanner
from loopwm.planning.planner import Plan, PlannerBuilder, PlanStats, check_sizes, elite_weights
from loopwm.planning.rollout import Scoring


@dataclasses.dataclass(frozen=True)
class RandomShootingConfig(PlannerBuilder):
    """Settings of random shooting."""

    horizon: int = 5
    """K: imagined steps a sequence."""
    population: int = 256
    """Sequences scored a decision: by default about as many as MPPI scores by default in all its
    iterations. Presets that make the other planners smaller leave it as it is."""
    elites: int = 12
    """Best sequences among which exploration chooses."""
    temperature: float = 1.0
    """Sharpness of their weights then, in units of one over their spread."""
    scoring: Scoring = Scoring.EACH_STEP
    """Where a sequence's score asks for rewards: each_step, or terminal (see `score`)."""

    def __post_init__(self):
        """Refuses sizes that cannot work."""
        check_sizes("planning.random_shooting", self)

    @property
    def discrete(self) -> None:
        """None: one-hot actions and vectors in [−1, 1]."""
        return None

    def build(self, actions: ActionLayout) -> "RandomShooting":
        """Builds the planner."""
        return RandomShooting(
            config=self,
            actions=actions,
            horizon=self.horizon,
            iterations=1,
            proposals=0,
            population=self.population,
            ranker=Ranker(self.elites, self.scoring, CoarseConfig()),
        )


class ShootingState(eqx.Module):
    """The best sequences found, best first, and their returns."""

    elites: Float[Array, "elites horizon action"]
    values: Float[Array, " elites"]
    stats: PlanStats


class RandomShooting(AbstractIterativePlanner):
    r"""Scores uniformly random sequences once, and takes the best one's first action.

    $$u^{(i)}_k \sim \mathrm{Uniform}, \qquad a = u^{(i^*)}_0, \quad i^* = \arg\max_i s(u^{(i)}).$$

    The control of the others: the same model, the same return and the same terminal value, but
    nothing of the policy's proposals, and nothing learned from one iteration or decision for the
    next. What another planner has over it at an equal number of sequences is its search's worth.

    Source: Nagabandi et al. 2018 (arXiv 1708.02596), who have no terminal value.
    """

    config: RandomShootingConfig = eqx.field(static=True)
    actions: ActionLayout = eqx.field(static=True)
    horizon: int = eqx.field(static=True)
    iterations: int = eqx.field(static=True)
    proposals: int = eqx.field(static=True)
    population: int = eqx.field(static=True)
    ranker: Ranker
    proposals_stay: ClassVar[bool] = False

    def cold_start(self) -> tuple[()]:
        """Nothing: decisions do not depend on one another."""
        return ()

    def init(self, warm_start: tuple[()]) -> ShootingState:
        """No sequences yet."""
        elites = self.config.elites
        return ShootingState(
            elites=jnp.zeros((elites, self.horizon, self.actions.size)),
            values=jnp.full(elites, -jnp.inf),
            stats=PlanStats(jnp.zeros(()), jnp.zeros(()), jnp.zeros(())),
        )

    def stages(self) -> tuple["RandomShooting", ...]:
        """Itself, once."""
        return (self,)

    def draw(
        self, state: ShootingState, *, key: PRNGKeyArray
    ) -> Float[Array, "population horizon action"]:
        """Uniformly random sequences."""
        shape = (self.population, self.horizon, self.actions.size)
        drawn = categories.uniform_actions(self.actions, shape[0] * shape[1], key=key)
        return drawn.reshape(shape)

    def refit(
        self,
        state: ShootingState,
        sequences: Float[Array, "elites horizon action"],
        values: Float[Array, " elites"],
        effort: Effort = Effort.FULL,
    ) -> ShootingState:
        """The sequences are the elites."""
        return ShootingState(elites=sequences, values=values, stats=state.stats)

    def postprocess(self, state: ShootingState, explore: Array, *, key: PRNGKeyArray) -> Plan:
        """The best sequence's first action; exploring, that of an elite drawn by its return."""
        weights = elite_weights(state.values, self.config.temperature)
        drawn = jax.random.categorical(key, jnp.log(weights))
        finite = jnp.all(jnp.isfinite(state.values))
        return Plan(
            value=jnp.where(explore, state.elites[drawn, 0], state.elites[0, 0]),
            result=RESULTS.where(finite, RESULTS.successful, RESULTS.nonfinite),
            stats=state.stats,
            warm_start=(),
        )
