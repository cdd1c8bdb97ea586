"""Replay: what goes in comes out, in order, and never across the end of an episode."""

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from loopwm.errors import UsageError
from loopwm.training import Replay


@dataclasses.dataclass
class Episode:
    """An episode of one environment in the model that replay is compared with."""

    env: int
    number: int
    length: int
    terminates: bool
    made: int = 0

    def observation(self, step):
        return np.asarray([self.env, self.number, step], np.float32)

    def action(self, step):
        return self.observation(step) + 0.5

    def reward(self, step):
        return 10_000.0 * self.env + 100.0 * self.number + step

    @property
    def over(self):
        return self.made == self.length


class Model:
    """Plays episodes of random lengths into a replay, as a trainer does, and remembers all."""

    def __init__(self, capacity, envs, rng, longest=7):
        self.replay = Replay(capacity, envs, 3, 3)
        self.rng, self.longest, self.envs = rng, longest, envs
        self.steps = [[] for _ in range(envs)]
        self.now = [self._episode(env, 0) for env in range(envs)]
        self.replay.begin(self._stack(lambda e: e.observation(0)), np.ones(envs, bool))

    def begin_anew(self):
        self.now = [self._episode(e.env, e.number + 1) for e in self.now]
        self.replay.begin(self._stack(lambda e: e.observation(0)), np.ones(self.envs, bool))

    def _episode(self, env, number):
        length = int(self.rng.integers(1, self.longest + 1))
        return Episode(env, number, length, bool(self.rng.integers(2)))

    def _stack(self, function):
        return np.stack([np.asarray(function(e), np.float32) for e in self.now])

    def step(self):
        """One vector step; environments whose episode is over only reset in it."""
        real = np.asarray([not e.over for e in self.now])
        at = [e.made for e in self.now]
        for env, episode in enumerate(self.now):
            if real[env]:
                self.steps[env].append((episode, episode.made))
                episode.made += 1
        last = np.asarray([e.over and bool(r) for e, r in zip(self.now, real, strict=True)])
        ends = np.asarray([e.terminates for e in self.now])
        self.replay.add(
            np.stack([e.action(s) for e, s in zip(self.now, at, strict=True)]),
            np.asarray([e.reward(s) for e, s in zip(self.now, at, strict=True)], np.float32),
            last & ends,
            last & ~ends,
            self._stack(lambda e: e.observation(e.made)),
            real,
        )
        if not real.all():
            for env in np.flatnonzero(~real):
                self.now[env] = self._episode(int(env), self.now[env].number + 1)
            self.replay.begin(self._stack(lambda e: e.observation(0)), ~real)


def check_sequences(model, batch):
    """Every sampled sequence is a piece of one episode, with its own actions and rewards.

    Returns (environment, episode, step) of the first steps.
    """
    known = {(e.env, e.number): e for rows in model.steps for e, _ in rows}
    steps = batch.valid.shape[-1]
    origin = batch.observation[..., 0, :].reshape(-1, 3).astype(int)
    episodes = [known[env, number] for env, number, _ in origin]
    made, length = (np.asarray([getattr(e, n) for e in episodes]) for n in ("made", "length"))
    terminates = np.asarray([e.terminates for e in episodes])
    start = origin[:, 2]
    reached = np.minimum(steps, made - start)
    assert np.all(reached >= 1)
    inside = np.arange(steps) < reached[:, None]
    at = start[:, None] + np.arange(steps)
    # The final observation is repeated after the end.
    held = start[:, None] + np.minimum(np.arange(steps + 1), reached[:, None])
    observation = np.stack([*np.broadcast_arrays(origin[:, :1], origin[:, 1:2], held)], -1)
    action = np.stack([*np.broadcast_arrays(origin[:, :1], origin[:, 1:2], at)], -1) + 0.5
    reward = 10_000.0 * origin[:, :1] + 100.0 * origin[:, 1:2] + at
    ends = terminates[:, None] & (at == length[:, None] - 1)
    expected = {
        "valid": inside,
        "observation": observation,
        "action": np.where(inside[..., None], action, 0.0),
        "reward": np.where(inside, reward, 0.0),
        "terminated": inside & ends,
    }
    for name, value in expected.items():
        found = getattr(batch, name)
        np.testing.assert_array_equal(found.reshape(-1, *found.shape[2:]), value, err_msg=name)
    return {(int(env), int(number), int(step)) for env, number, step in origin}


