"""Gradient refinement: what a sampling planner found, improved through the model."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.actions import ActionLayout
from loopwm.errors import UsageError
from loopwm.models.ranges import check_positive
from loopwm.planning.icem import ICEMConfig
from loopwm.planning.iterative import AbstractBoxSampler, with_returns
from loopwm.planning.mppi import MPPIConfig
from loopwm.planning.planner import AbstractPlanner, CandidateReturns, Plan, PlannerBuilder
from loopwm.planning.rollout import score
from loopwm.planning.seam import AbstractPlanningModel, differentiable

SAMPLERS: dict[str, type[PlannerBuilder]] = {"mppi": MPPIConfig, "icem": ICEMConfig}
"""Planners whose sequences can be refined; they build an `AbstractBoxSampler`."""


@dataclasses.dataclass(frozen=True)
class GradientConfig(PlannerBuilder):
    """Settings of gradient refinement."""

    sampler: MPPIConfig | ICEMConfig = dataclasses.field(
        default=MPPIConfig(iterations=3), metadata={"registry": SAMPLERS}
    )
    """The planner that finds what is refined, with settings of its own; `sampler.name` is mppi or
    icem."""
    refined: int = 4
    """Best sequences of the last iteration that are refined."""
    steps: int = 4
    """Gradient steps."""
    rate: float = 0.1
    """Step size of Adam: about how far an action entry in [−1, 1] moves in a step."""

    def __post_init__(self):
        """Refuses sizes that cannot work."""
        name = "planning.gradient"
        if min(self.refined, self.steps) < 1:
            raise UsageError(
                f"{name}.refined and steps are {self.refined} and {self.steps}; each needs to be "
                "at least 1."
            )
        if self.refined > self.sampler.elites:
            raise UsageError(
                f"{name}.refined is {self.refined}, more than the sampler's elites "
                f"({self.sampler.elites}); lower it."
            )
        check_positive(f"{name}.", self, "rate")

    @property
    def discrete(self) -> bool:
        """False: vectors in [−1, 1]."""
        return False

    def build(self, actions: ActionLayout) -> "Refined":
        """Builds the planner around its sampler."""
        return Refined(config=self, sampler=self.sampler.build(actions))


class Refinement(eqx.Module):
    """A sequence before and after gradient steps."""

    sequence: Float[Array, "horizon action"]
    """The best of what was tried, the start among it, shape (horizon, action)."""
    value: Float[Array, ""]
    """Its return, at least the start's, scalar."""
    start: Float[Array, ""]
    """The start's return, scalar."""
    loops: Float[Array, ""]
    """Inner loops a transition, mean over all that were imagined, scalar."""


class Refined(AbstractPlanner):
    r"""A sampling planner, and Adam on its best sequences' imagined return.

    With s the return in imagination (`score`), each of the best sequences u goes through

    $$u \leftarrow \mathrm{clip}(u + \eta\, \mathrm{Adam}(\nabla_u s(u)), -1, 1),$$

    and the best iterate, the start included, is kept, so that no sequence's return falls. The
    sampler is then fit to what was kept, as after one more iteration, and decides as ever.

    Gradients are taken through `differentiable(model)`. Where that is another model than the one
    that scores (a halting rule ends by a count that has no gradient), what it found is kept only
    where the scoring model's return is better.

    Sources: Bharadhwaj et al. 2020, "Model-predictive control via cross-entropy and
        gradient-based optimization" (arXiv 2004.08763), which refines in every iteration; Kingma
        and Ba 2015 (arXiv 1412.6980).
    """

    config: GradientConfig = eqx.field(static=True)
    sampler: AbstractBoxSampler

    def cold_start(self):
        """The sampler's."""
        return self.sampler.cold_start()

    def __call__(
        self,
        model: AbstractPlanningModel,
        z: Float[Array, " latent"],
        warm_start,
        explore: Array,
        *,
        key: PRNGKeyArray,
    ) -> Plan:
        """Samples, refines, decides."""
        config, sampler = self.config, self.sampler
        key_propose, key_steps, key_last = jax.random.split(key, 3)
        state, returns = sampler.search(
            model, z, warm_start, key_propose=key_propose, key_steps=key_steps
        )
        start = sampler.candidates(state)[: config.refined]
        found = jax.vmap(lambda u: self.refine(model, z, u))(start)
        values, order = jax.lax.top_k(found.value, config.refined)
        state = sampler.refit(state, found.sequence[order], values)
        sampled, ascended = sampler.sequences(model), config.refined * self._rollouts(model)
        spent = sampled * state.stats.loops + ascended * jnp.mean(found.loops)
        changed = (values[0], spent / (sampled + ascended))
        state = eqx.tree_at(lambda s: (s.stats.best, s.stats.loops), state, changed)
        last = CandidateReturns(values[:1], jnp.mean(values)[None], jnp.std(values)[None])
        returns = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), returns, last)
        return with_returns(sampler.postprocess(state, explore, key=key_last), returns)

    def refine(
        self,
        model: AbstractPlanningModel,
        z: Float[Array, " latent"],
        sequence: Float[Array, "horizon action"],
    ) -> Refinement:
        """Improves one sequence.

        Args:
            model: the planning model.
            z: latent state now, shape (latent,).
            sequence: where to start, shape (horizon, action), in [−1, 1].

        Returns:
            The best iterate; the start itself where none was better.
        """
        smooth, scoring = differentiable(model), self.sampler.ranker.scoring
        optimiser = optax.adam(self.config.rate)

        def cost(u):
            scored = score(smooth, z, u, scoring)
            return -scored.value, scored.loops

        def body(carry, _):
            u, moments, best, least = carry
            (value, loops), gradient = jax.value_and_grad(cost, has_aux=True)(u)
            best, least = jnp.where(value < least, u, best), jnp.where(value < least, value, least)
            change, moments = optimiser.update(gradient, moments)
            return (jnp.clip(u + change, -1.0, 1.0), moments, best, least), (value, loops)

        first = (sequence, optimiser.init(sequence), sequence, jnp.asarray(jnp.inf))
        (u, _, best, least), (values, loops) = jax.lax.scan(body, first, None, self.config.steps)
        value, last = cost(u)
        best, least = jnp.where(value < least, u, best), jnp.where(value < least, value, least)
        # A start that is not a number is said to be none; a step that led to none is not kept.
        least = jnp.where(jnp.isnan(values[0]), values[0], least)
        spent = jnp.sum(loops) + last
        if smooth is model:
            return Refinement(best, -least, -values[0], spent / self._rollouts(model))
        before, after = (score(model, z, u, scoring) for u in (sequence, best))
        better = after.value > before.value
        return Refinement(
            sequence=jnp.where(better, best, sequence),
            value=jnp.where(better, after.value, before.value),
            start=before.value,
            loops=(spent + before.loops + after.loops) / self._rollouts(model),
        )

    def _rollouts(self, model: AbstractPlanningModel) -> int:
        """Sequences imagined, forward, for each one refined."""
        return self.config.steps + (1 if differentiable(model) is model else 3)
