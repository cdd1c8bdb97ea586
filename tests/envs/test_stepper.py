"""The stepper: three ways to reset, the same transitions."""

import gymnasium as gym
import numpy as np
import pytest
import toy_envs

from loopwm.envs import Spaces, VectorStepper, make, make_vector

MODES = list(gym.vector.AutoresetMode)


def vector(source, count, mode):
    return gym.vector.SyncVectorEnv([lambda: make(source)] * count, autoreset_mode=mode)


def collect(source, count, mode, *, seed, steps):
    """Transitions of each environment as tuples, until every one has made so many.

    The action is a function of environment and number of steps made, so that it does not depend on
    how many calls went into resets.
    """
    env = vector(source, count, mode)
    spaces = Spaces.of(env.envs[0])
    rng = np.random.default_rng(7)
    raw = [[env.single_action_space.sample() for _ in range(steps)] for _ in range(count)]
    for row in raw:  # sample() is seeded from the system; draw from our generator instead
        for i, action in enumerate(row):
            if isinstance(env.single_action_space, gym.spaces.Discrete):
                row[i] = rng.integers(env.single_action_space.n)
            else:
                row[i] = rng.uniform(-1.0, 1.0, np.shape(action)).astype(np.float32)
    stepper = VectorStepper(env, spaces)
    stepper.reset(seed=seed)
    found = [[] for _ in range(count)]
    calls = real_steps = 0
    begun = np.ones(count, bool)
    while min(len(rows) for rows in found) < steps:
        before = stepper.observation.copy()
        action = np.stack([raw[i][min(len(found[i]), steps - 1)] for i in range(count)])
        step = stepper.step(action)
        calls += 1
        real_steps += int(step.real.sum())
        for i in np.flatnonzero(step.real):
            found[i].append(
                (
                    bool(begun[i]),
                    tuple(before[i]),
                    tuple(np.ravel(action[i])),
                    float(step.reward[i]),
                    bool(step.terminated[i]),
                    bool(step.truncated[i]),
                    tuple(step.next_observation[i]),
                )
            )
        assert not np.any((step.terminated | step.truncated) & ~step.real)
        begun = np.where(step.real, step.begun, begun | step.begun)
    stepper.close()
    assert real_steps == sum(len(rows) for rows in found)
    return [rows[:steps] for rows in found], calls


@pytest.mark.parametrize("source", [toy_envs.Counting, "CartPole-v1"], ids=["toy", "CartPole-v1"])
def test_all_autoreset_modes_give_the_same_transitions(source):
    steps = 60
    results = [collect(source, 3, mode, seed=11, steps=steps) for mode in MODES]
    ended = sum(row[4] or row[5] for rows in results[0][0] for row in rows)
    assert ended >= 3
    for found, _ in results[1:]:
        assert found == results[0][0]
    calls = {mode: result[1] for mode, result in zip(MODES, results, strict=True)}
    mode = gym.vector.AutoresetMode
    assert calls[mode.SAME_STEP] == calls[mode.DISABLED] == steps
    assert calls[mode.NEXT_STEP] > steps  # its resets cost calls, and no env steps


@pytest.mark.parametrize("mode", MODES)
def test_transitions_of_the_toy_are_the_known_ones(mode):
    found, _ = collect(toy_envs.Counting, 2, mode, seed=5, steps=40)
    kinds = set()
    for i, rows in enumerate(found):
        episode, moment = 0, 0
        for begun, before, action, reward, terminated, truncated, after in rows:
            assert begun == (moment == 0)
            assert before == (5 + i, episode, moment)
            # The observation after the last step is the final one, not the next episode's first.
            assert after == (5 + i, episode, moment + 1)
            assert reward == pytest.approx(1000.0 * episode + moment + action[0], rel=1e-6)
            moment += 1
            if terminated or truncated:
                assert truncated == (episode % 2 == 1) and terminated != truncated
                kinds.add(terminated)
                episode, moment = episode + 1, 0
    assert kinds == {True, False}


@pytest.mark.parametrize("mode", MODES)
def test_arrays_given_out_are_not_overwritten(mode):
    env = vector(toy_envs.Counting, 2, mode)
    stepper = VectorStepper(env, Spaces.of(env.envs[0]))
    stepper.reset(seed=0)
    action = np.zeros((2, 1), np.float32)
    kept = [(s, s.next_observation.copy()) for s in (stepper.step(action) for _ in range(10))]
    for step, copy in kept:
        np.testing.assert_array_equal(step.next_observation, copy)
    assert np.ptp([copy for _, copy in kept]) > 0
    stepper.close()


def test_a_second_reset_begins_anew():
    stepper = VectorStepper(make_vector(toy_envs.Counting, 2), Spaces.of(make(toy_envs.Counting)))
    action = np.zeros((2, 1), np.float32)
    for _ in range(2):
        stepper.reset(seed=3)
        np.testing.assert_array_equal(stepper.observation[:, 2], 0.0)
        step = stepper.step(action)
        assert step.real.all()
        while not (step.terminated | step.truncated).any():
            step = stepper.step(action)
    stepper.close()


@pytest.mark.parametrize("same_step", [False, True])
def test_make_vector_uses_the_mode_it_is_told(same_step):
    env = make_vector("CartPole-v1", 2, same_step=same_step)
    mode = gym.vector.AutoresetMode
    assert env.num_envs == 2
    assert env.metadata["autoreset_mode"] == (mode.SAME_STEP if same_step else mode.NEXT_STEP)
    env.close()


class Deep(toy_envs.Counting):
    """Reports its step as true depth, and 90 where an episode begins."""

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        return observation, info | {"true_depth": 90}

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, info | {"true_depth": self.moment}


class Vague(Deep):
    """Reports what is no count."""

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, info | {"true_depth": 0.5}


@pytest.mark.parametrize("mode", MODES)
def test_the_true_depth_is_that_of_the_step(mode):
    stepper = VectorStepper(vector(Deep, 3, mode), Spaces.of(make(Deep)))
    stepper.reset(seed=5)
    seen = 0
    for _ in range(30):
        step = stepper.step(np.zeros((3, 1), np.float32))
        if not step.real.any():
            continue
        assert step.true_depth is not None
        np.testing.assert_array_equal(
            step.true_depth[step.real], step.next_observation[step.real, 2]
        )
        seen += int((step.terminated | step.truncated).sum())
    assert seen >= 3
    stepper.close()


@pytest.mark.parametrize("source", [toy_envs.Counting, Vague])
def test_without_a_count_the_true_depth_is_unknown(source):
    stepper = VectorStepper(make_vector(source, 2), Spaces.of(make(source)))
    stepper.reset(seed=0)
    assert stepper.step(np.zeros((2, 1), np.float32)).true_depth is None
    stepper.close()
