"""Imagination beside reality: models that imagine exactly, and models that do not."""

import dataclasses
import html
import re

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest
import toy_envs
from known_depth import Loopless
from known_dynamics import Cart, ExactCart, ExactTicker, Ticker, policy_agent

from loopwm.agents import PlanningAgent
from loopwm.envs import Spaces
from loopwm.errors import RunFailure, UsageError
from loopwm.evaluation import pictures, watch, watched_sections
from loopwm.evaluation.observation_parts import Frames, Series, split
from loopwm.planning import RandomShootingConfig
from loopwm.training import Candidates

FINE = {"rtol": 1e-4, "atol": 1e-4}


def text(page):
    return html.unescape(re.sub(r'src="[^"]*"', "", page))


def test_an_exact_model_imagines_what_happens():
    watched = watch(policy_agent(ExactCart(), Cart), Cart, reward_scale=8.0, seed=3)
    found, episode = watched.imagination, watched.imagination.episode
    assert len(episode.action) == 4 and episode.terminated and not episode.truncated
    assert episode.seed == 3 and watched.candidates is None and watched.env_steps is None
    np.testing.assert_allclose(found.observation, episode.observation[1:], **FINE)
    np.testing.assert_allclose(found.reward, episode.reward, **FINE)
    np.testing.assert_allclose(found.continuation, [1.0, 1.0, 1.0, 0.0], **FINE)
    np.testing.assert_allclose(found.error, 0.0, atol=1e-4)
    # The speed stays and the place moves by 1 a step, so half of the entries are off by k.
    np.testing.assert_allclose(found.unmoved, np.arange(1, 5) / np.sqrt(2.0), **FINE)
    assert watched.scalars() == {"imagination/error_1": pytest.approx(0.0, abs=1e-4)}


def test_errors_add_up_as_the_model_sees_no_further_observation():
    agent = policy_agent(ExactCart(drift=0.5, goal=np.inf), Cart)

    def endless():
        return Cart(speed=0.125, goal=np.inf)

    watched = watch(agent, endless, steps=20)
    assert not watched.imagination.episode.terminated
    expected = 0.5 * np.arange(1, 21) / np.sqrt(2.0)
    # Normalised entries of the real observation lie within their clip.
    np.testing.assert_allclose(watched.imagination.error, expected, **FINE)
    scalars = watched.scalars()
    assert list(scalars) == [f"imagination/error_{k}" for k in (1, 5, 20)]
    assert scalars["imagination/error_20"] == pytest.approx(expected[19], rel=1e-4)


def test_a_model_that_changes_nothing_is_off_as_the_first_observation_is():
    found = watch(policy_agent(Loopless(), Cart), Cart).imagination
    np.testing.assert_allclose(found.error, found.unmoved, **FINE)
    np.testing.assert_allclose(found.continuation, 0.5)


def test_longer_than_usual():
    agent = policy_agent(ExactCart(goal=np.inf), Cart)
    found = watch(agent, lambda: Cart(speed=0.0625, goal=np.inf), steps=70).imagination
    assert len(found.error) == 70 and found.error.max() < 1e-4


def test_the_page_says_what_is_shown():
    codec = Spaces.of_source(Cart).observation
    watched = watch(policy_agent(ExactCart(), Cart), Cart, seed=3, env_steps=250)
    page = watched_sections(watched, codec)
    assert page.count("<img") == 1 and not re.search(r'src="(?!data:)', page)
    said = text(page)
    assert "Imagination beside reality" in said and "What the planner weighed" not in said
    assert "at env step 250" in said and "seed 3" in said and "first 4 env step(s)" in said
    assert "with which its task ended" in said and "guarantees nothing" in said
    assert "after 1 step(s)" in said and "after 5 step(s)" not in said
    assert "all 2 entries of the observation, in the environment's units" in said
    (drawn,) = pictures(watched, codec).items()
    assert drawn[0] == "imagination/curves" and drawn[1].dtype == np.uint8
    assert drawn[1].shape[2] == 3 and np.ptp(drawn[1]) > 0


