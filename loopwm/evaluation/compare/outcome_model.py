"""A world model trained open-loop with its outcome head: observation, reward, continuation."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from loopwm.models import AbstractWorldModel
from loopwm.training.open_loop import AbstractOpenLoop, OpenLoopWorldModel


class WithOutcome(AbstractOpenLoop):
    r"""A world model whose predictions are $[\hat o_{k+1}, \hat r_k, \hat c_k]$.

    What is rolled is $[z_{k+1}, z_k, u_k]$, since the outcome head reads all three. Observations
    are $[o_{k+1}, r_k, c_k]$ with c the continuation, 1 or 0; of the first one o alone is read.
    """

    model: AbstractWorldModel
    size: int = eqx.field(static=True)
    """Entries of an observation o."""
    action: int = eqx.field(static=True)
    """Entries of an action u."""

    def encode(self, observation: Float[Array, " joined"]) -> Float[Array, " state"]:
        """[E(o), E(o), 0]."""
        z = self.model.encode(observation[: self.size])
        return jnp.concatenate([z, z, jnp.zeros(self.action)])

    def bind(self, action: Float[Array, " action"]) -> Float[Array, " action"]:
        """u itself: a transition of a world model takes z and u together."""
        return action

    def advance(
        self, z: Float[Array, " state"], bound: Float[Array, " action"]
    ) -> Float[Array, " state"]:
        """[z', z, u]."""
        now = z[: self.model.latent]
        return jnp.concatenate([self.model.transition(now, bound).value, now, bound])

    def decode(self, z: Float[Array, " state"]) -> Float[Array, " joined"]:
        """Observation of z', reward, and logit of the continuation."""
        latent = self.model.latent
        following, before, action = z[:latent], z[latent : 2 * latent], z[2 * latent :]
        outcome = self.model.outcome(before, action, following)
        return jnp.concatenate(
            [
                self.model.decode(following),
                outcome.reward[None],
                outcome.continuation_logit[None],
            ]
        )

    def auxiliary(
        self,
        observation: Float[Array, "steps_plus_one joined"],
        action: Float[Array, "steps action"],
        valid: Bool[Array, " steps"],
        *,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        """The model's own loss term, scalar; 0 for a model without one."""
        inside = OpenLoopWorldModel(self.model)
        return inside.auxiliary(observation[:, : self.size], action, valid, key=key)


def outcome_loss(found: Float[Array, " joined"], seen: Float[Array, " joined"]) -> Float[Array, ""]:
    r"""$\frac1n\|\hat o - o\|^2 + (\hat r - r)^2 + \mathrm{CE}(\hat c, c)$, scalar.

    The weights are the learner's defaults (`learner.reconstruction_weight`, `reward_weight`,
    `continuation_weight`: 1 each).
    """
    observation = jnp.mean((found[:-2] - seen[:-2]) ** 2)
    reward = (found[-2] - seen[-2]) ** 2
    logit, goes_on = found[-1], seen[-1]
    entropy = jax.nn.softplus(logit) - goes_on * logit
    return observation + reward + entropy
