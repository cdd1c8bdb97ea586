"""Random actions that are held among planned ones."""

import dataclasses
import functools
import itertools

import equinox as eqx
import jax
import numpy as np
import pytest

from loopwm.agents import RandomAgent
from loopwm.envs import Spaces
from loopwm.errors import RunFailure
from loopwm.models import Sizes, build_networks
from loopwm.run import resolve_config
from loopwm.session import Session
from loopwm.training import (
    CollectionConfig,
    Replay,
    RunFolder,
    RunTelemetry,
    Trainer,
    init_learner,
)
from loopwm.training.ez_greedy import EzGreedy

ENVS, PLANNED = 3, -1.0


class Counting:
    """Acts with the number of times that an environment was restarted, once or as a vector."""

    def __init__(self, size=None):
        self.shape = (ENVS,) if size is None else (ENVS, size)

    def initial_state(self, *, seed, batch):
        return np.zeros(batch)

    def restart(self, state, mask):
        return state + mask

    def act(self, observation, state, *, explore):
        assert explore
        return np.broadcast_to(state.reshape(-1, *[1] * (len(self.shape) - 1)), self.shape), state


def taken(steps, epsilon, hold, size=None, over=()):
    """Actions of so many steps; episodes of environment 0 begin before the steps `over`."""
    config = CollectionConfig(envs=ENVS, epsilon=epsilon, epsilon_hold=hold)
    actor = Counting(size)
    explorer = EzGreedy(config, actor, np.random.default_rng(0), seed=0)
    actions = []
    for step in range(steps):
        if step in over:
            explorer.restart(np.array([True, False, False]))
        actions.append(explorer.apply(np.zeros(ENVS), np.full(actor.shape, PLANNED)))
    return np.stack(actions)


def stretches(actions):
    """Value and length of each stretch of equal actions."""
    return [(value, len(list(same))) for value, same in itertools.groupby(actions)]


def test_without_epsilon_nothing_is_drawn_and_plans_are_followed():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    explorer = EzGreedy(CollectionConfig(envs=ENVS), Counting(), rng, seed=0)
    planned = np.full(ENVS, PLANNED)
    assert explorer.apply(np.zeros(ENVS), planned) is planned
    assert rng.bit_generator.state == before


@pytest.mark.parametrize("size", [None, 2])
def test_a_random_action_is_held_and_the_plan_is_followed_between(size):
    actions = taken(4000, 0.05, (3, 8), size)
    column = actions[:, 1] if size is None else actions[:, 1, 0]
    found = stretches(column)
    held = [length for value, length in found[:-1] if value != PLANNED]
    assert {*held} == {*range(3, 9)}
    # Every hold is at an action of its own, and a step in 20 of the others begins one.
    assert len({value for value, _ in found if value != PLANNED}) >= len(held)
    free = sum(length for value, length in found if value == PLANNED)
    assert 0.7 < len(held) / free / 0.05 < 1.4
    if size is not None:
        np.testing.assert_array_equal(actions[..., 0], actions[..., 1])


def test_durations_are_log_uniform():
    found = [n for value, n in stretches(taken(20_000, 1.0, (1, 15))[:, 2]) if value != PLANNED]
    share = [np.mean([low <= n < 2 * low for n in found]) for low in (1, 2, 4, 8)]
    np.testing.assert_allclose(share, 0.25, atol=0.03)


def test_environments_are_apart_and_an_episode_that_begins_lets_go():
    actions = taken(400, 0.05, (50, 50))
    assert np.any((actions[:, 0] == PLANNED) != (actions[:, 1] == PLANNED))
    begins = int(np.flatnonzero(actions[:, 0] != PLANNED)[0])
    assert np.all(actions[begins : begins + 50, 0] == actions[begins, 0])
    let_go = taken(400, 0.05, (50, 50), over=(begins + 10,))
    np.testing.assert_array_equal(let_go[: begins + 10], actions[: begins + 10])
    assert let_go[begins + 10, 0] == PLANNED


def trainer_of(seed, folder, monkeypatch):
    """The trainer of a run that has not begun, with shapes in the place of weights."""
    config = resolve_config(
        "Pendulum-v1", config="debug", seed=seed, overrides={"collection": {"epsilon": 1.0}}
    )
    spaces = Spaces.of_source("Pendulum-v1")
    layout = spaces.action.layout
    networks = functools.partial(
        build_networks, config.model, config.heads, Sizes(3, 1), actions=layout
    )
    state = eqx.filter_eval_shape(
        lambda key: init_learner(networks(key=key), config.learner, key=key), jax.random.key(0)
    )
    agent = RandomAgent(actions=layout, spaces=spaces)
    monkeypatch.setattr(Trainer, "_actor_of", lambda self, networks: agent)
    return Trainer(
        config,
        RunFolder(folder),
        spaces,
        state,
        Replay(30, 1, 3, 1),
        make_actor=lambda *_: agent,
        random_actors=(agent, agent),
        evaluate=lambda *_: pytest.fail("nothing is evaluated here"),
        summarise=lambda *_: {},
        threshold=None,
        telemetry=RunTelemetry(RunFolder(folder), 1, 0, quiet=True),
    )


def test_what_is_held_is_no_other_runs_random_action(tmp_path, monkeypatch):
    """Runs that differ by one in their seed are taken for independent ones."""
    seen, planned = np.zeros((1, 3), np.float32), np.zeros((1, 1), np.float32)
    one, next_one = (trainer_of(seed, tmp_path, monkeypatch) for seed in (4, 5))
    one._holds._hold = (1, 1)
    held = [float(one._holds.apply(seen, planned)[0, 0]) for _ in range(6)]
    state, random = next_one._random_state, []
    for _ in range(6):
        action, state = next_one._random[0].act(seen, state, explore=True)
        random.append(float(action[0, 0]))
    assert len({*held}) == 6 and not {*held} & {*random}


def test_an_observation_too_large_to_normalise_ends_a_run(tmp_path, monkeypatch, assert_helpful):
    trainer = trainer_of(0, tmp_path, monkeypatch)
    with pytest.raises(RunFailure, match=r"holds 1e\+20 at entry 2.*no checkpoint") as raised:
        trainer._see(np.array([[0.0, 0.0, 1e20]], np.float32))
    assert_helpful(raised)


def test_a_run_holds_random_actions_once_it_learns(tmp_path, compile_cache):
    collection = {"epsilon": 1.0, "epsilon_hold": [5, 5], "random_hold": [1, 1]}
    overrides = {"steps": 132, "collection": collection, "evaluation": {"every": 1000}}
    config = resolve_config("Pendulum-v1", config="debug", overrides=overrides)
    session = Session("Pendulum-v1", config)
    session.run(RunFolder.create(tmp_path / "run", config), resume=False, quiet=True)
    actions = session.replay.steps()[0][:, 0]
    assert len({*actions[:32]}) == 32
    held = actions[32:].reshape(20, 5)
    np.testing.assert_array_equal(held, np.repeat(held[:, :1], 5, axis=1))
    assert len({*held[:, 0]}) == 20
    # Going on is no repetition: the actions that are held then are others.
    longer = Session("Pendulum-v1", dataclasses.replace(config, steps=232))
    longer.run(RunFolder.open(tmp_path / "run"), resume=True, quiet=True)
    later = longer.replay.steps()[0][132:, 0].reshape(20, 5)
    np.testing.assert_array_equal(later, np.repeat(later[:, :1], 5, axis=1))
    assert not {*later[:, 0]} & {*held[:, 0]}
