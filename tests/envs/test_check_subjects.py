"""`check_env` of environments that are hard to make, to close or to make again."""

import itertools
import sys

import gymnasium as gym
import numpy as np
import pytest

import loopwm
from loopwm.envs import RepeatedSource
from loopwm.envs.checks import Level

OK, WARNING, ERROR = Level


class Small(gym.Env):
    """Works; episodes last 5 steps."""

    observation_space: gym.Space = gym.spaces.Box(0.0, 9.0, (1,), np.float32)
    action_space: gym.Space = gym.spaces.Discrete(2)
    metadata = {"render_modes": []}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.moment = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.moment += 1
        return np.full(1, self.moment, np.float32), 1.0, False, self.moment == 5, {}


class Wrapped(gym.Wrapper):
    """A wrapper whose arguments are not recorded, so that no spec makes it again."""


def findings(report, name):
    return [(one.level, one.message) for one in report.findings if one.name == name]


@pytest.mark.parametrize("function", [False, True], ids=["instance", "function"])
def test_a_wrapper_of_ones_own_around_a_registered_environment(function):
    def source():
        return Wrapped(gym.make("CartPole-v1"))

    report = loopwm.check_env(source if function else source(), steps=300)
    assert not report.of_level(ERROR), report
    assert "no spec" in findings(report, "rendering")[0][1]
    assert findings(report, "seeding")[0][0] is (OK if function else WARNING)


def test_a_spec_that_makes_nothing_leaves_the_second_instance_out(monkeypatch):
    env = gym.make("CartPole-v1")
    monkeypatch.setattr(gym, "make", quits_with(ValueError("no licence left")))
    report = loopwm.check_env(env, steps=300)
    assert findings(report, "seeding")[0][0] is WARNING and not report.of_level(ERROR)


def quits_with(error):
    def function(*args, **kwargs):
        raise error

    return function


def test_repeated_actions_are_no_matter_of_the_environment():
    report = loopwm.check_env(RepeatedSource(Small, 3))
    assert report.env == "Small" and not report.of_level(ERROR)


@pytest.mark.parametrize("kind", ["observation", "action"])
def test_a_missing_space_is_one_finding(kind):
    source = type("Spaceless", (Small,), {f"{kind}_space": None})
    report = loopwm.check_env(source)
    assert [one.name for one in report.of_level(ERROR)] == [f"{kind} space"]
    assert len(report.findings) == 2


def test_a_fault_in_close_is_a_warning(assert_helpful):
    source = type("Stuck", (Small,), {"close": quits_with(OSError("the arm does not park."))})
    report = loopwm.check_env(source)
    [(level, message)] = findings(report, "closing")
    assert level is WARNING and "raised OSError in close: the arm does not park; " in message
    assert_helpful(message)
    assert report.exit_status == 0


def test_closing_twice_is_tried():
    class Once(Small):
        closed = False

        def close(self):
            if self.closed:
                raise ValueError("closed before")
            self.closed = True

    assert "closed before" in findings(loopwm.check_env(Once), "closing")[0][1]
    assert findings(loopwm.check_env(Once()), "closing")[0][1].startswith("Not checked")


def test_instances_with_different_spaces(assert_helpful):
    sizes = itertools.count(2)

    class Growing(Small):
        def __init__(self):
            self.action_space = gym.spaces.Discrete(next(sizes))

    [(level, message)] = findings(loopwm.check_env(Growing), "seeding")
    assert level is ERROR and "has other spaces in one instance" in message
    assert_helpful(message)


def test_the_same_instance_again(assert_helpful):
    one = Small()
    [(level, message)] = findings(loopwm.check_env(lambda: one), "seeding")
    assert level is ERROR and "made the same environment twice" in message
    assert_helpful(message)


def test_an_action_space_that_is_made_anew_each_time():
    class Property(Small):
        @property
        def action_space(self):
            return gym.spaces.Discrete(50)

        def step(self, action):
            return np.zeros(1, np.float32), float(action), False, False, {}

    [(level, _)] = findings(loopwm.check_env(Property), "seeding")
    assert level is Level.OK


RETURNED = {
    "no info": ((np.zeros(1, np.float32), 1.0, False, True, None), "an info of type NoneType"),
    "flags": ((np.zeros(1, np.float32), 1.0, np.zeros(2, bool), True, {}), "neither true nor"),
    "reward": ((np.zeros(1, np.float32), 10**400, False, True, {}), "no float can hold"),
    "ragged": (([1, [2]], 1.0, False, True, {}), "no array of numbers"),
}


@pytest.mark.parametrize("case", RETURNED)
def test_what_a_step_returns(case, assert_helpful):
    returned, said = RETURNED[case]
    source = type("Odd", (Small,), {"step": lambda self, action: returned})
    errors = [e for e in loopwm.check_env(source).of_level(ERROR) if e.name != "gymnasium"]
    assert len(errors) == 1 and said in errors[0].message
    assert_helpful(errors[0].message)


def test_an_info_of_reset_that_is_no_mapping():
    source = type("Odd", (Small,), {"reset": lambda self, **_: (np.zeros(1, np.float32), None)})
    [(level, message)] = findings(loopwm.check_env(source), "steps")
    assert level is ERROR and "an info of type NoneType in reset" in message


@pytest.mark.parametrize("method", ["reset", "step"])
def test_an_environment_that_ends_the_process(method):
    source = type("Quitting", (Small,), {method: lambda self, *_, **__: sys.exit()})
    [(level, message)] = findings(loopwm.check_env(source), "steps")
    assert level is ERROR and f"raised SystemExit in {method}" in message
