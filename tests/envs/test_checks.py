"""`check_env`: what is right passes, and each fault is found, named and mended."""

import warnings

import broken_envs
import gymnasium as gym
import numpy as np
import pytest
import toy_envs

import loopwm
from loopwm.envs.checks import CHECKS, Level
from loopwm.errors import UsageError

OK, WARNING, ERROR = Level


def levels(report):
    """The worst level of each check."""
    found = {}
    for finding in report.findings:
        found[finding.name] = max(found.get(finding.name, OK), finding.level, key=list(Level).index)
    return found


def said(report, name):
    return " ".join(finding.message for finding in report.findings if finding.name == name)


@pytest.fixture
def well_said(assert_helpful):
    """Checks that every finding is one sentence, with a remedy where there is something to mend."""

    def check(report):
        for finding in report.findings:
            if finding.level is not OK:
                assert_helpful(finding.message)
            assert finding.message.endswith(".") and "\n" not in finding.message

    return check


@pytest.mark.parametrize(
    "env", ["CartPole-v1", "toy_envs:Marker-parts-v0", toy_envs.Corridor, "loopwm/SlidingIce-v0"]
)
def test_what_is_right_has_no_error(env, well_said):
    report = loopwm.check_env(env)
    well_said(report)
    assert report.exit_status == 0 and not report.of_level(ERROR), report
    names = {"observation space", "action space", "steps", "observations", "rewards", "seeding"}
    names |= {"episode end", "time limit", "termination", "gymnasium", "rendering", "cost"}
    names |= {"closing"}
    assert set(levels(report)) == names and len(names) == len(CHECKS) + 1
    assert "µs" in said(report, "cost")


