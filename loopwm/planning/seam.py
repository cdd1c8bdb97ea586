"""The one seam between planner and model: pure functions of latent states."""

import abc
import dataclasses
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.core import AbstractDepthRule, FixedDepth
from loopwm.errors import UsageError
from loopwm.models import CategoricalPolicy, Networks


class Imagined(eqx.Module):
    """One imagined transition, as a planner sees it."""

    z: Float[Array, " latent"]
    """z_{t+1}, shape (latent,)."""
    reward: Float[Array, ""]
    """r_t in the units of `value`, scalar."""
    continuation: Float[Array, ""]
    """Probability that the task goes on after this step, scalar in [0, 1]."""
    loops: Float[Array, ""]
    """Inner loops spent, scalar."""


class AbstractPlanningModel(eqx.Module):
    """What a planner may ask; unbatched, planners vmap."""

    action_size: eqx.AbstractVar[int]
    """Size of an encoded action u."""
    discount: eqx.AbstractVar[float]
    """Discount a step, in (0, 1]."""

    @abc.abstractmethod
    def step(self, z: Float[Array, " latent"], u: Float[Array, " action"]) -> Imagined:
        """One imagined transition from z of shape (latent,) under u of shape (action,)."""

    @abc.abstractmethod
    def value(self, z: Float[Array, " latent"]) -> Float[Array, ""]:
        """Terminal value at z of shape (latent,), scalar."""

    @abc.abstractmethod
    def propose(self, z: Float[Array, " latent"], *, key: PRNGKeyArray) -> Float[Array, " action"]:
        """An action of the policy prior at z, shape (action,)."""

    @abc.abstractmethod
    def at_depth(self, depth: int) -> "AbstractPlanningModel":
        """The same model with `depth` loops a transition.

        Returns:
            The model; the very same object (`is`) where that is its depth already.

        Raises:
            UsageError: the depth is more than the model's own.
        """


@runtime_checkable
class Separable(Protocol):
    """A planning model whose outcomes may be asked for after the transitions.

    Of a whole rollout they are then computed in one batch. `step` is `advance` and `outcome`.
    """

    def advance(
        self, z: Float[Array, " latent"], u: Float[Array, " action"]
    ) -> tuple[Float[Array, " latent"], Float[Array, ""]]:
        """z_{t+1} of shape (latent,) and the inner loops spent, scalar."""
        ...

    def outcome(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        z_next: Float[Array, " latent"],
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """r_t in the units of `value`, and the probability that the task goes on, scalars."""
        ...


@runtime_checkable
class DiscretePrior(Protocol):
    """A planning model whose policy prior has probabilities: that of discrete actions."""

    def log_prior(self, z: Float[Array, " latent"]) -> Float[Array, " action"]:
        """Log-probabilities of the entries of a one-hot action at z, shape (action,).

        Of several one-hot groups side by side, each group's own: the log-probability of u is the
        inner product of u with them.
        """
        ...


@runtime_checkable
class Differentiable(Protocol):
    """A planning model that knows what of it can be differentiated in reverse mode."""

    def differentiable(self) -> AbstractPlanningModel:
        """The nearest model that can; the very same object (`is`) where it can itself."""
        ...


def differentiable(model: AbstractPlanningModel) -> AbstractPlanningModel:
    """The nearest model that can be differentiated in reverse mode: itself, unless it says."""
    return model.differentiable() if isinstance(model, Differentiable) else model


class NetworksModel(AbstractPlanningModel):
    """The trained networks as a planner sees them. Resolve their constrained weights first.

    Rewards and values are normalised: rewards by the largest absolute reward, 1 − γ and the zoom of
    the critic, so that returns lie in about [−1, 1] in every environment.
    """

    networks: Networks
    rule: AbstractDepthRule | None
    """Depth of each imagined transition; the model's own when None."""
    discount: float = eqx.field(static=True)
    action_size: int = eqx.field(static=True)

    def step(self, z: Float[Array, " latent"], u: Float[Array, " action"]) -> Imagined:
        """One imagined transition."""
        following, loops = self.advance(z, u)
        reward, continuation = self.outcome(z, u, following)
        return Imagined(z=following, reward=reward, continuation=continuation, loops=loops)

    def advance(
        self, z: Float[Array, " latent"], u: Float[Array, " action"]
    ) -> tuple[Float[Array, " latent"], Float[Array, ""]]:
        """z_{t+1}, shape (latent,), and the loops spent."""
        solution = self.networks.world_model.transition(z, u, self.rule)
        return solution.value, solution.stats.loops.astype(jnp.float32)

    def outcome(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        z_next: Float[Array, " latent"],
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """r_t in the units of values, and the continuation."""
        outcome = self.networks.world_model.outcome(z, u, z_next)
        unit = (1.0 - self.discount) * self.networks.critic.scale
        return unit * outcome.reward, outcome.continuation

    def value(self, z: Float[Array, " latent"]) -> Float[Array, ""]:
        """Mean of both critics at the policy's most likely action."""
        return jnp.mean(self.networks.critic.values(z, self.networks.policy.mode(z)))

    def propose(self, z: Float[Array, " latent"], *, key: PRNGKeyArray) -> Float[Array, " action"]:
        """A sample of the policy."""
        return self.networks.policy.sample(z, key=key)

    def at_depth(self, depth: int) -> "AbstractPlanningModel":
        """The same networks with a fixed depth; never more than the depth they plan at."""
        own = FixedDepth(self.networks.world_model.depth) if self.rule is None else self.rule
        if depth > own.max_depth:
            raise UsageError(
                f"The coarse depth is {depth}, more than the {own.max_depth} loops of full depth; "
                "lower it."
            )
        same = isinstance(own, FixedDepth) and depth == own.max_depth
        return self if same else dataclasses.replace(self, rule=FixedDepth(depth))

    def log_prior(self, z: Float[Array, " latent"]) -> Float[Array, " action"]:
        """Log-probabilities of a categorical policy's actions.

        Raises:
            UsageError: the policy is one over vectors.
        """
        policy = self.networks.policy
        if not isinstance(policy, CategoricalPolicy):
            raise UsageError("Only discrete actions have probabilities; use mppi or icem.")
        return policy.log_probabilities(z)

    def differentiable(self) -> AbstractPlanningModel:
        """With the model's own depth in the place of a rule that is forward only."""
        forward_only = self.rule is not None and self.rule.forward_only
        return dataclasses.replace(self, rule=None) if forward_only else self