def test_pictures_are_a_strip():
    codec = Spaces.of_source(Ticker).observation
    watched = watch(policy_agent(ExactTicker(), Ticker), Ticker, steps=12)
    found = watched.imagination
    assert found.episode.observation.dtype == np.uint8
    np.testing.assert_allclose(found.observation, found.episode.observation[1:], atol=1e-2)
    np.testing.assert_allclose(found.error, 0.0, atol=1e-5)
    (frames,) = split(codec, found.episode.observation[1:], found.observation)
    assert isinstance(frames, Frames) and frames.real.shape == (12, 16, 17, 3)
    wanted = found.episode.observation[1:].reshape(12, 16, 17, 3) / 255.0
    np.testing.assert_allclose(frames.real, wanted, atol=1e-6)
    np.testing.assert_allclose(frames.imagined, wanted, atol=1e-4)
    assert set(pictures(watched, codec)) == {"imagination/curves", "imagination/frames"}
    page = watched_sections(watched, codec)
    assert page.count("<img") == 2 and "at 8 steps at most" in page


def seen(source, actions):
    """Encoded observations of an episode, and its codec."""
    env, spaces = gym.make(source), Spaces.of_source(source)
    env.reset(seed=0)
    rows = [spaces.encode_observation(env.step(action)[0])[0][0] for action in actions]
    return spaces.observation, np.stack(rows), env.unwrapped


def test_the_parts_of_a_dictionary():
    codec, rows, board = seen("toy_envs:Marker-parts-v0", [0, 1])
    pieces = {piece.name: piece for piece in split(codec, rows, rows + 0.01)}
    kinds = {name: type(piece) for name, piece in pieces.items()}
    assert kinds == {
        "o['inner']['picture']": Frames,
        "o['inner']['values']": Frames,
        "o['moves'][0]": Series,
        "o['row']": Series,
        "o['two'][0][0]": Series,
        "o['two'][0][1]": Series,
        "o['two'][1]": Frames,
    }
    moves, row = pieces["o['moves'][0]"], pieces["o['row']"]
    np.testing.assert_allclose(moves.real, [1.0, 2.0])
    np.testing.assert_allclose(moves.imagined, [1.01, 2.01])
    assert row.real[-1] == row.imagined[-1] == board.at[0]  # a value, not one-hot
    values = pieces["o['inner']['values']"].real[-1]
    np.testing.assert_allclose(values, np.repeat(board.show("values")[..., None] / 2.0, 3, -1))
    # A hue for each channel of the grid: the marker red, the goal cyan.
    assert tuple(pieces["o['two'][1]"].real[-1][tuple(board.at)])[0] == 1.0


@pytest.mark.parametrize(
    ("source", "kinds"),
    [
        ("toy_envs:Corridor-v0", [Series]),
        ("toy_envs:Paddle-v0", [Series] * 3),
        ("toy_envs:Marker-values-v0", [Frames]),
        ("toy_envs:Marker-grid-v0", [Frames]),
        ("space_envs:scalar-box-v0", [Series]),
        ("space_envs:multi_discrete-box-v0", [Frames]),
        ("space_envs:multi_binary-box-v0", [Frames]),
        ("space_envs:frames-box-v0", [Frames]),
        ("space_envs:coloured_frames-box-v0", [Frames]),
        ("space_envs:tuple-box-v0", [Frames, Series, Frames, Series]),
    ],
    ids=lambda x: x.split(":")[-1] if isinstance(x, str) else "",
)
def test_every_kind_of_observation_can_be_looked_at(source, kinds):
    space = gym.make(source).observation_space
    space.seed(0)
    spaces = Spaces.of_source(source)
    rows = spaces.observation.encode(spaces.observation.batch([space.sample() for _ in range(4)]))
    pieces = split(spaces.observation, rows, rows)
    assert sorted(map(str, map(type, pieces))) == sorted(map(str, kinds))
    for piece in pieces:
        assert np.all(np.isfinite(piece.real))
        np.testing.assert_array_equal(piece.real, piece.imagined)


def test_of_stacked_frames_the_newest_is_shown(rng):
    spaces = Spaces.of_source("space_envs:frames-box-v0")
    given = rng.integers(0, 256, (1, 4, 16, 17), np.uint8)
    rows = spaces.observation.encode(given)
    (frames,) = split(spaces.observation, rows, rows)
    np.testing.assert_allclose(frames.real[0, ..., 0], given[0, -1] / 255.0, atol=1e-6)


