r"""The convex sets of states that programs are evaluated on: boxes and balls.

Beside its slopes every entry of a value carries a number ρ, an upper bound of
|u(x) − u(y)| / ‖x − y‖ on the set. It is kept as one more slope, the interval [−ρ, ρ] of the ratio,
so that all rules of slopes hold for it. In each step it becomes the smaller one of what the rules
give and the dual norm of the slopes; it is the better one where the hull of slopes is loose, such
as at a tie of a maximum. Values are cut down to u(c) ± ρ r around the centre c of a ball of
radius r, which is far less than on the box around it when the state has many entries.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Array

from loopwm.stability.interval import arithmetic as ia
from loopwm.stability.interval.arithmetic import Interval
from loopwm.stability.interval.elementwise import Node
from loopwm.stability.norms import Norm


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """A convex set of states, with a centre that belongs to it, and the norm of the states."""

    box: Interval
    """A box that covers it, shape (*state)."""
    center: np.ndarray
    """Its centre, shape (*state), float64."""
    width: np.ndarray
    """Largest |x − centre| of each entry, shape (*state); ∞ for an unbounded box."""
    radius: float
    """Largest ‖x − centre‖ in `norm`."""
    norm: Norm
    """Norm of ρ."""
    root: np.ndarray
    """√p of the P-norm, else 1, shape (*state)."""

    @classmethod
    def from_box(
        cls, box: Interval, norm: Norm = Norm.INFINITY, weights: Array | np.ndarray | None = None
    ) -> "Region":
        """A box, shape (*state)."""
        box = Interval(box.low.astype(np.float64), box.high.astype(np.float64))
        bounded = box.bounded.all()
        center = box.middle if bounded else np.asarray(np.clip(0.0, box.low, box.high))
        width = box.radius if bounded else np.full(center.shape, np.inf)
        farthest = upper_norm(Interval.exact(width), norm, weights)
        return cls(box, center, width, farthest, norm, _root(weights, center.shape))

    @classmethod
    def ball(
        cls,
        center: np.ndarray,
        radius: float,
        norm: Norm,
        weights: Array | np.ndarray | None = None,
    ) -> "Region":
        """The closed ball of a norm; the weights are those of the P-norm."""
        center = np.asarray(center, np.float64)
        root = _root(weights, center.shape)
        width = np.asarray(radius / root * _UP)
        return cls(Interval.ball(center, width), center, width, radius, norm, root)

    def state(self) -> Node:
        """The state itself, with unit slopes and its ρ."""
        size, shape = self.center.size, self.center.shape
        unit = np.concatenate([np.eye(size), np.zeros((1, size))]).reshape(size + 1, *shape)
        ratio = np.zeros_like(unit)
        ratio[-1] = _UP / self.root
        center = Node(Interval.exact(self.center))
        return Node(self.box, Interval(unit - ratio, unit + ratio), seeds=size + 1, center=center)

    def tightened(self, node: Node, center: Node) -> Node:
        """The node, its ρ and its value cut down to what its slopes allow."""
        slope = node.slope
        if slope is None:
            return dataclasses.replace(node, center=center)
        count = slope.shape[0]
        sizes = slope.magnitude.reshape(count, -1)
        with np.errstate(invalid="ignore", over="ignore"):
            # Sums of at most `count` terms, products and square roots, all of them rounded.
            slack = 1.0 + (count + 32) * 2.0**-51
            dual, given = self._dual(sizes[:-1]) * slack + 2.0**-1000, sizes[-1]
            ratio = np.fmin(dual, given)  # NaN, of 0 · ∞, is no bound
            reach = np.fmin(self.width.reshape(-1) @ sizes[:-1], ratio * self.radius)
            reach = np.where(np.isnan(reach), np.inf, reach * slack + 2.0**-1000)
        if np.any(ratio < given):
            last = ratio.reshape(1, *node.shape)
            slope = Interval(
                np.concatenate([slope.low[:-1], -last]), np.concatenate([slope.high[:-1], last])
            )
        value = node.value
        if center.undefined is None:
            reach = reach.reshape(node.shape)
            low = ia.add_down(center.value.low, -reach)
            high = ia.add_up(center.value.high, reach)
            value = Interval(np.maximum(value.low, low), np.minimum(value.high, high))
        return dataclasses.replace(node, value=value, slope=slope, center=center)

    def _dual(self, sizes: np.ndarray) -> Any:
        """Dual norms of slopes given as |s|, shape (entries, n), up to rounding."""
        if self.norm is Norm.INFINITY:
            return sizes.sum(axis=0)
        if self.norm is not Norm.TOKENS:
            sizes = sizes / self.root.reshape(-1, 1)
        # The largest is taken out, so that the squares of small ones do not vanish.
        largest = sizes.max(axis=0, initial=0.0)
        unit = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
        squares = (sizes / unit) ** 2
        if self.norm is Norm.TOKENS:
            tokens = squares.reshape(math.prod(self.center.shape[:-1]), -1, squares.shape[-1])
            return unit * np.sqrt(tokens.sum(axis=1)).sum(axis=0)
        return unit * np.sqrt(squares.sum(axis=0))


def upper_norm(x: Interval, norm: Norm, weights: Array | np.ndarray | None = None) -> float:
    """An upper bound of the norm of every array in the interval, shape (*state)."""
    size = x.magnitude * _root(weights, x.shape)
    largest = float(size.max(initial=0.0))
    if norm is Norm.INFINITY or largest == 0.0 or not math.isfinite(largest):
        return largest
    # A power of two taken out keeps the squares from overflowing and vanishing.
    unit = 2.0 ** min(math.frexp(largest)[1], 1023)
    squares = (size / unit) ** 2
    total = squares.sum(axis=-1).max() if norm is Norm.TOKENS else squares.sum()
    return float(np.sqrt(total)) * unit * (1.0 + 1e-10)


_UP = 1.0 + 1e-15


def _root(weights: Array | np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """√p, or 1 without weights."""
    return np.ones(shape) if weights is None else np.sqrt(np.asarray(weights, np.float64))
