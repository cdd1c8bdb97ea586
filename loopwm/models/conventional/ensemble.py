"""A probabilistic ensemble, as in PETS, on latent states."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from loopwm.errors import UsageError
from loopwm.models.conventional.base import AbstractOnePassModel
from loopwm.models.latent import check_positive_sizes, scaled
from loopwm.models.observations import View, build_decoder, build_encoder
from loopwm.models.ranges import check_not_negative
from loopwm.models.world_model import Sizes, WorldModelBuilder
from loopwm.nn import MLP, ImageDecoder, ImageEncoder, SoftNorm


@dataclasses.dataclass(frozen=True)
class EnsembleConfig(WorldModelBuilder):
    """Sizes of a probabilistic ensemble."""

    latent: int = 24
    """Size of the latent state z."""
    hidden: int = 64
    """Width of encoder, decoder and outcome head."""
    width: int = 32
    """Width of a member's hidden layers."""
    layers: int = 2
    """Hidden layers of a member."""
    members: int = 5
    """B: networks, at least 2."""
    bound_weight: float = 0.01
    """Weight that draws the two bounds of the log-variance together."""
    view: View = View.AUTO
    """How encoder and decoder look at observations: auto, vector or image."""

    def __post_init__(self):
        """Refuses sizes below 1, a single member, and a negative weight."""
        check_positive_sizes(self, "latent", "hidden", "width", "layers")
        if self.members < 2:
            raise UsageError(f"model.members is {self.members}; give at least 2.")
        check_not_negative("model.", self, "bound_weight")

    def at_width(self, width: int) -> "EnsembleConfig":
        """The same proportions with members of that width, and as many of them."""
        latent = scaled(self.latent, width, self.width)
        hidden = scaled(self.hidden, width, self.width)
        return dataclasses.replace(self, latent=latent, hidden=hidden, width=width)

    def build(self, sizes: Sizes, *, key: PRNGKeyArray) -> "EnsembleWorldModel":
        """Builds the model for an environment's sizes."""
        return EnsembleWorldModel(sizes, self, key=key)


class Gaussians(eqx.Module):
    """What the members predict of one transition: Gaussians with diagonal covariance."""

    mean: Float[Array, "members latent"]
    """μ_b, shape (members, latent)."""
    log_variance: Float[Array, "members latent"]
    """log σ_b², shape (members, latent)."""


def softly_bounded(
    x: Float[Array, "*shape"], low: Float[Array, " latent"], high: Float[Array, " latent"]
) -> Float[Array, "*shape"]:
    r"""Log-variances between two learned bounds, with a gradient everywhere.

    $$x \leftarrow \mathrm{high} - \mathrm{softplus}(\mathrm{high} - x), \qquad
    x \leftarrow \mathrm{low} + \mathrm{softplus}(x - \mathrm{low})$$

    Args:
        x: raw log-variances, shape (..., latent).
        low: lower bound, shape (latent,).
        high: upper bound, shape (latent,).

    Returns:
        Shape (..., latent), above low; above high by softplus(low − high) at most.

    Source: PETS (arXiv 1805.12114), appendix A.1.
    """
    low, high = jnp.broadcast_to(low, x.shape), jnp.broadcast_to(high, x.shape)
    x = high - jax.nn.softplus(high - x)
    return low + jax.nn.softplus(x - low)


def negative_log_likelihood(
    predicted: Gaussians, target: Float[Array, " latent"]
) -> Float[Array, " members"]:
    r"""$[\mu_b - y]^\top \Sigma_b^{-1} [\mu_b - y] + \log\det\Sigma_b$, divided by the entries.

    Args:
        predicted: what the members predict.
        target: y, shape (latent,).

    Returns:
        One number a member, shape (members,).

    Source: PETS (arXiv 1805.12114), section 4, the loss of probabilistic networks.
    """
    y = jnp.broadcast_to(target, predicted.mean.shape)
    scaled_error = (predicted.mean - y) ** 2 * jnp.exp(-predicted.log_variance)
    return jnp.mean(scaled_error + predicted.log_variance, axis=-1)


