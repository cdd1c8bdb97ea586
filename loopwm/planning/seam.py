"""The one seam between planner and model: pure functions of latent states."""

import abc
import dataclasses
import enum
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.core import AbstractDepthRule, FixedDepth
from loopwm.errors import UsageError
from loopwm.models import CategoricalPolicy, Networks


class Scoring(enum.StrEnum):
    """Where the return of an imagined sequence asks for rewards and continuations."""

    EACH_STEP = "each_step"
    """At every step."""
    TERMINAL = "terminal"
    """At the last step alone: K transitions, one evaluation of the outcome head."""


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
        model = self.networks.world_model
        solution = model.transition(z, u, self.rule)
        outcome = model.outcome(z, u, solution.value)
        return Imagined(
            z=solution.value,
            reward=(1.0 - self.discount) * self.networks.critic.scale * outcome.reward,
            continuation=outcome.continuation,
            loops=solution.stats.loops.astype(jnp.float32),
        )

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


class Score(eqx.Module):
    """Return of one imagined action sequence."""

    value: Float[Array, ""]
    """Discounted return with the terminal value, scalar."""
    loops: Float[Array, ""]
    """Inner loops a transition, mean over the horizon, scalar."""


def score(
    model: AbstractPlanningModel,
    z: Float[Array, " latent"],
    actions: Float[Array, "horizon action"],
    scoring: Scoring = Scoring.EACH_STEP,
) -> Score:
    r"""Return of an action sequence in imagination.

    $$\sum_{k<K} \gamma^k \Big(\prod_{j<k} c_j\Big) r_k
      + \gamma^K \Big(\prod_{j<K} c_j\Big) V(z_K)$$

    with $c_j$ the continuation of step j. Terminal scoring (deferred decoding) takes $r_k = 0$ and
    $c_k = 1$ for k < K − 1, and asks for both at the last step alone. It ranks sequences as the
    full sum does where rewards come only at the horizon, or are the same for every action until
    then, and the task does not end before it; elsewhere what happens before the last step counts
    through V alone.

    Args:
        model: the planning model.
        z: latent state at k = 0, shape (latent,).
        actions: u_0 … u_{K−1}, shape (horizon, action).
        scoring: where rewards and continuations are asked for.

    Returns:
        The return and the loops spent.
    """
    if scoring is Scoring.TERMINAL:
        return _terminal_score(model, z, actions)

    def body(carry, u):
        state, weight, total = carry
        imagined = model.step(state, u)
        total = total + weight * imagined.reward
        weight = weight * model.discount * imagined.continuation
        return (imagined.z, weight, total), imagined.loops

    (last, weight, total), loops = jax.lax.scan(body, (z, jnp.ones(()), jnp.zeros(())), actions)
    return Score(value=total + weight * model.value(last), loops=jnp.mean(loops))


def _terminal_score(
    model: AbstractPlanningModel,
    z: Float[Array, " latent"],
    actions: Float[Array, "horizon action"],
) -> Score:
    """One outcome, at the last step; compiled, the others' outcomes are dead code."""

    def body(state, u):
        imagined = model.step(state, u)
        return imagined.z, imagined.loops

    before, loops = jax.lax.scan(body, z, actions[:-1])
    last = model.step(before, actions[-1])
    ahead = model.discount * last.continuation * model.value(last.z)
    return Score(
        value=model.discount ** (len(actions) - 1) * (last.reward + ahead),
        loops=(jnp.sum(loops) + last.loops) / len(actions),
    )


def propose_sequence(
    model: AbstractPlanningModel, z: Float[Array, " latent"], horizon: int, *, key: PRNGKeyArray
) -> Float[Array, "horizon action"]:
    """Rolls the policy prior through the model: u_0 … u_{K−1}, shape (horizon, action)."""

    def body(state, step_key):
        u = model.propose(state, key=step_key)
        return model.step(state, u).z, u

    return jax.lax.scan(body, z, jax.random.split(key, horizon))[1]
