"""The guard: what passes it belongs to nobody else and has the types of its space."""

import sys

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest

import loopwm
from loopwm.envs import (
    ActionRepeat,
    RepeatedSource,
    VectorStepper,
    make,
    make_vector,
    thresholds,
    time_limit,
)
from loopwm.envs.checks import Level
from loopwm.envs.faults import observation_fault
from loopwm.envs.spaces import Spaces
from loopwm.errors import RunFailure, UsageError

BOX, SPACES = gym.spaces.Box, gym.spaces


class Plain(gym.Env):
    """An environment to be changed in one place; episodes last 3 steps."""

    observation_space: gym.Space = BOX(-9.0, 9.0, (2,), np.float32)
    action_space: gym.Space = BOX(-1.0, 1.0, (2,), np.float32)
    given = np.zeros(2, np.float32)
    reward, terminated, info = 1.0, None, {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.moment = 0
        return self.look(), self.info

    def look(self):
        return self.given

    def step(self, action):
        self.moment += 1
        over = self.moment == 3 if self.terminated is None else self.terminated
        return self.look(), self.reward, over, False, self.info


def changed(**attributes):
    return type("Changed", (Plain,), attributes)


def act(env):
    env.reset(seed=0)
    return env.step(env.action_space.sample())


def overwrites(self, action):
    self.seen = [*getattr(self, "seen", []), action.copy()]
    action *= 100.0
    return Plain.step(self, action)


def test_an_environment_cannot_change_the_actions_of_its_caller():
    source = changed(step=overwrites)
    env, action = make_vector(source, 2), np.full((2, 2), 0.5, np.float32)
    env.reset(seed=0)
    env.step(action)
    np.testing.assert_array_equal(action, 0.5)
    repeated = ActionRepeat(make(source), 3)
    repeated.reset(seed=0)
    repeated.step(action[0])
    np.testing.assert_array_equal(repeated.unwrapped.seen, 0.5)


def counts_in_its_buffer(self):
    self.__dict__.setdefault("buffer", np.zeros(2, np.float32))[:] = self.moment
    return self.buffer


def test_an_environment_cannot_change_the_observations_that_it_returned():
    source = changed(look=counts_in_its_buffer)
    env = make(source)
    first, _ = env.reset(seed=0)
    env.step(env.action_space.sample())
    np.testing.assert_array_equal(first, 0.0)
    stepper = VectorStepper(make_vector(source, 2, same_step=True), Spaces.of(env))
    stepper.reset(seed=0)
    for moment in (1, 2, 3):
        step = stepper.step(np.zeros((2, 2), np.float32))
        np.testing.assert_array_equal(step.next_observation, moment)
    assert step.terminated.all()
    np.testing.assert_array_equal(stepper.raw, 0.0)


TUPLE = SPACES.Tuple((BOX(0, 9, (), np.float32), BOX(0, 9, (), np.int32)))
OTHER_TYPES = {
    "image of int64": (BOX(0, 255, (2, 2), np.uint8), np.full((2, 2), 7)),
    "integers as floats": (BOX(0, 9, (2,), np.int32), np.asarray([3.0, 4.0])),
    "list": (BOX(0, 9, (2,), np.int8), [3, 4]),
    "bools as int64": (BOX(0, 1, (2,), bool), np.asarray([0, 1])),
    "binary as floats": (SPACES.MultiBinary(2), np.asarray([0.0, 1.0])),
    "several as a list": (SPACES.MultiDiscrete([5, 5]), [3, 4]),
    "discrete int": (SPACES.Discrete(5, dtype=np.int32), 3),
    "discrete bool": (SPACES.Discrete(5), True),
    "float64": (BOX(-1.0, 1.0, (2,), np.float32), np.asarray([0.1, 0.2])),
    "dict": (SPACES.Dict({"a": BOX(0, 9, (2,), np.uint8)}), {"a": [3, 4]}),
    "tuple as a list": (TUPLE, [3, 4]),
    "tuple as an array": (TUPLE, np.asarray([3, 4])),
}


@pytest.mark.parametrize("case", OTHER_TYPES)
@pytest.mark.parametrize("count", [None, 2], ids=["single", "vector"])
def test_observations_get_the_types_of_their_space(case, count):
    space, given = OTHER_TYPES[case]
    source = changed(observation_space=space, given=given)
    if count is None:
        env = make(source)
        for observation in (env.reset(seed=0)[0], act(env)[0]):
            assert observation in space
    else:
        stepper = VectorStepper(make_vector(source, count), Spaces.of_source(source))
        stepper.reset(seed=0)
        stepper.step(stepper.env.action_space.sample())
        assert stepper.raw in stepper.env.observation_space
        first, _ = make(source).reset(seed=0)
        expected, _ = stepper.spaces.encode_observation(first)
        np.testing.assert_array_equal(stepper.observation, np.repeat(expected, count, axis=0))


def quits(self, *args, **kwargs):
    sys.exit()


def asserts(self, *args, **kwargs):
    raise AssertionError  # as a bare assert does


def test_half_precision_is_looked_at_without_a_warning():
    space = BOX(-np.inf, np.inf, (2,), np.float16)
    assert observation_fault(space, np.full(2, 6e4, np.float16), "reset") is None


FAULTS = {
    "256 in an image": (
        {"observation_space": BOX(0, 255, (2,), np.uint8), "given": np.asarray([0, 256])},
        "256.* lies outside Box",
    ),
    "half a bool": (
        {"observation_space": BOX(0, 1, (2,), bool), "given": np.asarray([0.5, 1.0])},
        r"0\.5.* lies outside Box",
    ),
    "2 as a bool": (
        {"observation_space": BOX(0, 1, (2,), bool), "given": np.asarray([2, 1])},
        "2 1.* lies outside Box",
    ),
    "large for float16": (
        {"observation_space": BOX(-np.inf, np.inf, (2,), np.float16), "given": np.full(2, 1e5)},
        "too large for float16",
    ),
    "too large": (
        {"observation_space": BOX(-np.inf, np.inf, (2,)), "given": np.asarray([0.0, -1.1e18])},
        r"a number beyond ±1e\+18 in an observation in reset, too large to be normalised",
    ),
    "ragged": ({"given": [1, [2, 3]]}, "an observation in reset that is a list and no array"),
    "complex": ({"given": np.zeros(2, complex)}, "complex128 in reset, which holds no numbers"),
    "part of a tuple": (
        {"observation_space": TUPLE, "given": np.asarray(3)},
        "without exactly the parts 0, 1",
    ),
    "several flags": (
        {"terminated": np.asarray([True, False])},
        "returned terminated as a ndarray in step 1 that is neither true nor false",
    ),
    "flags as texts": ({"terminated": "False"}, "returned terminated as a str in step 1 that is"),
    "flags in a list": ({"terminated": [False]}, "returned terminated as a list in step 1 that is"),
    "a flag of 2": ({"terminated": 2}, "returned terminated as a int in step 1 that is neither"),
    "complex reward": ({"reward": np.complex64(1 + 2j)}, r"1\+2j\) in step 1, which is no number"),
    "reward as text": ({"reward": "1.5"}, r"the reward '1\.5' in step 1, which is no number"),
    "reward as a time": ({"reward": np.timedelta64(5)}, "timedelta64.* which is no number"),
    "masked reward": ({"reward": np.ma.masked}, "the reward masked in step 1, which is no number"),
    "reset of three": (
        {"reset": lambda self, **_: (0, {}, 1)},
        r"a tuple of 3 .* \(observation, info",
    ),
    "reset alone": (
        {"reset": lambda self, **_: np.zeros(2)},
        "returned ndarray in reset, where Gym",
    ),
    "step of four": (
        {"step": lambda self, _: (self.given, 1.0, False, {})},
        r"returned a tuple of 4 in step 1, where Gymnasium expects \(observation, reward, termin",
    ),
    "step as a list": (
        {"step": lambda self, _: [self.given, 1.0, False, False, {}]},
        "returned list in step 1, where Gymnasium expects",
    ),
    "endless reward": ({"reward": 10**400}, "a reward in step 1 that no float can hold"),
    "several rewards": ({"reward": np.ones(2)}, r"the reward array\(\[1\., 1\.\]\) in step 1"),
    "no info": ({"info": None}, "an info of type NoneType in reset, where Gymnasium expects"),
    "reset quits": ({"reset": quits}, "raised SystemExit in reset; correct"),
    "step quits": ({"step": quits}, "raised SystemExit in step 1; correct"),
    "bare assert": ({"step": asserts}, "raised AssertionError in step 1; correct"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_is_one_sentence(case, assert_helpful):
    attributes, said = FAULTS[case]
    with pytest.raises(RunFailure, match=said) as raised:
        act(make(changed(**attributes)))
    assert_helpful(raised)


@pytest.mark.parametrize(
    "reward", [np.asarray([2.0]), np.asarray([[2]]), jnp.full(1, 2.0), np.float16(2.0), np.int8(2)]
)
def test_a_reward_may_be_an_array_of_one_entry(reward):
    assert act(make(changed(reward=reward)))[1] == 2.0


@pytest.mark.parametrize("flag", [1, np.bool_(True), np.asarray([True]), jnp.asarray(True)])
def test_a_flag_may_be_a_number_or_an_array_of_one_entry(flag):
    assert act(make(changed(terminated=flag)))[2] is True


def test_an_older_step_beneath_a_wrapper_is_named_as_such(assert_helpful):
    def source():
        older = changed(step=lambda self, _: (self.given, 1.0, False, {}))
        return gym.wrappers.TimeLimit(older(), 5)

    with pytest.raises(RunFailure, match=r"got 4\), where Gymnasium expects \(obs") as raised:
        act(make(source))
    assert_helpful(raised)


@pytest.mark.parametrize("attribute", [{"metadata": None}, {"spec": {"arm": 1}}, {"metadata": {}}])
def test_metadata_and_spec_may_be_missing_or_something_else(attribute):
    source = RepeatedSource(changed(render_mode="rgb_array", **attribute), 2)
    env = make(source)
    assert time_limit(env) is None and thresholds.reward_threshold(env) is None
    vector = make_vector(source, 2)
    vector.reset(seed=0)
    vector.close()
    checked = loopwm.check_env(source.source, steps=20)
    assert {one.name for one in checked.of_level(Level.ERROR)} <= {"gymnasium"}


@pytest.mark.parametrize("seed", [7, 2**31 - 2, 2**32 - 2])
def test_seeds_are_such_that_simulators_can_hold_them(seed):
    seeds = []

    def reset(self, *, seed=None, options=None):
        seeds.append(seed)
        return Plain.reset(self, seed=seed)

    vector = make_vector(changed(reset=reset), 4)
    vector.reset(seed=seed)
    assert seeds == [(seed + i) % 2**31 for i in range(4)] and len(set(seeds)) == 4
    with pytest.raises(RunFailure):
        vector.reset(seed=-1)  # Gymnasium's own refusal


def test_a_fault_in_close_is_a_warning_and_hides_nothing():
    env = make(changed(close=quits, step=asserts))
    with pytest.warns(UserWarning, match="Changed raised SystemExit in close; correct"):
        env.close()
    with pytest.raises(RunFailure, match="step 1"), pytest.warns(UserWarning, match="in close"):
        try:
            act(env)
        finally:
            env.close()


def failing(self):
    raise NotImplementedError


@pytest.mark.parametrize("space", ["observation_space", "action_space"])
@pytest.mark.parametrize("given", [None, property(failing)], ids=["none", "raises"])
def test_an_environment_without_a_space_is_refused(space, given, assert_helpful):
    with pytest.raises(UsageError, match=f"'Changed' has no {space}") as raised:
        make(changed(**{space: given}))
    assert_helpful(raised)
    source = type("Nothing", (gym.Env,), {})
    with pytest.raises(UsageError, match="has no observation_space"):
        make(source)


def test_a_module_that_ends_the_process_is_refused(tmp_path, monkeypatch, assert_helpful):
    (tmp_path / "quitting_envs.py").write_text("import sys\nsys.exit()\n")
    monkeypatch.syspath_prepend(tmp_path)
    for source in ("quitting_envs:Any-v0", lambda: sys.exit()):
        with pytest.raises(UsageError, match=r"could not be made \(SystemExit\)") as raised:
            make(source)
        assert_helpful(raised)


def test_a_function_has_to_give_the_render_mode_itself(assert_helpful):
    with pytest.raises(UsageError, match="render_mode None, not 'rgb_array'") as raised:
        make(Plain, render_mode="rgb_array")
    assert_helpful(raised)
    assert make(changed(render_mode="rgb_array"), render_mode="rgb_array").render_mode
    assert make("CartPole-v1", render_mode="rgb_array").render_mode == "rgb_array"
