"""Environments together: infos that differ, and spaces that may not."""

import itertools

import gymnasium as gym
import numpy as np
import pytest

from loopwm.envs import (
    RepeatedSource,
    Spaces,
    VectorKind,
    VectorStepper,
    make,
    make_vector,
    remembered,
)
from loopwm.errors import RunFailure, UsageError


class Telling(gym.Env):
    """Tells in its `info` what Gymnasium cannot join; episodes last 3 steps."""

    observation_space = gym.spaces.Box(0.0, 9.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.moment = 0
        # Environments of a vector environment get one seed after the other.
        self.odd = seed % 2 if seed is not None else getattr(self, "odd", 0)
        return self.tell()

    def tell(self):
        info = {
            "places": np.zeros(self.moment + self.odd),
            "found": None if self.odd else 1,
            "said": "text" if self.odd else 2,
            "inside": {"a": 1} if self.odd else 3,
            "true_depth": np.int8(self.moment) if self.odd else self.moment,
        }
        return np.full(1, self.moment, np.float32), dict(reversed(info.items()))

    def step(self, action):
        self.moment += 1
        observation, info = self.tell()
        return observation, 1.0, self.moment == 3, False, info


@pytest.mark.parametrize("kind", list(VectorKind))
def test_infos_may_differ_in_type_and_shape(kind):
    same_step = kind is VectorKind.ASYNC
    env = make_vector(Telling, 2, kind=kind, same_step=same_step)
    stepper = VectorStepper(env, Spaces.of_source(Telling))
    stepper.reset(seed=0)
    depths = []
    for _ in range(6):
        step = stepper.step(np.zeros(2, int))
        if step.real.all():
            np.testing.assert_array_equal(step.true_depth, step.next_observation[:, 0])
            depths.append(int(step.true_depth[0]))
    stepper.close()
    assert depths == ([1, 2, 3, 1, 2, 3] if same_step else [1, 2, 3, 1, 2])


def test_a_single_environment_keeps_its_info():
    env = make(Telling)
    assert set(env.reset(seed=1)[1]) == {"places", "found", "said", "inside", "true_depth"}


class Unsure(Telling):
    """Reports a depth in some steps alone, and then one of another type."""

    def tell(self):
        observation, _ = super().tell()
        depths = (None, 2, "three", True, 0.5, 2**70)
        return observation, {"true_depth": depths[(self.moment + self.odd) % 6]}


@pytest.mark.parametrize("source", [Unsure, RepeatedSource(Unsure, 2)], ids=["plain", "repeated"])
def test_a_true_depth_that_is_none_is_not_taken(source):
    stepper = VectorStepper(make_vector(source, 2), Spaces.of_source(source))
    stepper.reset(seed=0)
    for _ in range(4):
        assert stepper.step(np.zeros(2, int)).true_depth is None
    stepper.close()


def test_one_environment_is_not_stepped_as_several(assert_helpful):
    one = Telling()
    with pytest.raises(UsageError, match="made the same environment twice") as raised:
        make_vector(lambda: one, 2)
    assert_helpful(raised)
    with pytest.raises(UsageError, match="made the same environment twice"):
        make_vector(lambda: one, 1, former=one)


def test_what_answers_for_a_simulator_can_be_told_apart_too():
    class Simulated(Telling):
        @property
        def unwrapped(self):
            return 3

    one = Simulated()
    assert remembered(gym.Wrapper(one))() is one
    with pytest.raises(UsageError, match="made the same environment twice"):
        make_vector(lambda: gym.Wrapper(one), 2)
    make_vector(Simulated, 2, former=one).close()


def test_codecs_are_those_of_the_environment_that_is_stepped(assert_helpful):
    sizes = itertools.count(1)

    class Growing(Telling):
        def __init__(self):
            self.observation_space = gym.spaces.Box(0.0, 9.0, (next(sizes),), np.float32)

    spaces = Spaces.of_source(Growing)
    with pytest.raises(UsageError, match="has other spaces in one instance") as raised:
        VectorStepper(make_vector(Growing, 1), spaces)
    assert_helpful(raised)


def test_environments_with_different_spaces_are_refused(assert_helpful):
    closed, sizes = [], itertools.count(1)

    class Growing(Telling):
        def __init__(self):
            self.observation_space = gym.spaces.Box(0.0, 9.0, (next(sizes),), np.float32)

        def close(self):
            closed.append(self)

    with pytest.raises(RunFailure, match="Growing has other spaces in one instance") as raised:
        make_vector(Growing, 3)
    assert_helpful(raised)
    assert len(closed) == 2
