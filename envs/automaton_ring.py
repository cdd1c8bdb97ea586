"""An elementary cellular automaton whose micro-steps between two observations are hidden."""

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float32, UInt8

from loopwm.envs import automaton
from loopwm.envs.arguments import chosen, drawn_as, whole
from loopwm.envs.depth import DepthTransitions
from loopwm.envs.drawing import Tile, draw_grid

TILES = (
    Tile(".", (245, 245, 240)),
    Tile("#", (40, 40, 60)),
    Tile("-", (225, 235, 225)),
    Tile("+", (60, 140, 90)),
)
"""Dead and live cells of the ring, then of the target."""


@dataclasses.dataclass(frozen=True)
class RingState:
    """All there is to know between two actions."""

    cells: UInt8[np.ndarray, " length"]
    """The ring, 0 or 1, shape (length,)."""
    target: UInt8[np.ndarray, " length"]
    """The pattern to be reached, 0 or 1, shape (length,)."""


class AutomatonRing(gym.Env[np.ndarray, Any]):
    """A ring of cells under an elementary rule, steered towards a pattern by flipping cells.

    Action i < length flips cell i, action `length` flips none. Then the rule is applied
    `micro_steps` times (`loopwm.envs.automaton.advance`). The reward is the share of cells that
    agree with the target, 0 to 1; episodes end by truncation alone. `true_depth` is `micro_steps`,
    and 0 in the `info` of `reset`.

    Observations are 0 and 1, float32, shape (length, 2): cells, target. The target stays the same
    for an episode and is what some ring becomes in one step. `state` may be read, and set to
    another `RingState` of the same length.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}

    def __init__(
        self,
        length: int = 24,
        rule: int = 110,
        micro_steps: int = 4,
        render_mode: str | None = None,
    ):
        """Checks the arguments.

        Args:
            length: cells of the ring, at least 3.
            rule: number of the rule in Wolfram's code, 0 to 255.
            micro_steps: how often the rule is applied in a step, at least 1.
            render_mode: `rgb_array`, `ansi` or None.

        Raises:
            UsageError: an argument is out of range.
        """
        self.length = whole("length", length, 3)
        self.rule = whole("The rule", rule, 0, 255)
        self.micro_steps = whole("micro_steps", micro_steps, 1)
        self.render_mode = drawn_as(render_mode, self.metadata)
        self.observation_space = gym.spaces.Box(0.0, 1.0, (self.length, 2), np.float32)
        self.action_space = gym.spaces.Discrete(self.length + 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Draws fair cells, and a target that the rule can produce."""
        super().reset(seed=seed)
        rows = self.np_random.integers(0, 2, (2, self.length), np.uint8)
        target = automaton.advance(rows[1], self.rule, self.micro_steps)
        self.state = RingState(rows[0], target)
        return _planes(self.state.cells, self.state.target), {"true_depth": 0}

    def step(self, action: Any):
        """Flips a cell or none, and applies the rule."""
        place = np.array(chosen(action, self.length + 1))
        cells = automaton.advance(_flipped(self.state.cells, place), self.rule, self.micro_steps)
        self.state = dataclasses.replace(self.state, cells=cells)
        reward = float(np.mean(cells == self.state.target))
        info = {"true_depth": self.micro_steps}
        return _planes(self.state.cells, self.state.target), reward, False, False, info

    def render(self):
        """The ring above the target, one tile a cell."""
        kinds = np.stack([self.state.cells, self.state.target + 2]).astype(int)
        return draw_grid(self.render_mode, kinds, TILES)


def transitions(
    rng: np.random.Generator,
    count: int,
    *,
    length: int = 24,
    rule: int = 110,
    micro_steps: int = 4,
) -> DepthTransitions:
    """Draws single steps of random rings: fair cells, targets as in `reset`, uniform actions.

    Args:
        rng: where everything is drawn from.
        count: number of transitions, at least 1.
        length: cells of a ring, at least 3.
        rule: number of the rule, 0 to 255.
        micro_steps: how often it is applied, at least 1.

    Returns:
        The transitions; observations of shape (count, length, 2), all of depth `micro_steps`.

    Raises:
        UsageError: an argument is out of range.
    """
    count, length = whole("count", count, 1), whole("length", length, 3)
    rule = whole("The rule", rule, 0, 255)
    micro_steps = whole("micro_steps", micro_steps, 1)
    rows = rng.integers(0, 2, (2, count, length), np.uint8)
    target = automaton.advance(rows[1], rule, micro_steps)
    action = rng.integers(0, length + 1, count)
    after = automaton.advance(_flipped(rows[0], action), rule, micro_steps)
    return DepthTransitions(
        observation=_planes(rows[0], target),
        action=action,
        next_observation=_planes(after, target),
        true_depth=np.full(count, micro_steps, np.int32),
    )


def _flipped(
    cells: UInt8[np.ndarray, "*batch length"], place: np.ndarray
) -> UInt8[np.ndarray, "*batch length"]:
    """Rings with the cell at a place flipped; a place beyond the ring flips none."""
    return cells ^ (np.arange(cells.shape[-1]) == place[..., None]).astype(np.uint8)


def _planes(
    cells: UInt8[np.ndarray, "*batch length"], target: UInt8[np.ndarray, "*batch length"]
) -> Float32[np.ndarray, "*batch length 2"]:
    """Observations: cells, target."""
    return np.stack([cells, target], axis=-1).astype(np.float32)
