"""The three agents behind one interface."""

import dataclasses

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import loopwm
from loopwm.agents import PlanningAgent, PolicyAgent, RandomAgent
from loopwm.envs import Spaces
from loopwm.errors import UsageError
from loopwm.planning import Bonus

ENVS = ("CartPole-v1", "Pendulum-v1")
KINDS = ("planning", "policy", "random")


@pytest.fixture(params=[(env, kind) for env in ENVS for kind in KINDS], ids="-".join)
def case(request, cartpole_run, pendulum_run):
    """Environment id, kind, the agent as training left it, and the run's folder."""
    env, kind = request.param
    run = {"CartPole-v1": cartpole_run, "Pendulum-v1": pendulum_run}[env]
    trained = run.agent
    if kind == "planning":
        return env, kind, trained, run.path
    spaces = Spaces.of_source(env)
    if kind == "policy":
        agent = PolicyAgent(networks=trained.networks, normalizer=trained.normalizer, spaces=spaces)
    else:
        agent = RandomAgent(actions=spaces.action.layout, spaces=spaces)
    return env, kind, agent, run.path


def observations(env, count=2):
    made = gym.make(env)
    found = np.stack([made.reset(seed=seed)[0] for seed in range(count)])
    made.close()
    return found


def action_space(env):
    return gym.make(env).action_space


def same(one, two):
    flat = [jax.tree.leaves(jax.tree.map(_plain, tree)) for tree in (one, two)]
    assert len(flat[0]) == len(flat[1])
    return all(np.array_equal(a, b) for a, b in zip(*flat, strict=True))


def _plain(leaf):
    key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if key else leaf)


def test_acts_on_one_observation(case):
    env, _, agent, _ = case
    action, state = agent.act(observations(env)[0])
    assert action_space(env).contains(action)
    assert np.asarray(action).dtype == action_space(env).dtype
    again, _ = agent.act(observations(env)[0], None)
    np.testing.assert_array_equal(action, again)
    following, _ = agent.act(observations(env)[1], state)
    assert action_space(env).contains(following)


def test_acts_on_a_batch(case):
    env, kind, agent, _ = case
    state = agent.initial_state(seed=3, batch=2)
    actions, following = agent.act(observations(env), state)
    assert actions.shape == (2, *action_space(env).shape)
    assert all(action_space(env).contains(action) for action in actions)
    assert following.stats.loops.shape == (2,) and np.all(np.asarray(following.stats.finite))
    loops = np.asarray(following.stats.loops)
    np.testing.assert_array_equal(loops, 2.0 if kind == "planning" else 0.0)
    bound = np.asarray(following.stats.bound)
    assert np.all(bound > 0) and np.all(np.isfinite(bound) == (kind == "planning"))


def test_a_decision_holds_the_bound_of_its_own_transition(pendulum_run):
    agent, seen = pendulum_run.agent, observations("Pendulum-v1")
    action, state = agent.act(seen, agent.initial_state(seed=3, batch=2), explore=False)
    for number in range(2):
        z = agent.world_model.encode(agent.normalizer(jnp.asarray(seen[number])))
        u = jnp.asarray(action[number]) / 2.0  # torques of up to 2 are encoded as [−1, 1]
        taken = agent.world_model.transition(z, u)
        np.testing.assert_allclose(state.stats.bound[number], taken.stats.error_bound, rtol=1e-3)


def test_a_bonus_counts_while_exploring_alone(pendulum_run):
    plain, seen = pendulum_run.agent, observations("Pendulum-v1")
    curious = dataclasses.replace(plain, bonus=Bonus.RESIDUAL, bonus_weight=10.0)
    start = plain.initial_state(seed=3, batch=2)
    for explore in (False, True):
        found = [agent.act(seen, start, explore=explore)[1] for agent in (plain, curious)]
        scores = [np.asarray(state.stats.score) for state in found]
        if explore:
            assert np.all(scores[1] > scores[0])
        else:
            np.testing.assert_allclose(*scores, rtol=1e-4)


def test_a_decision_holds_the_returns_of_its_candidates(case):
    env, kind, agent, _ = case
    _, state = agent.act(observations(env), agent.initial_state(batch=2))
    returns = state.stats.returns
    if kind != "planning":
        assert returns is None
        return
    assert returns.best.shape == returns.mean.shape == returns.spread.shape == (2, 2)
    np.testing.assert_array_equal(returns.best[:, -1], state.stats.score)
    assert np.all(returns.mean <= returns.best) and np.all(np.asarray(returns.spread) > 0.0)


