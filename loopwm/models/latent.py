"""What all looped world models share: everything but the parts that they are made of."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from loopwm.core import (
    AbstractDepthRule,
    FixedDepth,
    FlatGridCore,
    Found,
    Layout,
    LoopedCore,
    LoopGradient,
    Solution,
)
from loopwm.errors import UsageError
from loopwm.models.world_model import AbstractWorldModel, Outcome
from loopwm.nn import SoftNorm
from loopwm.stability import Mode, TransitionDeclaration


class CellSoftNorm(eqx.Module):
    """The soft norm of every cell's channels, of a flat vector."""

    norm: SoftNorm
    layout: Layout = eqx.field(static=True)

    def __init__(self, layout: Layout):
        """Takes √channels as the radius of a cell."""
        self.norm, self.layout = SoftNorm(float(np.sqrt(layout.channels))), layout

    def __call__(self, x: Float[Array, " latent"]) -> Float[Array, " latent"]:
        """Maps x of shape (latent,) into the product of the cells' balls."""
        return jax.vmap(self.norm)(x.reshape(self.layout.count, -1)).ravel()

    def reach(self, size: int) -> float:
        """Upper bound of the 2-norm of a float32 result of that many entries."""
        channels = size // self.layout.count
        return float(np.sqrt(self.layout.count)) * self.norm.reach(channels) * (1.0 + 1e-14)


class AbstractLoopedModel(AbstractWorldModel):
    r"""Encoder, looped core, heads.

    $$z = \mathrm{Bound}(E(o)), \qquad z' = \mathrm{Bound}(z + \mathrm{Core}(z, u)),$$

    with a soft norm, of the whole vector or of each cell's channels, as bound. So every latent
    state, encoded or imagined, lies in a ball for every horizon and every action sequence. What
    the inner loop guarantees depends on the core's mode: by default it contracts. The outer map
    z → z' is bounded, and may expand.

    Source: LoopWM (arXiv 2606.18208).
    """

    encoder: eqx.AbstractVar[Any]
    """E, a module: o of shape (observation,) to shape (latent,)."""
    core: eqx.AbstractVar[LoopedCore | FlatGridCore]
    decoder: eqx.AbstractVar[Any]
    """A module: z of shape (latent,) to shape (observation,)."""
    head: eqx.AbstractVar[Any]
    """A module: [z, u, z'] to reward and logit of the continuation, shape (2,)."""
    bound: eqx.AbstractVar[SoftNorm | CellSoftNorm]
    gradient: eqx.AbstractVar[LoopGradient]
    """How the loops are differentiated in training."""

    def encode(self, observation: Float[Array, " observation"]) -> Float[Array, " latent"]:
        """z_t of shape (latent,) in the ball from o_t of shape (observation,)."""
        return self.bound(self.encoder(observation))

    def transition(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        rule: AbstractDepthRule | None = None,
    ) -> Solution[Float[Array, " latent"]]:
        """One imagined transition; z' = Bound(z + Core(z, u)), shape (latent,)."""
        chosen = FixedDepth(self.depth) if rule is None else rule
        inner = self.core(z, u, chosen, self.gradient)
        return Solution(value=self.bound(z + inner.value), result=inner.result, stats=inner.stats)

    def unroll(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        depth: int,
        read: Callable[[Solution[Float[Array, " latent"]]], Found],
    ) -> Found:
        """What is read of z' after 0, 1 … `depth` loops, on a leading axis."""

        def of_state(inner: Solution[Array]) -> Found:
            following = self.bound(z + inner.value)
            return read(Solution(value=following, result=inner.result, stats=inner.stats))

        return self.core.unroll(z, u, depth, of_state)

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
        """The ball of imagined states: the bound's radius with rounding.

        Raises:
            UsageError: the core's loop is not bounded itself, so that its state may overflow and
                no arithmetic keeps the promise of the soft norm.
        """
        mode = self.core.declare().mode
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


def check_positive_sizes(config: object, *names: str) -> None:
    """Raises UsageError for a setting of these that is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise UsageError(f"model.{name} is {getattr(config, name)}; it needs to be at least 1.")


def scaled(size: int, width: int, dial: int) -> int:
    """A size in proportion: size · width / dial, rounded, at least 1."""
    return max(1, round(size * width / dial))
