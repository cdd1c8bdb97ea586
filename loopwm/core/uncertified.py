"""The blocks of modes `linear` and `free`: controls whose whole update is not certified."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.core.block import AbstractBlock
from loopwm.core.bounded import matched_hidden
from loopwm.core.iterate import AbstractUpdate
from loopwm.nn import ResidualLayer, rms_normalised
from loopwm.stability import Mode, UpdateDeclaration, norms


class UncertifiedUpdate(AbstractUpdate):
    r"""One loop: $h^+ = \bar a \odot h + (1-\bar a) \odot b + s \odot R(h)$.

    R sums the branches of residual layers on RMS-normalised states, so its derivative near the
    origin has no bound that would be of use.
    """

    layers: tuple[ResidualLayer, ...]
    injected: tuple[Float[Array, " hidden"], ...]
    """U_l e + b_l of each layer, shape (hidden,)."""
    retention: Float[Array, " width"]
    """ā, shape (width,), in (0, 1)."""
    drive: Float[Array, " width"]
    """b: the input's own term, shape (width,)."""
    share: Float[Array, " width"]
    """s: what R is multiplied with, shape (width,)."""

    def __call__(self, h: Float[Array, " width"]) -> Float[Array, " width"]:
        """One loop: h of shape (width,) to h⁺ of shape (width,)."""
        y = h
        for layer, injected in zip(self.layers, self.injected, strict=True):
            y = y + layer.branch(rms_normalised(y), injected)
        return self.retention * h + (1.0 - self.retention) * self.drive + self.share * (y - h)

    def norm(self, x: Float[Array, " width"]) -> Float[Array, ""]:
        """‖x‖₂."""
        return norms.two(x)

    def rate(self) -> Float[Array, ""]:
        """Infinite: nothing is certified."""
        return jnp.asarray(jnp.inf)

    def rounding(self, h: Float[Array, " width"]) -> Float[Array, ""]:
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

    layers: tuple[ResidualLayer, ...]
    log_decay: Float[Array, " width"]
    """a, shape (width,)."""
    log_step: Float[Array, " width"]
    """Logarithm of Δ, shape (width,)."""
    drive: eqx.nn.Linear
    """B."""

    def __init__(self, width: int, *, key_retention: PRNGKeyArray, keys: tuple[PRNGKeyArray, ...]):
        """Starts with retentions of about 0.37; see `ContractiveBlock` for the arguments."""
        hidden = matched_hidden(width)
        self.layers = tuple(ResidualLayer(width, hidden, width, key=k) for k in keys)
        self.log_decay = jnp.zeros(width)
        self.log_step = jnp.zeros(width)
        self.drive = eqx.nn.Linear(width, width, use_bias=False, key=key_retention)

    def retention(self) -> Float[Array, " width"]:
        """Ā = exp(−Δ exp(a)), shape (width,)."""
        return jnp.exp(-jnp.exp(self.log_step + self.log_decay))

    def bind(self, e: Float[Array, " width"]) -> UncertifiedUpdate:
        """The inner update for one input e of shape (width,)."""
        retention = self.retention()
        return UncertifiedUpdate(
            layers=self.layers,
            injected=tuple(layer.inject(e) for layer in self.layers),
            retention=retention,
            drive=self.drive(e),
            share=jnp.ones_like(retention),
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

    As many weights as `ContractiveBlock`: a control of what the guarantee costs.
    """

    layers: tuple[ResidualLayer, ...]
    retention: eqx.nn.Linear
    """Logits of ā(e) in (0, 1)."""

    def __init__(self, width: int, *, key_retention: PRNGKeyArray, keys: tuple[PRNGKeyArray, ...]):
        """Builds the block; see `ContractiveBlock` for the arguments."""
        hidden = matched_hidden(width)
        self.layers = tuple(ResidualLayer(width, hidden, width, key=k) for k in keys)
        self.retention = eqx.nn.Linear(width, width, key=key_retention)

    def bind(self, e: Float[Array, " width"]) -> UncertifiedUpdate:
        """The inner update for one input e of shape (width,)."""
        retention = jax.nn.sigmoid(self.retention(e))
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
