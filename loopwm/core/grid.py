"""A looped core for grids that contracts in the P-norm: convolutions in place of matrices."""

import dataclasses
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.core.cells import CellPrelude, CellReadout, each_cell
from loopwm.core.depth import AbstractDepthRule
from loopwm.core.iterate import AbstractUpdate, iterate
from loopwm.core.solution import Solution
from loopwm.errors import UsageError
from loopwm.nn.convolution import ConvConvexPotential
from loopwm.stability import LayerBound, Norm, UpdateDeclaration, norms, weighted
from loopwm.stability.convolution import Grid, Padding


@dataclasses.dataclass(frozen=True)
class GridCoreConfig:
    """Size and contraction of a convolutional core."""

    channels: int = 8
    """Channels of the loop state at every cell."""
    hidden: int = 16
    """Hidden channels of each layer."""
    inputs: int = 8
    """Channels of the input e at every cell."""
    layers: int = 2
    """Convex-potential convolutions in the shared block."""
    gamma: float = 0.95
    """γ, Lipschitz constant of the block in h, in (0, 1)."""
    retention: Literal["channel", "input"] = "input"
    """Whether ā is one number for a channel, the same in all cells, or depends on the input at
    every cell and channel."""
    retention_min: float = 0.05
    """Smallest retention ā, in (0, 1)."""
    retention_max: float = 0.6
    """Largest retention ā, in (retention_min, 1)."""
    dimensions: int = 2
    """Axes of the grid: 2 for a plane, 1 for a ring or a line."""
    window: int = 3
    """Cells of the layers' kernels along each axis."""
    padding: Padding = Padding.ZEROS
    """What is read beyond the edge of the grid."""
    grid: Grid | None = None
    """The only grid that the core is used on, for tighter caps; None for every grid."""
    readout: int = 16
    """Hidden width of the read-out at every cell."""

    def __post_init__(self):
        """Refuses numbers outside their ranges."""
        names = ("channels", "hidden", "inputs", "layers", "dimensions", "window", "readout")
        for name in names:
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; give at least 1.")
        if self.retention not in ("channel", "input"):
            raise UsageError(f"retention is {self.retention!r}; use 'channel' or 'input'.")
        # As float32 numbers, in which the loop runs: 1 − 1e-9 is 1 there.
        gamma, low, high = map(np.float32, (self.gamma, self.retention_min, self.retention_max))
        if not 0.0 < gamma < 1.0:
            raise UsageError(
                f"gamma is {self.gamma}; give a value between 0 and 1, as a contraction needs."
            )
        if not 0.0 < low < high < 1.0:
            raise UsageError(
                f"retention_min and retention_max are {self.retention_min} and "
                f"{self.retention_max}; give 0 < retention_min < retention_max < 1."
            )


class GridUpdate(AbstractUpdate):
    r"""One loop with its input bound: $h^+ = \bar a \odot h + (1-\bar a) \odot g(h)$.

    $g(h) = \gamma\,(L_n \circ \dots \circ L_1)(h)$ with convolutional layers that are 1-Lipschitz
    in the 2-norm over all cells and channels. Everything that depends on e alone is held here.
    """

    layers: tuple[ConvConvexPotential, ...]
    injected: tuple[Float[Array, "*cells hidden"], ...]
    """U_l * e + b_l of each layer."""
    retention: Float[Array, "*cells channels"]
    """ā(e) of every cell and channel, in (0, 1)."""
    gamma: float = eqx.field(static=True)

    def __call__(self, h: Float[Array, "*state"]) -> Float[Array, "*state"]:
        """One loop: h to h⁺, both of shape (*cells, channels)."""
        y = h
        for layer, injected in zip(self.layers, self.injected, strict=True):
            y = layer(y, injected)
        return self.retention * h + (1.0 - self.retention) * (self.gamma * y)

    def norm(self, x: Float[Array, "*state"]) -> Float[Array, ""]:
        """‖x‖_P over all cells and channels, for this input's retention."""
        return weighted.norm(x.ravel(), weighted.weights(self.retention.ravel(), self.gamma))

    def rate(self) -> Float[Array, ""]:
        """ρ = max ā + (1 − ā)γ, rounded up."""
        rate = jnp.max(weighted.channel_rates(self.retention.ravel(), self.gamma))
        return rate * (1.0 + 4.0 * jnp.finfo(rate.dtype).eps)

    def rounding(self, h: Float[Array, "*state"]) -> Float[Array, ""]:
        """η: the layers' rounding (each later layer is 1-Lipschitz, so they add) and the mix."""
        unit = 0.5 * float(jnp.finfo(h.dtype).eps)
        y, total = h, jnp.zeros((), h.dtype)
        for layer, injected in zip(self.layers, self.injected, strict=True):
            total = total + layer.rounding(y, injected)
            y = layer(y, injected)
        # A long sum of squares loses up to its number of terms in roundings, and what is tiny.
        slack = 1.0 + (h.size + 16) * unit
        total = total + 4.0 * unit * slack * (norms.two(h) + norms.two(y) + total)
        floor = 4.0 * float(np.sqrt(h.size * float(jnp.finfo(h.dtype).tiny)))
        p = weighted.weights(self.retention.ravel(), self.gamma)
        return slack * jnp.sqrt(jnp.max(p)) * (total + floor)


