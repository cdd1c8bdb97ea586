"""Logged data: repeatable, split by episode, cut into sequences."""

import numpy as np
import pytest

from loopwm.envs import make
from loopwm.errors import RunFailure
from loopwm.evaluation.compare.logged import (
    Episode,
    load_or_log,
    log_episodes,
    sequences,
    split,
)
from loopwm.evaluation.compare.protocol import DynamicsProtocol
from loopwm.evaluation.compare.tasks import TASKS

SMALL = DynamicsProtocol(env_steps=400, longest=60)


def numbered(length, first=0, terminated=False):
    """An episode whose observations, actions and rewards count its steps."""
    steps = np.arange(first, first + length + 1, dtype=np.float32)
    return Episode(steps[:, None], 10 * steps[:-1, None], 100 * steps[:-1], terminated)


@pytest.fixture(scope="module")
def cartpole():
    return log_episodes(TASKS["CartPole-v1"], SMALL, seed=0)


def test_episodes_have_the_steps_asked_for(cartpole):
    lengths = [len(e.action) for e in cartpole]
    assert sum(lengths) >= 400 and max(lengths) <= 60
    for episode in cartpole:
        assert episode.observation.shape == (len(episode.action) + 1, 4)
        assert episode.terminated == (len(episode.action) < 60)
    # The rule keeps the pole up longer than held random actions do.
    assert np.mean(lengths[-3:]) > np.mean(lengths[:3])


def test_transitions_are_the_environments(cartpole):
    first = cartpole[0]
    env = make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation, first.observation[0])
    for action, following in zip(first.action, first.observation[1:], strict=True):
        observation, *_ = env.step(int(np.argmax(action)))
        np.testing.assert_array_equal(observation, following)
    env.close()


def test_held_actions_are_held(cartpole):
    changes = [np.any(np.diff(e.action, axis=0) != 0, axis=1).mean() for e in cartpole[:6]]
    assert np.mean(changes) < 0.4


def test_seeds_repeat_and_differ(cartpole):
    again = log_episodes(TASKS["CartPole-v1"], SMALL, seed=0)
    other = log_episodes(TASKS["CartPole-v1"], SMALL, seed=1)
    np.testing.assert_array_equal(again[-1].observation, cartpole[-1].observation)
    assert not np.array_equal(other[0].observation[0], cartpole[0].observation[0])


def test_files_are_read_back_and_halves_made_again(tmp_path, cartpole):
    task = TASKS["CartPole-v1"]
    made = load_or_log(tmp_path, task, SMALL, seed=0)
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    again = load_or_log(tmp_path, task, SMALL, seed=0)
    assert path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:200])
    mended = load_or_log(tmp_path, task, SMALL, seed=0)
    for one, two, three, four in zip(made, again, mended, cartpole, strict=True):
        for other in (two, three, four):
            np.testing.assert_array_equal(one.observation, other.observation)
            np.testing.assert_array_equal(one.action, other.action)
            np.testing.assert_array_equal(one.reward, other.reward)
            assert one.terminated == other.terminated


@pytest.mark.parametrize("count", [3, 4, 10, 57])
def test_split_leaves_no_episode_out_or_twice(count):
    episodes = [numbered(5 + i % 7, first=100 * i) for i in range(count)]
    parts = split(episodes, seed=0)
    firsts = [
        e.observation[0, 0] for part in (parts.train, parts.validation, parts.test) for e in part
    ]
    assert sorted(firsts) == [100.0 * i for i in range(count)]
    assert min(map(len, (parts.train, parts.validation, parts.test))) >= 1
    if count == 57:
        steps = [sum(len(e.action) for e in p) for p in (parts.test, parts.validation, parts.train)]
        np.testing.assert_allclose(np.array(steps) / sum(steps), (0.2, 0.2, 0.6), atol=0.03)


def test_two_episodes_cannot_be_split(assert_helpful):
    with pytest.raises(RunFailure, match="cannot be split") as raised:
        split([numbered(5), numbered(5)], seed=0)
    assert_helpful(raised)


def test_whole_sequences_lie_in_an_episode():
    found = sequences([numbered(5, terminated=True), numbered(2)], 3, 99, whole=True, seed=0)
    assert len(found.action) == 3 and found.valid.all()
    for o, u, r, c in zip(
        found.observation, found.action, found.reward, found.goes_on, strict=True
    ):
        np.testing.assert_array_equal(np.diff(o[:, 0]), 1.0)
        np.testing.assert_array_equal(u[:, 0], 10 * o[:-1, 0])
        np.testing.assert_array_equal(r, 100 * o[:-1, 0])
        np.testing.assert_array_equal(c, [1.0, 1.0, 0.0 if o[0, 0] == 2.0 else 1.0])


def test_cut_sequences_are_padded_and_marked():
    found = sequences([numbered(4, terminated=True)], 3, 99, whole=False, seed=0)
    rows = {float(o[0, 0]): i for i, o in enumerate(found.observation)}
    assert sorted(rows) == [0.0, 1.0, 2.0, 3.0]
    last = rows[3.0]
    np.testing.assert_array_equal(found.valid[last], [True, False, False])
    np.testing.assert_array_equal(found.observation[last, :, 0], [3.0, 4.0, 4.0, 4.0])
    assert found.goes_on[last, 0] == 0.0


def test_too_short_episodes_are_refused(assert_helpful):
    with pytest.raises(RunFailure, match="has 9 steps") as raised:
        sequences([numbered(4)], 9, 99, whole=True, seed=0)
    assert_helpful(raised)
