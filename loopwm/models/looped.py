"""The looped world model."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.core import (
    FULL,
    AbstractDepthRule,
    CoreConfig,
    FixedDepth,
    LoopedCore,
    LoopGradient,
    Solution,
    check_gradient,
)
from loopwm.errors import UsageError
from loopwm.models.world_model import AbstractWorldModel, Outcome, Sizes, WorldModelBuilder
from loopwm.nn import MLP, SoftNorm
from loopwm.stability import Mode, TransitionDeclaration


@dataclasses.dataclass(frozen=True)
class LoopedConfig(WorldModelBuilder):
    """Sizes of a looped world model."""

    latent: int = 48
    """Size of the latent state z."""
    hidden: int = 64
    """Width of encoder, decoder and outcome head."""
    depth: int = 4
    """T: loops per imagined transition."""
    core: CoreConfig = CoreConfig()
    """The looped core."""
    gradient: LoopGradient = FULL
    """How the loops are differentiated in training: full, truncated or implicit."""

    def __post_init__(self):
        """Refuses sizes below 1, and an implicit gradient of a core that does not contract."""
        for name in ("latent", "hidden", "depth"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"model.{name} is {getattr(self, name)}; it needs to be at least 1."
                )
        check_gradient(self.gradient, self.core)

    def build(self, sizes: Sizes, *, key: PRNGKeyArray) -> "LoopedWorldModel":
        """Builds the model for an environment's sizes."""
        return LoopedWorldModel(sizes, self, key=key)


class LoopedWorldModel(AbstractWorldModel):
    r"""Encoder, looped core, heads.

    $$z = \mathrm{SoftNorm}(E(o)), \qquad
    z' = \mathrm{SoftNorm}(z + \mathrm{Core}(z, u)),$$

    so every latent state, encoded or imagined, lies in the ball of radius R = √latent for every
    horizon and every action sequence. What the inner loop guarantees depends on the core's mode:
    by default it contracts. The outer map z → z' is bounded, and may expand.

    Source: LoopWM (arXiv 2606.18208).
    """

    encoder: MLP
    core: LoopedCore
    decoder: MLP
    head: MLP
    bound: SoftNorm
    gradient: LoopGradient
    depth: int = eqx.field(static=True)
    latent: int = eqx.field(static=True)

    def __init__(self, sizes: Sizes, config: LoopedConfig, *, key: PRNGKeyArray):
        """Builds the model.

        Args:
            sizes: sizes of observation and action vectors.
            config: sizes of the model.
            key: PRNG key.
        """
        key_encoder, key_core, key_decoder, key_head = jax.random.split(key, 4)
        latent, hidden = config.latent, config.hidden
        self.encoder = MLP(sizes.observation, latent, width=hidden, key=key_encoder)
        self.core = LoopedCore(latent, sizes.action, config.core, key=key_core)
        self.decoder = MLP(latent, sizes.observation, width=hidden, key=key_decoder)
        self.head = MLP(2 * latent + sizes.action, 2, width=hidden, key=key_head)
        self.bound = SoftNorm(float(np.sqrt(latent)))
        self.gradient = config.gradient
        self.depth = config.depth
        self.latent = latent

    def encode(self, observation: Float[Array, " observation"]) -> Float[Array, " latent"]:
        """z_t of shape (latent,) in the ball of radius R from o_t of shape (observation,)."""
        return self.bound(self.encoder(observation))

    def transition(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        rule: AbstractDepthRule | None = None,
    ) -> Solution[Float[Array, " latent"]]:
        """One imagined transition; z' = SoftNorm(z + Core(z, u)), shape (latent,)."""
        chosen = FixedDepth(self.depth) if rule is None else rule
        inner = self.core(z, u, chosen, self.gradient)
        return Solution(value=self.bound(z + inner.value), result=inner.result, stats=inner.stats)

    @property
    def gated(self) -> bool:
        """Whether its core has a halting gate."""
        return self.core.gate is not None

    def exits(
        self, z: Float[Array, " latent"], u: Float[Array, " action"]
    ) -> tuple[Float[Array, "loops latent"], Float[Array, " loops"]]:
        """z' after each loop up to the model's depth, (T, latent), and the gate's logits, (T,).

        Raises:
            UsageError: the core has no gate.
        """
        changes, logits = self.core.exits(z, u, self.depth)
        return jax.vmap(lambda change: self.bound(z + change))(changes), logits

    def decode(self, z: Float[Array, " latent"]) -> Float[Array, " observation"]:
        """Normalised observation, shape (observation,)."""
        return self.decoder(z)

    def declare_transition(self) -> TransitionDeclaration:
        """The ball of imagined states: SoftNorm's radius with rounding.

        Raises:
            UsageError: the core's loop is not bounded itself, so that its state may overflow and
                no arithmetic keeps the promise of the soft norm.
        """
        mode = self.core.config.mode
        if mode in (Mode.LINEAR, Mode.FREE):
            raise UsageError(
                f"The core is of mode '{mode}', whose loop may overflow, so no ball is proven for "
                "imagined states; use mode contractive or bounded."
            )
        return TransitionDeclaration(radius=self.bound.reach(self.latent))

    def outcome(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        z_next: Float[Array, " latent"],
    ) -> Outcome:
        """Reward and continuation from one fused head over [z_t, u_t, z_{t+1}]."""
        reward, logit = self.head(jnp.concatenate([z, u, z_next]))
        return Outcome(reward=reward, continuation_logit=logit)
