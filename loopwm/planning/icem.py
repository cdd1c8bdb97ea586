"""The improved cross-entropy method for actions in a box."""

import dataclasses
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from loopwm.actions import ActionLayout
from loopwm.core import RESULTS
from loopwm.errors import UsageError
from loopwm.planning.coarse import CoarseConfig, Effort, Ranker
from loopwm.planning.iterative import AbstractBoxSampler
from loopwm.planning.noise import coloured_noise
from loopwm.planning.planner import Plan, PlannerBuilder, PlanStats, check_sizes
from loopwm.planning.rollout import Scoring


@dataclasses.dataclass(frozen=True)
class ICEMConfig(PlannerBuilder):
    """Settings of iCEM."""

    horizon: int = 5
    """K: imagined steps a sequence."""
    population: int = 64
    """Sequences scored in the first iteration, proposals and kept ones included."""
    proposals: int = 12
    """Sequences of the policy prior among them, in the first iteration."""
    iterations: int = 4
    """Refits a decision."""
    elites: int = 12
    """Best sequences that the refit uses."""
    beta: float = 2.0
    """β: exponent of the noise's power spectrum along a sequence; 0 is white noise."""
    decay: float = 1.25
    """γ: iteration i scores population / γ^i sequences, but at least twice the elites."""
    kept: float = 0.3
    """ξ: share of the elites that enter the next iteration, and the next decision, as they are."""
    momentum: float = 0.1
    """α: share of the old mean and deviation kept in a refit."""
    scale: float = 0.5
    """Standard deviation of an action entry at the first iteration."""
    scale_min: float = 0.05
    """Smallest standard deviation of an action entry."""
    scoring: Scoring = Scoring.EACH_STEP
    """Where a sequence's score asks for rewards: each_step, or terminal (see `score`)."""
    coarse: CoarseConfig = CoarseConfig()
    """Coarse-to-fine planning, off by default."""

    def __post_init__(self):
        """Refuses sizes that cannot work."""
        name = "planning.icem"
        check_sizes(name, self)
        if not (0.0 <= self.momentum < 1.0 and 0.0 <= self.kept <= 1.0):
            raise UsageError(
                f"{name}.momentum and kept are {self.momentum} and {self.kept}; give values in "
                "[0, 1) and [0, 1]."
            )
        if not (0.0 <= self.beta < float("inf") and 1.0 <= self.decay < float("inf")):
            raise UsageError(
                f"{name}.beta and decay are {self.beta} and {self.decay}; give at least 0 and "
                "at least 1."
            )
        if not 0.0 < self.scale_min <= self.scale < float("inf"):
            raise UsageError(
                f"{name}.scale_min and scale are {self.scale_min} and {self.scale}; give "
                "0 < scale_min <= scale."
            )
        if self.proposals + self.keep + 1 >= self.population:
            raise UsageError(
                f"{name}.proposals, the kept elites and the mean are {self.proposals} + "
                f"{self.keep} + 1 sequences and leave none of the population ({self.population}) "
                "to draw; raise it."
            )
        self.coarse.check(
            name,
            iterations=self.iterations,
            population=min(self.populations),
            elites=self.elites,
        )

    @property
    def keep(self) -> int:
        """Elites that are kept, ⌈ξ · elites⌉."""
        return math.ceil(self.kept * self.elites)

    @property
    def populations(self) -> tuple[int, ...]:
        """Sequences scored in each iteration; at least twice the elites where there were so many.

        Room for the kept elites, the mean and one drawn sequence is always left.
        """
        smallest = min(self.population, max(2 * self.elites, self.keep + 2))
        decayed = (round(self.population * self.decay**-i) for i in range(self.iterations))
        return tuple(max(size, smallest) for size in decayed)

    @property
    def discrete(self) -> bool:
        """False: vectors in [−1, 1]."""
        return False

    def build(self, actions: ActionLayout) -> "ICEM":
        """Builds the planner."""
        return ICEM(
            config=self,
            action_size=actions.size,
            horizon=self.horizon,
            iterations=self.iterations,
            proposals=self.proposals,
            population=self.population,
            ranker=Ranker(self.elites, self.scoring, self.coarse),
        )


class ICEMStart(eqx.Module):
    """What one decision hands to the next, shifted by a step."""

    mean: Float[Array, "horizon action"]
    kept: Float[Array, "kept horizon action"]
    """Elites, shape (kept, horizon, action)."""
    known: Bool[Array, ""]
    """Whether there are any: not before the first decision."""


class ICEMState(eqx.Module):
    """Gaussian over action sequences, its elites, and the best sequence so far."""

    mean: Float[Array, "horizon action"]
    scale: Float[Array, "horizon action"]
    start: ICEMStart
    elites: Float[Array, "elites horizon action"]
    """Best first."""
    values: Float[Array, " elites"]
    """Their returns, falling."""
    best: Float[Array, "horizon action"]
    """Best sequence of all iterations whose returns are those of the full depth."""
    best_value: Float[Array, ""]
    stats: PlanStats


