"""Policy priors: what proposes actions to the planner and acts by itself."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.models.value import ValueConfig
from loopwm.nn import MLP


class AbstractPolicy(eqx.Module):
    """A distribution over encoded actions given a latent state; unbatched."""

    action_size: eqx.AbstractVar[int]
    """Size of u."""

    @abc.abstractmethod
    def sample(self, z: Float[Array, " latent"], *, key: PRNGKeyArray) -> Float[Array, " action"]:
        """One action u of shape (action,) at z of shape (latent,)."""

    @abc.abstractmethod
    def target_entropy(self) -> float:
        """Mean entropy that learning holds the policy at, in nats."""

    @abc.abstractmethod
    def mode(self, z: Float[Array, " latent"]) -> Float[Array, " action"]:
        """The most likely action, shape (action,)."""

    @abc.abstractmethod
    def weighted_actions(
        self, z: Float[Array, " latent"], *, key: PRNGKeyArray
    ) -> tuple[Float[Array, "choices action"], Float[Array, " choices"], Float[Array, ""]]:
        """Actions and weights whose weighted sums are expectations under the policy.

        Args:
            z: latent state, shape (latent,).
            key: PRNG key.

        Returns:
            Actions of shape (choices, action), weights of shape (choices,) that sum to 1, and
            an estimate of the entropy, scalar in nats. All are differentiable in the policy.
        """


class CategoricalPolicy(AbstractPolicy):
    """Softmax over one-hot actions."""

    network: MLP
    action_size: int = eqx.field(static=True)

    def __init__(self, latent: int, actions: int, config: ValueConfig, *, key: PRNGKeyArray):
        """Args: size of z, number of actions, sizes of the network, PRNG key."""
        self.network = MLP(
            latent, actions, width=config.hidden, depth=config.depth, zero_readout=True, key=key
        )
        self.action_size = actions

    def log_probabilities(self, z: Float[Array, " latent"]) -> Float[Array, " actions"]:
        """Log-probabilities, shape (actions,)."""
        return jax.nn.log_softmax(self.network(z))

    def sample(self, z: Float[Array, " latent"], *, key: PRNGKeyArray) -> Float[Array, " action"]:
        """A one-hot sample, shape (actions,)."""
        index = jax.random.categorical(key, self.network(z))
        return jax.nn.one_hot(index, self.action_size)

    def target_entropy(self) -> float:
        """0.8 of the uniform distribution's.

        The value of a policy that slips now and then falls before the edge of what it can
        hold, which is what the planner steers by; that of a certain one is flat up to it.
        """
        return 0.8 * math.log(self.action_size)

    def mode(self, z: Float[Array, " latent"]) -> Float[Array, " action"]:
        """The one-hot most likely action, shape (actions,)."""
        return jax.nn.one_hot(jnp.argmax(self.network(z)), self.action_size)

    def weighted_actions(
        self, z: Float[Array, " latent"], *, key: PRNGKeyArray
    ) -> tuple[Float[Array, "choices action"], Float[Array, " choices"], Float[Array, ""]]:
        """All one-hot actions, their probabilities, and the exact entropy."""
        log_p = self.log_probabilities(z)
        p = jnp.exp(log_p)
        return jnp.eye(self.action_size), p, -jnp.sum(p * log_p)


class GaussianPolicy(AbstractPolicy):
    """tanh of a Gaussian with state-dependent mean and scale."""

    network: MLP
    action_size: int = eqx.field(static=True)
    log_scale_min: float = eqx.field(static=True, default=-4.0)
    """Smallest log standard deviation before the tanh."""
    log_scale_max: float = eqx.field(static=True, default=0.5)
    """Largest log standard deviation before the tanh."""

    def __init__(self, latent: int, action: int, config: ValueConfig, *, key: PRNGKeyArray):
        """Args: size of z, size of u, sizes of the network, PRNG key."""
        self.network = MLP(
            latent, 2 * action, width=config.hidden, depth=config.depth, zero_readout=True, key=key
        )
        self.action_size = action
        self.log_scale_min = -4.0
        self.log_scale_max = 0.5

    def _parameters(self, z: Array) -> tuple[Array, Array]:
        mean, raw = jnp.split(self.network(z), 2)
        low, high = self.log_scale_min, self.log_scale_max
        # The zero of the raw output is a wide distribution, so that learning starts exploring.
        return mean, low + (high - low) * jax.nn.sigmoid(raw + 2.0)

    def sample(self, z: Float[Array, " latent"], *, key: PRNGKeyArray) -> Float[Array, " action"]:
        """A sample in (−1, 1), shape (action,)."""
        mean, log_scale = self._parameters(z)
        return jnp.tanh(mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape))

    def target_entropy(self) -> float:
        """−1 an action entry, as in SAC (Haarnoja et al. 2018, arXiv 1812.05905)."""
        return -float(self.action_size)

    def mode(self, z: Float[Array, " latent"]) -> Float[Array, " action"]:
        """tanh of the mean, shape (action,)."""
        return jnp.tanh(self._parameters(z)[0])

    def weighted_actions(
        self, z: Float[Array, " latent"], *, key: PRNGKeyArray
    ) -> tuple[Float[Array, "choices action"], Float[Array, " choices"], Float[Array, ""]]:
        """One reparametrised sample with weight 1, and −log π of it as the entropy estimate."""
        mean, log_scale = self._parameters(z)
        noise = jax.random.normal(key, mean.shape)
        raw = mean + jnp.exp(log_scale) * noise
        gaussian = -0.5 * noise**2 - log_scale - 0.5 * jnp.log(2.0 * jnp.pi)
        # log(1 − tanh²) = 2 (log 2 − x − softplus(−2x)), stable for large |x|.
        squash = 2.0 * (jnp.log(2.0) - raw - jax.nn.softplus(-2.0 * raw))
        return jnp.tanh(raw)[None], jnp.ones(1), -jnp.sum(gaussian - squash)
