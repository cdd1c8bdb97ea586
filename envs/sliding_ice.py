"""Sliding ice: a push sends the agent along the ice until something stops it."""

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float32, Integer

from loopwm.envs.arguments import chosen, drawn_as, real, sides, whole
from loopwm.envs.depth import DepthTransitions, cut_runs, depth_limits, draw_depths
from loopwm.envs.drawing import Tile, draw_grid

DIRECTIONS = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
"""Row and column of one step up, right, down and left: actions 0 to 3."""
TILES = (
    Tile(".", (214, 236, 250)),
    Tile("#", (70, 80, 90)),
    Tile("G", (90, 190, 90)),
    Tile("A", (220, 70, 50)),
    Tile("*", (240, 190, 40)),
)
"""Ice, block, goal, agent, agent on the goal."""


@dataclasses.dataclass(frozen=True)
class IceState:
    """All there is to know between two actions."""

    blocks: Bool[np.ndarray, "height width"]
    """Cells that stop a slide, shape (height, width)."""
    agent: tuple[int, int]
    """Row and column of the agent, not on a block."""
    goal: tuple[int, int]
    """Row and column of the goal, not on a block."""


def slide(
    blocks: Bool[np.ndarray, "height width"], cell: tuple[int, int], action: int
) -> tuple[tuple[int, int], int]:
    """Slides from a cell until a block or the border stops it.

    Args:
        blocks: cells that stop a slide, shape (height, width).
        cell: row and column to start from.
        action: 0 up, 1 right, 2 down, 3 left.

    Returns:
        Row and column of the last cell, and the number of cells moved, 0 if blocked at once.
    """
    (row, column), (down, right), moved = cell, DIRECTIONS[action].tolist(), 0
    height, width = blocks.shape
    while (
        0 <= row + down < height
        and 0 <= column + right < width
        and not blocks[row + down, column + right]
    ):
        row, column, moved = row + down, column + right, moved + 1
    return (row, column), moved


def resting_cells(
    blocks: Bool[np.ndarray, "height width"], start: tuple[int, int]
) -> list[tuple[int, int]]:
    """Cells other than `start` on which the agent can come to rest, however many slides it takes.

    Args:
        blocks: cells that stop a slide, shape (height, width).
        start: row and column to start from.

    Returns:
        Rows and columns, in ascending order.
    """
    found, waiting = {start}, [start]
    while waiting:
        cell = waiting.pop()
        for action in range(4):
            end, _ = slide(blocks, cell, action)
            if end not in found:
                found.add(end)
                waiting.append(end)
    return sorted(found - {start})


class SlidingIce(gym.Env[np.ndarray, Any]):
    """An agent on a grid of ice with blocks, which has to come to rest on the goal.

    Actions 0 up, 1 right, 2 down, 3 left. The agent slides until the next cell is a block or lies
    outside. It may slide over the goal; only resting there counts: reward 1, termination. Each
    action costs `step_cost`. `true_depth` is the number of cells moved, 0 where the agent was
    blocked at once; it is 0 in the `info` of `reset`, which needs no slide.

    Observations are planes of 0 and 1, float32, shape (height, width, 3): agent, blocks, goal. The
    goal can always be reached. `state` may be read, and set to another `IceState` of the same
    size.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}

    def __init__(
        self,
        size: int | tuple[int, int] = 8,
        density: float = 0.2,
        longest: int | None = None,
        step_cost: float = 0.0,
        render_mode: str | None = None,
    ):
        """Checks the arguments.

        Args:
            size: cells on a side, or (height, width); at least 2 each.
            density: probability that a cell is a block, 0 to 0.9.
            longest: longest slide possible anywhere on a grid, at least 1; longer stretches of ice
                get a further block. None for no limit but the border.
            step_cost: what each action costs, 0 to 1.
            render_mode: `rgb_array`, `ansi` or None.

        Raises:
            UsageError: an argument is out of range.
        """
        self.size = sides(size)
        self.density = real("The block density", density, 0.0, 0.9)
        self.longest = None if longest is None else whole("The longest slide", longest, 1)
        self.step_cost = real("step_cost", step_cost, 0.0, 1.0)
        self.render_mode = drawn_as(render_mode, self.metadata)
        self.observation_space = gym.spaces.Box(0.0, 1.0, (*self.size, 3), np.float32)
        self.action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Draws blocks, a start, and a goal among the cells of rest that it can reach."""
        super().reset(seed=seed)
        state = self._draw()
        while state is None:
            state = self._draw()
        self.state = state
        return self._observe(), {"true_depth": 0}

    def step(self, action: Any):
        """Slides in one of the four directions."""
        direction = chosen(action, 4)
        agent, moved = slide(self.state.blocks, self.state.agent, direction)
        self.state = dataclasses.replace(self.state, agent=agent)
        home = agent == self.state.goal
        return self._observe(), float(home) - self.step_cost, home, False, {"true_depth": moved}

    def render(self):
        """The grid, one tile a cell."""
        kinds = self.state.blocks.astype(int)
        kinds[self.state.goal] = 2
        kinds[self.state.agent] = 4 if self.state.agent == self.state.goal else 3
        return draw_grid(self.render_mode, kinds, TILES)

    def _draw(self) -> IceState | None:
        """A grid; None where the start drawn leads nowhere, or nothing is free."""
        blocks = self.np_random.random(self.size) < self.density
        if self.longest is not None:
            cut_runs(self.np_random, blocks, self.longest + 1)
            cut_runs(self.np_random, blocks.T, self.longest + 1)
        cells = np.argwhere(~blocks)
        if not len(cells):
            return None
        row, column = cells[self.np_random.integers(len(cells))].tolist()
        goals = resting_cells(blocks, (row, column))
        if not goals:
            return None
        return IceState(blocks, (row, column), goals[int(self.np_random.integers(len(goals)))])

    def _observe(self) -> np.ndarray:
        cells = (np.array([self.state.agent]), np.array([self.state.goal]))
        return _planes(self.state.blocks[None], *cells)[0]


