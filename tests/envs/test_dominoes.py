"""Dominoes by hand, and against waves counted on characters."""

import gymnasium as gym
import numpy as np
import pytest

from loopwm.envs.dominoes import Dominoes, DominoState, topple, transitions
from loopwm.errors import UsageError


def read(text):
    """State of a drawn row: | stands, _ has fallen, . is a gap."""
    marks = np.array(list(text))
    return DominoState(marks == "|", marks == "_")


def waves(text, place, way):
    """Topples on a string, one wave at a time; the string after and the number of waves."""
    count = 0
    front = {place} if text[place] == "|" else set()
    while front:
        count += 1
        text = "".join("_" if i in front else c for i, c in enumerate(text))
        ahead = {i + way for i in front}
        front = {i for i in ahead if 0 <= i < len(text) and text[i] == "|"}
    return text, count


@pytest.mark.parametrize(
    ("action", "after", "depth"),
    [
        (0, "__.||_|", 2),
        (1, "|_.||_|", 1),
        (2, "||.||_|", 0),
        (3, "||.___|", 2),
        (5, "||.||_|", 0),
        (6, "||.||__", 1),
        (7 + 0, "_|.||_|", 1),
        (7 + 1, "__.||_|", 2),
        (7 + 4, "||.___|", 2),
        (7 + 6, "||.||__", 1),
    ],
)
def test_pushes_by_hand(action, after, depth):
    env = gym.make("loopwm/Dominoes-v0", length=7, push_cost=0.1).unwrapped
    env.render_mode = "ansi"
    env.reset(seed=0)
    env.state = read("||.||_|")
    observation, reward, terminated, truncated, info = env.step(action)
    assert env.render() == after + "\n" and info == {"true_depth": depth}
    assert reward == pytest.approx(depth / 6 - 0.1) and not (terminated or truncated)
    np.testing.assert_array_equal(observation[:, 0], env.state.standing)
    np.testing.assert_array_equal(observation[:, 1], env.state.fallen)


def test_it_ends_when_none_stands_and_shares_add_up_to_one():
    env = Dominoes(length=7, push_cost=0.0)
    env.reset(seed=0)
    env.state = read("||.||.|")
    results = [env.step(action) for action in (6, 7 + 1, 3)]
    assert [r[2] for r in results] == [False, False, True]
    assert sum(r[1] for r in results) == pytest.approx(1.0)


def test_reset_has_dominoes_and_no_chain_is_too_long():
    env = Dominoes(length=12, density=1.0, longest=3)
    found = set()
    for seed in range(20):
        env.reset(seed=seed)
        text = "".join("|" if s else "." for s in env.state.standing)
        lengths = {len(run) for run in text.split(".")} - {0}
        found |= lengths
        assert not env.state.fallen.any() and lengths
    assert max(found) == 3
    sparse = Dominoes(length=2, density=0.05)
    for seed in range(10):
        sparse.reset(seed=seed)
        assert sparse.state.standing.any()


@pytest.mark.parametrize(
    ("kwargs", "depths"),
    [
        ({"length": 6}, range(7)),
        ({"length": 9, "shortest": 2, "longest": 4, "density": 0.5, "fallen": 0.5}, range(2, 5)),
        ({"length": 5, "exactly": 5}, [5]),
        ({"length": 5, "exactly": 0, "density": 1.0, "fallen": 0.0}, [0]),
    ],
)
def test_sampled_pushes_agree_with_the_environment(kwargs, depths, rng):
    drawn = transitions(rng, 200, **kwargs)
    length = kwargs["length"]
    env = Dominoes(length=length)
    env.reset(seed=0)
    assert drawn.observation.shape == (200, length, 2)
    assert sorted(set(drawn.true_depth.tolist())) == list(depths)
    assert drawn.action.min() < length <= drawn.action.max() < 2 * length
    for before, action, after, depth in zip(
        drawn.observation, drawn.action, drawn.next_observation, drawn.true_depth, strict=True
    ):
        standing, fallen = before.T > 0
        assert not (standing & fallen).any()
        env.state = DominoState(standing, fallen)
        observation, _, _, _, info = env.step(action)
        np.testing.assert_array_equal(observation, after)
        text = "".join(
            "|" if s else "_" if f else "." for s, f in zip(standing, fallen, strict=True)
        )
        way = 1 if action < length else -1
        expected, count = waves(text, action % length, way)
        assert info["true_depth"] == count == depth
        np.testing.assert_array_equal(after[:, 0] > 0, np.array(list(expected)) == "|")
        np.testing.assert_array_equal(
            topple(standing, int(action % length), way)[0], after[:, 0] > 0
        )


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"longest": 17}, "longest is 17"),
        ({"exactly": 2, "shortest": 1}, "exactly is 2 beside"),
        ({"density": 1.5}, "density is 1"),
        ({"fallen": -0.5}, "fallen dominoes is -0"),
        ({"length": 1}, "length is 1"),
        ({"count": 0}, "count is 0"),
    ],
)
def test_bad_samples_are_refused(kwargs, said, rng, assert_helpful):
    with pytest.raises(UsageError, match=said) as raised:
        transitions(rng, **({"count": 1} | kwargs))
    assert_helpful(raised)
