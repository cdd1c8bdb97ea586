"""A maximum over grid neighbours, each let through by a gate from the input."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.errors import UsageError
from loopwm.nn.infinity import AbstractInfinityLayer, affine_over_cells, size_of
from loopwm.stability import Norm, UpperBound


class GatedNeighbourMaximum(AbstractInfinityLayer):
    r"""Every entry becomes a maximum over neighbours, as far as the input lets each one in.

    $$y_{i,c} = \max\Big(h_{i,c},\; \max_d\, \big((1 - g^a_{i,d})\, h_{i,c} +
    g^a_{i,d}\, h_{i+d,c}\big)\Big), \qquad
    g^a_{i\cdot} = \mathrm{clip}(G^a e_i + b^a, 0, 1),$$

    with d over the two neighbours along every axis, and head a serving its own slice of the
    channels. A neighbour that would lie outside has gate 0 (or, if periodic, is found on the other
    side). Each argument of the maximum is an average of two entries of h, so the constant is 1 in
    the ∞-norm for every e and any G. A closed gate shuts completely: a signal can be sent in one
    direction, or kept out of a cell, without leaking in over many loops. Where all neighbours are
    alike nothing changes.
    """

    weight: Float[Array, "gates inputs"]
    """G, shape (2 · axes · heads, inputs)."""
    bias: Float[Array, " gates"]
    """b, shape (2 · axes · heads,)."""
    heads: int = eqx.field(static=True)
    """Number of heads."""
    axes: int = eqx.field(static=True)
    """Axes of the grid."""
    periodic: bool = eqx.field(static=True)
    """Whether opposite edges meet."""

    def __init__(
        self,
        inputs: int,
        *,
        axes: int = 2,
        heads: int = 1,
        periodic: bool = False,
        key: PRNGKeyArray,
    ):
        """Starts with gates that are mostly open.

        Args:
            inputs: channels of e.
            axes: axes of the grid.
            heads: number of heads; the channels of h have to be a multiple of it.
            periodic: whether opposite edges of the grid meet.
            key: PRNG key.

        Raises:
            UsageError: a size is below 1.
        """
        if min(inputs, axes, heads) < 1:
            raise UsageError(
                f"inputs, axes and heads are {inputs}, {axes} and {heads}; give at least 1 of each."
            )
        rows = 2 * axes * heads
        self.weight = 0.5 * jax.random.normal(key, (rows, inputs)) / np.sqrt(inputs)
        self.bias = jnp.full(rows, 0.8)
        self.heads, self.axes, self.periodic = heads, axes, periodic

    def inject(self, e: Float[Array, "*cells inputs"]) -> Float[Array, "sides *cells heads"]:
        """g of every cell, shape (2 · axes, *cells, heads).

        Raises:
            UsageError: the grid has another number of axes.
        """
        if e.ndim != self.axes + 1:
            raise UsageError(
                f"The input has shape {e.shape}; give {self.axes} axes of cells and a last one of "
                "channels."
            )
        raw = affine_over_cells(self.weight, self.bias, e)
        # The gradient passes a clip straight through: a gate that is shut can learn to open.
        gates = jax.lax.stop_gradient(jnp.clip(raw, 0.0, 1.0)) + (raw - jax.lax.stop_gradient(raw))
        gates = jnp.moveaxis(gates.reshape(*e.shape[:-1], -1, self.heads), -2, 0)
        return gates if self.periodic else jnp.where(self._inside(e.shape[:-1]), gates, 0.0)

    def _inside(self, cells: tuple[int, ...]) -> np.ndarray:
        """Whether each neighbour of each cell lies on the grid, shape (sides, *cells, 1)."""
        inside = np.ones((2 * self.axes, *cells, 1), bool)
        for axis in range(self.axes):
            before, after = (np.moveaxis(inside[2 * axis + n], axis, 0) for n in (0, 1))
            before[0] = False
            after[-1] = False
        return inside

    def __call__(
        self, h: Float[Array, "*cells channels"], injected: Float[Array, "sides *cells heads"]
    ) -> Float[Array, "*cells channels"]:
        """Maps h of shape (*cells, channels) to the same shape.

        Raises:
            UsageError: the channels cannot be shared out among the heads.
        """
        if h.shape[-1] % self.heads:
            raise UsageError(
                f"{h.shape[-1]} channels cannot be shared out among {self.heads} heads; give a "
                "multiple."
            )
        slices = h.reshape(*h.shape[:-1], self.heads, -1)
        y = slices
        for side, gate in enumerate(injected):
            # What comes round the edge has gate 0 unless the grid is periodic.
            neighbour = jnp.roll(slices, -1 if side % 2 else 1, side // 2)
            open_ = jnp.broadcast_to(gate[..., None], slices.shape)
            y = jnp.maximum(y, (1.0 - open_) * slices + open_ * neighbour)
        return y.reshape(h.shape)

    def constant(self, injected: Float[Array, "sides *cells heads"]) -> Float[Array, ""]:
        """1, and what rounding 1 − g may add."""
        return jnp.asarray(1.0 + float(jnp.finfo(injected.dtype).eps), injected.dtype)

    def rounding(
        self, h: Float[Array, "*cells channels"], injected: Float[Array, "sides *cells heads"]
    ) -> Float[Array, ""]:
        r"""$\gamma_6\|h\|_\infty$, and a floor for products that vanish."""
        count = 6 * 0.5 * float(jnp.finfo(h.dtype).eps)
        return count / (1.0 - count) * size_of(h) + 4 * float(jnp.finfo(h.dtype).tiny)

    def lipschitz(self) -> UpperBound:
        """1."""
        return UpperBound(1.0, Norm.INFINITY)
