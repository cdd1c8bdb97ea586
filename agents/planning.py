"""The agent that plans in imagination."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from loopwm.agents.interface import AbstractAgent, AgentState, DecisionStats, SpaceCodec
from loopwm.core import RESULTS, AbstractDepthRule
from loopwm.models import AbstractWorldModel, Networks, Normalizer
from loopwm.planning import AbstractPlanner, Bonus, NetworksModel, exploring
from loopwm.programs import StoredProgram


class PlanningAgent(AbstractAgent):
    """Encodes the observation, plans in latent space, takes the plan's first action."""

    networks: Networks
    """Trained networks, their constrained weights resolved."""
    normalizer: Normalizer
    planner: AbstractPlanner
    discount: float = eqx.field(static=True)
    spaces: SpaceCodec = eqx.field(static=True)
    rule: AbstractDepthRule | None = None
    """Depth of imagined transitions; the model's own when None."""
    bonus: Bonus = eqx.field(static=True, default=Bonus.NONE)
    """Added to imagined rewards when it acts to explore."""
    bonus_weight: float = eqx.field(static=True, default=1.0)
    """The bonus's weight, in units of the largest absolute reward."""

    @property
    def world_model(self) -> AbstractWorldModel:
        """The world model it plans with."""
        return self.networks.world_model

    def _cold_memory(self, batch: int) -> Any:
        # NumPy arrays: JAX's would be of a weak type, and the planner would be compiled again for
        # the memory of the next decision, which is not.
        def repeated(leaf):
            cold = np.asarray(leaf)
            return np.broadcast_to(cold, (batch, *cold.shape))

        return jax.tree.map(repeated, self.planner.cold_start())

    def _decide(
        self, observation: np.ndarray, state: AgentState, explore: bool
    ) -> tuple[Array, AgentState]:
        return _plan_batch(
            (self.networks, self.normalizer, self.planner, self.rule, self.discount),
            observation,
            state.key,
            state.memory,
            np.asarray(explore),
            (self.bonus, self.bonus_weight),
        )


@StoredProgram
def _plan_batch(
    parts, observation, key, memory, explore, added=(Bonus.NONE, 0.0)
) -> tuple[Array, AgentState]:
    """One compiled call a decision, for the whole batch of environments."""
    networks, normalizer, planner, rule, discount = parts
    bonus, weight = added
    model = NetworksModel(networks, rule, discount, networks.policy.action_size)
    searched = exploring(model, bonus, weight, explore)
    key, key_plans = jax.random.split(key)

    def one(o, warm_start, plan_key):
        z = model.networks.world_model.encode(normalizer(o))
        plan = planner(searched, z, warm_start, explore, key=plan_key)
        taken = model.networks.world_model.transition(z, plan.value, rule)
        return plan, taken.stats.error_bound

    plan, bound = jax.vmap(one)(observation, memory, jax.random.split(key_plans, len(observation)))
    stats = DecisionStats(
        loops=plan.stats.loops,
        bound=bound,
        score=plan.stats.best,
        finite=plan.result == RESULTS.successful,
        returns=plan.stats.returns,
    )
    return plan.value, AgentState(key=key, memory=plan.warm_start, stats=stats)
