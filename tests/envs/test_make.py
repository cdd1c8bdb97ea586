"""Making environments, and the faults that the guard turns into a sentence."""

import functools
import pathlib
import re

import broken_envs
import gymnasium as gym
import numpy as np
import pytest
import toy_envs

from loopwm.envs import (
    Spaces,
    env_name,
    is_known,
    make,
    make_vector,
    recorded_name,
    registered,
    thresholds,
)
from loopwm.envs.make import check_source
from loopwm.errors import RunFailure, UsageError


@pytest.mark.parametrize(
    ("source", "named", "remedy"),
    [
        ("CartPoleX-v1", "CartPoleX-v1", "loopwm envs"),
        ("CartPole-v9", "CartPole-v9", "loopwm envs"),
        ("nobody/Nothing-v0", "nobody/Nothing-v0", "module:Id"),
        ("no_such_module:Env-v0", "no_such_module", "install"),
        ("toy_envs:Unknown-v0", "Unknown-v0", "loopwm envs"),
        ("unimportable_envs:Nothing-v0", "zero", "correct"),
        ("broken_envs:Extra-v0", "mujoco", 'pip install "loopwm[mujoco]"'),
        ("broken_envs:Constructor-v0", "licence server does not answer", "correct"),
        ("", "''", "loopwm envs"),
        (":", "':'", "loopwm envs"),
    ],
)
def test_what_cannot_be_made_is_refused(source, named, remedy, tmp_path, monkeypatch):
    (tmp_path / "unimportable_envs.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError) as raised:
        make(source)
    assert named in str(raised.value) and remedy in str(raised.value)
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


def test_a_missing_package_is_named_with_its_remedy(assert_helpful):
    def needs_box2d():
        raise gym.error.DependencyNotInstalled("Box2D is not installed.\nRun pip install swig")

    with pytest.raises(UsageError, match="Box2D is not installed") as raised:
        make(needs_box2d)
    assert_helpful(raised)


def test_a_function_that_makes_something_else_is_refused(assert_helpful):
    with pytest.raises(UsageError, match="dict") as raised:
        make(dict)
    assert_helpful(raised)


@pytest.mark.parametrize("given", [gym.make("CartPole-v1"), None, 5], ids=["env", "None", "5"])
def test_what_is_no_function_is_refused(given, assert_helpful):
    with pytest.raises(UsageError, match="is no function that makes an env") as raised:
        check_source(given)
    assert_helpful(raised)


class Pendulum(toy_envs.Corridor):
    """Has the name of one of Gymnasium's."""


def test_what_a_run_calls_its_environment():
    assert recorded_name("CartPole") == "CartPole-v1" and recorded_name("Nope") == "Nope"
    assert recorded_name("loopwm/Dominoes") == "loopwm/Dominoes-v0"
    names = ["CartPole-v1", "loopwm/SlidingIce-v0", "no_such_module:Env-v0"]
    assert all(map(is_known, names)) and list(map(recorded_name, names)) == names
    for source, name in (
        (toy_envs.Corridor, "Corridor"),
        (functools.partial(toy_envs.Marker, kind="grid"), "Marker"),
        (lambda: Pendulum(), "<lambda>"),
        (Pendulum, "Pendulum"),
    ):
        assert recorded_name(source) == name and not is_known(name)
    assert not any(map(is_known, ["CartPole-v9", "Docking-v0", "", "<f at 0x7f: x>", "a b"]))


def test_what_sentences_and_guides_name_of_gymnasium_exists():
    root = pathlib.Path(__file__).parents[2]
    named = set()
    for path in [*(root / "loopwm").glob("**/*.py"), *(root / "envs").glob("**/*.py")]:
        named |= set(re.findall(r"gymnasium\.(wrappers|spaces)\.(\w+)", path.read_text("utf-8")))
    for path in (root / "README.md", *(root / "docs").glob("*.md")):
        text = path.read_text("utf-8")
        named |= set(re.findall(r"\b(?:gym|gymnasium)\.(wrappers|spaces)\.(\w+)", text))
    assert {("wrappers", "TimeLimit"), ("wrappers", "TransformReward")} <= named
    for package, name in named:
        assert hasattr(getattr(gym, package), name), (package, name)


def test_the_wrappers_are_called_as_sentences_say():
    env = gym.make("Pendulum-v1")
    gym.wrappers.TransformReward(env, lambda r: 1e-07 * r)
    gym.wrappers.TransformObservation(env, lambda o: o, env.observation_space)
    gym.wrappers.TransformAction(env, lambda a: a, env.action_space)
    gym.wrappers.TimeLimit(env, max_episode_steps=5)


def test_functions_and_ids_make_guarded_environments():
    for source in ("toy_envs:Corridor-v0", toy_envs.Corridor):
        env = make(source)
        assert env.reset(seed=0)[0] == 3
        assert env.step(2)[:4] == (4, 0.0, False, False)
        env.close()
    assert env_name(toy_envs.Corridor) == "Corridor" and env_name("A-v0") == "A-v0"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("reset", "OSError in reset: no such simulator"),
        ("old reset", "reset"),
        ("step", "ValueError in step 3: the arm hit the table"),
        ("old step", "in step 1"),
        ("NaN", "NaN or infinity in an observation in step 3"),
        ("huge observation", "observation in step 3"),
        ("shape", r"shape \(5,\) in step 3.*\(4,\)"),
        ("nothing", "observation .*in step 3"),
        ("text", "observation .*in step 3"),
        ("infinite reward", "reward inf in step 3"),
        ("huge reward", r"reward 1e\+300 in step 3"),
        ("large reward", r"reward -3e\+07 in step 3.* 1e-08 \* r"),
        ("leaves", "observation .* 40.* in step 3, which lies outside Box"),
        ("text reward", "reward 'many' in step 3"),
        ("missing reward", "reward None in step 3"),
    ],
)
@pytest.mark.parametrize("count", [None, 2], ids=["single", "vector"])
def test_each_fault_is_one_sentence(fault, said, count):
    def source():
        return broken_envs.Faulty(fault, at=3)

    env = make(source) if count is None else make_vector(source, count)
    with pytest.raises(RunFailure, match=said) as raised:
        env.reset(seed=0)
        for _ in range(3):
            env.step(0 if count is None else np.zeros(count, int))
    assert "source" in str(raised.value)  # the environment's name
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")
    env.close()


