"""A grid core behind the seam of world models: latent states and actions are flat vectors."""

import dataclasses
import enum
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.choices import member
from loopwm.core.depth import AbstractDepthRule
from loopwm.core.gate import HaltingGate
from loopwm.core.gradient import FULL, LoopGradient
from loopwm.core.grid import GridConfig, GridCore
from loopwm.core.iterate import AbstractUpdate, Found
from loopwm.core.solution import Solution
from loopwm.errors import UsageError
from loopwm.stability import UpdateDeclaration


class ActionMap(enum.StrEnum):
    """How an action reaches the cells of a grid."""

    BROADCAST = "broadcast"
    """Every cell is given the whole action."""
    POINTED = "pointed"
    """The first entries of the action belong to one cell each, in row-major order, as one-hot
    actions that point at a cell do; every cell is given the entries that remain."""
    LEARNED = "learned"
    """A learned linear map gives every cell a vector of its own, which tells cells apart."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The grid that a flat latent state is."""

    cells: tuple[int, ...]
    """Cells along each axis."""
    channels: int
    """Channels of z at every cell."""

    @property
    def count(self) -> int:
        """Number of cells."""
        return math.prod(self.cells)

    @property
    def size(self) -> int:
        """Entries of z."""
        return self.count * self.channels


class CellActions(eqx.Module):
    """Gives every cell its share of an action."""

    linear: eqx.nn.Linear | None
    """For learned maps: from u to all cells, with a bias that is each cell's own."""
    kind: ActionMap = eqx.field(static=True)
    cells: tuple[int, ...] = eqx.field(static=True)
    """Cells along each axis."""
    channels: int = eqx.field(static=True)
    """Channels of the result."""

    def __init__(
        self,
        action: int,
        cells: tuple[int, ...],
        kind: ActionMap,
        *,
        channels: int,
        key: PRNGKeyArray,
    ):
        """Builds the map.

        Args:
            action: size of u.
            cells: cells along each axis.
            kind: how u reaches them.
            channels: channels that a learned map gives every cell.
            key: PRNG key.

        Raises:
            UsageError: there are fewer actions than cells to point at.
        """
        count, kind = math.prod(cells), member(ActionMap, kind, "model.actions")
        self.kind, self.cells, self.linear = kind, cells, None
        if kind is ActionMap.LEARNED:
            self.linear = eqx.nn.Linear(action, count * channels, key=key)
            self.channels = channels
        elif kind is ActionMap.BROADCAST:
            self.channels = action
        elif action < count:
            raise UsageError(
                f"An action of {action} entries cannot point at each of {count} cells; use "
                "model.actions=broadcast or learned."
            )
        else:
            self.channels = 1 + action - count

    def __call__(self, u: Float[Array, " action"]) -> Float[Array, "*cells channels"]:
        """The share of every cell, shape (*cells, channels), from u of shape (action,)."""
        if self.linear is not None:
            return self.linear(u).reshape(*self.cells, self.channels)
        count = math.prod(self.cells) if self.kind is ActionMap.POINTED else 0
        own, rest = u[:count], u[count:]
        shared = jnp.broadcast_to(rest, (*self.cells, rest.size))
        if not count:
            return shared
        return jnp.concatenate([own.reshape(*self.cells, 1), shared], axis=-1)


