"""Small environments whose every number is known; registered as toy_envs:NAME-v0.

Encoded, their spaces have the sizes of CartPole-v1 (4 and 2) or of Pendulum-v1 (3 and 1), so that
tests share compiled programs.
"""

from typing import Any

import gymnasium as gym
import numpy as np


class Counting(gym.Env):
    """Says where it is: observation (tag, episode, step), reward 1000·episode + step + u.

    The tag is the seed of the first reset. Episodes last 1 to 6 steps, drawn from the seed; every
    second one ends by truncation.
    """

    def __init__(self, longest: int = 6):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.longest = longest
        self.tag: int | None = None
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        if self.tag is None:
            self.tag = -1 if seed is None else seed
        self.episode += 1
        self.moment = 0
        self.length = int(self.np_random.integers(1, self.longest + 1))
        return self._observation(), {}

    def step(self, action: np.ndarray):
        reward = 1000.0 * self.episode + self.moment + float(action[0])
        self.moment += 1
        over = self.moment >= self.length
        truncated = over and self.episode % 2 == 1
        return self._observation(), reward, over and not truncated, truncated, {}

    def _observation(self) -> np.ndarray:
        return np.asarray([self.tag, self.episode, self.moment], np.float32)


class Corridor(gym.Env):
    """Four places in a row, 3 to 6; actions 1 (left) and 2 (right); the right end is the goal."""

    observation_space = gym.spaces.Discrete(4, start=3)
    action_space = gym.spaces.Discrete(2, start=1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.place = 3
        return self.place, {}

    def step(self, action: int):
        assert self.action_space.contains(action), action
        self.place = int(np.clip(self.place + (1 if action == 2 else -1), 3, 6))
        return self.place, float(self.place == 6), self.place == 6, False, {}


class Paddle(gym.Env):
    """Observations are float64 matrices, actions lie in the uneven matrix box [−3, 1]."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (3, 1), np.float64)
    action_space = gym.spaces.Box(-3.0, 1.0, (1, 1), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1.0, 1.0, (3, 1))
        return self.state, {}

    def step(self, action: np.ndarray):
        assert self.action_space.contains(action), action
        self.state = np.clip(0.9 * self.state + 0.1 * action, -10.0, 10.0)
        return self.state, -float(np.abs(self.state[0, 0])), False, False, {}


gym.register("Counting-v0", entry_point=Counting, max_episode_steps=50)
gym.register("Corridor-v0", entry_point=Corridor, max_episode_steps=20)
gym.register("Paddle-v0", entry_point=Paddle, max_episode_steps=20)


class Marker(gym.Env):
    """A marker on a 3×4 board, where it stands and where it should go; actions move it.

    `kind` chooses how the board is shown: as a grid of numbers, as a picture of uint8, as an array
    of discrete values (nothing, goal, marker), or as a dictionary with parts of all kinds.
    """

    rows, columns = 3, 4

    def __init__(self, kind: str = "grid"):
        shape = (self.rows, self.columns)
        spaces = {
            "grid": gym.spaces.Box(0.0, 1.0, (*shape, 2), np.float32),
            "picture": gym.spaces.Box(0, 255, (2 * 4 + 1, 9, 2), np.uint8),
            "values": gym.spaces.MultiDiscrete(np.full(shape, 3)),
        }
        inner = {"values": spaces["values"], "picture": spaces["picture"]}
        spaces["parts"] = gym.spaces.Dict(
            {
                "inner": gym.spaces.Dict(inner),
                "moves": gym.spaces.Box(0.0, np.inf, (1,), np.float32),
                "row": gym.spaces.Discrete(self.rows),
                "two": gym.spaces.Tuple((gym.spaces.MultiBinary(2), spaces["grid"])),
            }
        )
        self.kind = kind
        self.observation_space = spaces[kind]
        self.action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.at = self.np_random.integers(0, (self.rows, self.columns))
        self.goal = self.np_random.integers(0, (self.rows, self.columns))
        self.moves = 0
        return self.show(self.kind), {}

    def step(self, action: int):
        move = np.asarray([(0, 1), (0, -1), (1, 0), (-1, 0)][int(action)])
        self.at = np.clip(self.at + move, 0, (self.rows - 1, self.columns - 1))
        self.moves += 1
        there = bool(np.all(self.at == self.goal))
        return self.show(self.kind), float(there), there, False, {}

    def show(self, kind: str) -> Any:
        """The board as it is now."""
        board = np.zeros((self.rows, self.columns, 2), np.float32)
        board[tuple(self.at)][0] = board[tuple(self.goal)][1] = 1.0
        if kind == "grid":
            return board
        if kind == "picture":
            picture = np.zeros((9, 9, 2), np.uint8)
            picture[:9, :8] = 255 * np.kron(board, np.ones((3, 2, 1))).astype(np.uint8)
            return picture
        if kind == "values":
            return np.argmax(np.concatenate([0.5 + 0 * board[..., :1], board[..., ::-1]], -1), -1)
        return {
            "inner": {"values": self.show("values"), "picture": self.show("picture")},
            "moves": np.asarray([self.moves], np.float32),
            "row": int(self.at[0]),
            "two": (np.asarray(self.at % 2, np.int8), board),
        }


for kind in ("grid", "picture", "values", "parts"):
    gym.register(
        f"Marker-{kind}-v0", entry_point=Marker, max_episode_steps=8, kwargs={"kind": kind}
    )
