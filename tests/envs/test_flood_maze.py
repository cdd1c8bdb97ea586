"""The flood-fill maze by hand, and against a breadth-first search of its own."""

import collections

import gymnasium as gym
import numpy as np
import pytest

from loopwm.envs.flood_maze import FloodMaze, MazeState, transitions
from loopwm.errors import UsageError

DRAWN = ["S.#t", "#.#.", "..T."]


def read(lines):
    """State of a drawn maze: # wall, S start, t target, T target under a wall."""
    grid = np.array([list(line) for line in lines])
    return MazeState(np.isin(grid, ["#", "T"]), grid == "S", np.isin(grid, ["t", "T"]))


def search(walls, start):
    """Distances by breadth-first search with a queue; −1 where it does not come."""
    distance = np.full(walls.shape, -1)
    begin = tuple(np.argwhere(start)[0])
    distance[begin] = 0
    queue = collections.deque([begin])
    while queue:
        row, column = queue.popleft()
        for place in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            inside = 0 <= place[0] < walls.shape[0] and 0 <= place[1] < walls.shape[1]
            if inside and not walls[place] and distance[place] < 0:
                distance[place] = distance[row, column] + 1
                queue.append(place)
    return distance


def made(lines, **kwargs):
    state = read(lines)
    env = gym.make("loopwm/FloodMaze-v0", size=state.walls.shape, targets=2, **kwargs).unwrapped
    env.reset(seed=0)
    env.render_mode, env.state = "ansi", state
    return env


@pytest.mark.parametrize(
    ("action", "drawn", "depth", "reward"),
    [
        (4, "S~#t\n~~#.\n~~T.\n", 3, 0.0),  # opens the wall below the start
        (12, "S~#t\n#~#.\n~~T.\n", 4, 0.0),  # up: the border
        (13, "~S#t\n#~#.\n~~T.\n", 3, 0.0),  # right
        (14, "S~#t\n#~#.\n~~T.\n", 4, 0.0),  # down: a wall
        (15, "S~#t\n#~#.\n~~T.\n", 4, 0.0),  # left: the border
        (0, "S~#t\n#~#.\n~~T.\n", 4, 0.0),  # the start cannot be closed
        (1, "S##t\n#.#.\n..T.\n", 0, 0.0),  # closes the only way
        (3, "S~#T\n#~#.\n~~T.\n", 4, 0.0),  # closes a target
        (2, "S~~*\n#~#~\n~~T~\n", 5, 0.5),  # opens the way to the dry target
        (10, "S~#*\n#~#~\n~~*~\n", 7, 1.0),  # opens the target below a wall: all are reached
    ],
)
def test_actions_by_hand(action, drawn, depth, reward):
    env = made(DRAWN, step_cost=0.1)
    observation, gained, terminated, truncated, info = env.step(action)
    assert env.render() == drawn and info == {"true_depth": depth}
    assert gained == pytest.approx(reward - 0.1)
    assert (terminated, truncated) == (reward == 1.0, False)
    reached = search(env.state.walls, env.state.start) >= 0
    for plane, expected in enumerate(
        (env.state.walls, env.state.start, env.state.targets, reached)
    ):
        np.testing.assert_array_equal(observation[..., plane] > 0, expected)


def test_losing_a_target_costs_what_reaching_it_gave():
    env = made(DRAWN)
    assert [env.step(2)[1] for _ in range(3)] == [0.5, -0.5, 0.5]


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.9])
def test_no_target_is_reached_at_first(probability):
    env = FloodMaze(size=(3, 5), wall_probability=probability, targets=4)
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        walls, start, targets, reached = np.moveaxis(observation > 0, -1, 0)
        distance = search(walls, start)
        np.testing.assert_array_equal(reached, distance >= 0)
        assert info["true_depth"] == distance.max()
        assert targets.sum() == 4 and start.sum() == 1 and not (targets & (reached | start)).any()


@pytest.mark.parametrize("kwargs", [{}, {"size": (3, 4), "wall_probability": 0.1, "targets": 1}])
def test_sampled_steps_agree_with_the_environment(kwargs, rng):
    drawn = transitions(rng, 120, **kwargs)
    env = FloodMaze(**kwargs)
    env.reset(seed=0)
    assert drawn.observation.shape == (120, *env.size, 4)
    assert drawn.true_depth.max() > 5
    for before, action, after, depth in zip(
        drawn.observation, drawn.action, drawn.next_observation, drawn.true_depth, strict=True
    ):
        walls, start, targets, reached = np.moveaxis(before > 0, -1, 0)
        np.testing.assert_array_equal(reached, search(walls, start) >= 0)
        env.state = MazeState(walls, start, targets)
        observation, _, _, _, info = env.step(action)
        np.testing.assert_array_equal(observation, after)
        assert info["true_depth"] == depth == search(after[..., 0] > 0, after[..., 1] > 0).max()
    moves = transitions(rng, 400, size=2, targets=1)
    assert set(moves.action.tolist()) == set(range(8))
    assert (moves.observation[..., 1] != moves.next_observation[..., 1]).any()


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"size": 1}, "size is 1"),
        ({"wall_probability": -0.5}, "wall_probability is -0"),
        ({"targets": 0}, "targets is 0"),
        ({"count": 0}, "count is 0"),
    ],
)
def test_bad_samples_are_refused(kwargs, said, rng, assert_helpful):
    with pytest.raises(UsageError, match=said) as raised:
        transitions(rng, **({"count": 1} | kwargs))
    assert_helpful(raised)
