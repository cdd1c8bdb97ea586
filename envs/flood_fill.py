"""Flood fill: which cells of a random maze are connected with a given one, and how far away."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int32

from loopwm.errors import UsageError


@dataclasses.dataclass(frozen=True)
class FloodFill:
    """Mazes with their starting cells and the answers."""

    walls: Bool[np.ndarray, "count height width"]
    """Cells that block, shape (count, height, width)."""
    start: Bool[np.ndarray, "count height width"]
    """The starting cell, which is open; shape (count, height, width)."""
    reached: Bool[np.ndarray, "count height width"]
    """Cells connected with it, itself included; shape (count, height, width)."""
    depth: Int32[np.ndarray, " count"]
    """Hops needed to reach the farthest of them, shape (count,)."""

    def inputs(self) -> np.ndarray:
        """Walls and start as two channels of 0 and 1, float32, shape (count, height, width, 2)."""
        return np.stack([self.walls, self.start], axis=-1).astype(np.float32)


def flood(
    walls: Bool[np.ndarray, "*batch height width"], start: Bool[np.ndarray, "*batch height width"]
) -> tuple[Bool[np.ndarray, "*batch height width"], Int32[np.ndarray, "*batch"]]:
    """Floods mazes from their starting cells, one hop to the four neighbours at a time.

    Args:
        walls: cells that block, shape (*batch, height, width).
        start: cells to start from, none of them a wall, shape (*batch, height, width).

    Returns:
        The cells reached, shape (*batch, height, width), and the number of hops after which
        nothing new is reached, shape (*batch,): the largest distance from the start in
        breadth-first search.

    Raises:
        UsageError: a start is a wall.
    """
    if (walls & start).any():
        raise UsageError("A starting cell is a wall; choose an open one.")
    open_cells = ~walls
    reached = start.copy()
    depth = np.zeros(walls.shape[:-2], np.int32)
    while True:
        grown = (_neighbours(reached) | reached) & open_cells
        moved = (grown & ~reached).any(axis=(-2, -1))
        if not moved.any():
            return reached, depth
        depth += moved  # in place: a sum of arrays of no axes would be a scalar
        reached = grown


def sample(
    rng: np.random.Generator,
    count: int,
    size: int | tuple[int, int] = 8,
    *,
    wall_probability: float = 0.3,
) -> FloodFill:
    """Draws mazes of independent walls, each with one open starting cell, and floods them.

    Args:
        rng: where mazes are drawn from.
        count: number of mazes, at least 1.
        size: cells on a side, or (height, width); at least 1 each.
        wall_probability: probability of a wall, in [0, 1).

    Returns:
        Mazes, starts and answers. The start is uniform over all cells, and made open.

    Raises:
        UsageError: a size or the probability is out of range.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if count < 1 or height < 1 or width < 1:
        raise UsageError(f"count is {count} and size {size}; give at least 1 of each.")
    if not 0.0 <= wall_probability < 1.0:
        raise UsageError(
            f"wall_probability is {wall_probability}; give a number in [0, 1) to leave open cells."
        )
    walls = rng.random((count, height, width)) < wall_probability
    start = np.zeros((count, height * width), bool)
    start[np.arange(count), rng.integers(0, height * width, count)] = True
    start = start.reshape(walls.shape)
    walls &= ~start
    reached, depth = flood(walls, start)
    return FloodFill(walls=walls, start=start, reached=reached, depth=depth)


def _neighbours(cells: np.ndarray) -> np.ndarray:
    """Cells with a marked cell above, below, to the left or to the right."""
    near = np.zeros_like(cells)
    near[..., 1:, :] |= cells[..., :-1, :]
    near[..., :-1, :] |= cells[..., 1:, :]
    near[..., :, 1:] |= cells[..., :, :-1]
    near[..., :, :-1] |= cells[..., :, 1:]
    return near