class Diverging(ExactCart):
    """After the first step no number is finite."""

    def transition(self, z, u, rule=None):
        """Infinite, and then NaN."""
        return Loopless.transition(self, jnp.where(z > 0.0, jnp.inf, jnp.nan), u, rule)


def test_a_model_that_diverges_is_shown_all_the_same():
    codec = Spaces.of_source(Cart).observation
    watched = watch(policy_agent(Diverging(), Cart), Cart)
    assert not np.isfinite(watched.imagination.error).any()
    assert "From step 1 on it is not finite." in watched_sections(watched, codec)
    assert pictures(watched, codec)


def test_names_that_look_like_something_else():
    class Odd(toy_envs.Corridor):
        observation_space = gym.spaces.Dict({"a$b$<\n字": gym.spaces.Discrete(3)})

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return {"a$b$<\n字": np.int64(0)}, {}

        def step(self, action):
            return {"a$b$<\n字": np.int64(1)}, 0.0, True, False, {}

    codec = Spaces.of_source(Odd).observation
    watched = watch(policy_agent(Loopless(latent=3), Odd), Odd)
    assert watched_sections(watched, codec)


def candidates(iterations):
    values = np.linspace(0.1, 0.3, iterations)
    return Candidates(best=values + 0.2, mean=values, spread=0.1 - 0.2 * values, decisions=7)


def test_what_the_planner_weighed():
    codec = Spaces.of_source(Cart).observation
    alone = watch(policy_agent(ExactCart(), Cart), Cart, env_steps=9)
    watched = dataclasses.replace(alone, candidates=candidates(3))
    tags = {f"planner/{n}_{at}" for n in ("best", "mean", "spread") for at in ("first", "last")}
    assert set(watched.scalars()) == tags | {"imagination/error_1"}
    assert watched.scalars()["planner/best_last"] == pytest.approx(0.5)
    assert "planner/candidates" in pictures(watched, codec)
    page = watched_sections(watched, codec)
    assert page.count("<img") == 2 and "<h2>What the planner weighed</h2>" in page
    said = text(page)
    assert "over 7 decision(s) of the agent at env step 9" in said and "3 iteration(s)" in said
    assert "best 0.3 to 0.5, mean 0.1 to 0.3, standard deviation 0.08 to 0.04" in said


def test_a_planner_with_one_iteration_has_no_curve():
    codec = Spaces.of_source(Cart).observation
    agent = policy_agent(ExactCart(), Cart)
    planner = RandomShootingConfig(horizon=2, population=8, elites=2).build(
        agent.spaces.action.layout
    )
    planning = PlanningAgent(
        networks=agent.networks,
        normalizer=agent.normalizer,
        planner=planner,
        discount=0.9,
        spaces=agent.spaces,
    )
    watched = watch(planning, Cart, envs=2)
    weighed = watched.candidates
    assert weighed is not None and weighed.best.shape == (1,) and weighed.best >= weighed.mean
    assert 4 <= weighed.decisions <= 8
    assert {tag for tag in watched.scalars() if tag.startswith("planner/")} == {
        "planner/best_last",
        "planner/mean_last",
        "planner/spread_last",
    }
    page = watched_sections(watched, codec)
    assert page.count("<img") == 1 and "A decision has 1 iteration(s). It is: best" in page
    assert "planner/candidates" not in pictures(watched, codec)


@pytest.mark.parametrize("sizes", [{"envs": 0}, {"steps": 0}])
def test_nothing_to_watch_is_refused(sizes, assert_helpful):
    with pytest.raises(UsageError) as raised:
        watch(policy_agent(ExactCart(), Cart), Cart, **sizes)
    assert_helpful(raised)


def test_a_failure_of_the_environment_is_passed_on():
    class Broken(Cart):
        def step(self, action):
            raise ValueError("jammed")

    with pytest.raises(RunFailure, match="jammed"):
        watch(policy_agent(ExactCart(), Cart), Broken)