@settings(max_examples=60)
@given(
    st.integers(1, 4), st.integers(3, 40), st.integers(1, 120), st.integers(1, 6), st.integers(0)
)
def test_sequences_are_pieces_of_episodes(envs, length, steps, sequence, seed):
    rng = np.random.default_rng(seed)
    model = Model(length * envs + int(rng.integers(envs)), envs, rng)
    size = model.replay.nbytes
    for _ in range(steps):
        model.step()
    assert model.replay.nbytes == size
    stored = check_sequences(model, model.replay.sample(2, 400, sequence, rng))
    stored |= check_sequences(model, model.replay.sample(1, 800, 1, rng))
    assert len(stored) == len(model.replay)
    for env in range(envs):
        # Each environment's newest steps are kept, without a gap, as many as its ring can hold.
        made = [(env, e.number, step) for e, step in model.steps[env]]
        kept = [entry for entry in made if entry in stored]
        assert kept == made[len(made) - len(kept) :]
        assert made[-1] in stored
        ends = sum(e.length == step + 1 for e, step in model.steps[env][-length:])
        assert len(kept) >= min(len(made), length - 2 - ends)


def test_by_hand_with_termination_truncation_and_a_wrap():
    replay = Replay(6, 1, 1, 1)
    one = np.ones(1, bool)
    no = ~one

    def add(reward, following, terminated=no, truncated=no):
        value = np.asarray([[float(reward)]], np.float32)
        replay.add(value, value[0], terminated, truncated, np.full((1, 1), following), one)

    replay.begin(np.asarray([[0.0]]), one)
    add(1, 10.0)
    add(2, 20.0, terminated=one)
    assert len(replay) == 2
    replay.begin(np.asarray([[100.0]]), one)
    add(3, 110.0, truncated=one)
    assert len(replay) == 3
    batch = replay.sample(1, 200, 3, np.random.default_rng(0))
    rows = {tuple(o.ravel()): i for i, o in enumerate(batch.observation[0])}
    assert set(rows) == {(0, 10, 20, 20), (10, 20, 20, 20), (100, 110, 110, 110)}
    expected = {
        (0, 10, 20, 20): ([1, 2, 0], [False, True, False], [True, True, False]),
        (10, 20, 20, 20): ([2, 0, 0], [True, False, False], [True, False, False]),
        (100, 110, 110, 110): ([3, 0, 0], [False, False, False], [True, False, False]),
    }
    for key, (reward, terminated, valid) in expected.items():
        np.testing.assert_array_equal(batch.reward[0, rows[key]], reward)
        np.testing.assert_array_equal(batch.terminated[0, rows[key]], terminated)
        np.testing.assert_array_equal(batch.valid[0, rows[key]], valid)
    # Three records of the first episode, two of the second: the next ones overwrite the oldest.
    replay.begin(np.asarray([[200.0]]), one)
    add(4, 210.0)
    batch = replay.sample(1, 200, 2, np.random.default_rng(0))
    found = {tuple(o.ravel()) for o in batch.observation[0]}
    assert found == {(10, 20, 20), (100, 110, 110), (200, 210, 210)}


def test_sampling_is_uniform_over_steps():
    rng = np.random.default_rng(3)
    model = Model(3 * 30, 3, rng)
    for _ in range(100):
        model.step()
    draws = 60_000
    batch = model.replay.sample(1, draws, 1, rng)
    _, counts = np.unique(batch.observation[0, :, 0], axis=0, return_counts=True)
    assert len(counts) == len(model.replay)
    expected = draws / len(counts)
    statistic = float(np.sum((counts - expected) ** 2 / expected))
    # Mean and deviation of χ²; 5 deviations are passed once in a million.
    freedom = len(counts) - 1
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)


def test_the_same_generator_gives_the_same_batch():
    model = Model(50, 2, np.random.default_rng(0))
    for _ in range(40):
        model.step()
    one, two = (model.replay.sample(2, 8, 3, np.random.default_rng(5)) for _ in range(2))
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))
    assert one.observation.shape == (2, 8, 4, 3) and one.observation.dtype == np.float32
    assert one.valid.shape == (2, 8, 3)


@pytest.mark.parametrize(("capacity", "envs"), [(100, 1), (101, 2), (1000, 7)])
def test_memory_is_what_it_says(capacity, envs):
    replay = Replay(capacity, envs, 5, 2)
    records = capacity // envs * envs
    # Observation, action and reward in float32, two flags; a position for each environment.
    assert replay.nbytes <= records * (4 * (5 + 2 + 1) + 2) + 16 * envs
    assert replay.nbytes >= records * (4 * (5 + 2 + 1) + 2)
    assert replay.nbytes == sum(np.asarray(a).nbytes for a in replay.state().values())


@pytest.mark.parametrize(("capacity", "envs"), [(1, 1), (2, 1), (5, 2), (8, 3)])
def test_a_memory_that_can_hold_no_episode_is_refused(capacity, envs, assert_helpful):
    with pytest.raises(UsageError, match="collection.replay_capacity") as raised:
        Replay(capacity, envs, 1, 1)
    assert str(3 * envs) in str(raised.value)
    assert_helpful(raised)


