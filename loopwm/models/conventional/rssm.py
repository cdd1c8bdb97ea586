"""The recurrent state-space model of DreamerV3, with categorical latent states."""

import dataclasses
import enum
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.models.conventional.base import AbstractOnePassModel
from loopwm.models.latent import check_positive_sizes, scaled
from loopwm.models.observations import View, build_decoder, build_encoder
from loopwm.models.ranges import check_not_negative
from loopwm.models.world_model import Sizes, WorldModelBuilder
from loopwm.nn import MLP, ImageDecoder, ImageEncoder
from loopwm.nn.mlp import LayerNormLinear


class Code(enum.StrEnum):
    """What stands for a categorical distribution where nothing is sampled."""

    MODE = "mode"
    """Its most likely class, one-hot: a code of the kind that is sampled."""
    EXPECTED = "expected"
    """Its probabilities: the expected sample."""


@dataclasses.dataclass(frozen=True)
class RSSMConfig(WorldModelBuilder):
    """Sizes and losses of a recurrent state-space model."""

    groups: int = 8
    """Categorical variables of the stochastic state s."""
    classes: int = 8
    """Classes of each of them."""
    width: int = 32
    """Size of the deterministic state h, and of the recurrent unit's input."""
    hidden: int = 40
    """Width of encoder, posterior, prior, decoder and outcome head."""
    unimix: float = 0.01
    """Share of the uniform distribution that is mixed into each categorical one, in (0, 1)."""
    free_nats: float = 1.0
    """Free bits: divergences below this many nats count as this many."""
    dynamics_weight: float = 1.0
    """Weight of the divergence that trains the prior."""
    representation_weight: float = 0.1
    """Weight of the divergence that trains the posterior."""
    imagination: Code = Code.EXPECTED
    """What is imagined and encoded: expected or mode."""
    view: View = View.AUTO
    """How encoder and decoder look at observations: auto, vector or image."""

    def __post_init__(self):
        """Refuses numbers outside their ranges."""
        check_positive_sizes(self, "groups", "classes", "width", "hidden")
        object.__setattr__(self, "imagination", member(Code, self.imagination, "model.imagination"))
        if not 0.0 < self.unimix < 1.0:
            raise UsageError(f"model.unimix is {self.unimix}; give a value in (0, 1).")
        weights = ("dynamics_weight", "representation_weight")
        check_not_negative("model.", self, "free_nats", *weights)

    def at_width(self, width: int) -> "RSSMConfig":
        """The same proportions with h of that size; the classes stay as they are."""
        groups = scaled(self.groups, width, self.width)
        hidden = scaled(self.hidden, width, self.width)
        return dataclasses.replace(self, groups=groups, hidden=hidden, width=width)

    def build(self, sizes: Sizes, *, key: PRNGKeyArray) -> "RSSMWorldModel":
        """Builds the model for an environment's sizes."""
        return RSSMWorldModel(sizes, self, key=key)