def transitions(
    rng: np.random.Generator,
    count: int,
    *,
    size: int | tuple[int, int] = 8,
    density: float = 0.2,
    shortest: int = 0,
    longest: int | None = None,
    exactly: int | None = None,
) -> DepthTransitions:
    """Draws single slides on random grids, whose lengths are uniform over a range.

    Blocks are independent. Then one slide of the drawn length is made possible: its cells are
    cleared and, unless the border is there, a block is put behind its end. The goal lies anywhere
    else than below the agent or that block. So long slides are as frequent as short ones, and
    grids differ from those of `SlidingIce.reset`, where `longest` holds for every stretch of ice.

    Args:
        rng: where everything is drawn from.
        count: number of transitions, at least 1.
        size: cells on a side, or (height, width); at least 2 each.
        density: probability that a cell is a block, 0 to 1.
        shortest: shortest slide, in cells.
        longest: longest slide; None for the longest that fits, one less than the longer side.
        exactly: the only length, instead of the other two.

    Returns:
        The transitions; observations of shape (count, height, width, 3).

    Raises:
        UsageError: an argument is out of range.
    """
    count, (height, width) = whole("count", count, 1), sides(size)
    density = real("The block density", density, 0.0, 1.0)
    most = max(height, width) - 1
    limits = depth_limits("The slide length", shortest, longest, exactly, most)
    depth = draw_depths(rng, count, limits)
    action = rng.integers(0, 4, count)
    # A slide too long for one axis goes along the other.
    action = (action + (depth >= np.array([height, width])[action % 2])) % 4
    way = DIRECTIONS[action]
    agent = _starts(rng, depth, way, (height, width))
    blocks = rng.random((count, height, width)) < density
    each = np.arange(count)
    for moved in range(int(depth.max()) + 1):
        row, column = (agent + np.minimum(moved, depth)[:, None] * way).T
        blocks[each, row, column] = False
    end = agent + depth[:, None] * way
    stop = end + way
    inside = np.all((stop >= 0) & (stop < (height, width)), axis=1)
    row, column = stop[inside].T
    blocks[each[inside], row, column] = True
    goal = _goals(rng, agent, stop, inside, (height, width))
    blocks[each, goal[:, 0], goal[:, 1]] = False
    return DepthTransitions(
        observation=_planes(blocks, agent, goal),
        action=action,
        next_observation=_planes(blocks, end, goal),
        true_depth=depth.astype(np.int32),
    )


def _starts(
    rng: np.random.Generator, depth: np.ndarray, way: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Starts of slides of these lengths that end inside, uniform; shape (count, 2)."""
    room = np.array(shape) - depth[:, None] * np.abs(way)
    first = np.where(way < 0, depth[:, None], 0)
    return first + rng.integers(0, room)


def _goals(
    rng: np.random.Generator,
    agent: np.ndarray,
    stop: np.ndarray,
    inside: np.ndarray,
    shape: tuple[int, int],
) -> np.ndarray:
    """Cells that are neither the agent's nor a block that is needed, uniform; shape (count, 2)."""
    each = np.arange(len(agent))
    score = rng.random((len(agent), *shape))
    score[each, agent[:, 0], agent[:, 1]] = -1.0
    score[each[inside], stop[inside, 0], stop[inside, 1]] = -1.0
    best = score.reshape(len(agent), -1).argmax(axis=1)
    return np.stack(np.unravel_index(best, shape), axis=1)


def _planes(
    blocks: Bool[np.ndarray, "count height width"],
    agent: Integer[np.ndarray, "count 2"],
    goal: Integer[np.ndarray, "count 2"],
) -> Float32[np.ndarray, "count height width 3"]:
    """Observations: agent, blocks, goal."""
    planes = np.zeros((*blocks.shape, 3), np.float32)
    each = np.arange(len(blocks))
    planes[each, agent[:, 0], agent[:, 1], 0] = 1.0
    planes[..., 1] = blocks
    planes[each, goal[:, 0], goal[:, 1], 2] = 1.0
    return planes
