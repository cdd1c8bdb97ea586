"""The blocks of convolutional cores, one for each mode."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from loopwm.choices import member
from loopwm.core.block import AbstractBlock
from loopwm.core.bounded import BoundedBlock
from loopwm.core.contractive import ContractiveBlock
from loopwm.core.grid import GridConfig
from loopwm.core.retention import check_gamma, check_retention
from loopwm.core.uncertified import FreeBlock, LinearBlock
from loopwm.errors import UsageError
from loopwm.nn import ConvConvexPotential, ConvResidualLayer, SoftNorm
from loopwm.stability import Mode
from loopwm.stability.convolution import Grid, Padding


@dataclasses.dataclass(frozen=True)
class ConvolutionConfig(GridConfig):
    """Size and contraction of a core whose block convolves."""

    hidden: int = 16
    """Hidden channels of each layer."""
    layers: int = 2
    """Convolutional layers in the shared block: convex-potential ones in mode contractive,
    residual ones in the others."""
    mode: Mode = Mode.CONTRACTIVE
    """What is guaranteed of the loop: contractive, bounded, linear or free."""
    gamma: float = 0.95
    """γ, Lipschitz constant of the block in h, in (0, 1). Mode contractive alone."""
    gated: bool = True
    """Whether ā depends on the input at every cell and channel, or is one number for a channel."""
    retention_min: float = 0.05
    """Smallest retention ā, in (0, 1). Modes contractive and bounded."""
    retention_max: float = 0.6
    """Largest retention ā, in (retention_min, 1). Modes contractive and bounded."""
    window: int = 3
    """Cells of the layers' kernels along each axis."""
    grid: Grid | None = None
    """The only grid that the core is used on, for tighter caps; None for every grid. Mode
    contractive alone."""

    def __post_init__(self):
        """Refuses numbers outside their ranges, and a mode that is none."""
        object.__setattr__(self, "mode", member(Mode, self.mode, "mode"))
        self.check_sizes("hidden", "layers", "window")
        if self.gated and not self.injected:
            raise UsageError(
                "gated is on and injected off, but the gates are made from the input; set gated to "
                "false."
            )
        check_gamma("gamma", self.gamma)
        check_retention("retention_min and retention_max", self.retention_min, self.retention_max)

    def build_block(self, *, key: PRNGKeyArray) -> AbstractBlock:
        """The shared block of the mode, freshly initialised."""
        key_retention, *keys = jax.random.split(key, 1 + self.layers)
        channels, inputs = self.channels, self.inputs if self.injected else 0
        window = (self.window,) * self.dimensions
        padding = Padding.CIRCULAR if self.periodic else Padding.ZEROS
        limits = {"retention_min": self.retention_min, "retention_max": self.retention_max}
        if self.gated:
            retention = eqx.nn.Linear(inputs, channels, key=key_retention)
        else:
            retention = jax.random.normal(key_retention, (channels,))
        if self.mode is Mode.CONTRACTIVE:
            layers = tuple(
                ConvConvexPotential(
                    channels,
                    self.hidden,
                    inputs,
                    window,
                    padding=padding,
                    grid=self.grid,
                    key=k,
                )
                for k in keys
            )
            return ContractiveBlock(layers, retention, gamma=self.gamma, **limits)
        hidden = self._matched_hidden()
        layers = tuple(
            ConvResidualLayer(channels, hidden, inputs, window, padding=padding, key=k)
            for k in keys
        )
        if self.mode is Mode.LINEAR:
            drive = eqx.nn.Linear(inputs, channels, use_bias=False, key=key_retention)
            return LinearBlock(layers, jnp.zeros(channels), jnp.zeros(channels), drive)
        if self.mode is Mode.BOUNDED:
            return BoundedBlock(layers, retention, SoftNorm(float(np.sqrt(channels))), **limits)
        return FreeBlock(layers, retention)

    def _matched_hidden(self) -> int:
        """Hidden channels at which a residual layer has as many weights as a contractive one."""
        taps = self.window**self.dimensions
        both = taps * (self.channels + (self.inputs if self.injected else 0))
        return max(1, round(self.hidden * (both + 1) / (both + self.channels + 1)))
