"""Attention over grid neighbours with weights from the input alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.errors import UsageError
from loopwm.nn.infinity import AbstractInfinityLayer, over_cells, size_of
from loopwm.stability import Norm, UpperBound


class NeighbourAttention(AbstractInfinityLayer):
    r"""Every entry becomes an average over the cell and its neighbours, weighted by the input.

    $$y_{i,c} = \sum_{d} p^{a}_{i,d}\, h_{i+d,c}, \qquad
    p^a_{i\cdot} = \mathrm{softmax}_d\big((G^a_d e_i) + b^a_d\big),$$

    with d over the cell itself and its two neighbours along every axis, and head a serving its own
    slice of the channels. A neighbour that would lie outside gets no weight (or, if periodic, is
    found on the other side). Weights are nonnegative and sum to at most 1 (the softmax is taken
    down by its rounding), so the constant is 1 in the ∞-norm for every e and any G: a signal may
    be sent in one direction at nearly full strength, which a maximum over neighbours cannot do.
    """

    logits: Float[Array, "options_heads inputs"]
    """G, shape ((2 · axes + 1) · heads, inputs)."""
    bias: Float[Array, " options_heads"]
    """b."""
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
        """Starts from Gaussian logits of variance 1 for inputs of variance 1.

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
        rows = (2 * axes + 1) * heads
        self.logits = jax.random.normal(key, (rows, inputs)) / np.sqrt(inputs)
        self.bias = jnp.zeros(rows)
        self.heads, self.axes, self.periodic = heads, axes, periodic

    def inject(self, e: Float[Array, "*cells inputs"]) -> Float[Array, "options *cells heads"]:
        """p of every cell, shape (2 · axes + 1, *cells, heads); first the cell itself.

        Raises:
            UsageError: the grid has another number of axes.
        """
        if e.ndim != self.axes + 1:
            raise UsageError(
                f"The input has shape {e.shape}; give {self.axes} axes of cells and a last one of "
                "channels."
            )
        logits = over_cells(self.logits, e)
        logits = logits + jnp.broadcast_to(self.bias, logits.shape)
        logits = jnp.moveaxis(logits.reshape(*e.shape[:-1], -1, self.heads), -2, 0)
        if not self.periodic:
            logits = jnp.where(self._inside(e.shape[:-1]), logits, -jnp.inf)
        margin = (2 * len(logits) + 8) * float(jnp.finfo(e.dtype).eps)
        return jax.nn.softmax(logits, axis=0) * (1.0 - margin)

    def _inside(self, cells: tuple[int, ...]) -> np.ndarray:
        """Whether each option of each cell lies on the grid, shape (options, *cells, 1)."""
        inside = np.ones((2 * self.axes + 1, *cells, 1), bool)
        for axis in range(self.axes):
            before, after = (np.moveaxis(inside[1 + 2 * axis + n], axis, 0) for n in (0, 1))
            before[0] = False
            after[-1] = False
        return inside

    def __call__(
        self, h: Float[Array, "*cells channels"], injected: Float[Array, "options *cells heads"]
    ) -> Float[Array, "*cells channels"]:
        """Averages h of shape (*cells, channels) over neighbours.

        Raises:
            UsageError: the channels cannot be shared out among the heads.
        """
        if h.shape[-1] % self.heads:
            raise UsageError(
                f"{h.shape[-1]} channels cannot be shared out among {self.heads} heads; give a "
                "multiple."
            )
        slices = h.reshape(*h.shape[:-1], self.heads, -1)
        options = [slices]
        for axis in range(self.axes):
            # What comes round the edge has weight 0 unless the grid is periodic.
            options += [jnp.roll(slices, 1, axis), jnp.roll(slices, -1, axis)]
        shares = [jnp.broadcast_to(p[..., None], slices.shape) for p in injected]
        mixed = sum(p * x for p, x in zip(shares[1:], options[1:], strict=True))
        return (shares[0] * options[0] + mixed).reshape(h.shape)

    def constant(self, injected: Float[Array, "options *cells heads"]) -> Float[Array, ""]:
        """1: the weights of a cell sum to at most 1."""
        return jnp.ones((), injected.dtype)

    def rounding(
        self, h: Float[Array, "*cells channels"], injected: Float[Array, "options *cells heads"]
    ) -> Float[Array, ""]:
        r"""$\gamma_{n+4}\|h\|_\infty$ for n options, and a floor for products that vanish."""
        options = injected.shape[0]
        count = (options + 4) * 0.5 * float(jnp.finfo(h.dtype).eps)
        return count / (1.0 - count) * size_of(h) + options * float(jnp.finfo(h.dtype).tiny)

    def lipschitz(self) -> UpperBound:
        """1."""
        return UpperBound(1.0, Norm.INFINITY)