def test_a_memory_that_does_not_fit_is_refused(assert_helpful):
    with pytest.raises(UsageError, match="collection.replay_capacity") as raised:
        Replay(10**15, 1, 4, 2)
    assert_helpful(raised)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_blank_batch_is_like_a_drawn_one(dtype):
    replay = Replay(50, 2, observation=3, action=2, dtype=dtype)
    replay.begin(np.ones((2, 3), dtype), np.ones(2, bool))
    ended = np.zeros(2, bool)
    replay.add(
        np.ones((2, 2), np.float32),
        np.ones(2, np.float32),
        ended,
        ended,
        np.ones((2, 3), dtype),
        ~ended,
    )
    drawn, blank = replay.sample(2, 3, 4, np.random.default_rng(0)), replay.blank(2, 3, 4)
    for name, array in vars(drawn).items():
        np.testing.assert_array_equal(getattr(blank, name), np.zeros_like(array), strict=True)


def test_an_empty_replay_cannot_be_sampled():
    replay = Replay(10, 1, 1, 1)
    replay.begin(np.zeros((1, 1)), np.ones(1, bool))
    assert len(replay) == 0
    with pytest.raises(UsageError, match="empty"):
        replay.sample(1, 1, 1, np.random.default_rng(0))


def filled(seed, envs=2, capacity=40, steps=55):
    model = Model(capacity, envs, np.random.default_rng(seed))
    for _ in range(steps):
        model.step()
    return model


def test_the_state_goes_round():
    one, two = filled(1), filled(2)
    saved = {name: array.copy() for name, array in one.replay.state().items()}
    two.replay.load_state(saved)
    for seed in range(3):
        first, second = (m.replay.sample(1, 50, 4, np.random.default_rng(seed)) for m in (one, two))
        for field in dataclasses.fields(first):
            np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))
    # What is loaded is copied: the two go on independently.
    two.step()
    for name, array in one.replay.state().items():
        np.testing.assert_array_equal(array, saved[name])


@pytest.mark.parametrize("other", [{"capacity": 42}, {"envs": 4}])
def test_a_state_of_another_shape_is_refused(other):
    with pytest.raises(UsageError, match="resume"):
        filled(0).replay.load_state(filled(0, **other).replay.state())


@settings(max_examples=40)
@given(st.integers(0), st.integers(0, 60), st.integers(3, 20))
def test_a_sealed_episode_is_not_continued(seed, steps, length):
    rng = np.random.default_rng(seed)
    model = Model(2 * length, 2, rng)
    for _ in range(steps):
        model.step()
    before = len(model.replay)
    model.replay.seal()
    assert before - 2 <= len(model.replay) <= before  # a slot of each ring is freed
    # A resumed run begins new episodes; those under way stay as they are, cut off.
    model.begin_anew()
    for _ in range(25):
        model.step()
        check_sequences(model, model.replay.sample(1, 100, 5, rng))


def test_a_share_of_the_sequences_holds_a_termination():
    rng = np.random.default_rng(0)
    model = Model(40, 2, rng)
    for _ in range(60):
        model.step()

    def draw(seed, *ends):
        return model.replay.sample(50, 8, 3, np.random.default_rng(seed), *ends)

    def holds(batch):
        return batch.terminated.any(axis=-1)

    plain, same, half = draw(1), draw(1, 0.0), draw(1, 0.5)
    np.testing.assert_array_equal(plain.observation, same.observation)
    np.testing.assert_array_equal(plain.observation[:, 4:], half.observation[:, 4:])
    assert holds(half)[:, :4].all() and not holds(plain)[:, :4].all()
    # Every sequence that holds one may be drawn, wherever in it the task ends.
    found = [batch.observation[holds(batch)] for batch in (draw(2), draw(3, 0.9))]
    firsts = [{tuple(sequence[0]) for sequence in batch} for batch in found]
    assert firsts[0] == firsts[1]
    ends = np.argmax(half.terminated[:, :4], axis=-1)
    assert set(np.unique(ends)) == {0, 1, 2}


def test_without_an_end_all_sequences_are_drawn_alike():
    replay, mask, z = Replay(20, 1, 1, 1), np.ones(1, bool), np.zeros((1, 1), np.float32)
    replay.begin(z, mask)
    for _ in range(5):
        replay.add(z, z[0], ~mask, ~mask, z, mask)
    batches = [replay.sample(2, 4, 2, np.random.default_rng(0), ends) for ends in (0.0, 0.5)]
    np.testing.assert_array_equal(batches[0].observation, batches[1].observation)


def test_steps_know_where_time_ran_out(rng):
    model = Model(3 * 25, 3, rng)
    for _ in range(120):
        model.step()
        _, reward, cut = model.replay.steps()
        found = dict(zip(reward.tolist(), cut.tolist(), strict=True))
        stored = [(e, s) for rows in model.steps for e, s in rows if e.reward(s) in found]
        ends = [(e.terminates, s == e.length - 1) for e, s in stored]
        assert [found[e.reward(s)] for e, s in stored] == [last and not t for t, last in ends]
        assert model.replay.has_termination == ((True, True) in ends)
    assert model.replay.action_size == 3