@pytest.mark.parametrize("explore", [False, True])
def test_the_same_state_gives_the_same_action(case, explore):
    env, _, agent, _ = case
    state = agent.initial_state(seed=3, batch=2)
    first, second = (agent.act(observations(env), state, explore=explore) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    assert same(first[1], second[1])
    assert not same(first[1].key, state.key)


def test_exploration_varies_the_action(case):
    env, kind, agent, _ = case
    state = agent.initial_state(seed=0, batch=2)
    found = {False: set(), True: set()}
    for explore, actions in found.items():
        for _ in range(20):
            cold = agent.restart(state, np.ones(2, bool))
            action, state = agent.act(observations(env), cold, explore=explore)
            actions.add(float(np.ravel(action[0])[0]))
    assert len(found[True]) > 1
    if kind == "policy":
        assert len(found[False]) == 1  # the most likely action needs no randomness


def test_restart_changes_only_the_masked_environments(case):
    env, kind, agent, _ = case
    cold = agent.initial_state(seed=1, batch=2)
    _, warm = agent.act(observations(env), cold)
    assert same(agent.restart(warm, np.zeros(2, bool)), warm)
    half = agent.restart(warm, np.asarray([True, False]))
    assert same((half.key, half.stats), (warm.key, warm.stats))
    if kind == "planning":
        assert not np.array_equal(warm.memory[0], cold.memory[0])  # plans are warm-started
        np.testing.assert_array_equal(half.memory[0], cold.memory[0])
        np.testing.assert_array_equal(half.memory[1], warm.memory[1])
    elif kind == "random":
        assert np.asarray(half.memory.left)[0] == 0  # a new action is drawn
        np.testing.assert_array_equal(half.memory.action[1], warm.memory.action[1])
    else:
        assert half.memory is None


def test_other_observations_are_refused(case, assert_helpful):
    env, _, agent, _ = case
    for wrong in (np.zeros(7), np.zeros((2, 7)), np.zeros((2, 2, 2, 2)), 0.0):
        with pytest.raises(UsageError, match="shape") as raised:
            agent.act(wrong)
        assert_helpful(raised)


def test_a_state_of_another_batch_is_refused(case, assert_helpful):
    env, _, agent, _ = case
    with pytest.raises(UsageError, match="initial_state") as raised:
        agent.act(observations(env), agent.initial_state(batch=1))
    assert_helpful(raised)


def test_a_mask_of_other_environments_is_refused(assert_helpful):
    spaces = Spaces.of_source("Pendulum-v1")
    agent = RandomAgent(spaces.action.layout, spaces)
    for mask in (np.ones(3, bool), np.zeros(1, bool), np.ones((2, 1), bool)):
        with pytest.raises(UsageError, match="of 2 environments") as raised:
            agent.restart(agent.initial_state(batch=2), mask)
        assert_helpful(raised)


def test_saved_and_loaded_it_does_the_same(case):
    env, kind, agent, path = case
    if kind == "random":  # it has nothing to save but its sizes
        spaces = Spaces.of_source(env)
        loaded = RandomAgent(agent.actions, spaces)
    else:
        loaded = loopwm.load(path, planner="policy" if kind == "policy" else None)
    assert type(loaded) is type(agent)
    state = agent.initial_state(seed=5, batch=2)
    own, other = (a.act(observations(env), state, explore=True) for a in (agent, loaded))
    np.testing.assert_array_equal(own[0], other[0])
    assert same(own[1], other[1])
    if kind != "random":
        assert same(agent.networks, loaded.networks)
        assert same(agent.normalizer, loaded.normalizer)


def test_random_actions_are_uniform():
    for env in ENVS:
        spaces = Spaces.of_source(env)
        agent = RandomAgent(spaces.action.layout, spaces)
        state = agent.initial_state(batch=4000)
        actions, _ = agent.act(np.repeat(observations(env, 1), 4000, 0), state)
        low, high = (0, 2) if spaces.action.layout.discrete else (-2.0, 2.0)
        counts, _ = np.histogram(
            actions, bins=2 if spaces.action.layout.discrete else 8, range=(low, high)
        )
        assert counts.min() > 0.8 * 4000 / len(counts) and counts.sum() == 4000


@pytest.mark.parametrize("hold", [(1, 1), (1, 8), (3, 8)])
def test_random_actions_are_held(hold):
    spaces = Spaces.of_source("Pendulum-v1")
    agent = RandomAgent(actions=spaces.action.layout, spaces=spaces, hold=hold)
    state, taken = agent.initial_state(seed=2, batch=100), []
    for _ in range(40):
        action, state = agent.act(np.zeros((100, 3), np.float32), state)
        taken.append(np.asarray(action)[:, 0])
    changes = np.diff(np.stack(taken), axis=0) != 0.0
    lengths = np.concatenate([np.diff(np.flatnonzero(column)) for column in changes.T])
    assert (lengths.min(), lengths.max()) == hold
    if hold == (1, 8):  # log-uniform: the share of n is log((n + 1) / n) / log 9
        shares = np.bincount(lengths, minlength=9)[1:] / len(lengths)
        expected = np.diff(np.log(np.arange(1, 10))) / np.log(9.0)
        # Long ones are cut by the end of the 40 steps a little more often.
        np.testing.assert_allclose(shares, expected, atol=0.05)


def test_the_world_model_can_be_reached(cartpole_run):
    policy = loopwm.load(cartpole_run.path, planner="policy")
    assert isinstance(cartpole_run.agent, PlanningAgent)
    for agent in (cartpole_run.agent, policy):
        certificate = loopwm.certify(agent.world_model.core)
        assert certificate.level == "global" and 0.0 < certificate.rate < 1.0