class ICEM(AbstractBoxSampler):
    r"""iCEM with policy proposals and a terminal value.

    Iteration i scores $N_i = \max(N \gamma^{-i}, 2E)$ sequences, E being the number of elites:

    $$u = \mathrm{clip}(\mu + \sigma \odot \epsilon, -1, 1),$$

    with ε coloured along the sequence (`coloured_noise`), a share ξ of the elites before it and,
    in the last iteration, μ itself. Then

    $$\mu \leftarrow \alpha \mu + (1 - \alpha) \bar u_{elites}, \qquad
      \sigma \leftarrow \alpha \sigma + (1 - \alpha)\, \mathrm{std}(u_{elites}).$$

    The first iteration starts from the last decision's μ and share ξ of its elites, both shifted
    by a step: μ repeats its last action, elites draw theirs. What is executed is the first action
    of the best sequence of the whole search. The policy's sequences join the first iteration; a
    floor under σ keeps exploration alive. Both are ours, as is drawing fresh sequences in the
    place of elites that a first decision does not have.

    Source: Pinneri et al. 2020, "Sample-efficient cross-entropy method for real-time planning"
        (arXiv 2008.06389), section 3 and algorithm 1.
    """

    config: ICEMConfig = eqx.field(static=True)
    action_size: int = eqx.field(static=True)
    horizon: int = eqx.field(static=True)
    iterations: int = eqx.field(static=True)
    proposals: int = eqx.field(static=True)
    population: int = eqx.field(static=True)
    """Sequences of this stage's iteration."""
    ranker: Ranker
    proposals_stay: ClassVar[bool] = False
    number: int = eqx.field(static=True, default=0)
    """Which iteration this stage makes, from 0."""

    def cold_start(self) -> ICEMStart:
        """Mean 0, and no elites."""
        shape = (self.horizon, self.action_size)
        return ICEMStart(
            mean=jnp.zeros(shape),
            kept=jnp.zeros((self.config.keep, *shape)),
            known=jnp.zeros((), bool),
        )

    def init(self, warm_start: ICEMStart) -> ICEMState:
        """Mean and elites of the previous decision, widest scale."""
        shape, elites = (self.horizon, self.action_size), self.config.elites
        return ICEMState(
            mean=warm_start.mean,
            scale=jnp.full(shape, self.config.scale),
            start=warm_start,
            elites=jnp.zeros((elites, *shape)),
            values=jnp.full(elites, -jnp.inf),
            best=jnp.zeros(shape),
            best_value=jnp.asarray(-jnp.inf),
            stats=PlanStats(jnp.zeros(()), jnp.zeros(()), jnp.zeros(())),
        )

    def stages(self) -> tuple["ICEM", ...]:
        """Copies with the populations of each iteration."""
        return tuple(
            dataclasses.replace(self, population=population, number=number)
            for number, population in enumerate(self.config.populations)
        )

    def candidates(self, state: ICEMState) -> Float[Array, "elites horizon action"]:
        """The elites."""
        return state.elites

    def refit(
        self,
        state: ICEMState,
        sequences: Float[Array, "sequences horizon action"],
        values: Float[Array, " sequences"],
        effort: Effort = Effort.FULL,
    ) -> ICEMState:
        """Mean and deviation move to the sequences', which are elites; fewer leave old ones."""
        config = self.config
        # Averages of actions at the edge may leave the box by a rounding.
        center = jnp.clip(jnp.mean(sequences, axis=0), -1.0, 1.0)
        spread = jnp.std(sequences, axis=0)
        kept, better = config.momentum, values[0] > state.best_value
        best_value = jnp.where(better, values[0], state.best_value)
        if effort is Effort.COARSE:
            # Returns of another depth do not compare with those of the iterations to come.
            best_value = jnp.full((), -jnp.inf)
        return ICEMState(
            mean=kept * state.mean + (1.0 - kept) * center,
            scale=jnp.maximum(kept * state.scale + (1.0 - kept) * spread, config.scale_min),
            start=state.start,
            elites=jnp.concatenate([sequences, state.elites])[: config.elites],
            values=jnp.concatenate([values, state.values])[: config.elites],
            best=jnp.where(better, sequences[0], state.best),
            best_value=best_value,
            stats=state.stats,
        )

    def postprocess(self, state: ICEMState, explore: Array, *, key: PRNGKeyArray) -> Plan:
        """The best sequence's first action; exploring, an elite's with the final scale as noise."""
        key_pick, key_noise, key_last = jax.random.split(key, 3)
        picked = state.elites[jax.random.randint(key_pick, (), 0, self.config.elites), 0]
        noise = state.scale[0] * jax.random.normal(key_noise, picked.shape)
        exploring = jnp.clip(picked + noise, -1.0, 1.0)
        action = jnp.where(explore, exploring, state.best[0])
        finite = jnp.all(jnp.isfinite(action)) & jnp.all(jnp.isfinite(state.values))
        ends = jax.random.normal(key_last, (self.config.keep, 1, self.action_size))
        ends = jnp.clip(state.mean[None, -1:] + state.scale[None, -1:] * ends, -1.0, 1.0)
        kept = state.elites[: self.config.keep, 1:]
        return Plan(
            value=action,
            result=RESULTS.where(finite, RESULTS.successful, RESULTS.nonfinite),
            stats=state.stats,
            warm_start=ICEMStart(
                mean=jnp.concatenate([state.mean[1:], state.mean[-1:]]),
                kept=jnp.concatenate([kept, ends], axis=1),
                known=jnp.ones((), bool),
            ),
        )

    def draw(self, state: ICEMState, *, key: PRNGKeyArray) -> Float[Array, "drawn horizon action"]:
        """Sequences that this stage's iteration is given, then drawn ones."""
        config, keep = self.config, self.config.keep
        first, last = self.number == 0, self.number == self.iterations - 1
        given = [] if first else [state.elites[:keep]]
        if last:
            given.append(state.mean[None])
        drawn = self.population - sum(map(len, given)) - (self.proposals if first else 0)
        shape = (drawn, self.horizon, self.action_size)
        noise = coloured_noise(config.beta, shape, key=key)
        sampled = jnp.clip(state.mean[None] + state.scale[None] * noise, -1.0, 1.0)
        if first:
            shifted = jnp.where(state.start.known, state.start.kept, sampled[:keep])
            given.append(shifted)
            sampled = sampled[keep:]
        return jnp.concatenate([*given, sampled])
