"""Model predictive path integral control for actions in a box."""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.actions import ActionLayout
from loopwm.core import RESULTS
from loopwm.errors import UsageError
from loopwm.planning.coarse import CoarseConfig, Effort, Ranker
from loopwm.planning.iterative import AbstractBoxSampler
from loopwm.planning.planner import (
    Plan,
    PlannerBuilder,
    PlanStats,
    check_sizes,
    elite_weights,
)
from loopwm.planning.rollout import Scoring


@dataclasses.dataclass(frozen=True)
class MPPIConfig(PlannerBuilder):
    """Settings of MPPI."""

    horizon: int = 5
    """K: imagined steps a sequence."""
    population: int = 64
    """Sequences scored an iteration, proposals included."""
    proposals: int = 12
    """Sequences of the policy prior among them."""
    iterations: int = 4
    """Refits a decision."""
    elites: int = 12
    """Best sequences that the refit uses."""
    temperature: float = 1.0
    """Sharpness of the elites' weights, in units of one over their spread."""
    scale_min: float = 0.05
    """Smallest standard deviation of an action entry."""
    scale_max: float = 1.0
    """Standard deviation at the first iteration."""
    scoring: Scoring = Scoring.EACH_STEP
    """Where a sequence's score asks for rewards: each_step, or terminal (see `score`)."""
    coarse: CoarseConfig = CoarseConfig()
    """Coarse-to-fine planning, off by default."""

    def __post_init__(self):
        """Refuses sizes that cannot work."""
        check_sizes("planning.mppi", self)
        if not 0.0 < self.scale_min <= self.scale_max < float("inf"):
            raise UsageError(
                f"planning.mppi.scale_min and scale_max are {self.scale_min} and "
                f"{self.scale_max}; give 0 < scale_min <= scale_max."
            )

    @property
    def discrete(self) -> bool:
        """False: vectors in [−1, 1]."""
        return False

    def build(self, actions: ActionLayout) -> "MPPI":
        """Builds the planner."""
        return MPPI(
            config=self,
            action_size=actions.size,
            horizon=self.horizon,
            iterations=self.iterations,
            proposals=self.proposals,
            population=self.population,
            ranker=Ranker(self.elites, self.scoring, self.coarse),
        )


class MPPIState(eqx.Module):
    """Gaussian over action sequences, entry by entry."""

    mean: Float[Array, "horizon action"]
    scale: Float[Array, "horizon action"]
    elites: Float[Array, "elites horizon action"]
    weights: Float[Array, " elites"]
    stats: PlanStats


class MPPI(AbstractBoxSampler):
    r"""MPPI with policy proposals, as in TD-MPC2.

    Each iteration draws sequences $u \sim N(\mu, \sigma^2)$ clipped to [−1, 1], adds the policy's,
    scores them in imagination, and refits μ and σ to the elites with weights
    $w_i \propto \exp(\tau (s_i - s_{max}) / \mathrm{spread}(s))$.

    Sources: Williams et al. 2017 (arXiv 1707.02342); Hansen et al. 2024, TD-MPC2
        (arXiv 2310.16828), section 3.2.
    """

    config: MPPIConfig = eqx.field(static=True)
    action_size: int = eqx.field(static=True)
    horizon: int = eqx.field(static=True)
    iterations: int = eqx.field(static=True)
    proposals: int = eqx.field(static=True)
    population: int = eqx.field(static=True)
    ranker: Ranker
    proposals_stay: ClassVar[bool] = True

    def cold_start(self) -> Float[Array, "horizon action"]:
        """Mean 0, shape (horizon, action)."""
        return jnp.zeros((self.horizon, self.action_size))

    def init(self, warm_start: Float[Array, "horizon action"]) -> MPPIState:
        """Mean from the previous decision, widest scale."""
        shape = (self.horizon, self.action_size)
        return MPPIState(
            mean=warm_start,
            scale=jnp.full(shape, self.config.scale_max),
            elites=jnp.zeros((self.config.elites, *shape)),
            weights=jnp.full(self.config.elites, 1.0 / self.config.elites),
            stats=PlanStats(jnp.zeros(()), jnp.zeros(()), jnp.zeros(())),
        )

    def stages(self) -> tuple["MPPI", ...]:
        """Itself in each iteration."""
        return (self,) * self.iterations

    def draw(self, state: MPPIState, *, key: PRNGKeyArray) -> Float[Array, "drawn horizon action"]:
        """From the Gaussian, clipped to the box."""
        drawn = self.config.population - self.config.proposals
        noise = jax.random.normal(key, (drawn, self.horizon, self.action_size))
        return jnp.clip(state.mean[None] + state.scale[None] * noise, -1.0, 1.0)

    def candidates(self, state: MPPIState) -> Float[Array, "elites horizon action"]:
        """The elites."""
        return state.elites

    def refit(
        self,
        state: MPPIState,
        sequences: Float[Array, "elites horizon action"],
        values: Float[Array, " elites"],
        effort: Effort = Effort.FULL,
    ) -> MPPIState:
        """Weighted mean and deviation of the sequences, which are the elites from now on."""
        config = self.config
        elites, weights = sequences, elite_weights(values, config.temperature)
        # The weights sum to 1 up to rounding, which may leave the box.
        mean = jnp.clip(jnp.einsum("e,eha->ha", weights, elites), -1.0, 1.0)
        variance = jnp.einsum("e,eha->ha", weights, (elites - mean[None]) ** 2)
        return MPPIState(
            mean=mean,
            scale=jnp.clip(jnp.sqrt(variance), config.scale_min, config.scale_max),
            elites=elites,
            weights=weights,
            stats=state.stats,
        )

    def postprocess(self, state: MPPIState, explore: Array, *, key: PRNGKeyArray) -> Plan:
        """The mean's first action; exploring, an elite's with the final scale as noise."""
        key_pick, key_noise = jax.random.split(key)
        picked = state.elites[jax.random.categorical(key_pick, jnp.log(state.weights)), 0]
        noise = state.scale[0] * jax.random.normal(key_noise, picked.shape)
        exploring = jnp.clip(picked + noise, -1.0, 1.0)
        action = jnp.where(explore, exploring, state.mean[0])
        shifted = jnp.concatenate([state.mean[1:], jnp.zeros((1, self.action_size))])
        finite = jnp.all(jnp.isfinite(action))
        return Plan(
            value=action,
            result=RESULTS.where(finite, RESULTS.successful, RESULTS.nonfinite),
            stats=state.stats,
            warm_start=shifted,
        )