class FlatGridCore(eqx.Module):
    r"""Latent transition of a grid or of tokens, with the seam of `LoopedCore`.

    z of shape (size,) is reshaped to $(*cells, channels)$, every cell is given its share of the
    action beside it, and a `GridCore` answers with the change of every cell. Loop, depth rules and
    certificate are those of the grid core.
    """

    grid: GridCore
    actions: CellActions
    layout: Layout = eqx.field(static=True)

    def __init__(
        self,
        layout: Layout,
        action: int,
        config: GridConfig,
        kind: ActionMap,
        *,
        key: PRNGKeyArray,
    ):
        """Builds the core.

        Args:
            layout: the grid that z is.
            action: size of u.
            config: kind of block, sizes and contraction.
            kind: how u reaches the cells; a learned map gives each `config.inputs` channels.
            key: PRNG key.

        Raises:
            UsageError: the core is for another number of axes, or for one other grid alone.
        """
        axes, only = len(layout.cells), getattr(config, "grid", None)
        if axes != config.dimensions:
            raise UsageError(
                f"model.core.dimensions is {config.dimensions}, but the grid {layout.cells} has "
                f"{axes}; set model.core.dimensions={axes}."
            )
        if only is not None and tuple(only) != layout.cells:
            raise UsageError(
                f"model.core.grid is {tuple(only)}, but the latent state is a grid of "
                f"{layout.cells}; set model.core.grid to that, or to null for every grid."
            )
        key_grid, key_actions = jax.random.split(key)
        self.actions = CellActions(
            action, layout.cells, kind, channels=config.inputs, key=key_actions
        )
        inputs = layout.channels + self.actions.channels
        self.grid = GridCore(inputs, layout.channels, config, key=key_grid)
        self.layout = layout

    @property
    def config(self) -> GridConfig:
        """Kind of block, sizes and contraction."""
        return self.grid.config

    @property
    def gate(self) -> HaltingGate | None:
        """Says after each loop whether to stop, if the configuration asks for one."""
        return self.grid.gate

    def prelude(
        self, z: Float[Array, " latent"], u: Float[Array, " action"]
    ) -> Float[Array, "*cells inputs"]:
        """e of shape (*cells, inputs) from z of shape (latent,) and u of shape (action,)."""
        return self.grid.prelude(self._joined(z, u))

    def bind(self, e: Float[Array, "*cells inputs"]) -> AbstractUpdate:
        """The inner update for one input e of shape (*cells, inputs)."""
        return self.grid.bind(e)

    def __call__(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        rule: AbstractDepthRule,
        gradient: LoopGradient = FULL,
    ) -> Solution[Float[Array, " latent"]]:
        """The change of the latent state over one environment step.

        Args:
            z: latent state, shape (latent,).
            u: action, shape (action,).
            rule: how many loops.
            gradient: how the loops are differentiated in reverse mode.

        Returns:
            Δz of shape (latent,), with the loop's statistics.
        """
        solution = self.grid(self._joined(z, u), rule, gradient)
        return Solution(value=solution.value.ravel(), result=solution.result, stats=solution.stats)

    def unroll(
        self,
        z: Float[Array, " latent"],
        u: Float[Array, " action"],
        depth: int,
        read: Callable[[Solution[Float[Array, " latent"]]], Found],
    ) -> Found:
        """What is read of Δz after 0, 1 … `depth` loops; see `loopwm.core.unroll`."""

        def of_change(inner: Solution[Array]) -> Found:
            change = inner.value.ravel()
            return read(Solution(value=change, result=inner.result, stats=inner.stats))

        return self.grid.unroll(self._joined(z, u), depth, of_change)

    def exits(
        self, z: Float[Array, " latent"], u: Float[Array, " action"], depth: int
    ) -> tuple[Float[Array, "loops latent"], Float[Array, " loops"]]:
        """What the core would answer after each loop, and what its gate says of each.

        Args:
            z: latent state, shape (latent,).
            u: action, shape (action,).
            depth: T, number of loops.

        Returns:
            Δz after loops 1 … T, shape (T, latent), and the gate's logits, shape (T,).

        Raises:
            UsageError: the core has no gate.
        """
        changes, logits = self.grid.exits(self._joined(z, u), depth)
        return changes.reshape(depth, -1), logits

    def declare(self) -> UpdateDeclaration:
        """What `certify` needs, for the weights as they are now."""
        return self.grid.declare()

    def _joined(self, z: Array, u: Array) -> Array:
        """z and the action's share at every cell, shape (*cells, channels + shares)."""
        at_cells = z.reshape(*self.layout.cells, self.layout.channels)
        return jnp.concatenate([at_cells, self.actions(u)], axis=-1)
