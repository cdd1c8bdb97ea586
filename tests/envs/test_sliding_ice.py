"""Slides worked out by hand on drawn grids, and against a walker that reads characters."""

import gymnasium as gym
import numpy as np
import pytest

from loopwm.envs.sliding_ice import IceState, SlidingIce, resting_cells, slide, transitions
from loopwm.errors import UsageError

UP, RIGHT, DOWN, LEFT = range(4)
DRAWN = ["...#", ".A..", "..#.", "G..."]


def read(lines):
    """State of a drawn grid."""
    grid = np.array([list(line) for line in lines])
    agent, goal = (tuple(int(i) for i in np.argwhere(grid == c)[0]) for c in "AG")
    return IceState(grid == "#", agent, goal)


def walk(grid, row, column, action):
    """Moves one cell after the other on a grid with a rim of blocks; counts the moves."""
    rim = np.pad(np.asarray(grid, bool), 1, constant_values=True)
    row, column, moves = row + 1, column + 1, 0
    while True:
        ahead = {UP: (row - 1, column), DOWN: (row + 1, column)}.get(
            action, (row, column + (1 if action == RIGHT else -1))
        )
        if rim[ahead]:
            return (row - 1, column - 1), moves
        row, column = ahead
        moves += 1


def made(state, **kwargs):
    """An environment in this state."""
    env = gym.make("loopwm/SlidingIce-v0", size=state.blocks.shape, **kwargs).unwrapped
    env.reset(seed=0)
    env.state = state
    return env


@pytest.mark.parametrize(
    ("action", "end", "moved"),
    [(UP, (0, 1), 1), (RIGHT, (1, 3), 2), (DOWN, (3, 1), 2), (LEFT, (1, 0), 1)],
)
def test_slides_by_hand(action, end, moved):
    state = read(DRAWN)
    assert slide(state.blocks, state.agent, action) == (end, moved)
    env = made(state, step_cost=0.25)
    observation, reward, terminated, truncated, info = env.step(action)
    assert env.state.agent == end and info == {"true_depth": moved}
    assert (reward, terminated, truncated) == (-0.25, False, False)
    assert np.argwhere(observation[..., 0]).tolist() == [list(end)]
    np.testing.assert_array_equal(observation[..., 1], state.blocks)
    assert np.argwhere(observation[..., 2]).tolist() == [[3, 0]]


def test_the_goal_counts_only_where_one_rests():
    env = made(read(["A.G.", "...#"]), step_cost=0.25)
    assert env.step(RIGHT)[1:] == (-0.25, False, False, {"true_depth": 3})  # over the goal
    assert env.step(DOWN)[1:] == (-0.25, False, False, {"true_depth": 0})  # blocked at once
    env = made(read(["A.G#", "...#"]), step_cost=0.25)
    assert env.step(RIGHT)[1:] == (0.75, True, False, {"true_depth": 2})
    env.render_mode = "ansi"
    assert env.render() == "..*#\n...#\n"


def test_cells_of_rest_by_hand():
    blocks = read(["A...", ".#..", "...G"]).blocks
    corners = [(0, 3), (2, 0), (2, 3)]
    assert resting_cells(blocks, (0, 0)) == corners
    assert (0, 2) not in resting_cells(blocks, (0, 0)) and resting_cells(blocks, (1, 2))


def test_depth_agrees_with_a_walker_and_longest_holds():
    for longest in (1, 3):
        env = SlidingIce(size=(6, 9), density=0.1, longest=longest)
        lengths = []
        for seed in range(10):
            env.reset(seed=seed)
            blocks = env.state.blocks
            assert not blocks[env.state.agent] and not blocks[env.state.goal]
            assert env.state.goal in resting_cells(blocks, env.state.agent)
            for row, column in np.argwhere(~blocks).tolist():
                for action in range(4):
                    walked = walk(blocks, row, column, action)
                    assert slide(blocks, (row, column), action) == walked
                    lengths.append(walked[1])
        assert max(lengths) == longest


@pytest.mark.parametrize(
    ("kwargs", "shape", "depths"),
    [
        ({}, (8, 8), range(8)),
        ({"size": (3, 7), "density": 0.6}, (3, 7), range(7)),
        ({"size": 16, "longest": 14, "shortest": 7}, (16, 16), range(7, 15)),
        ({"size": 5, "exactly": 0, "density": 1.0}, (5, 5), [0]),
        ({"size": 5, "exactly": 4}, (5, 5), [4]),
    ],
)
def test_sampled_slides_agree_with_the_environment(kwargs, shape, depths, rng):
    drawn = transitions(rng, 150, **kwargs)
    assert drawn.observation.shape == drawn.next_observation.shape == (150, *shape, 3)
    assert sorted(set(drawn.true_depth.tolist())) == list(depths)
    assert set(drawn.action.tolist()) == {0, 1, 2, 3} or max(depths) >= min(shape)
    env = SlidingIce(size=shape)
    env.reset(seed=0)
    for before, action, after, depth in zip(
        drawn.observation,
        drawn.action,
        drawn.next_observation,
        drawn.true_depth,
        strict=True,
    ):
        assert env.observation_space.contains(before)
        assert before[..., 0].sum() == before[..., 2].sum() == 1
        agent, goal = (tuple(np.argwhere(before[..., i])[0].tolist()) for i in (0, 2))
        blocks = before[..., 1] > 0
        assert agent != goal and not blocks[agent] and not blocks[goal]
        env.state = IceState(blocks, agent, goal)
        observation, _, _, _, info = env.step(action)
        np.testing.assert_array_equal(observation, after)
        assert walk(blocks, *agent, int(action))[1] == info["true_depth"] == depth


def test_sampling_is_reproducible_and_lengths_are_uniform():
    one, two = (transitions(np.random.default_rng(5), 3000, longest=5) for _ in range(2))
    np.testing.assert_array_equal(one.observation, two.observation)
    np.testing.assert_array_equal(one.action, two.action)
    counts = np.bincount(one.true_depth)
    assert len(counts) == 6 and counts.min() > 420 and counts.max() < 580  # 500 ± 4 deviations
    density = one.observation[..., 1].mean()
    assert 0.1 < density < 0.25


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"longest": 8}, "longest is 8"),
        ({"shortest": 4, "longest": 3}, "shortest is 4"),
        ({"exactly": -1}, "exactly is -1"),
        ({"exactly": 3, "longest": 5}, "exactly is 3 beside"),
        ({"density": -0.1}, "density is -0"),
        ({"size": 1}, "size is 1"),
        ({"count": 0}, "count is 0"),
    ],
)
def test_bad_samples_are_refused(kwargs, said, rng, assert_helpful):
    with pytest.raises(UsageError, match=said) as raised:
        transitions(rng, **({"count": 1} | kwargs))
    assert_helpful(raised)
