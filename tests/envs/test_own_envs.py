"""What all of our own environments promise: Gymnasium's checker, seeds, pictures, bad input."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from loopwm.envs import make, registered
from loopwm.envs.arguments import real, sides, whole
from loopwm.envs.registration import OWN
from loopwm.errors import UsageError

SIZES = {
    "loopwm/SlidingIce-v0": ({}, {"size": (3, 5), "density": 0.4, "longest": 2}),
    "loopwm/Automaton-v0": ({}, {"length": 7, "rule": 30, "micro_steps": 1}),
    "loopwm/Dominoes-v0": ({}, {"length": 5, "density": 0.5, "longest": 2}),
    "loopwm/FloodMaze-v0": ({}, {"size": (5, 3), "wall_probability": 0.0, "targets": 2}),
    "loopwm/NLinkPendulum-v0": ({}, {"links": 1, "substeps": 1}),
}
CASES = [(name, kwargs) for name, both in SIZES.items() for kwargs in both]
IDS = [f"{name[7:-3]}-{'small' if kwargs else 'default'}" for name, kwargs in CASES]
cases = pytest.mark.parametrize(("name", "kwargs"), CASES, ids=IDS)


def play(env, seed, steps=12):
    """Observations, rewards and depths of an episode of random actions."""
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    found = [(observation, 0.0, info["true_depth"])]
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        found.append((observation, reward, info["true_depth"]))
        if terminated or truncated:
            break
    return found


def test_every_one_is_registered_and_tested_at_two_sizes():
    assert set(OWN) == set(SIZES) == {name for name in registered() if name.startswith("loopwm/")}
    for name, (_, limit) in OWN.items():
        assert gym.spec(name).max_episode_steps == limit


def test_importing_the_package_alone_registers(run_python, tmp_path):
    code = "import loopwm, gymnasium as g; print(g.make('loopwm/Dominoes-v0', length=6).unwrapped)"
    done = run_python("-c", code, cwd=tmp_path)
    assert done.returncode == 0 and "Dominoes" in done.stdout, done.stderr


@cases
def test_gymnasiums_checker_says_nothing(name, kwargs):
    env = gym.make(name, **kwargs)  # warnings are errors
    check_env(env.unwrapped)
    env.close()


@cases
def test_the_seed_decides_everything(name, kwargs):
    one, two = gym.make(name, **kwargs), gym.make(name, **kwargs)
    for seed in (0, 1):
        played = play(one, seed)
        for (a, r, d), (b, s, e) in zip(played, play(two, seed), strict=True):
            np.testing.assert_array_equal(a, b)
            assert (r, d) == (s, e) and type(d) is int and type(r) is float
    starts = {one.reset(seed=seed)[0].tobytes() for seed in range(8)}
    assert len(starts) > 4
    again = [one.reset()[0].tobytes() for _ in range(8)]  # without a seed it goes on
    assert len(set(again)) > 4


@cases
def test_guarded_observations_stay_in_their_space(name, kwargs):
    env = make(lambda: gym.make(name, **kwargs))
    for seed in range(2):
        for observation, _, _ in play(env, seed):
            assert env.observation_space.contains(observation)
            assert observation.dtype == np.float32


@cases
def test_pictures(name, kwargs):
    env = gym.make(name, render_mode="rgb_array", **kwargs)
    played = play(env, 0, steps=3)
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1
    first = played[0][0]
    if first.ndim == 3:
        assert picture.shape[:2] == (16 * first.shape[0], 16 * first.shape[1])
    text = gym.make(name, render_mode="ansi", **kwargs)
    play(text, 0, steps=3)
    lines = text.render().splitlines()
    assert len({len(line) for line in lines}) == 1
    if first.ndim == 3:
        assert (len(lines), len(lines[0])) == first.shape[:2]


def test_without_a_render_mode_nothing_is_drawn_and_it_says_so():
    env = gym.make("loopwm/Dominoes-v0").unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


@pytest.mark.parametrize(
    ("name", "kwargs", "said"),
    [
        ("SlidingIce", {"size": 1}, "size is 1"),
        ("SlidingIce", {"size": (4, 0)}, "width is 0"),
        ("SlidingIce", {"density": 1.5}, r"density is 1\.5"),
        ("SlidingIce", {"density": float("nan")}, "density is nan"),
        ("SlidingIce", {"longest": 0}, "longest slide is 0"),
        ("SlidingIce", {"step_cost": -1.0}, "step_cost is -1"),
        ("SlidingIce", {"render_mode": "human"}, "human"),
        ("Automaton", {"rule": 256}, "rule is 256"),
        ("Automaton", {"rule": True}, "rule is True"),
        ("Automaton", {"length": 2}, "length is 2"),
        ("Automaton", {"micro_steps": 0}, "micro_steps is 0"),
        ("Dominoes", {"length": 1}, "length is 1"),
        ("Dominoes", {"density": 0.0}, "density is 0"),
        ("Dominoes", {"longest": 0}, "longest chain is 0"),
        ("Dominoes", {"push_cost": 2.0}, "push_cost"),
        ("FloodMaze", {"size": 1}, "size is 1"),
        ("FloodMaze", {"wall_probability": 1.0}, "wall_probability is 1"),
        ("FloodMaze", {"size": 2, "targets": 4}, "targets is 4"),
        ("NLinkPendulum", {"links": 0}, "links is 0"),
        ("NLinkPendulum", {"links": 9}, "links is 9"),
        ("NLinkPendulum", {"substeps": 0}, "substeps is 0"),
        ("NLinkPendulum", {"time_step": 1.0}, "time_step is 1"),
        ("NLinkPendulum", {"speed_limit": 0.0}, "speed_limit is 0"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*render mode:UserWarning")
def test_bad_arguments_are_refused(name, kwargs, said, assert_helpful):
    with pytest.raises(UsageError, match=said) as raised:
        make(lambda: gym.make(f"loopwm/{name}-v0", disable_env_checker=True, **kwargs))
    assert_helpful(raised)


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("SlidingIce", 4),
        ("SlidingIce", -1),
        ("Automaton", 25),
        ("Dominoes", 32),
        ("Dominoes", 1.5),
        ("FloodMaze", 68),
        ("NLinkPendulum", [0.0, np.nan]),
        ("NLinkPendulum", [0.0]),
    ],
)
def test_bad_actions_are_refused(name, action, assert_helpful):
    env = gym.make(f"loopwm/{name}-v0").unwrapped
    env.reset(seed=0)
    with pytest.raises(UsageError, match="The action is") as raised:
        env.step(action)
    assert_helpful(raised)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: sides((4, 4, 3)), "3 entries"),
        (lambda: sides(4.5), r"size is 4\.5"),
        (lambda: whole("The rule", "life", 0, 255), "rule is life"),
        (lambda: whole("links", None, 1), "links is None"),
        (lambda: real("strength", "strong", 0.0, 2.0), "strength is strong"),
    ],
)
def test_arguments_of_another_kind_are_refused(call, said, assert_helpful):
    with pytest.raises(UsageError, match=said) as raised:
        call()
    assert_helpful(raised)


def test_numbers_of_numpy_are_taken():
    assert whole("links", np.int64(3), 1) == 3 and real("cost", np.float32(0.5), 0.0, 1.0) == 0.5
    assert sides([np.int32(2), 5]) == (2, 5) and sides(3) == (3, 3)
