"""The blocks of cores for grids and tokens that contract in the ∞-norm."""

import dataclasses
import enum

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from loopwm.choices import member
from loopwm.core.block import AbstractBlock, named_bounds
from loopwm.core.cells import each_cell
from loopwm.core.grid import GridConfig
from loopwm.core.retention import check_gamma, rounded_up
from loopwm.core.update import AbstractUpdate
from loopwm.errors import UsageError
from loopwm.nn.attention import RowStochasticAttention
from loopwm.nn.infinity import (
    AbstractInfinityLayer,
    Beside,
    L1CappedMix,
    MaxMin,
    NeighbourExtremum,
)
from loopwm.nn.neighbour_attention import NeighbourAttention
from loopwm.nn.neighbour_gates import GatedNeighbourMaximum
from loopwm.stability import Norm, UpdateDeclaration, norms


class Meeting(enum.StrEnum):
    """How the cells of a grid meet."""

    NEIGHBOURS = "neighbours"
    """The maximum over a cell and its grid neighbours."""
    DIRECTED = "directed"
    """Averages over a cell and its grid neighbours, with weights from the input alone: a signal
    may be sent in one direction."""
    GATED = "gated"
    """The maximum over a cell and its grid neighbours, each let in by a gate from the input."""
    ATTENTION = "attention"
    """Averages over all cells, with weights from the input alone."""


@dataclasses.dataclass(frozen=True)
class InfinityConfig(GridConfig):
    """Size, mixing and contraction of a core in the ∞-norm."""

    channels: int = 12
    """Channels of the loop state at every cell, an even number."""
    mixes: int = 2
    """Channel mixes in the shared block, each followed by MaxMin; with 0 cells meet and nothing
    else, so that a signal passes on at γ a loop."""
    gamma: float = 0.95
    """γ, Lipschitz constant of the update, in (0, 1)."""
    meeting: Meeting = Meeting.NEIGHBOURS
    """How cells meet: the maximum over grid neighbours, or averages over neighbours or over all
    cells whose weights come from the input alone."""
    rest: bool = False
    """Whether a cell whose neighbours start as it does stays as it started, so that a state moves
    only where a signal passes: the loops of residual halting then follow how far it has to go. The
    mixes have no additive term then."""
    heads: int = 1
    """Heads of the attention; `channels` has to be a multiple of it."""

    def __post_init__(self):
        """Refuses numbers outside their ranges, and a meeting that is none."""
        object.__setattr__(self, "meeting", member(Meeting, self.meeting, "meeting"))
        self.check_sizes("heads")
        if self.mixes < 0:
            raise UsageError(f"mixes is {self.mixes}; give 0 or more.")
        if self.channels % 2 or self.channels % self.heads:
            raise UsageError(
                f"channels is {self.channels} and heads {self.heads}; give an even number of "
                "channels, a multiple of heads."
            )
        if not self.injected:
            raise UsageError("The target of every loop is made from the input; set injected.")
        if self.rest and self.start_from_input:
            raise UsageError(
                "With rest the loop starts where cells stay at rest, with start_from_input "
                "elsewhere; set one of them."
            )
        check_gamma("gamma", self.gamma)

    def build_block(self, *, key: PRNGKeyArray) -> "InfinityBlock":
        """The shared block, freshly initialised."""
        key_meet, key_target, *keys = jax.random.split(key, 2 + self.mixes)
        channels, wide = self.channels, self.inputs
        if self.meeting is Meeting.NEIGHBOURS:
            meet = NeighbourExtremum("maximum", self.periodic)
        elif self.meeting is Meeting.DIRECTED:
            meet = NeighbourAttention(
                wide, axes=self.dimensions, heads=self.heads, periodic=self.periodic, key=key_meet
            )
        elif self.meeting is Meeting.GATED:
            meet = GatedNeighbourMaximum(
                wide, axes=self.dimensions, heads=self.heads, periodic=self.periodic, key=key_meet
            )
        else:
            meet = RowStochasticAttention(channels, wide, heads=self.heads, key=key_meet)
        layers: list[AbstractInfinityLayer] = [Beside(meet) if keys else meet]
        for number, key_mix in enumerate(keys):
            width = 2 * channels if number == 0 else channels
            mix = L1CappedMix(width, channels, wide, additive=not self.rest, key=key_mix)
            layers += [mix, MaxMin()]
        target = eqx.nn.Linear(wide, channels, key=key_target)
        return InfinityBlock(tuple(layers), target, self.gamma, self.rest)


