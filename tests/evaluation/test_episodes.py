"""Evaluation episodes: one each, counted once, on environments of their own."""

import broken_envs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_envs
from scripted import Scripted

from loopwm.envs import Spaces
from loopwm.errors import RunFailure, UsageError
from loopwm.evaluation import run_episodes
from loopwm.planning import CandidateReturns
from loopwm.training import EvaluationStopped


def play(actor=None, source=toy_envs.Counting, **kwargs):
    spaces = Spaces.of_source(source)
    actor = Scripted(np.full(1, 0.5, np.float32)) if actor is None else actor
    return run_episodes(actor, source, spaces, **({"episodes": 5, "seed": 20} | kwargs))


def length(seed, longest=6):
    env = toy_envs.Counting(longest)
    env.reset(seed=seed)
    return env.length


def expected_return(seed):
    return sum(moment + 0.5 for moment in range(length(seed)))


def test_returns_are_those_of_the_first_episodes():
    actor = Scripted(np.full(1, 0.5, np.float32))
    result = play(actor)
    assert list(result.returns) == [expected_return(20 + i) for i in range(5)]
    assert len(set(result.returns)) > 1  # episodes of different lengths, over at different times
    assert result.loops_mean == 3.0 and result.decision_ms > 0.0
    lengths = [length(20 + i) for i in range(5)]
    assert actor.calls == max(lengths)
    # Of environment i at call c the bound is i + c, as long as its episode runs.
    assert result.bound_max == max(i + steps for i, steps in enumerate(lengths))
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


@pytest.mark.parametrize("given", [{"episodes": 0}, {"max_steps": 0}, {"seed": -1}], ids=str)
def test_what_cannot_be_played_is_refused(given, assert_helpful):
    with pytest.raises(UsageError, match="cannot be played") as raised:
        play(**given)
    assert_helpful(raised)


def test_it_gives_up_when_asked_to():
    actor = Scripted(np.full(1, 0.5, np.float32))
    with pytest.raises(EvaluationStopped):
        play(actor, stop=lambda: actor.calls >= 2)
    assert actor.calls == 2


def test_the_same_seed_gives_the_same_returns():
    one, two = (play(Scripted(np.asarray(1)), "CartPole-v1", seed=3) for _ in range(2))
    other = play(Scripted(np.asarray(1)), "CartPole-v1", seed=4, episodes=20)
    assert one.returns == two.returns != other.returns[:5]


def test_the_beginning_of_the_first_episode_is_kept():
    whole = play(record=50).episode
    length = len(whole.action)
    assert expected_return(20) == sum(whole.reward) and 1 <= length <= 6
    # Rows of (tag, episode, step): the first environment, and no step of a later episode.
    np.testing.assert_array_equal(whole.observation[:, 0], 20.0)
    np.testing.assert_array_equal(whole.observation[:, 1], 0.0)
    np.testing.assert_array_equal(whole.observation[:, 2], np.arange(length + 1))
    np.testing.assert_array_equal(whole.action, 0.5)
    assert whole.terminated and not whole.truncated and whole.seed == 20
    cut = play(source=lambda: toy_envs.Counting(1000), max_steps=7, record=3).episode
    assert len(cut.reward) == 3 and not cut.terminated and not cut.truncated
    np.testing.assert_array_equal(cut.observation[:, 2], np.arange(4))
    assert play().episode is None


class Weighing(Scripted):
    """A planner whose candidates are worth the number of its call, in the first environment."""

    def _state(self, batch):
        state = super()._state(batch)
        best = np.zeros((batch, 2))
        best[0] = self.calls, 2.0 * self.calls
        one = CandidateReturns(best=jnp.zeros(2), mean=jnp.zeros(2), spread=jnp.zeros(2))
        batched = [best, best - 1.0, np.ones((batch, 2))]
        state.stats.returns = jax.tree.unflatten(jax.tree.structure(one), batched)
        return state


class Halting(Scripted):
    """A model that takes as many loops as the number of its environment says."""

    def _state(self, batch):
        state = super()._state(batch)
        state.stats.loops = np.arange(batch, dtype=float)
        return state


def test_loops_count_while_their_episode_runs():
    found = play(Halting(np.full(1, 0.5, np.float32)), episodes=5)
    lengths = [length(20 + i) for i in range(5)]
    assert len(set(lengths)) > 1
    wanted = sum(i * steps for i, steps in enumerate(lengths)) / sum(lengths)
    assert found.loops_mean == pytest.approx(wanted)


def test_candidates_count_while_their_episode_runs():
    actor = Weighing(np.full(1, 0.5, np.float32))
    found = play(actor, episodes=5).candidates
    lengths = [length(20 + i) for i in range(5)]
    assert found.decisions == sum(lengths) < 5 * actor.calls
    summed = sum(range(1, lengths[0] + 1))
    np.testing.assert_allclose(found.best * found.decisions, [summed, 2.0 * summed])
    np.testing.assert_allclose(found.best - found.mean, 1.0)
    np.testing.assert_allclose(found.spread, 1.0)
    assert play().candidates is None
