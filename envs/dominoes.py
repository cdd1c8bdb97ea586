"""A row of dominoes with gaps: a push topples one after the other until a gap."""

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float32

from loopwm.envs.arguments import chosen, drawn_as, real, whole
from loopwm.envs.depth import DepthTransitions, cut_runs, depth_limits, draw_depths
from loopwm.envs.drawing import Tile, draw_grid

TILES = (Tile(".", (245, 245, 240)), Tile("|", (60, 80, 160)), Tile("_", (200, 150, 120)))
"""Gap, standing domino, fallen domino."""


@dataclasses.dataclass(frozen=True)
class DominoState:
    """All there is to know between two actions."""

    standing: Bool[np.ndarray, " length"]
    """Places with a domino that stands, shape (length,)."""
    fallen: Bool[np.ndarray, " length"]
    """Places with a domino that has fallen, shape (length,)."""


def topple(
    standing: Bool[np.ndarray, " length"], place: int, way: int
) -> tuple[Bool[np.ndarray, " length"], int]:
    """Pushes the domino at a place; each that falls knocks over the next, if one stands there.

    Args:
        standing: places with a domino that stands, shape (length,).
        place: which domino is pushed.
        way: +1 to the right, −1 to the left.

    Returns:
        The places where one still stands, and the number of toppling waves: of dominoes that
        fell, one after the other; 0 if none stands at `place`.
    """
    standing, waves = standing.copy(), 0
    while 0 <= place < len(standing) and standing[place]:
        standing[place] = False
        place, waves = place + way, waves + 1
    return standing, waves


class Dominoes(gym.Env[np.ndarray, Any]):
    """A row of dominoes that have to be toppled with as few pushes as possible.

    Action i < length pushes the domino at place i to the right, action length + i to the left. It
    falls, and so does one after the other until a gap, a fallen domino or the end of the row. The
    reward is the share of the row's dominoes that fell, less `push_cost`; the episode terminates
    when none stands. `true_depth` is the number of toppling waves, 0 where nothing stands, and 0
    in the `info` of `reset`.

    Observations are 0 and 1, float32, shape (length, 2): standing, fallen. `state` may be read,
    and set to another `DominoState` of the same length.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}

    def __init__(
        self,
        length: int = 16,
        density: float = 0.8,
        longest: int | None = None,
        push_cost: float = 0.05,
        render_mode: str | None = None,
    ):
        """Checks the arguments.

        Args:
            length: places in the row, at least 2.
            density: probability that a place has a domino, 0.05 to 1.
            longest: dominoes that a chain may have, at least 1; longer ones get a gap. None for no
                limit.
            push_cost: what each action costs, 0 to 1.
            render_mode: `rgb_array`, `ansi` or None.

        Raises:
            UsageError: an argument is out of range.
        """
        self.length = whole("length", length, 2)
        self.density = real("The domino density", density, 0.05, 1.0)
        self.longest = None if longest is None else whole("The longest chain", longest, 1)
        self.push_cost = real("push_cost", push_cost, 0.0, 1.0)
        self.render_mode = drawn_as(render_mode, self.metadata)
        self.observation_space = gym.spaces.Box(0.0, 1.0, (self.length, 2), np.float32)
        self.action_space = gym.spaces.Discrete(2 * self.length)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Draws a row with at least one domino, all standing."""
        super().reset(seed=seed)
        gaps = np.ones(self.length, bool)
        while gaps.all():
            gaps = self.np_random.random(self.length) >= self.density
        if self.longest is not None:
            cut_runs(self.np_random, gaps[None], self.longest)
        self.state = DominoState(~gaps, np.zeros(self.length, bool))
        return _planes(self.state.standing, self.state.fallen), {"true_depth": 0}

    def step(self, action: Any):
        """Pushes one domino."""
        direction, place = divmod(chosen(action, 2 * self.length), self.length)
        before, fallen = self.state.standing, self.state.fallen
        standing, waves = topple(before, place, -1 if direction else 1)
        share = waves / max(1, int((before | fallen).sum()))
        self.state = DominoState(standing, fallen | (before & ~standing))
        observation = _planes(self.state.standing, self.state.fallen)
        over = not standing.any()
        return observation, share - self.push_cost, over, False, {"true_depth": waves}

    def render(self):
        """The row, one tile a place."""
        kinds = self.state.standing + 2 * self.state.fallen
        return draw_grid(self.render_mode, kinds[None], TILES)


def transitions(
    rng: np.random.Generator,
    count: int,
    *,
    length: int = 16,
    density: float = 0.8,
    fallen: float = 0.25,
    shortest: int = 0,
    longest: int | None = None,
    exactly: int | None = None,
) -> DepthTransitions:
    """Draws single pushes in random rows, whose numbers of waves are uniform over a range.

    Places are independent. Then a chain of the drawn length is put down where it is pushed, with
    no standing domino behind its end (a gap or a fallen one, each as probable as elsewhere).

    Args:
        rng: where everything is drawn from.
        count: number of transitions, at least 1.
        length: places in a row, at least 2.
        density: probability that a place has a domino, 0 to 1.
        fallen: probability that a domino has fallen before, 0 to 1.
        shortest: smallest number of waves.
        longest: largest number of waves; None for `length`.
        exactly: the only number of waves, instead of the other two.

    Returns:
        The transitions; observations of shape (count, length, 2).

    Raises:
        UsageError: an argument is out of range.
    """
    count, length = whole("count", count, 1), whole("length", length, 2)
    density = real("The domino density", density, 0.0, 1.0)
    fallen = real("The share of fallen dominoes", fallen, 0.0, 1.0)
    limits = depth_limits("The number of waves", shortest, longest, exactly, length)
    depth = draw_depths(rng, count, limits)
    standing = rng.random((count, length)) < density * (1.0 - fallen)
    # Among the places where none stands, a fallen one is as probable as in the whole row.
    lying = density * fallen
    empty_or_lying = 1.0 - density + lying
    down = rng.random((count, length)) < (lying / empty_or_lying if empty_or_lying > 0 else 0.0)
    # Places are counted in the direction of the push: the chain takes first to first + depth − 1.
    first = rng.integers(0, length + 1 - np.maximum(depth, 1))[:, None]
    place, after = np.arange(length), first + depth[:, None]
    standing = ((first <= place) & (place < after)) | (standing & (place != after))
    down &= ~standing
    falls = (first <= place) & (place < after)
    left = rng.random(count) < 0.5
    action = np.where(left, length + (length - 1 - first[:, 0]), first[:, 0])

    def turned(rows: np.ndarray) -> np.ndarray:
        return np.where(left[:, None], rows[:, ::-1], rows)

    return DepthTransitions(
        observation=_planes(turned(standing), turned(down)),
        action=action,
        next_observation=_planes(turned(standing & ~falls), turned(down | falls)),
        true_depth=depth.astype(np.int32),
    )


def _planes(
    standing: Bool[np.ndarray, "*batch length"], fallen: Bool[np.ndarray, "*batch length"]
) -> Float32[np.ndarray, "*batch length 2"]:
    """Observations: standing, fallen."""
    return np.stack([standing, fallen], axis=-1).astype(np.float32)
