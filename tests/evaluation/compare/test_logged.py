"""Logged data: repeatable, split by episode, cut into sequences."""

import gymnasium as gym
import numpy as np
import pytest
import toy_envs

from loopwm.envs import make
from loopwm.errors import RunFailure
from loopwm.evaluation.compare import logged as compare_logged
from loopwm.evaluation.compare.logged import (
    Episode,
    load_or_log,
    log_episodes,
    sequences,
    split,
)
from loopwm.evaluation.compare.protocol import DynamicsProtocol
from loopwm.evaluation.compare.tasks import TASKS, Kind, Task

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
    path.write_bytes(b"")
    filled = load_or_log(tmp_path, task, SMALL, seed=0)
    for one, *others in zip(made, again, mended, filled, cartpole, strict=True):
        for other in others:
            np.testing.assert_array_equal(one.observation, other.observation)
            np.testing.assert_array_equal(one.action, other.action)
            np.testing.assert_array_equal(one.reward, other.reward)
            assert one.terminated == other.terminated


def test_the_first_file_is_what_every_process_gets(tmp_path, monkeypatch):
    task, logged = TASKS["CartPole-v1"], []

    def differently(*_, **__):
        """An environment that does something else each time, beside another process."""
        logged.append(None)
        if len(logged) == 1:
            logged[0] = load_or_log(tmp_path, task, SMALL, seed=0)
        return [numbered(4, first=100 * len(logged)) for _ in range(3)]

    monkeypatch.setattr(compare_logged, "log_episodes", differently)
    for found in (load_or_log(tmp_path, task, SMALL, seed=0) for _ in range(2)):
        for one, other in zip(found, logged[0], strict=True):
            np.testing.assert_array_equal(one.observation, other.observation)
    assert len(logged) == 2 and len(list(tmp_path.iterdir())) == 1


def test_actions_are_repeated_where_a_space_is_made_anew_each_time():
    class Anew(toy_envs.Counting):
        action_space = property(  # pyright: ignore[reportAssignmentType]
            lambda _: gym.spaces.Box(-1.0, 1.0, (1,), np.float32), lambda *_: None
        )

    gym.register("loopwmtest/Anew-v0", entry_point=Anew)
    small, task = DynamicsProtocol(env_steps=20), Task("loopwmtest/Anew-v0", Kind.OTHER)
    try:
        one, other = (log_episodes(task, small, seed=0) for _ in range(2))
    finally:
        gym.registry.pop("loopwmtest/Anew-v0")
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.action, b.action)


def test_a_file_of_another_task_is_not_taken_for_this_one(tmp_path):
    class Marked(toy_envs.Counting):
        def _observation(self):
            return np.full(3, 7.0, np.float32)

    small = DynamicsProtocol(env_steps=40, longest=60)
    ids = ("loopwmtest/Own-v0", "loopwmtest-Own-v0")
    for name, kind in zip(ids, (toy_envs.Counting, Marked), strict=True):
        gym.register(name, entry_point=kind)
    try:
        one, other, again = (
            load_or_log(tmp_path, Task(name, Kind.OTHER), small, seed=0) for name in (*ids, ids[0])
        )
    finally:
        for name in ids:
            gym.registry.pop(name)
    assert len(list(tmp_path.iterdir())) == 1, "both names make the same file's name"
    assert np.all(other[0].observation == 7.0) and not np.any(one[0].observation == 7.0)
    np.testing.assert_array_equal(one[0].observation, again[0].observation)


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
