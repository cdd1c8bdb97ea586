"""A looped core for grids and tokens that contracts in the ∞-norm."""

import dataclasses
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from loopwm.core.cells import CellPrelude, CellReadout, each_cell
from loopwm.core.depth import AbstractDepthRule
from loopwm.core.iterate import AbstractUpdate, iterate
from loopwm.core.solution import Solution
from loopwm.errors import UsageError
from loopwm.nn.infinity import (
    AbstractInfinityLayer,
    Beside,
    L1CappedMix,
    MaxMin,
    NeighbourExtremum,
    RowStochasticMix,
)
from loopwm.stability import LayerBound, Norm, UpdateDeclaration, norms


@dataclasses.dataclass(frozen=True)
class InfinityCoreConfig:
    """Size, mixing and contraction of a core in the ∞-norm."""

    channels: int = 12
    """Channels of the loop state at every cell, an even number."""
    inputs: int = 8
    """Channels of the input e at every cell."""
    mixes: int = 2
    """Channel mixes in the shared block, each followed by MaxMin."""
    gamma: float = 0.95
    """γ, Lipschitz constant of the update, in (0, 1)."""
    mixing: Literal["neighbours", "attention"] = "neighbours"
    """How cells meet: the maximum over grid neighbours, or attention whose logits come from the
    input alone."""
    dimensions: int = 2
    """Axes of the grid: 2 for a plane, 1 for a ring, a line or a row of tokens."""
    periodic: bool = False
    """Whether opposite edges of the grid meet."""
    window: int = 1
    """Cells of the prelude's kernel along each axis, odd; 1 looks at each cell alone."""
    heads: int = 1
    """Heads of the attention; `channels` has to be a multiple of it."""
    readout: int = 16
    """Hidden width of the read-out at every cell."""

    def __post_init__(self):
        """Refuses numbers outside their ranges."""
        sizes = (self.channels, self.inputs, self.mixes, self.dimensions, self.heads, self.readout)
        if min(sizes) < 1 or self.channels % 2 or self.channels % self.heads:
            raise UsageError(
                f"The sizes (channels, inputs, mixes, dimensions, heads, readout) are {sizes}; "
                "give at least 1 of each, and an even number of channels, a multiple of heads."
            )
        if self.window < 1 or self.window % 2 == 0:
            raise UsageError(f"window is {self.window}; give an odd number of cells.")
        if self.mixing not in ("neighbours", "attention"):
            raise UsageError(f"mixing is {self.mixing!r}; use 'neighbours' or 'attention'.")
        # As a float32 number, in which the loop runs: 1 − 1e-9 is 1 there.
        if not 0.0 < np.float32(self.gamma) < 1.0:
            raise UsageError(
                f"gamma is {self.gamma}; give a value between 0 and 1, as a contraction needs."
            )


class InfinityUpdate(AbstractUpdate):
    r"""One loop with its input bound: $h^+ = \gamma\,\varphi(h) + (1-\gamma)\,v$.

    φ is a chain of layers that do not expand the ∞-norm. Everything that depends on e alone is
    held here, computed once.
    """

    layers: tuple[AbstractInfinityLayer, ...]
    injected: tuple[PyTree, ...]
    """What each layer needs of e."""
    target: Float[Array, "*cells channels"]
    """v(e): the fixed point that the state would have without φ."""
    gamma: float = eqx.field(static=True)

    def __call__(self, h: Float[Array, "*state"]) -> Float[Array, "*state"]:
        """One loop: h to h⁺, both of shape (*cells, channels)."""
        y = h
        for layer, injected in zip(self.layers, self.injected, strict=True):
            y = layer(y, injected)
        return self.gamma * y + (1.0 - self.gamma) * self.target

    def norm(self, x: Float[Array, "*state"]) -> Float[Array, ""]:
        """‖x‖_∞ over all cells and channels."""
        return norms.infinity(x)

    def rate(self) -> Float[Array, ""]:
        """ρ: γ times the layers' constants for this input, rounded up."""
        rate = jnp.asarray(self.gamma, self.target.dtype)
        for layer, injected in zip(self.layers, self.injected, strict=True):
            rate = rate * layer.constant(injected)
        return rate * (1.0 + 2.0 * (len(self.layers) + 1) * jnp.finfo(rate.dtype).eps)

    def rounding(self, h: Float[Array, "*state"]) -> Float[Array, ""]:
        """η: the layers' rounding, each carried through the later ones, and the last sum's."""
        unit = 0.5 * float(jnp.finfo(h.dtype).eps)
        y, total = h, jnp.zeros((), h.dtype)
        for layer, injected in zip(self.layers, self.injected, strict=True):
            total = total * layer.constant(injected) + layer.rounding(y, injected)
            y = layer(y, injected)
        size = norms.infinity(y) + norms.infinity(self.target) + total
        return total + 4.0 * unit * size + 4.0 * float(jnp.finfo(h.dtype).tiny)