class Custom(gym.Env):
    """An environment to be changed in one place."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": []}
    shared = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.moment = 0
        return self.look(), {}

    def look(self):
        return self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)

    def pay(self):
        return 1.0

    def ends(self):
        return bool(self.np_random.random() < 0.1), False

    def step(self, action):
        self.moment += 1
        return self.look(), self.pay(), *self.ends(), {}


def changed(**methods):
    return type("Changed", (Custom,), methods)


def forgets_the_seed(self, *, seed=None, options=None):
    self.moment = 0
    self._np_random = np.random.default_rng()
    return self.look(), {}


def counts_instances(self):
    Custom.shared += 1
    self.__dict__.setdefault("number", Custom.shared)
    return self.number / 1e6


def raises(self, *args, **kwargs):
    raise OSError("no such\nsimulator.")


CASES = {
    "reset raises": (changed(reset=raises), "steps", ERROR, "raised OSError in reset"),
    "step raises": (changed(step=raises), "steps", ERROR, "OSError in step 1: no such simulator"),
    "no options": (
        changed(reset=lambda self, seed=None: Custom.reset(self, seed=seed)),
        "steps",
        ERROR,
        "raised TypeError in reset",
    ),
    "old reset": (changed(reset=lambda self, **_: self.look()), "steps", ERROR, "ndarray in reset"),
    "old step": (
        changed(step=lambda self, _: (self.look(), 1.0, False, {})),
        "steps",
        ERROR,
        "a tuple of 4 in step 1, where Gymnasium expects",
    ),
    "NaN": (
        changed(look=lambda self: np.full(2, np.nan, np.float32)),
        "observations",
        ERROR,
        "NaN",
    ),
    "far outside": (
        changed(look=lambda self: np.full(2, 9.0, np.float32)),
        "observations",
        ERROR,
        "lies outside Box",
    ),
    "a bit outside": (
        changed(look=lambda self: 1.25 + 0.0 * Custom.look(self)),
        "observations",
        WARNING,
        "by up to 0.12 of its width",
    ),
    "NaN reward": (changed(pay=lambda self: np.nan), "rewards", ERROR, "reward nan in step 1"),
    "huge reward": (changed(pay=lambda self: -5e6), "rewards", ERROR, "TransformReward"),
    "unseeded": (changed(reset=forgets_the_seed), "seeding", ERROR, "same seed again"),
    "instances": (changed(pay=counts_instances), "seeding", ERROR, "Two instances"),
    "endless": (changed(ends=lambda self: (False, False)), "episode end", ERROR, "TimeLimit"),
    "no limit": (Custom, "time limit", WARNING, "max_episode_steps"),
    "own limit": (changed(ends=lambda self: (False, self.moment > 4)), "time limit", OK, "itself"),
    "limit as an end": (
        changed(ends=lambda self: (self.moment >= 8, False)),
        "termination",
        WARNING,
        "after exactly 8 steps",
    ),
    "flags": (changed(ends=lambda self: (0, int(self.moment > 4))), "termination", WARNING, "int"),
    "no space": (changed(observation_space=None), "observation space", ERROR, "gymnasium.spaces"),
    "text": (changed(action_space=gym.spaces.Text(3)), "action space", ERROR, "not supported"),
    "slow": (Custom, "cost", OK, "A step takes"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fault_is_found(case, well_said):
    source, name, level, words = CASES[case]
    report = loopwm.check_env(source, steps=300)
    well_said(report)
    assert levels(report)[name] is level and words in said(report, name), report
    # Nothing else is an error, but what Gymnasium's own checker says of the same fault.
    others = {finding.name for finding in report.of_level(ERROR)} - {name, "gymnasium"}
    assert not others or case in ("no space", "text", "endless"), others
    assert report.exit_status == int(bool(report.of_level(ERROR)))


def test_no_warning_of_gymnasiums_checker_is_lost(monkeypatch):
    """Whatever is filtered, and however often it was shown."""

    def warn_thrice(env, **_):
        for text in ("one", "two.\nThree", "one"):
            gym.logger.warn(text)
        warnings.warn("not by Gymnasium", DeprecationWarning, stacklevel=1)

    monkeypatch.setattr("loopwm.envs.checks.interface.check_by_gymnasium", warn_thrice)
    monkeypatch.setattr(gym.logger, "min_level", gym.logger.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = loopwm.check_env(Custom)
    told = [f.message for f in report.of_level(WARNING) if f.name == "gymnasium"]
    assert [text.split("warns: ")[1].split("; correct")[0] for text in told] == [
        "one",
        "two; Three",
        "not by Gymnasium",
    ]
    assert gym.logger.min_level == gym.logger.ERROR


def test_an_instance_is_checked_and_left_open():
    class Closing(Custom):
        closed = False

        def close(self):
            self.closed = True

    env = Closing()
    report = loopwm.check_env(env)
    assert not env.closed and report.env == "Closing"
    assert levels(report)["seeding"] is WARNING and "second one" in said(report, "seeding")
    assert levels(loopwm.check_env(gym.make("CartPole-v1")))["seeding"] is OK


def test_wrappers_of_ones_own_belong_to_what_is_checked():
    class Doubled(gym.ObservationWrapper):
        def observation(self, observation):
            return 2.0 * observation

    report = loopwm.check_env(lambda: Doubled(Custom()))
    assert levels(report)["observations"] is WARNING
    assert "unwrapped version" not in said(report, "gymnasium")


def test_render_modes_are_tried(monkeypatch):
    class Blind(Custom):
        metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 4}

        def __init__(self, render_mode=None):
            self.render_mode = render_mode

        def render(self):
            raise RuntimeError("no screen")

    spec = gym.envs.registration.EnvSpec("Blind-v0", Blind, max_episode_steps=9)
    monkeypatch.setitem(gym.registry, spec.id, spec)
    report = loopwm.check_env("Blind-v0")
    assert levels(report)["rendering"] is WARNING
    assert "rgb_array" in said(report, "rendering") and "human" not in said(report, "rendering")


@pytest.mark.parametrize("env", ["Nope-v0", "broken_envs:Constructor-v0", dict])
def test_what_cannot_be_made_is_refused(env):
    with pytest.raises(UsageError):
        loopwm.check_env(env)


@pytest.mark.parametrize("kwargs", [{"steps": 0}, {"seed": -1}])
def test_sizes_that_make_no_sense(kwargs, assert_helpful):
    with pytest.raises(UsageError) as raised:
        loopwm.check_env(broken_envs.Faulty, **kwargs)
    assert_helpful(raised)