def test_an_observation_outside_a_discrete_space_is_a_fault(assert_helpful):
    env = make(broken_envs.Outside)
    env.reset(seed=0)
    with pytest.raises(RunFailure, match="observation 3 in step 1") as raised:
        env.step(0)
    assert_helpful(raised)


def test_nothing_is_changed_on_the_way():
    env, plain = make("CartPole-v1"), gym.make("CartPole-v1")
    np.testing.assert_array_equal(env.reset(seed=4)[0], plain.reset(seed=4)[0])
    for action in (0, 1, 1, 0):
        for one, other in zip(env.step(action), plain.step(action), strict=True):
            np.testing.assert_array_equal(one, other)


def test_spaces_of_a_source():
    spaces = Spaces.of_source("toy_envs:Paddle-v0")
    assert (spaces.observation.size, spaces.action.size) == (3, 1)
    with pytest.raises(UsageError, match="Dict"):
        Spaces.of_source("broken_envs:DictAction-v0")


def test_registered_lists_gymnasiums_environments():
    names = registered()
    assert "CartPole-v1" in names and names == sorted(names)


@pytest.mark.parametrize(
    ("source", "threshold"),
    [("CartPole-v1", 475.0), ("Pendulum-v1", -200.0), ("toy_envs:Corridor-v0", None)],
)
def test_thresholds(source, threshold):
    assert thresholds.reward_threshold(make(source)) == threshold


def test_an_environment_without_a_spec_has_no_threshold():
    assert thresholds.reward_threshold(make(toy_envs.Corridor)) is None
