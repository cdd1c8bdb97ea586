"""A looped core for grids: a question about every cell, answered by repeating one block."""

import abc
import dataclasses

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.core.block import AbstractBlock
from loopwm.core.cells import CellPrelude, CellReadout
from loopwm.core.depth import AbstractDepthRule
from loopwm.core.gradient import FULL, LoopGradient, check_gradient
from loopwm.core.iterate import AbstractUpdate, iterate
from loopwm.core.solution import Solution
from loopwm.errors import UsageError
from loopwm.stability import UpdateDeclaration


@dataclasses.dataclass(frozen=True)
class GridConfig(abc.ABC):
    """Sizes of a core for grids; each kind of block has a configuration of its own."""

    channels: int = 8
    """Channels of the loop state at every cell."""
    inputs: int = 8
    """Channels of the input e at every cell."""
    dimensions: int = 2
    """Axes of the grid: 2 for a plane, 1 for a ring, a line or a row of tokens."""
    periodic: bool = False
    """Whether opposite edges of the grid meet, as on a ring or a torus."""
    readout: int = 16
    """Hidden width of the read-out at every cell."""
    prelude_window: int = 1
    """Cells of the prelude's kernel along each axis, odd; 1 looks at each cell alone."""

    def check_sizes(self, *names: str) -> None:
        """Raises UsageError for a size, of these or common to all kinds, that is not possible."""
        for name in ("channels", "inputs", "dimensions", "readout", *names):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; give at least 1.")
        if self.prelude_window < 1 or self.prelude_window % 2 == 0:
            raise UsageError(
                f"prelude_window is {self.prelude_window}; give an odd number of cells."
            )

    @abc.abstractmethod
    def build_block(self, *, key: PRNGKeyArray) -> AbstractBlock:
        """The shared block, freshly initialised."""


class GridCore(eqx.Module):
    r"""Answers a question about every cell of a grid by repeating one shared block.

    $$e = \mathrm{Prelude}(x), \quad h_0 = \mathrm{Start}(e), \quad
    h_{t+1} = F(h_t, e), \quad y = \mathrm{ReadOut}(h_T, e),$$

    with F, its start and its certificate from the block: see `ConvolutionConfig` for the P-norm
    and the modes, and `InfinityConfig` for the ∞-norm.
    """

    prelude: CellPrelude
    block: AbstractBlock
    readout: CellReadout
    config: GridConfig = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, config: GridConfig, *, key: PRNGKeyArray):
        """Builds the core.

        Args:
            inputs: channels of the input grid.
            outputs: channels of the answer.
            config: kind of block, sizes and contraction.
            key: PRNG key.
        """
        key_prelude, key_block, key_readout = jax.random.split(key, 3)
        self.prelude = CellPrelude(
            inputs,
            config.inputs,
            dimensions=config.dimensions,
            window=config.prelude_window,
            periodic=config.periodic,
            key=key_prelude,
        )
        self.block = config.build_block(key=key_block)
        joined = config.channels + config.inputs
        self.readout = CellReadout(joined, config.readout, outputs, key=key_readout)
        self.config = config

    def bind(self, e: Float[Array, "*cells inputs"]) -> AbstractUpdate:
        """The inner update for one input e of shape (*cells, inputs)."""
        return self.block.bind(e)

    def __call__(
        self,
        grid: Float[Array, "*cells inputs"],
        rule: AbstractDepthRule,
        gradient: LoopGradient = FULL,
    ) -> Solution[Float[Array, "*cells outputs"]]:
        """The answer at every cell.

        Args:
            grid: input of shape (*cells, inputs), with `config.dimensions` axes of cells, each of
                any length unless the block is certified for one grid.
            rule: how many loops.
            gradient: how the loops are differentiated in reverse mode.

        Returns:
            The read-out of shape (*cells, outputs), with the loop's statistics.

        Raises:
            UsageError: the grid has another number of axes or channels, or is not the one that
                the core is certified for; or the gradient is implicit and the core's mode is not
                contractive.
        """
        check_gradient(gradient, self.config)
        e = self.prelude(grid)
        update = self.bind(e)
        solution = iterate(update, update.start(), rule, gradient)
        return Solution(
            value=self.readout(solution.value, e), result=solution.result, stats=solution.stats
        )

    def declare(self) -> UpdateDeclaration:
        """What `certify` needs, for the weights as they are now."""
        return self.block.declare()
