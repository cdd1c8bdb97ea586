"""Real transitions: played, and drawn from environments of known depth."""

import gymnasium as gym
import numpy as np
import pytest
import toy_envs
from scripted import Scripted

from loopwm.envs import Spaces, sliding_ice
from loopwm.errors import RunFailure, UsageError
from loopwm.evaluation import encode_transitions, play_transitions


def play(actor, source, **changes):
    given = {"count": 20, "envs": 3, "seed": 7} | changes
    return play_transitions(actor, source, Spaces.of_source(source), **given)


def test_played_transitions_are_those_of_the_environment():
    actor = Scripted(np.asarray([0.5], np.float32))
    found = play(actor, toy_envs.Counting)
    assert found.observation.shape == found.next_observation.shape == (20, 3)
    np.testing.assert_array_equal(found.action, 0.5)
    # A step moves on by one within an episode: no reset counts as a transition.
    np.testing.assert_array_equal(found.next_observation[:, 2] - found.observation[:, 2], 1.0)
    np.testing.assert_array_equal(found.next_observation[:, :2], found.observation[:, :2])
    assert np.ptp(found.observation[:, 1]) > 0  # more than one episode
    assert set(found.observation[:, 0]) == {7.0, 8.0, 9.0}
    assert found.true_depth is None and actor.explored == {True}
    assert "20 different transitions of" in found.origin and "seed 7" in found.origin


def test_the_true_depth_comes_along():
    source = "loopwm/SlidingIce-v0"
    found = play(Scripted(np.asarray(1)), source, count=12)
    shape = Spaces.of_source(source).observation.shape
    before, after = (
        np.argwhere(o.reshape(-1, *shape)[..., 0] == 1.0)[:, 1:]
        for o in (found.observation, found.next_observation)
    )
    np.testing.assert_array_equal(found.true_depth, np.abs(after - before).sum(axis=1))
    assert found.true_depth.max() > 0


def test_what_is_repeated_counts_once():
    # Pushing right for ever: a slide in each environment, and then the wall again and again.
    found = play(Scripted(np.asarray(1)), "loopwm/SlidingIce-v0", count=30)
    rows = np.concatenate([found.observation, found.action], axis=1)
    assert len(rows) == len(np.unique(rows, axis=0)) <= 6
    assert len(found.true_depth) == len(rows) == len(found.next_observation)
    assert f"{30 - len(rows)} of 30 were repeats" in found.origin


def test_drawn_transitions_are_encoded(rng):
    spaces = Spaces.of_source(lambda: gym.make("loopwm/SlidingIce-v0", size=4))
    drawn = sliding_ice.transitions(rng, 5, size=4, exactly=2)
    found = encode_transitions(drawn, spaces, "5 slides of 2 cells")
    np.testing.assert_array_equal(found.observation, drawn.observation.reshape(5, -1))
    np.testing.assert_array_equal(found.action.argmax(axis=1), drawn.action)
    np.testing.assert_array_equal(found.true_depth, 2)


def test_a_decision_that_is_nan_is_a_failure():
    with pytest.raises(RunFailure, match="NaN"):
        play(Scripted(np.asarray([0.5], np.float32), finite_for=2), toy_envs.Counting)


@pytest.mark.parametrize("changes", [{"count": 0}, {"envs": 0}])
def test_nothing_to_play_is_refused(changes, assert_helpful):
    with pytest.raises(UsageError) as raised:
        play(Scripted(np.asarray([0.5], np.float32)), toy_envs.Counting, **changes)
    assert_helpful(raised)
