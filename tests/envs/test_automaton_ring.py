"""The automaton environment by hand, and against rings advanced one micro-step at a time."""

import gymnasium as gym
import numpy as np
import pytest

from loopwm.envs.automaton_ring import AutomatonRing, RingState, transitions
from loopwm.errors import UsageError


def row(text):
    return np.array([int(c) for c in text], np.uint8)


def slow(cells, rule, steps):
    """Rings one cell at a time, with the rule as eight digits from 111 to 000."""
    digits = f"{rule:08b}"
    for _ in range(steps):
        n = len(cells)
        text = [f"{cells[i - 1]}{cells[i]}{cells[(i + 1) % n]}" for i in range(n)]
        cells = [int(digits[7 - int(pattern, 2)]) for pattern in text]
    return np.array(cells, np.uint8)


def test_a_flip_then_the_rule_by_hand():
    env = gym.make("loopwm/Automaton-v0", length=9, rule=110, micro_steps=2).unwrapped
    env.render_mode = "ansi"
    env.reset(seed=0)
    target = row("001110011")
    # Flipped at 4: 000010000 → 000110000 → 001110000.
    env.state = RingState(row("000000000"), target)
    observation, reward, terminated, truncated, info = env.step(4)
    np.testing.assert_array_equal(observation[:, 0], row("001110000"))
    np.testing.assert_array_equal(observation[:, 1], target)
    assert reward == pytest.approx(7 / 9) and (terminated, truncated) == (False, False)
    assert info == {"true_depth": 2}
    assert env.render() == "..###....\n--+++--++\n"
    # The last action flips none.
    env.state = RingState(row("000010000"), target)
    np.testing.assert_array_equal(env.step(9)[0][:, 0], row("001110000"))


def test_the_target_can_be_reached():
    env = AutomatonRing(length=5, rule=110, micro_steps=2)
    for seed in range(5):
        env.reset(seed=seed)
        images = {slow(row(f"{n:05b}"), 110, 2).tobytes() for n in range(32)}
        assert env.state.target.tobytes() in images


@pytest.mark.parametrize("kwargs", [{}, {"length": 5, "rule": 30, "micro_steps": 7}])
def test_sampled_steps_agree_with_the_environment(kwargs, rng):
    drawn = transitions(rng, 60, **kwargs)
    env = AutomatonRing(**kwargs)
    env.reset(seed=0)
    assert drawn.observation.shape == (60, env.length, 2)
    assert (drawn.true_depth == env.micro_steps).all()
    assert len(set(drawn.action.tolist())) > 4
    for before, action, after in zip(
        drawn.observation, drawn.action, drawn.next_observation, strict=True
    ):
        cells, target = before.T.astype(np.uint8)
        env.state = RingState(cells, target)
        observation, _, _, _, info = env.step(action)
        np.testing.assert_array_equal(observation, after)
        assert info["true_depth"] == env.micro_steps
        if action < env.length:
            cells = np.concatenate(
                [cells[:action], 1 - cells[action : action + 1], cells[action + 1 :]]
            )
        np.testing.assert_array_equal(after[:, 0], slow(cells, env.rule, env.micro_steps))


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"rule": 300}, "rule is 300"),
        ({"length": 2}, "length is 2"),
        ({"micro_steps": 0}, "micro_steps is 0"),
        ({"count": 0}, "count is 0"),
    ],
)
def test_bad_samples_are_refused(kwargs, said, rng, assert_helpful):
    with pytest.raises(UsageError, match=said) as raised:
        transitions(rng, **({"count": 1} | kwargs))
    assert_helpful(raised)