class EnsembleCore(eqx.Module):
    r"""B networks, each with a Gaussian over the next latent state; the mean goes on.

    $$[\delta_b, \ell_b] = \mathrm{MLP}_b([z, u]), \qquad \mu_b = \mathrm{Bound}(z + \delta_b),
    \qquad z' = \frac1B \sum_b \mu_b,$$

    with the soft norm of radius √latent as bound: z' is a mean of points of its ball.
    """

    members: MLP
    """Weights of all members, stacked on a leading axis of members."""
    low: Float[Array, " latent"]
    """Lower bound of the log-variance, learned, shape (latent,)."""
    high: Float[Array, " latent"]
    """Upper bound of the log-variance, learned, shape (latent,)."""
    bound: SoftNorm
    config: EnsembleConfig = eqx.field(static=True)

    def __init__(self, config: EnsembleConfig, action: int, *, key: PRNGKeyArray):
        """Args: sizes, size of u, PRNG key."""

        def build(member_key: PRNGKeyArray) -> MLP:
            return MLP(
                config.latent + action,
                2 * config.latent,
                width=config.width,
                depth=config.layers,
                key=member_key,
            )

        self.members = eqx.filter_vmap(build)(jax.random.split(key, config.members))
        self.low, self.high = jnp.full(config.latent, -10.0), jnp.full(config.latent, 0.5)
        self.bound = SoftNorm(float(np.sqrt(config.latent)))
        self.config = config

    def predict(self, z: Float[Array, " latent"], u: Float[Array, " action"]) -> Gaussians:
        """Each member's Gaussian over z'."""
        joined = jnp.concatenate([z, u])
        raw = eqx.filter_vmap(lambda member: member(joined))(self.members)
        change, log_variance = jnp.split(raw, 2, axis=-1)
        return Gaussians(
            mean=jax.vmap(lambda delta: self.bound(z + delta))(change),
            log_variance=softly_bounded(log_variance, self.low, self.high),
        )

    def __call__(
        self, z: Float[Array, " latent"], u: Float[Array, " action"]
    ) -> Float[Array, " latent"]:
        """z' of shape (latent,), the mean of the members' means."""
        return jnp.mean(self.predict(z, u).mean, axis=0)


class EnsembleWorldModel(AbstractOnePassModel):
    r"""A probabilistic ensemble on latent states.

    Its own loss term is the members' negative log-likelihood of the encoded next observation,
    given the encoded present one, both without gradient: it trains members and bounds alone, so
    that no latent space collapses for it. Each member weighs each transition by a Poisson(1)
    number, drawn anew each time it is seen. Of data seen once that is a bootstrap; of data seen
    often the weights even out, and members then differ by their first weights and by chance, not
    by data sets of their own, which the paper's have.

    Imagination goes on with the mean of the members' means, the paper's propagation by
    expectation (E): a transition takes no key, and z has no place for a particle's member, so
    trajectory sampling (TS∞) is not taken over, nor are its particles. How far the members are
    apart is given by `disagreement`.

    Also different from the paper: it works on latent states instead of observations, with
    LayerNorm in the hidden layers, and plans with the planner of all families instead of CEM.

    Sources: Chua et al. 2018, PETS (arXiv 1805.12114), sections 4 and 5; Oza and Russell 2001,
        online bagging, for the Poisson weights of data seen once.
    """

    encoder: MLP | ImageEncoder
    core: EnsembleCore
    decoder: MLP | ImageDecoder
    head: MLP
    latent: int = eqx.field(static=True)
    present: int = eqx.field(static=True)
    reads: int = eqx.field(static=True)

    def __init__(self, sizes: Sizes, config: EnsembleConfig, *, key: PRNGKeyArray):
        """Builds the model.

        Args:
            sizes: sizes of observation and action vectors.
            config: sizes of the model.
            key: PRNG key.
        """
        keys = jax.random.split(key, 4)
        latent, hidden, view = config.latent, config.hidden, config.view
        self.encoder = build_encoder(sizes, latent, view, hidden=hidden, key=keys[0])
        self.core = EnsembleCore(config, sizes.action, key=keys[1])
        self.decoder = build_decoder(latent, sizes, view, hidden=hidden, key=keys[2])
        self.head = MLP(2 * latent + sizes.action, 2, width=hidden, key=keys[3])
        self.latent = self.present = self.reads = latent

    def encode(self, observation: Float[Array, " observation"]) -> Float[Array, " latent"]:
        """z_t of shape (latent,) in the ball."""
        return self.core.bound(self.encoder(observation))

    def disagreement(
        self, z: Float[Array, " latent"], u: Float[Array, " action"]
    ) -> Float[Array, ""]:
        """Variance of the members' means, an entry of z', scalar; 0 where all agree.

        It is large where the members were shown little, so it can drive exploration.

        Source: Pathak et al. 2019, exploration via disagreement (arXiv 1906.04161), section 2.
        """
        return jnp.mean(jnp.var(self.core.predict(z, u).mean, axis=0))

    def auxiliary(
        self,
        observation: Float[Array, "steps_plus_one observation"],
        action: Float[Array, "steps action"],
        valid: Bool[Array, " steps"],
        *,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        """The members' negative log-likelihood, and what draws the bounds together."""
        core, members = self.core, self.core.config.members
        z = jax.lax.stop_gradient(jax.vmap(self.encode)(observation))

        def one(before, u, after):
            return negative_log_likelihood(core.predict(before, u), after)

        losses = jax.vmap(one)(z[:-1], action, z[1:])
        drawn = jax.random.poisson(key, 1.0, (len(action), members))
        weight = jnp.where(valid[:, None], drawn, 0).astype(losses.dtype)
        count = jnp.maximum(jnp.sum(valid), 1) * members
        gap = jnp.mean(core.high - core.low)
        return jnp.sum(weight * losses) / count + core.config.bound_weight * gap
