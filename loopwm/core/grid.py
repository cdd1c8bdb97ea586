"""A looped core for grids: a question about every cell, answered by repeating one block."""

import abc
import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.core.block import AbstractBlock
from loopwm.core.cells import CellPrelude, CellReadout, each_cell
from loopwm.core.depth import AbstractDepthRule
from loopwm.core.gate import NO_GATE, HaltingGate, with_gate
from loopwm.core.gradient import FULL, LoopGradient, check_gradient
from loopwm.core.iterate import AbstractUpdate, Found, iterate, unroll
from loopwm.core.solution import Solution
from loopwm.errors import UsageError
from loopwm.nn import SoftNorm
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
    start_from_input: bool = False
    """Whether h_0 is a linear map of the input at every cell, in the ball of radius √channels
    there, as suits a loop that replays steps from it; the block's own start otherwise."""
    injected: bool = True
    """Whether the input enters every loop, or is in h_0 alone, so that a loop knows nothing but
    its state."""
    prelude_window: int = 1
    """Cells of the prelude's kernel along each axis, odd; 1 looks at each cell alone."""
    readout_window: int = 1
    """Cells of the read-out's kernel along each axis, odd; 1 looks at each cell alone."""
    gate: bool = False
    """Learn a gate that says after each loop whether to stop; halting rule `gate` needs it. Its
    loss keeps and differentiates every loop, whatever `gradient` is."""

    def check_sizes(self, *names: str) -> None:
        """Raises UsageError for a size, of these or common to all kinds, that is not possible."""
        for name in ("channels", "inputs", "dimensions", "readout", *names):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; give at least 1.")
        if not (self.injected or self.start_from_input):
            raise UsageError(
                "injected and start_from_input are both off, so the loop never sees its input; set "
                "one of them."
            )
        for name in ("prelude_window", "readout_window"):
            cells = getattr(self, name)
            if cells < 1 or cells % 2 == 0:
                raise UsageError(f"{name} is {cells}; give an odd number of cells.")

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
    initial: eqx.nn.Linear | None
    """Init, applied at every cell; None for the block's own start."""
    block: AbstractBlock
    readout: CellReadout
    gate: HaltingGate | None
    """Says after each loop whether to stop, if the configuration asks for one."""
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
        if config.start_from_input:
            key_block, key_initial = jax.random.split(key_block)
            self.initial = eqx.nn.Linear(config.inputs, config.channels, key=key_initial)
        else:
            self.initial = None
        self.block = config.build_block(key=key_block)
        joined = config.channels + config.inputs
        self.readout = CellReadout(
            joined,
            config.readout,
            outputs,
            dimensions=config.dimensions,
            window=config.readout_window,
            periodic=config.periodic,
            key=key_readout,
        )
        self.gate = HaltingGate(config.channels) if config.gate else None
        self.config = config

    def bind(self, e: Float[Array, "*cells inputs"]) -> AbstractUpdate:
        """The inner update for one input e of shape (*cells, inputs)."""
        return self.block.bind(e if self.config.injected else e[..., :0])

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
                contractive; or the rule needs a gate and there is none.
        """
        check_gradient(gradient, self.config)
        e = self.prelude(grid)
        update = self.bind(e)
        rule = with_gate(rule, self.gate)
        solution = iterate(update, self._start(update, e), rule, gradient)
        return Solution(
            value=self.readout(solution.value, e), result=solution.result, stats=solution.stats
        )

    def unroll(
        self,
        grid: Float[Array, "*cells inputs"],
        depth: int,
        read: Callable[[Solution[Float[Array, "*cells outputs"]]], Found],
    ) -> Found:
        """What is read of the answer after 0, 1 … `depth` loops; see `loopwm.core.unroll`."""
        e = self.prelude(grid)
        update = self.bind(e)

        def of_answer(inner: Solution[Array]) -> Found:
            answer = self.readout(inner.value, e)
            return read(Solution(value=answer, result=inner.result, stats=inner.stats))

        return unroll(update, self._start(update, e), depth, of_answer)

    def exits(
        self, grid: Float[Array, "*cells inputs"], depth: int
    ) -> tuple[Float[Array, "loops *cells outputs"], Float[Array, " loops"]]:
        """What the core would answer after each loop, and what its gate says of each.

        Args:
            grid: input of shape (*cells, inputs).
            depth: T, number of loops.

        Returns:
            The read-outs after loops 1 … T, shape (T, *cells, outputs), and the gate's logits,
            shape (T,).

        Raises:
            UsageError: the core has no gate, or as in a call.
        """
        if self.gate is None:
            raise UsageError(NO_GATE)
        e = self.prelude(grid)
        update = self.bind(e)

        def body(h, _):
            after = update(h)
            return after, after

        _, states = jax.lax.scan(body, self._start(update, e), None, depth)
        return jax.vmap(lambda h: self.readout(h, e))(states), jax.vmap(self.gate)(states)

    def _start(self, update: AbstractUpdate, e: Array) -> Array:
        if self.initial is None:
            return update.start()
        bound = SoftNorm(float(np.sqrt(self.config.channels)))
        return each_cell(bound, each_cell(self.initial, e))

    def declare(self) -> UpdateDeclaration:
        """What `certify` needs, for the weights as they are now."""
        return self.block.declare()