class GridCore(eqx.Module):
    r"""Answers a question about every cell of a grid by repeating convolutional layers.

    $$e = \mathrm{Prelude}(x), \quad h_0 = 0, \quad
    h_{t+1} = \bar a \odot h_t + (1-\bar a) \odot g(h_t, e), \quad
    y = \mathrm{ReadOut}(h_T, e).$$

    The certificate is of level `global` in the P-norm over all cells and channels: the proof of
    `loopwm.stability.weighted` takes ā of any cell and channel for that of one coordinate.
    """

    prelude: CellPrelude
    layers: tuple[ConvConvexPotential, ...]
    retention: eqx.nn.Linear | Float[Array, " channels"]
    """Logits of ā: of the input at each cell, or one of each channel."""
    readout: CellReadout
    config: GridCoreConfig = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, config: GridCoreConfig, *, key: PRNGKeyArray):
        """Builds the core.

        Args:
            inputs: channels of the input grid.
            outputs: channels of the answer.
            config: sizes, padding and contraction.
            key: PRNG key.
        """
        key_prelude, key_retention, key_readout, *keys = jax.random.split(key, 3 + config.layers)
        channels, wide = config.channels, config.inputs
        self.prelude = CellPrelude(
            inputs,
            wide,
            dimensions=config.dimensions,
            window=1,
            periodic=config.padding is Padding.CIRCULAR,
            key=key_prelude,
        )
        window = (config.window,) * config.dimensions
        self.layers = tuple(
            ConvConvexPotential(
                channels,
                config.hidden,
                wide,
                window,
                padding=config.padding,
                grid=config.grid,
                key=k,
            )
            for k in keys
        )
        if config.retention == "input":
            self.retention = eqx.nn.Linear(wide, channels, key=key_retention)
        else:
            self.retention = jax.random.normal(key_retention, (channels,))
        self.readout = CellReadout(channels + wide, config.readout, outputs, key=key_readout)
        self.config = config

    def bind(self, e: Float[Array, "*cells inputs"]) -> GridUpdate:
        """The inner update for one input e of shape (*cells, inputs)."""
        low, high = self.config.retention_min, self.config.retention_max
        if isinstance(self.retention, eqx.nn.Linear):
            logits = each_cell(self.retention, e)
        else:
            logits = jnp.broadcast_to(self.retention, (*e.shape[:-1], self.config.channels))
        retention = low + (high - low) * jax.nn.sigmoid(logits)
        return GridUpdate(
            layers=self.layers,
            injected=tuple(layer.inject(e) for layer in self.layers),
            retention=jnp.clip(retention, low, high),  # rounding may step over an end
            gamma=self.config.gamma,
        )

    def __call__(
        self, grid: Float[Array, "*cells inputs"], rule: AbstractDepthRule
    ) -> Solution[Float[Array, "*cells outputs"]]:
        """The answer at every cell.

        Args:
            grid: input of shape (*cells, inputs), with `config.dimensions` axes of cells.
            rule: how many loops.

        Returns:
            The read-out of shape (*cells, outputs), with the loop's statistics.

        Raises:
            UsageError: the grid has another number of axes or channels, or is not the one that
                the core is certified for.
        """
        e = self.prelude(grid)
        start = jnp.zeros((*grid.shape[:-1], self.config.channels), e.dtype)
        solution = iterate(self.bind(e), start, rule)
        return Solution(
            value=self.readout(solution.value, e), result=solution.result, stats=solution.stats
        )

    def declare(self) -> UpdateDeclaration:
        """What `certify` needs: each layer's bound, γ, and the range of the retention."""
        return UpdateDeclaration(
            layers=tuple(
                LayerBound(name=f"layers[{i}]", bound=layer.lipschitz())
                for i, layer in enumerate(self.layers)
            ),
            # The float32 numbers that the loop computes with, not the decimals they came from.
            scale=float(np.float32(self.config.gamma)),
            retention_min=float(np.float32(self.config.retention_min)),
            retention_max=float(np.float32(self.config.retention_max)),
            norm=Norm.P,
        )