class InfinityUpdate(AbstractUpdate):
    r"""One loop with its input bound: $h^+ = \gamma\,\varphi(h) + c$.

    φ is a chain of layers that do not expand the ∞-norm. Everything that depends on e alone is
    held here, computed once.
    """

    layers: tuple[AbstractInfinityLayer, ...]
    injected: tuple[PyTree, ...]
    """What each layer needs of e."""
    initial: Float[Array, "*cells channels"]
    """h_0 = v(e)."""
    offset: Float[Array, "*cells channels"]
    """c(e)."""
    gamma: float = eqx.field(static=True)

    def start(self) -> Float[Array, "*state"]:
        """h_0 = v(e)."""
        return self.initial

    def __call__(self, h: Float[Array, "*state"]) -> Float[Array, "*state"]:
        """One loop: h to h⁺, both of shape (*cells, channels)."""
        y = h
        for layer, injected in zip(self.layers, self.injected, strict=True):
            y = layer(y, injected)
        return self.gamma * y + self.offset

    def norm(self, x: Float[Array, "*state"]) -> Float[Array, ""]:
        """‖x‖_∞ over all cells and channels."""
        return norms.infinity(x)

    def rate(self) -> Float[Array, ""]:
        """ρ: γ times the layers' constants for this input, rounded up."""
        rate = jnp.asarray(self.gamma, self.offset.dtype)
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
        size = norms.infinity(y) + norms.infinity(self.offset) + total
        return total + 4.0 * unit * size + 4.0 * float(jnp.finfo(h.dtype).tiny)


class InfinityBlock(AbstractBlock):
    r"""Cells meet, channels mix, and every cell has a start and an offset of its own.

    $$h_0 = v(e), \quad h_{t+1} = \gamma\,\varphi(h_t, e) + c(e), \qquad
    c(e) = (1-\gamma)\,v(e) \quad\text{or}\quad v(e) - \gamma\,\varphi^=(v(e), e).$$

    φ lets cells meet (the state beside its neighbour maximum, or beside its average over cells
    with weights from e), then mixes channels within each cell under gates from e. None of its
    layers expands the ∞-norm, so the update contracts at γ in it, for every state and input, while
    a signal may pass from cell to cell at nearly full strength.

    The first offset draws every cell to v(e), over 1/(1 − γ) loops. The second, `rest`, takes φ⁼ to
    be φ with each cell's own start in the place of what it meets: $h_0$ is a fixed point wherever
    the neighbours start alike, and nothing moves there until a signal comes by.
    """

    layers: tuple[AbstractInfinityLayer, ...]
    """φ, in the order in which the layers are applied."""
    target: eqx.nn.Linear
    """v, applied at every cell."""
    gamma: float = eqx.field(static=True)
    """γ, in (0, 1)."""
    rest: bool = eqx.field(static=True)
    """Which offset."""

    def bind(self, e: Float[Array, "*cells inputs"]) -> InfinityUpdate:
        """The inner update for one input e of shape (*cells, inputs)."""
        injected = tuple(layer.inject(e) for layer in self.layers)
        initial = each_cell(self.target, e)
        if self.rest:
            y = jnp.concatenate([initial, initial], axis=-1) if self.layers[1:] else initial
            for layer, part in zip(self.layers[1:], injected[1:], strict=True):
                y = layer(y, part)
            offset = initial - self.gamma * y
        else:
            offset = (1.0 - self.gamma) * initial
        return InfinityUpdate(self.layers, injected, initial, offset, self.gamma)

    def declare(self) -> UpdateDeclaration:
        """Each layer's bound in the ∞-norm, and γ."""
        return UpdateDeclaration(
            layers=named_bounds(self.layers),
            scale=rounded_up(self.gamma),
            retention_min=0.0,
            retention_max=0.0,
            norm=Norm.INFINITY,
        )