class InfinityCore(eqx.Module):
    r"""Answers a question about every cell of a grid by repeating one shared block.

    $$e = \mathrm{Prelude}(x), \quad h_0 = v(e), \quad
    h_{t+1} = \gamma\,\varphi(h_t, e) + (1-\gamma)\,v(e), \quad
    y = \mathrm{ReadOut}(h_T, e).$$

    φ lets cells meet (the state beside its neighbour maximum, or beside its average over cells
    with weights from e), then mixes channels within each cell under gates from e. None of its
    layers expands the ∞-norm, so the update contracts at γ in it, for every state and input, while
    a signal may pass from cell to cell at nearly full strength.
    """

    prelude: CellPrelude
    layers: tuple[AbstractInfinityLayer, ...]
    target: eqx.nn.Linear
    readout: CellReadout
    config: InfinityCoreConfig = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, config: InfinityCoreConfig, *, key: PRNGKeyArray):
        """Builds the core.

        Args:
            inputs: channels of the input grid.
            outputs: channels of the answer.
            config: sizes, mixing and contraction.
            key: PRNG key.
        """
        key_prelude, key_meet, key_target, key_readout, *keys = jax.random.split(
            key, 4 + config.mixes
        )
        channels, wide = config.channels, config.inputs
        self.prelude = CellPrelude(
            inputs,
            wide,
            dimensions=config.dimensions,
            window=config.window,
            periodic=config.periodic,
            key=key_prelude,
        )
        if config.mixing == "neighbours":
            meet = NeighbourExtremum("maximum", config.periodic)
        else:
            meet = RowStochasticMix(wide, heads=config.heads, key=key_meet)
        layers: list[AbstractInfinityLayer] = [Beside(meet)]
        for number, key_mix in enumerate(keys):
            width = 2 * channels if number == 0 else channels
            layers += [L1CappedMix(width, channels, wide, key=key_mix), MaxMin()]
        self.layers = tuple(layers)
        self.target = eqx.nn.Linear(wide, channels, key=key_target)
        self.readout = CellReadout(channels + wide, config.readout, outputs, key=key_readout)
        self.config = config

    def bind(self, e: Float[Array, "*cells inputs"]) -> InfinityUpdate:
        """The inner update for one input e of shape (*cells, inputs)."""
        return InfinityUpdate(
            layers=self.layers,
            injected=tuple(layer.inject(e) for layer in self.layers),
            target=each_cell(self.target, e),
            gamma=self.config.gamma,
        )

    def __call__(
        self, grid: Float[Array, "*cells inputs"], rule: AbstractDepthRule
    ) -> Solution[Float[Array, "*cells outputs"]]:
        """The answer at every cell.

        Args:
            grid: input of shape (*cells, inputs), with `config.dimensions` axes of cells, each of
                any length.
            rule: how many loops.

        Returns:
            The read-out of shape (*cells, outputs), with the loop's statistics.

        Raises:
            UsageError: the grid has another number of axes or channels.
        """
        e = self.prelude(grid)
        update = self.bind(e)
        solution = iterate(update, update.target, rule)
        return Solution(
            value=self.readout(solution.value, e), result=solution.result, stats=solution.stats
        )

    def declare(self) -> UpdateDeclaration:
        """What `certify` needs: each layer's bound in the ∞-norm, and γ."""
        return UpdateDeclaration(
            layers=tuple(
                LayerBound(name=f"layers[{i}] {type(layer).__name__}", bound=layer.lipschitz())
                for i, layer in enumerate(self.layers)
            ),
            # The float32 number that the loop computes with, not the decimal it came from.
            scale=float(np.float32(self.config.gamma)),
            retention_min=0.0,
            retention_max=0.0,
            norm=Norm.INFINITY,
        )
