"""Supervised open-loop training: losses by hand, and both ways to decode."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.core import ConvolutionConfig, CoreConfig, FixedDepth
from loopwm.errors import UsageError
from loopwm.models import LoopedConfig, Sizes
from loopwm.stability import Mode
from loopwm.training import (
    AbstractOpenLoop,
    Curriculum,
    Decoding,
    DeferredConfig,
    OpenLoopGrid,
    OpenLoopWorldModel,
    SupervisedConfig,
    Trajectories,
    predict,
    train_open_loop,
)
from loopwm.training.supervised import _rates, open_loop_loss, roll


class Adding(AbstractOpenLoop):
    """z_{k+1} = z_k + gain · u_k, read and written as it is."""

    gain: jax.Array

    def encode(self, observation):
        return observation

    def bind(self, action):
        return self.gain * action

    def advance(self, z, bound):
        return z + bound

    def decode(self, z):
        return 10.0 * z


def difference(prediction, observation):
    return jnp.sum(jnp.abs(prediction - 10.0 * observation))


@pytest.mark.parametrize(
    "decoding, steps, expected",
    [
        # z = 2, 4, 6 against o = 1, 3, 4.
        (Decoding.EACH_STEP, 3, 10 * (1 + 1 + 2) / 3),
        (Decoding.EACH_STEP, 1, 10.0),
        # 20, α = .5 times (1 + 1 + 4)/3, β = .1 times 2 + 2 + 2 − 3·1.5.
        (Decoding.DEFERRED, 3, 20 + 0.5 * 2.0 + 0.1 * 1.5),
        (Decoding.DEFERRED, 2, 10 + 0.5 * 1.0 + 0.1 * 1.0),
    ],
)
def test_losses_by_hand(decoding, steps, expected):
    config = SupervisedConfig(
        decoding=decoding,
        horizon=DeferredConfig(steps=3, movement_weight=0.1, movement_limit=1.5),
        consistency_weight=0.5,
    )
    observation = jnp.asarray([[0.0], [1.0], [3.0], [4.0]])
    found = open_loop_loss(
        Adding(jnp.asarray(2.0)),
        observation,
        jnp.ones((3, 1)),
        jnp.asarray(steps),
        config,
        difference,
    )
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_deferred_prediction_is_the_last_of_each_step():
    model, rng = Adding(jnp.asarray(0.5)), np.random.default_rng(0)
    first = jnp.asarray(rng.normal(size=(4, 1)), jnp.float32)
    action = jnp.asarray(rng.normal(size=(4, 3, 1)), jnp.float32)
    each = predict(model, first, action, Decoding.EACH_STEP)
    last = predict(model, first, action, Decoding.DEFERRED)
    np.testing.assert_allclose(each, 10 * (first[:, None] + 0.5 * jnp.cumsum(action, 1)), rtol=1e-5)
    np.testing.assert_allclose(last, each[:, -1], rtol=1e-6)


@pytest.mark.parametrize("decoding", list(Decoding))
def test_training_finds_the_gain(decoding):
    rng = np.random.default_rng(0)
    action = jnp.asarray(rng.normal(size=(64, 3, 1)), jnp.float32)
    states = jnp.concatenate([jnp.zeros((64, 1, 1)), 0.7 * jnp.cumsum(action, 1)], axis=1)
    config = SupervisedConfig(
        decoding=decoding,
        horizon=DeferredConfig(steps=3, curriculum=Curriculum.LINEAR, ramp=50),
        updates=150,
        batch_size=32,
        learning_rate=3e-2,
    )
    fresh = Adding(jnp.asarray(0.0))
    trained = train_open_loop(
        fresh, Trajectories(states, action), config, difference, key=jax.random.key(0)
    )
    assert float(trained.model.gain) == pytest.approx(0.7, abs=0.05)
    assert float(fresh.gain) == 0.0
    assert trained.cpu_seconds > 0.0 and np.isfinite(trained.loss)


def test_trainings_that_differ_in_rate_and_length_are_one_program(compile_cache):
    data = Trajectories(jnp.zeros((4, 4, 1)), jnp.ones((4, 3, 1)))
    config = SupervisedConfig(horizon=DeferredConfig(steps=3), batch_size=2, updates=2)
    compiled = []
    for changes in ({}, {"learning_rate": 1e-3, "updates": 5}, {"gradient_clip": 0.5}):
        given = dataclasses.replace(config, **changes)
        fresh = Adding(jnp.asarray(0.0))
        train_open_loop(fresh, data, given, difference, key=jax.random.key(len(compiled)))
        compiled.append({path.name for path in compile_cache.glob("jit_update-*-cache")})
    assert compiled[0] and compiled[1] == compiled[0] and compiled[2] > compiled[0]


def test_the_rate_warms_up_and_decays():
    assert _rates(SupervisedConfig(updates=1, learning_rate=1e-2)) == np.float32(1e-2)
    rates = _rates(SupervisedConfig(updates=150, learning_rate=1e-2))
    assert rates[[0, 25, 50]] == pytest.approx([0.0, 5e-3, 1e-2])
    # Half of the way between the largest and 2 % of it, and nearly there.
    assert rates[100] == pytest.approx(5.1e-3, rel=0.05)
    assert 2e-4 <= rates[-1] < 3e-4


def grid(key):
    config = ConvolutionConfig(
        channels=4, inputs=2, hidden=4, dimensions=1, periodic=True, readout=4, mode=Mode.BOUNDED
    )
    return OpenLoopGrid(1, 1, 1, config, FixedDepth(2), key=key), (6, 1), (6, 1)


def vector(key):
    builder = LoopedConfig(latent=4, hidden=4, depth=2, core=CoreConfig(width=4, layers=1))
    return OpenLoopWorldModel(builder.build(Sizes(3, 2), key=key)), (3,), (2,)


@pytest.mark.parametrize("make", [grid, vector])
def test_grids_and_world_models_can_be_trained(make, key):
    model, observation, action = make(key)
    rng = np.random.default_rng(0)
    data = Trajectories(
        jnp.asarray(rng.normal(size=(8, 3, *observation)), jnp.float32),
        jnp.asarray(rng.normal(size=(8, 2, *action)), jnp.float32),
    )
    config = SupervisedConfig(horizon=DeferredConfig(steps=2), updates=20, batch_size=8)
    error = lambda x, y: jnp.mean((x - y) ** 2)  # noqa: E731
    trained = train_open_loop(model, data, config, error, key=key)
    run = eqx.filter_jit(predict)

    def terminal(some):
        last = run(some, data.observation[:, 0], data.action, Decoding.DEFERRED)
        return float(error(last, data.observation[:, -1]))

    assert terminal(trained.model) < terminal(model)


@pytest.mark.parametrize("make", [grid, vector])
def test_actions_bound_at_once_are_those_bound_one_by_one(make, key):
    model, observation, action = make(key)
    rng = np.random.default_rng(0)
    first = jnp.asarray(rng.normal(size=observation), jnp.float32)
    actions = jnp.asarray(rng.normal(size=(3, *action)), jnp.float32)
    z = model.encode(first)
    for taken, rolled in zip(actions, roll(model, first, actions), strict=True):
        z = model.advance(z, model.bind(taken))
        np.testing.assert_allclose(rolled, z, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("drawn, expected", [(False, 20.0), (True, 15.0)])
def test_k_is_drawn_for_every_sequence(drawn, expected):
    # z = 2, 4, 6 against o = 1, 3, 4: the terminal loss is 10 at K = 2 and 20 at K = 3.
    observation = jnp.asarray([[0.0], [1.0], [3.0], [4.0]])
    config = SupervisedConfig(
        horizon=DeferredConfig(steps=3, first=2, drawn=drawn, movement_weight=0.0),
        consistency_weight=0.0,
        updates=1,
        batch_size=1000,
    )
    data = Trajectories(observation[None], jnp.ones((1, 3, 1)))
    trained = train_open_loop(
        Adding(jnp.asarray(2.0)), data, config, difference, key=jax.random.key(0)
    )
    assert trained.loss == pytest.approx(expected, abs=0.5)


def test_bad_settings_and_data_are_refused(assert_helpful):
    good = SupervisedConfig(horizon=DeferredConfig(steps=2))
    for change in (
        {"horizon": DeferredConfig()},
        {"updates": 0},
        {"learning_rate": 0.0},
        {"gradient_clip": float("nan")},
        {"auxiliary_weight": -1.0},
        {"consistency_weight": -1.0},
    ):
        with pytest.raises(UsageError, match=next(iter(change))) as raised:
            dataclasses.replace(good, **change)
        assert_helpful(raised)
    data = Trajectories(jnp.zeros((4, 4, 1)), jnp.zeros((4, 3, 1)))
    with pytest.raises(UsageError, match="3 steps and horizon.steps is 2") as raised:
        train_open_loop(Adding(jnp.ones(())), data, good, difference, key=jax.random.key(0))
    assert_helpful(raised)
    # Rows that are not there would be read as the last one.
    for observations, actions in (((4, 2, 1), (4, 2, 1)), ((3, 3, 1), (4, 2, 1)), ((0, 3, 1),) * 2):
        data = Trajectories(jnp.zeros(observations), jnp.zeros((actions[0], 2, 1)))
        with pytest.raises(UsageError, match="observations of shape") as raised:
            train_open_loop(Adding(jnp.ones(())), data, good, difference, key=jax.random.key(0))
        assert_helpful(raised)
