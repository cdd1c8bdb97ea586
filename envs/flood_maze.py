"""A maze that is flooded from its start after each action, walls and start being what one moves."""

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float32

from loopwm.envs import flood_fill
from loopwm.envs.arguments import chosen, drawn_as, real, sides, whole
from loopwm.envs.depth import DepthTransitions
from loopwm.envs.drawing import Tile, draw_grid

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Row and column of one step of the start: up, right, down, left."""
TILES = (
    Tile(".", (245, 245, 240)),
    Tile("#", (70, 80, 90)),
    Tile("~", (150, 200, 240)),
    Tile("S", (30, 90, 200)),
    Tile("t", (240, 200, 110)),
    Tile("T", (170, 110, 40)),
    Tile("*", (90, 190, 90)),
)
"""Dry, wall, reached, start, target that is dry, target under a wall, target that is reached."""


@dataclasses.dataclass(frozen=True)
class MazeState:
    """All there is to know between two actions; with a leading axis, many of them."""

    walls: Bool[np.ndarray, "*batch height width"]
    """Cells that block, shape (*batch, height, width)."""
    start: Bool[np.ndarray, "*batch height width"]
    """The one cell from which the maze is flooded, which is open; same shape."""
    targets: Bool[np.ndarray, "*batch height width"]
    """Cells to be reached, some perhaps under walls; same shape."""


class FloodMaze(gym.Env[np.ndarray, Any]):
    """A maze whose walls are opened and closed so that the flood reaches every target.

    With n = height·width cells counted row by row, action a < n opens the wall at cell a, or
    closes the cell if it is open (nothing happens at the start); actions n to n + 3 move the start
    one cell up, right, down, left (nothing happens if a wall or the border is there). Then the
    maze is flooded from the start, one hop at a time. The reward is the increase of the share of
    targets that are reached, less `step_cost`; the episode terminates when all are. `true_depth`
    is the number of hops to the farthest cell reached, in the `info` of `reset` too.

    Observations are planes of 0 and 1, float32, shape (height, width, 4): walls, start, targets,
    reached. No target is reached at first. `state` may be read, and set to another `MazeState` of
    the same size.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}

    def __init__(
        self,
        size: int | tuple[int, int] = 8,
        wall_probability: float = 0.3,
        targets: int = 3,
        step_cost: float = 0.0,
        render_mode: str | None = None,
    ):
        """Checks the arguments.

        Args:
            size: cells on a side, or (height, width); at least 2 each.
            wall_probability: probability that a cell is a wall, 0 to 0.9.
            targets: number of targets, at least 1 and fewer than cells.
            step_cost: what each action costs, 0 to 1.
            render_mode: `rgb_array`, `ansi` or None.

        Raises:
            UsageError: an argument is out of range.
        """
        self.size = sides(size)
        self.cells = self.size[0] * self.size[1]
        self.wall_probability = real("wall_probability", wall_probability, 0.0, 0.9)
        self.targets = whole("targets", targets, 1, self.cells - 1)
        self.step_cost = real("step_cost", step_cost, 0.0, 1.0)
        self.render_mode = drawn_as(render_mode, self.metadata)
        self.observation_space = gym.spaces.Box(0.0, 1.0, (*self.size, 4), np.float32)
        self.action_space = gym.spaces.Discrete(self.cells + len(MOVES))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Draws a maze and targets that are not reached, and floods it."""
        super().reset(seed=seed)
        drawn = _draw(self.np_random, 1, self.size, self.wall_probability, self.targets)
        self.state = MazeState(drawn.walls[0], drawn.start[0], drawn.targets[0])
        reached, depth = flood_fill.flood(self.state.walls, self.state.start)
        return _planes(self.state, reached), {"true_depth": int(depth)}

    def step(self, action: Any):
        """Changes the maze and floods it."""
        place = np.array([chosen(action, self.cells + len(MOVES))])
        before, _ = flood_fill.flood(self.state.walls, self.state.start)
        self.state = _changed(self.state, place)
        reached, depth = flood_fill.flood(self.state.walls, self.state.start)
        targets = self.state.targets
        gain = int((reached & targets).sum()) - int((before & targets).sum())
        reward = gain / max(1, int(targets.sum())) - self.step_cost
        over = bool(reached[targets].all())
        return _planes(self.state, reached), reward, over, False, {"true_depth": int(depth)}

    def render(self):
        """The maze, one tile a cell."""
        state = self.state
        reached, _ = flood_fill.flood(state.walls, state.start)
        kinds = np.select(
            [state.start, state.targets & reached, state.targets & state.walls, state.targets],
            [3, 6, 5, 4],
            state.walls + 2 * reached,
        )
        return draw_grid(self.render_mode, kinds, TILES)


def transitions(
    rng: np.random.Generator,
    count: int,
    *,
    size: int | tuple[int, int] = 8,
    wall_probability: float = 0.3,
    targets: int = 3,
) -> DepthTransitions:
    """Draws single steps in random mazes as `FloodMaze.reset` makes them, actions uniform.

    Args:
        rng: where everything is drawn from.
        count: number of transitions, at least 1.
        size: cells on a side, or (height, width); at least 2 each.
        wall_probability: probability that a cell is a wall, 0 to 0.9.
        targets: number of targets, at least 1 and fewer than cells.

    Returns:
        The transitions; observations of shape (count, height, width, 4).

    Raises:
        UsageError: an argument is out of range.
    """
    count, (height, width) = whole("count", count, 1), sides(size)
    wall_probability = real("wall_probability", wall_probability, 0.0, 0.9)
    targets = whole("targets", targets, 1, height * width - 1)
    state = _draw(rng, count, (height, width), wall_probability, targets)
    reached, _ = flood_fill.flood(state.walls, state.start)
    action = rng.integers(0, height * width + len(MOVES), count)
    after = _changed(state, action)
    flooded, depth = flood_fill.flood(after.walls, after.start)
    return DepthTransitions(
        observation=_planes(state, reached),
        action=action,
        next_observation=_planes(after, flooded),
        true_depth=depth,
    )


def _draw(
    rng: np.random.Generator,
    count: int,
    size: tuple[int, int],
    wall_probability: float,
    targets: int,
) -> MazeState:
    """Random mazes with targets among the cells that are not reached.

    Where too few are not, cells that are reached become walls and targets.
    """
    maze = flood_fill.sample(rng, count, size, wall_probability=wall_probability)
    score = rng.random(maze.walls.shape) + ~maze.reached - 3.0 * maze.start
    best = np.argsort(score.reshape(count, -1), axis=1)[:, -targets:]
    marked = np.zeros((count, maze.walls[0].size), bool)
    np.put_along_axis(marked, best, True, axis=1)
    marked = marked.reshape(maze.walls.shape)
    return MazeState(maze.walls | (marked & maze.reached), maze.start, marked)


def _changed(state: MazeState, action: np.ndarray) -> MazeState:
    """Mazes after an action each; `action` of shape (count,), (1,) where there is no batch."""
    height, width = state.walls.shape[-2:]
    cells = height * width
    toggled = (np.arange(cells) == action[:, None]).reshape(-1, height, width)
    toggled = toggled.reshape(state.walls.shape) & ~state.start
    walls = state.walls ^ toggled
    start = state.start
    for number, (down, right) in enumerate(MOVES):
        moved = _shifted(state.start, down, right) & ~state.walls
        goes = moved.any(axis=(-2, -1)) & (action == cells + number).reshape(moved.shape[:-2])
        start = np.where(goes[..., None, None], moved, start)
    return MazeState(walls, start, state.targets)


def _shifted(
    cells: Bool[np.ndarray, "*batch height width"], down: int, right: int
) -> Bool[np.ndarray, "*batch height width"]:
    """Marks moved by one cell; what leaves the grid is gone."""
    result = np.roll(cells, (down, right), axis=(-2, -1))
    if down:
        result[..., 0 if down > 0 else -1, :] = False
    if right:
        result[..., :, 0 if right > 0 else -1] = False
    return result


def _planes(
    state: MazeState, reached: Bool[np.ndarray, "*batch height width"]
) -> Float32[np.ndarray, "*batch height width 4"]:
    """Observations: walls, start, targets, reached."""
    planes = [state.walls, state.start, state.targets, reached]
    return np.stack(planes, axis=-1).astype(np.float32)
