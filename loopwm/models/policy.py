"""Policy priors: what proposes actions to the planner and acts by itself."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.models import categories
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
    def target_entropy(self) -> float | Float[np.ndarray, " parts"]:
        """Mean entropy that learning holds the policy at, in nats.

        A number for each part where it draws independent ones, whose entropies add up.
        """

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


ENUMERATED = 128
"""Policies over more categories than this are averaged over samples instead of all actions."""
SAMPLED = 32
"""How many samples that takes."""


class CategoricalPolicy(AbstractPolicy):
    """Independent softmax distributions over the groups of one-hot actions."""

    network: MLP
    groups: categories.Groups = eqx.field(static=True)
    """Number of categories of each group."""
    reads: int = eqx.field(static=True)
    """First entries of z that it reads."""
    share: float = eqx.field(static=True)
    """Entropy that learning holds it at, over the uniform distribution's."""

    def __init__(
        self, latent: int, groups: categories.Groups, config: ValueConfig, *, key: PRNGKeyArray
    ):
        """Args: entries of z that are read, categories of each group, network's sizes, PRNG key."""
        self.network = MLP(
            latent, sum(groups), width=config.hidden, depth=config.depth, zero_readout=True, key=key
        )
        self.groups, self.reads, self.share = groups, latent, config.entropy

    @property
    def action_size(self) -> int:
        """Size of u: all categories."""
        return sum(self.groups)

    def _logits(self, z: Array) -> Array:
        return self.network(z[: self.reads])

    def log_probabilities(self, z: Float[Array, " latent"]) -> Float[Array, " action"]:
        """Log-probabilities of every group's categories, shape (action,)."""
        return categories.log_softmax(self._logits(z), self.groups)

    def sample(self, z: Float[Array, " latent"], *, key: PRNGKeyArray) -> Float[Array, " action"]:
        """A sample of one-hot groups, shape (action,)."""
        return categories.draw(self._logits(z), self.groups, key=key)

    def target_entropy(self) -> Float[np.ndarray, " groups"]:
        """The given share of each group's uniform distribution's."""
        return self.share * np.log(self.groups)

    def mode(self, z: Float[Array, " latent"]) -> Float[Array, " action"]:
        """The most likely category of each group, shape (action,)."""
        return categories.most_likely(self._logits(z), self.groups)

    def weighted_actions(
        self, z: Float[Array, " latent"], *, key: PRNGKeyArray
    ) -> tuple[Float[Array, "choices action"], Float[Array, " choices"], Float[Array, ""]]:
        """Actions and weights, and the exact entropy.

        One group: all actions and their probabilities. Several: an unbiased estimate of the
        expectation and of its gradient, from every category of each group in turn, or from samples
        of all groups where there are more than `ENUMERATED` categories.
        """
        log_p = self.log_probabilities(z)
        p = jnp.exp(log_p)
        entropy = -jnp.sum(p * log_p)
        if self.action_size > ENUMERATED:
            return *_sampled(log_p, self.groups, key), entropy
        if len(self.groups) == 1:
            return jnp.eye(self.action_size), p, entropy
        return *_one_at_a_time(log_p, self.groups, key), entropy


def _one_at_a_time(
    log_p: Float[Array, " action"], groups: categories.Groups, key: PRNGKeyArray
) -> tuple[Float[Array, "choices action"], Float[Array, " choices"]]:
    r"""Each category of each group, the other groups as they were drawn.

    $$E[Q] = E_{a_{-g}} \Big[\sum_c p_g(c)\, Q(c, a_{-g})\Big], \qquad
      \nabla E[Q] = \sum_g E_{a_{-g}} \Big[\sum_c \nabla p_g(c)\, Q(c, a_{-g})\Big]$$

    for every group g, so that the weights are $p_g(c)/G$ with the gradient of $p_g(c)$.

    Source: Titsias and Lázaro-Gredilla 2015, "Local Expectation Gradients for Black Box
        Variational Inference" (arXiv 1503.01494), equation 8.
    """
    drawn = categories.draw(jax.lax.stop_gradient(log_p), groups, key=key)
    of_group = np.repeat(np.arange(len(groups)), groups)
    others = of_group[:, None] != of_group[None]
    p = jnp.exp(log_p)
    fixed = jax.lax.stop_gradient(p)
    return others * drawn[None] + jnp.eye(log_p.size), fixed / len(groups) + (p - fixed)


def _sampled(
    log_p: Float[Array, " action"], groups: categories.Groups, key: PRNGKeyArray
) -> tuple[Float[Array, "choices action"], Float[Array, " choices"]]:
    r"""Samples with the weight 1/m each, and the gradient of their log-probability.

    $$\nabla w_i = \frac1m \Big(\nabla \log p(a_i) - \frac1{m-1} \sum_{j \ne i} \nabla \log p(a_j)
      \Big)$$

    which makes $\sum_i \nabla w_i Q_i$ the score-function estimate with the mean of the other
    samples' values as the baseline of each.

    Source: Kool, van Hoof and Welling 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!"
        (ICLR workshop), equation 8.
    """
    drawn = categories.draw(jax.lax.stop_gradient(log_p), groups, SAMPLED, key=key)
    score = drawn @ log_p
    score = score - jax.lax.stop_gradient(score)
    rest = (jnp.sum(score) - score) / (SAMPLED - 1)
    return drawn, (1.0 + score - rest) / SAMPLED


class GaussianPolicy(AbstractPolicy):
    """tanh of a Gaussian with state-dependent mean and scale."""

    network: MLP
    action_size: int = eqx.field(static=True)
    reads: int = eqx.field(static=True)
    """First entries of z that it reads."""
    log_scale_min: float = eqx.field(static=True, default=-4.0)
    """Smallest log standard deviation before the tanh."""
    log_scale_max: float = eqx.field(static=True, default=0.5)
    """Largest log standard deviation before the tanh."""

    def __init__(self, latent: int, action: int, config: ValueConfig, *, key: PRNGKeyArray):
        """Args: entries of z that are read, size of u, sizes of the network, PRNG key."""
        self.network = MLP(
            latent, 2 * action, width=config.hidden, depth=config.depth, zero_readout=True, key=key
        )
        self.action_size, self.reads = action, latent
        self.log_scale_min = -4.0
        self.log_scale_max = 0.5

    def _parameters(self, z: Array) -> tuple[Array, Array]:
        mean, raw = jnp.split(self.network(z[: self.reads]), 2)
        low, high = self.log_scale_min, self.log_scale_max
        # The zero of the raw output is a wide distribution, so that learning starts exploring.
        return mean, low + (high - low) * jax.nn.sigmoid(raw + 2.0)

    def sample(self, z: Float[Array, " latent"], *, key: PRNGKeyArray) -> Float[Array, " action"]:
        """A sample in (−1, 1), shape (action,)."""
        mean, log_scale = self._parameters(z)
        return jnp.tanh(mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape))

    def target_entropy(self) -> Float[np.ndarray, " action"]:
        """−1 an action entry, as in SAC (Haarnoja et al. 2018, arXiv 1812.05905)."""
        return np.full(self.action_size, -1.0)

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