def mixed(logits: Float[Array, "groups classes"], unimix: float) -> Float[Array, "groups classes"]:
    r"""Log-probabilities of $(1 - \epsilon)\,\mathrm{softmax}(\mathrm{logits}) + \epsilon / C$.

    Args:
        logits: shape (groups, classes).
        unimix: ε.

    Returns:
        Shape (groups, classes); bounded below by log(ε / C), so no divergence is infinite.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    return jnp.log((1.0 - unimix) * probabilities + unimix / logits.shape[-1])


def straight_through(
    hard: Float[Array, "groups classes"], log_p: Float[Array, "groups classes"]
) -> Float[Array, "groups classes"]:
    """The one-hot code, with the gradient of the probabilities; both (groups, classes)."""
    p = jnp.exp(log_p)
    return jax.lax.stop_gradient(hard - p) + p


def divergence(
    log_q: Float[Array, "groups classes"], log_p: Float[Array, "groups classes"]
) -> Float[Array, ""]:
    """KL[q ‖ p] in nats, summed over the groups, scalar; from log-probabilities."""
    return jnp.sum(jnp.exp(log_q) * (log_q - log_p))


def balanced(
    log_q: Float[Array, "groups classes"],
    log_p: Float[Array, "groups classes"],
    config: RSSMConfig,
) -> Float[Array, ""]:
    r"""The two divergences of one step, with stopped gradients and free bits, weighted.

    $$\beta_{dyn} \max(1, \mathrm{KL}[\mathrm{sg}(q) \,\|\, p])
    + \beta_{rep} \max(1, \mathrm{KL}[q \,\|\, \mathrm{sg}(p)])$$

    Args:
        log_q: posterior's log-probabilities, shape (groups, classes).
        log_p: prior's.
        config: weights, and the free bits that stand for the 1.

    Returns:
        Their sum, scalar.
    """
    stop, free = jax.lax.stop_gradient, config.free_nats
    dynamics = jnp.maximum(divergence(stop(log_q), log_p), free)
    representation = jnp.maximum(divergence(log_q, stop(log_p)), free)
    return config.dynamics_weight * dynamics + config.representation_weight * representation


class RSSMCore(eqx.Module):
    r"""Sequence model and dynamics predictor.

    $$h' = \mathrm{GRU}(\mathrm{silu}(\mathrm{LayerNorm}(W [s, u] + b)),\ h), \qquad
    p(s' \mid h') = \mathrm{Cat}(\mathrm{MLP}(h')).$$

    z is [s, h]: s of groups · classes entries, then h. In each group s is one-hot where it was
    sampled, and what `RSSMConfig.imagination` says where not.
    """

    embed: LayerNormLinear
    cell: eqx.nn.GRUCell
    prior: MLP
    config: RSSMConfig = eqx.field(static=True)

    def __init__(self, config: RSSMConfig, action: int, *, key: PRNGKeyArray):
        """Args: sizes, size of u, PRNG key."""
        key_embed, key_cell, key_prior = jax.random.split(key, 3)
        stochastic = config.groups * config.classes
        self.embed = LayerNormLinear(stochastic + action, config.width, key=key_embed)
        self.cell = eqx.nn.GRUCell(config.width, config.width, key=key_cell)
        self.prior = MLP(config.width, stochastic, width=config.hidden, key=key_prior)
        self.config = config

    def remember(
        self, s: Float[Array, " stochastic"], h: Float[Array, " width"], u: Float[Array, " action"]
    ) -> Float[Array, " width"]:
        """h' of shape (width,) from s, h and the action."""
        return self.cell(self.embed(jnp.concatenate([s, u])), h)

    def predict(self, h: Float[Array, " width"]) -> Float[Array, "groups classes"]:
        """Log-probabilities of the prior p(s | h), shape (groups, classes)."""
        return self.distribution(self.prior(h))

    def distribution(self, logits: Float[Array, " stochastic"]) -> Float[Array, "groups classes"]:
        """Log-probabilities for logits of shape (groups · classes,), with the uniform share."""
        shape = (self.config.groups, self.config.classes)
        return mixed(logits.reshape(shape), self.config.unimix)

    def code(self, log_p: Float[Array, "groups classes"]) -> Float[Array, " stochastic"]:
        """What stands for a distribution where nothing is sampled, shape (groups · classes,)."""
        if self.config.imagination is Code.EXPECTED:
            return jnp.exp(log_p).ravel()
        hard = jax.nn.one_hot(jnp.argmax(log_p, axis=-1), self.config.classes)
        return straight_through(hard, log_p).ravel()

    def sample(
        self, log_p: Float[Array, "groups classes"], *, key: PRNGKeyArray
    ) -> Float[Array, " stochastic"]:
        """A sample with straight-through gradient, shape (groups · classes,)."""
        drawn = jax.random.categorical(key, log_p, axis=-1)
        return straight_through(jax.nn.one_hot(drawn, self.config.classes), log_p).ravel()

    def __call__(
        self, z: Float[Array, " latent"], u: Float[Array, " action"]
    ) -> Float[Array, " latent"]:
        """z' = [s', h'] of shape (latent,), s' the code of the prior."""
        s, h = z[: -self.config.width], z[-self.config.width :]
        h = self.remember(s, h, u)
        return jnp.concatenate([self.code(self.predict(h)), h])


class RSSMWorldModel(AbstractOnePassModel):
    r"""Recurrent state-space model with categorical latent states.

    $$\begin{aligned}
    \text{sequence model} \quad & h_t = f(h_{t-1}, s_{t-1}, u_{t-1}) \\
    \text{encoder} \quad & s_t \sim q(s_t \mid h_t, o_t) \\
    \text{dynamics predictor} \quad & \hat s_t \sim p(\hat s_t \mid h_t) \\
    \text{decoder} \quad & \hat o_t = D(h_t, s_t)
    \end{aligned}$$

    z = [s, h]; the paper writes z for s. Its own loss term rolls the encoder along a sequence,
    with samples of q, from h_0 = 0, and takes the mean over the steps of

    $$\tfrac1n \|D(h_t, s_t) - o_t\|^2 + \beta_{dyn} \max(1, \mathrm{KL}[\mathrm{sg}(q) \| p])
    + \beta_{rep} \max(1, \mathrm{KL}[q \| \mathrm{sg}(p)]),$$

    with 1 % of the uniform distribution in q and p, and straight-through gradients; of the first
    step the error alone, since no prior led to it. The error is a mean over the n entries, as in
    the shared losses, and in the paper half of their sum: weights β of 2/n times the published
    ones weigh error against divergences as it does.

    Behind the seam nothing is drawn: a transition takes no key, since planners compare action
    sequences, which noise would blur. It goes on with the prior's expected sample (or its mode),
    and encoding gives the posterior's, with h = 0, since it is given one observation and no
    history. That is what the shared losses train and what planners use. The expected sample is
    the default because it predicts better: on a pendulum its open-loop error was about half the
    mode's. h is memory of imagined steps, so critic and policy read s alone, and s alone is held
    to the encoder's; decoder and outcome head read both.

    Not taken over: symlog of observations (they are normalised for all families), two-hot
    rewards, block-diagonal weights and RMS norm. Reward and continuation are trained by the shared
    losses, at imagined states.

    Source: Hafner et al. 2023, DreamerV3 (arXiv 2301.04104), section "World model learning": RSSM,
        its losses, free bits, and the 1 % of unimix; β_dyn = 1 and β_rep = 0.1 as published in the
        second version (the first has β_dyn = 0.5).
    """

    encoder: MLP | ImageEncoder
    """From o to features, shape (hidden,)."""
    posterior: MLP
    """From [h, features] to the logits of q; part of the encoding, not of the dynamics."""
    core: RSSMCore
    decoder: MLP | ImageDecoder
    head: MLP
    latent: int = eqx.field(static=True)
    present: int = eqx.field(static=True)
    reads: int = eqx.field(static=True)

    def __init__(self, sizes: Sizes, config: RSSMConfig, *, key: PRNGKeyArray):
        """Builds the model.

        Args:
            sizes: sizes of observation and action vectors.
            config: sizes of the model.
            key: PRNG key.
        """
        keys = jax.random.split(key, 5)
        hidden, view = config.hidden, config.view
        self.present = config.groups * config.classes
        self.latent = self.reads = latent = self.present + config.width
        self.encoder = build_encoder(sizes, hidden, view, hidden=hidden, key=keys[0])
        self.posterior = MLP(config.width + hidden, self.present, width=hidden, key=keys[1])
        self.core = RSSMCore(config, sizes.action, key=keys[2])
        self.decoder = build_decoder(latent, sizes, view, hidden=hidden, key=keys[3])
        self.head = MLP(2 * latent + sizes.action, 2, width=hidden, key=keys[4])

    def infer(
        self, h: Float[Array, " width"], features: Float[Array, " hidden"]
    ) -> Float[Array, "groups classes"]:
        """Log-probabilities of the posterior q(s | h, o), shape (groups, classes)."""
        return self.core.distribution(self.posterior(jnp.concatenate([h, features])))

    def encode(self, observation: Float[Array, " observation"]) -> Float[Array, " latent"]:
        """[s, 0] of shape (latent,), s the code of q(s | h = 0, o)."""
        h = jnp.zeros(self.core.config.width)
        return jnp.concatenate([self.core.code(self.infer(h, self.encoder(observation))), h])

    def auxiliary(
        self,
        observation: Float[Array, "steps_plus_one observation"],
        action: Float[Array, "steps action"],
        valid: Bool[Array, " steps"],
        *,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        """Reconstruction from samples, and both divergences; see the class."""
        config, features = self.core.config, jax.vmap(self.encoder)(observation)
        key_first, key_rest = jax.random.split(key)
        sample: Callable[..., Array] = self.core.sample

        def body(carry, inputs):
            (s, h), (e, u, o, step_key) = carry, inputs
            h = self.core.remember(s, h, u)
            log_q = self.infer(h, e)
            s = sample(log_q, key=step_key)
            error = jnp.mean((self.decode(jnp.concatenate([s, h])) - o) ** 2)
            return (s, h), error + balanced(log_q, self.core.predict(h), config)

        h = jnp.zeros(config.width)
        first = sample(self.infer(h, features[0]), key=key_first)
        error = jnp.mean((self.decode(jnp.concatenate([first, h])) - observation[0]) ** 2)
        keys = jax.random.split(key_rest, len(action))
        _, terms = jax.lax.scan(body, (first, h), (features[1:], action, observation[1:], keys))
        count = jnp.sum(valid)
        return (error + jnp.sum(jnp.where(valid, terms, 0.0))) / (1 + count)
