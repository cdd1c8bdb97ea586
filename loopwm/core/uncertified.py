"""The blocks of modes `linear` and `free`: controls whose whole update is not certified."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from loopwm.core.block import AbstractBlock
from loopwm.core.cells import each_cell
from loopwm.core.retention import Retention, gated
from loopwm.core.update import AbstractUpdate
from loopwm.nn import AbstractResidual, rms_normalised
from loopwm.stability import Mode, UpdateDeclaration, norms


class UncertifiedUpdate(AbstractUpdate):
    r"""One loop: $h^+ = \bar a \odot h + (1-\bar a) \odot b + s \odot R(h)$.

    R sums the branches of residual layers on RMS-normalised states, so its derivative near the
    origin has no bound that would be of use.
    """

    layers: tuple[AbstractResidual, ...]
    injected: tuple[Float[Array, "*hidden"], ...]
    """What each layer needs of e."""
    retention: Float[Array, "*state"]
    """ā, of the state's shape, in (0, 1)."""
    drive: Float[Array, "*state"]
    """b: the input's own term, of the state's shape."""
    share: Float[Array, "*state"]
    """s: what R is multiplied with, of the state's shape."""

    def start(self) -> Float[Array, "*state"]:
        """h_0 = 0."""
        return jnp.zeros_like(self.retention)

    def __call__(self, h: Float[Array, "*state"]) -> Float[Array, "*state"]:
        """One loop: h to h⁺, both of the state's shape."""
        y = h
        for layer, injected in zip(self.layers, self.injected, strict=True):
            y = y + layer.branch(rms_normalised(y), injected)
        return self.retention * h + (1.0 - self.retention) * self.drive + self.share * (y - h)

    def norm(self, x: Float[Array, "*state"]) -> Float[Array, ""]:
        """‖x‖₂."""
        return norms.two(x)

    def rate(self) -> Float[Array, ""]:
        """Infinite: nothing is certified."""
        return jnp.asarray(jnp.inf)

    def rounding(self, h: Float[Array, "*state"]) -> Float[Array, ""]:
        """Infinite: without a contraction no error bound rests on it."""
        return jnp.asarray(jnp.inf)


class LinearBlock(AbstractBlock):
    r"""The published parametrisation: the retention is the only term that is bounded.

    $$h^+ = \bar A h + \bar B e + \bar R(h, e), \qquad
    \bar A = \exp(-\Delta \exp(a)), \quad \bar B = (1 - \bar A) B,$$

    with learned step Δ > 0 and decay a for each channel, a free matrix B, and a free residual
    block R on RMS-normalised states.

    Source: LoopWM (arXiv 2606.18208), the looped block and its zero-order hold.
    """

    layers: tuple[AbstractResidual, ...]
    log_decay: Float[Array, " width"]
    """a, shape (width,)."""
    log_step: Float[Array, " width"]
    """Logarithm of Δ, shape (width,)."""
    drive: eqx.nn.Linear
    """B, applied at every cell."""

    def retention(self) -> Float[Array, " width"]:
        """Ā = exp(−Δ exp(a)), shape (width,); about 0.37 at a = log Δ = 0."""
        return jnp.exp(-jnp.exp(self.log_step + self.log_decay))

    def bind(self, e: Float[Array, "*input"]) -> UncertifiedUpdate:
        """The inner update for one input e."""
        drive = each_cell(self.drive, e)
        return UncertifiedUpdate(
            layers=self.layers,
            injected=tuple(layer.inject(e) for layer in self.layers),
            retention=jnp.broadcast_to(self.retention(), drive.shape),
            drive=drive,
            share=jnp.ones_like(drive),
        )

    def declare(self) -> UpdateDeclaration:
        """The range of the retention, the only thing that is bounded."""
        retention = np.asarray(self.retention(), np.float64)
        return UpdateDeclaration(
            layers=(),
            scale=1.0,
            retention_min=float(retention.min()),
            retention_max=float(retention.max()),
            mode=Mode.LINEAR,
        )


class FreeBlock(AbstractBlock):
    r"""A conventional gated looped block: $h^+ = h + (1-\bar a(e)) \odot R(h, e)$, nothing capped.

    A control of what the guarantee costs.
    """

    layers: tuple[AbstractResidual, ...]
    retention: Retention
    """Logits of ā in (0, 1)."""

    def bind(self, e: Float[Array, "*input"]) -> UncertifiedUpdate:
        """The inner update for one input e."""
        retention = gated(self.retention, e, 0.0, 1.0)
        return UncertifiedUpdate(
            layers=self.layers,
            injected=tuple(layer.inject(e) for layer in self.layers),
            retention=jnp.ones_like(retention),
            drive=jnp.zeros_like(retention),
            share=1.0 - retention,
        )

    def declare(self) -> UpdateDeclaration:
        """Nothing: `certify` refuses it with the reason."""
        return UpdateDeclaration((), 1.0, 0.0, 1.0, mode=Mode.FREE)
