"""What world models without a loop share: everything but how they imagine."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.core import RESULTS, AbstractDepthRule, LoopStats, Solution, check_rule
from loopwm.errors import UsageError
from loopwm.models.observations import View, build_decoder, build_encoder
from loopwm.models.world_model import AbstractWorldModel, Outcome, Sizes, present
from loopwm.nn import MLP, ImageDecoder, ImageEncoder


class AbstractOnePassModel(AbstractWorldModel):
    r"""Encoder, a dynamics core that is applied once a transition, heads.

    $$z' = \mathrm{Core}(z, u), \qquad \hat o = \mathrm{Decoder}(z), \qquad
    (\hat r, \hat c) = \mathrm{Head}(z, u, z').$$

    Encoder, decoder and outcome head are those of the looped world model. There is no inner loop,
    so there is nothing that a certificate of it could be about: the pass counts as one loop, its
    error bound is infinite, and its residual is the length of the step, ‖z' − z‖₂, memory left out.
    """

    encoder: eqx.AbstractVar[MLP | ImageEncoder]
    core: eqx.AbstractVar[Any]
    """The dynamics, a module: z and u to z'."""
    decoder: eqx.AbstractVar[MLP | ImageDecoder]
    head: eqx.AbstractVar[MLP]
    present: eqx.AbstractVar[int]
    """Entries of z that describe the present, the first ones; the others are memory."""
    reads: eqx.AbstractVar[int]
    """Entries of z that decoder and outcome head read, the first ones."""
    depth: ClassVar[int] = 1

    @abc.abstractmethod
    def encode(self, observation: Float[Array, " observation"]) -> Float[Array, " latent"]:
        """z_t of shape (latent,), without memory, from o_t of shape (observation,)."""

    def transition(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        rule: AbstractDepthRule | None = None,
    ) -> Solution[Float[Array, " latent"]]:
        """One imagined transition, shape (latent,); the rule has nothing to decide."""
        del rule
        following = self.core(z, u)
        finite = jnp.all(jnp.isfinite(following))
        moved = jnp.linalg.norm(present(self, following) - present(self, z))
        return Solution(
            value=following,
            result=RESULTS.where(finite, RESULTS.successful, RESULTS.nonfinite),
            stats=LoopStats(jnp.ones((), jnp.int32), moved, jnp.asarray(jnp.inf)),
        )

    def decode(self, z: Float[Array, " latent"]) -> Float[Array, " observation"]:
        """Normalised observation, shape (observation,)."""
        return self.decoder(z[: self.reads])

    def outcome(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        z_next: Float[Array, " latent"],
    ) -> Outcome:
        """Reward and continuation from one fused head over [z_t, u_t, z_{t+1}]."""
        joined = jnp.concatenate([z[: self.reads], u, z_next[: self.reads]])
        reward, logit = self.head(joined)
        return Outcome(reward=reward, continuation_logit=logit)


class OnePassModel(AbstractOnePassModel):
    r"""A world model that is trained by the shared losses alone: $z = [\mathrm{Bound}(E(o)), 0]$.

    The zeros are its memory, where it has one.
    """

    encoder: MLP | ImageEncoder
    bound: eqx.Module
    """Keeps what is encoded where the core's results lie."""
    core: eqx.Module
    decoder: MLP | ImageDecoder
    head: MLP
    latent: int = eqx.field(static=True)
    present: int = eqx.field(static=True)
    reads: int = eqx.field(static=True)

    def __init__(
        self,
        sizes: Sizes,
        bound: eqx.Module,
        core: eqx.Module,
        *,
        present: int,
        memory: int = 0,
        hidden: int,
        view: View,
        key: PRNGKeyArray,
    ):
        """Builds encoder, decoder and head around a core.

        Args:
            sizes: sizes of observation and action vectors.
            bound: module from the encoder's result to the present part of z, both (present,).
            core: module from z and u to z'.
            present: entries of z that describe the present; decoder and head read these.
            memory: further entries of z.
            hidden: width of encoder, decoder and head.
            view: how encoder and decoder look at observations.
            key: PRNG key.
        """
        key_encoder, key_decoder, key_head = jax.random.split(key, 3)
        self.encoder = build_encoder(sizes, present, view, hidden=hidden, key=key_encoder)
        self.decoder = build_decoder(present, sizes, view, hidden=hidden, key=key_decoder)
        self.head = MLP(2 * present + sizes.action, 2, width=hidden, key=key_head)
        self.bound, self.core = bound, core
        self.latent, self.present, self.reads = present + memory, present, present

    def encode(self, observation: Float[Array, " observation"]) -> Float[Array, " latent"]:
        """z_t of shape (latent,) from o_t of shape (observation,)."""
        now = self.bound(self.encoder(observation))  # pyright: ignore[reportCallIssue]
        return jnp.concatenate([now, jnp.zeros(self.latent - self.present)])


def check_depth(rule: AbstractDepthRule | None, model: AbstractWorldModel) -> None:
    """Refuses a depth rule that the model cannot keep.

    Args:
        rule: the wanted rule; None for the model's own depth, which is always kept.
        model: the model, with its weights as they are now.

    Raises:
        UsageError: a rule is given and the model has no loops; or its core cannot keep it, see
            `loopwm.core.check_rule`.
    """
    if rule is not None and isinstance(model, AbstractOnePassModel):
        raise UsageError(
            "This world model imagines each transition in one pass, so it has no loops to set a "
            "depth of; give no depth, or use a run whose model.name is looped, grid or tokens."
        )
    check_rule(rule, model.core)
