"""Evaluation episodes: one each, counted once, on environments of their own."""

import broken_envs
import numpy as np
import pytest
import toy_envs
from scripted import Scripted

from loopwm.envs import Spaces
from loopwm.errors import RunFailure
from loopwm.evaluation import run_episodes
from loopwm.training import EvaluationStopped


def play(actor=None, source=toy_envs.Counting, **kwargs):
    spaces = Spaces.of_source(source)
    actor = Scripted(np.full(1, 0.5, np.float32)) if actor is None else actor
    return run_episodes(actor, source, spaces, **({"episodes": 5, "seed": 20} | kwargs))


def expected_return(seed, longest=6):
    env = toy_envs.Counting(longest)
    env.reset(seed=seed)
    return sum(moment + 0.5 for moment in range(env.length))


def test_returns_are_those_of_the_first_episodes():
    actor = Scripted(np.full(1, 0.5, np.float32))
    result = play(actor)
    assert list(result.returns) == [expected_return(20 + i) for i in range(5)]
    assert len(set(result.returns)) > 1  # episodes of different lengths, over at different times
    assert result.loops_mean == 3.0 and result.decision_ms > 0.0
    assert result.bound_max == 4.0 + actor.calls
    assert actor.explored == {False} and actor.seeds == [20]
    assert any(mask.any() for mask in actor.restarts)


def test_an_endless_episode_is_cut():
    result = play(source=lambda: toy_envs.Counting(1000), max_steps=7)
    assert set(result.returns) == {sum(moment + 0.5 for moment in range(7))}


def test_it_stops_when_all_are_over():
    actor = Scripted(np.full(1, 0.5, np.float32))
    play(actor, episodes=3)
    assert actor.calls <= 6


def test_environments_are_made_for_it_and_closed():
    made = []

    class Watched(toy_envs.Counting):
        closed = 0

        def __init__(self):
            super().__init__()
            made.append(self)

        def close(self):
            self.closed += 1

    play(source=Watched, episodes=2)
    assert len(made) == 3  # one by this test, to read the spaces
    assert all(env.closed for env in made[1:])


def test_a_decision_that_is_no_number_fails_the_run(assert_helpful):
    with pytest.raises(RunFailure, match="NaN") as raised:
        play(Scripted(np.full(1, 0.5, np.float32), finite_for=2))
    assert_helpful(raised)


def test_a_broken_environment_fails_the_run():
    def source():
        return broken_envs.Faulty("NaN", at=3)

    with pytest.raises(RunFailure, match="source returned NaN"):
        play(Scripted(np.asarray(0)), source)


def test_it_gives_up_when_asked_to():
    actor = Scripted(np.full(1, 0.5, np.float32))
    with pytest.raises(EvaluationStopped):
        play(actor, stop=lambda: actor.calls >= 2)
    assert actor.calls == 2


def test_the_same_seed_gives_the_same_returns():
    one, two = (play(Scripted(np.asarray(1)), "CartPole-v1", seed=3) for _ in range(2))
    other = play(Scripted(np.asarray(1)), "CartPole-v1", seed=4, episodes=20)
    assert one.returns == two.returns != other.returns[:5]
