"""Value targets: termination stops the bootstrap, truncation does not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.envs import Spaces
from loopwm.models import Normalizer
from loopwm.run import resolve_config
from loopwm.session import build_run_networks
from loopwm.training import Replay, init_learner, td_lambda, update
from loopwm.training.learner import start_values

DISCOUNT, TRACE = 0.9, 0.8
REWARD = jnp.asarray([1.0, 2.0, 3.0])
VALUE = jnp.asarray([10.0, 20.0, 30.0])


def targets(terminated, valid, trace=TRACE):
    return td_lambda(
        REWARD, jnp.asarray(terminated), jnp.asarray(valid), VALUE, DISCOUNT, trace
    ).tolist()


def test_inside_an_episode():
    third = 3.0 + 0.9 * 30.0
    second = 2.0 + 0.9 * (0.2 * 20.0 + 0.8 * third)
    first = 1.0 + 0.9 * (0.2 * 10.0 + 0.8 * second)
    assert targets([False] * 3, [True] * 3) == pytest.approx([first, second, third])


def test_termination_stops_the_bootstrap():
    second = 2.0
    first = 1.0 + 0.9 * (0.2 * 10.0 + 0.8 * second)
    found = targets([False, True, False], [True, True, False])
    assert found[:2] == pytest.approx([first, second])


def test_truncation_bootstraps_from_the_final_observation():
    second = 2.0 + 0.9 * 20.0
    first = 1.0 + 0.9 * (0.2 * 10.0 + 0.8 * second)
    found = targets([False] * 3, [True, True, False])
    assert found[:2] == pytest.approx([first, second])


@pytest.mark.parametrize("terminated", [False, True])
def test_a_sequence_of_one_valid_step(terminated):
    found = targets([terminated, False, False], [True, False, False])
    assert found[0] == pytest.approx(1.0 if terminated else 1.0 + 0.9 * 10.0)


def test_trace_0_is_one_step_and_trace_1_the_return():
    assert targets([False] * 3, [True] * 3, trace=0.0) == pytest.approx([10.0, 20.0, 30.0])
    one = 1.0 + 0.9 * (2.0 + 0.9 * (3.0 + 0.9 * 30.0))
    assert targets([False] * 3, [True] * 3, trace=1.0)[0] == pytest.approx(one)
    assert targets([False, False, True], [True] * 3, trace=1.0)[0] == pytest.approx(
        1.0 + 0.9 * (2.0 + 0.9 * 3.0)
    )


def test_what_follows_the_end_changes_nothing():
    valid, terminated = jnp.asarray([True, True, False]), jnp.zeros(3, bool)
    base = td_lambda(REWARD, terminated, valid, VALUE, DISCOUNT, TRACE)
    other = td_lambda(
        REWARD.at[2].set(1e6), terminated, valid, VALUE.at[2].set(-1e6), DISCOUNT, TRACE
    )
    np.testing.assert_array_equal(base[:2], other[:2])


class TestThroughTheLearner:
    """Episodes of one step from replay into an update, with a critic that answers v everywhere."""

    @staticmethod
    def value_loss(config, spaces, start, *, terminated):
        """Value loss of the first call of updates, and the critic that it began with."""
        replay = Replay(64, 1, spaces.observation.size, spaces.action.size)
        one, action = np.ones(1, bool), np.eye(2, dtype=np.float32)[:1]
        for i in range(8):
            observation = np.full((2, 1, 4), 0.1 * i, np.float32)
            replay.begin(observation[0], one)
            ended = (one, ~one) if terminated else (~one, one)
            replay.add(action, np.zeros(1, np.float32), *ended, observation[1], one)
        # A model that foresees no reward and no end: what it imagines keeps the critic's value.
        networks = build_run_networks(config, spaces)
        readout = jax.tree.map(jnp.zeros_like, networks.world_model.head.readout)
        readout = eqx.tree_at(lambda r: r.bias, readout, jnp.asarray([0.0, 20.0]))
        networks = eqx.tree_at(lambda n: n.world_model.head.readout, networks, readout)
        state = init_learner(networks, config.learner, key=jax.random.key(1))
        state = start_values(state, start)
        critic = jax.tree.map(lambda x: np.asarray(x), state.networks.critic)
        learner = config.learner
        batch = replay.sample(
            config.collection.updates_per_call,
            learner.batch_size,
            learner.sequence,
            np.random.default_rng(0),
        )
        normalizer = Normalizer.create(spaces.observation.size)
        _, metrics = update(state, batch, normalizer, 1.0, learner)
        return float(metrics.terms.value), critic

    def test_only_termination_stops_the_bootstrap(self, cartpole_run):
        # The settings and sizes of that run, so that its compiled learner serves here too.
        config = resolve_config("CartPole-v1", config="debug", seed=0)
        spaces = Spaces.of_source("CartPole-v1")
        cut, critic = self.value_loss(config, spaces, 0.8, terminated=False)
        ended, _ = self.value_loss(config, spaces, 0.8, terminated=True)
        log_p = jax.nn.log_softmax(critic.members.readout.bias[0])

        def cross_entropy(target):
            return -float(jnp.sum(critic.support.target(jnp.asarray(target)) * log_p))

        # The replayed step bootstraps from K imagined ones, each from the critic's 0.8.
        learner = config.learner
        steps = learner.imagination
        imagined = td_lambda(
            jnp.zeros(steps),
            jnp.zeros(steps),
            jnp.ones(steps, bool),
            jnp.full(steps, 0.8),
            learner.discount,
            learner.imagined_trace,
        )
        expected = cross_entropy(0.0) / cross_entropy(learner.discount * float(imagined[0]))
        assert expected > 2.0
        assert ended / cut == pytest.approx(expected, rel=0.05)

    def test_with_values_of_0_the_two_agree(self, cartpole_run):
        config = resolve_config("CartPole-v1", config="debug", seed=0)
        spaces = Spaces.of_source("CartPole-v1")
        cut, _ = self.value_loss(config, spaces, 0.0, terminated=False)
        ended, _ = self.value_loss(config, spaces, 0.0, terminated=True)
        assert ended == pytest.approx(cut, rel=0.02)
