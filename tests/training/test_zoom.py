"""Units of values and of the reward's loss, fitted to the returns that there are."""

import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from loopwm.actions import ActionLayout
from loopwm.core import CoreConfig
from loopwm.models import LoopedConfig, Sizes, ValueConfig, build_networks
from loopwm.training import Counters, LearnerConfig, Replay, init_learner
from loopwm.training.replay import History
from loopwm.training.reward_error import FLAT
from loopwm.training.zoom import curvature_for, fitted, zoom_for


def test_rewards_that_double_have_the_range_looked_at():
    counters = Counters(reward_scale=1.0, next_look=700)
    counters.see_rewards(np.array([0.5, -1.9]))
    assert (counters.reward_scale, counters.next_look) == (1.9, 700)
    counters.see_rewards(np.array([]))
    assert (counters.reward_scale, counters.next_look) == (1.9, 700)
    counters.see_rewards(np.array([-3.8, 1.0]))
    assert (counters.reward_scale, counters.next_look) == (3.8, 0)


def replay_of(episodes, *, terminated, size=64):
    """A replay of one environment that holds episodes of the given rewards."""
    replay, everyone, nothing = (
        Replay(size, 1, 1, 1),
        np.ones(1, bool),
        np.zeros((1, 1), np.float32),
    )
    for rewards in episodes:
        replay.begin(nothing, everyone)
        for i, reward in enumerate(rewards):
            last = np.array([i == len(rewards) - 1])
            paid = np.array([reward], np.float32)
            replay.add(nothing, paid, last & terminated, last & (not terminated), nothing, everyone)
    return replay


def test_history_is_in_order_and_knows_its_ends():
    replay = replay_of([[1, 2, 3], [4, 5]], terminated=True)
    history = replay.history(100)
    made = history.made[0]
    np.testing.assert_array_equal(history.reward[0][made], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(history.terminated[0][made], [0, 0, 1, 0, 1])
    np.testing.assert_array_equal(history.ended, history.terminated)
    newest = replay.history(3)
    assert newest.reward[0][newest.made[0]][-1] == 5
    # Once the ring is full, what is oldest is what is left.
    full = replay_of([[i] for i in range(1, 50)], terminated=True, size=20).history(1000)
    np.testing.assert_array_equal(full.reward[0][full.made[0]], np.arange(41, 50))


def zoom(episodes, terminated, discount=0.9):
    history = replay_of(episodes, terminated=terminated).history(1000)
    return zoom_for(history, discount, max(abs(r) for e in episodes for r in e))


def test_zooms_by_hand():
    # A reward that can be had at every step: everything up to r_max / (1 − γ) has to fit.
    assert zoom([[1.0] * 5], True) == 0
    # Only the last reward is positive, and the task ends with it: 1.25 · 0.1 · 1 / 1 = 1/8.
    assert zoom([[0.0, 0.0, 1.0]], True) == 3
    # The same seen at the end of an episode that time ended: it may be had again and again.
    assert zoom([[0.0, 0.0, 1.0]], False) == 0
    # Costs: the largest return is the first one's, −(1 + .9 + .81) over r_max 1; .34 of the range.
    assert zoom([[-1.0, -1.0, -1.0]], True) == 1
    # Time ended it: it is taken to go on at the mean, −1 / (1 − γ) = −10.
    assert zoom([[-1.0, -1.0, -1.0]], False) == 0
    # One large cost among small ones: 1.25 · 0.1 · (0.01 · 1.9 + 0.81 · 1) = 0.104.
    assert zoom([[-0.01, -0.01, -1.0]], True) == 3


def test_a_bonus_paid_once_does_not_set_the_units():
    # The largest return is that of the bonus, 1: 1.25 · 0.1 · 1 = 1/8. Had at every step, the bonus
    # would be worth 10 and leave no zoom.
    once = [0.09] * 39 + [1.0, 0.0]
    assert zoom([once], True) == 3
    # A tenth of the positive rewards may be had at every step, and so may one of few.
    assert zoom([([0.1] * 9 + [1.0]) * 4 + [0.0]], True) == 0
    assert zoom([[0.1] * 9 + [1.0, 0.0]], True) == 0


@pytest.mark.parametrize("sea", [0.0, -0.01])
def test_a_goal_seen_once_in_a_sea_of_nothing_fits_when_it_is_held(sea):
    # Time ends the episode, so the goal may be held: it is worth 1 / (1 − 0.9), the whole range.
    assert zoom([[sea] * 200 + [1.0]], False) == 0
    # It ends the task: had once, 1.25 · 0.1 · 1 = 1/8. The same where it is a hundred times larger.
    assert zoom([[sea] * 200, [sea] * 200 + [1.0]], True) == 3
    assert zoom([[sea] * 200, [sea] * 200 + [100.0]], True) == 3


def test_rewards_of_every_step_have_all_their_room():
    # CartPole: episodes are short now, and will be long.
    assert zoom([[1.0] * 10] * 30, True) == 0
    # MountainCar and Acrobot: −1 a step, and time ends the episode.
    assert zoom([[-1.0] * 200] * 3, False) == 0
    # The same with a goal found: its last steps are worth little, the others still −10.
    assert zoom([[-1.0] * 200, [-1.0] * 200 + [0.0]], True) == 0


def test_nothing_but_zeros_and_nothing_at_all():
    history = replay_of([[0.0, 0.0]], terminated=True).history(10)
    assert zoom_for(history, 0.9, 1e-8) == 10 and curvature_for(history) == FLAT
    empty = Replay(10, 1, 1, 1).history(10)
    assert zoom_for(empty, 0.9, 1e-8) == 0 and curvature_for(empty) == FLAT


@hypothesis.given(
    st.lists(st.lists(st.floats(-8.0, 8.0, width=32), min_size=1, max_size=6), min_size=1),
    st.booleans(),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_every_return_seen_fits(episodes, terminated):
    largest = max(1e-3, max(abs(r) for e in episodes for r in e))
    history = replay_of(episodes, terminated=terminated, size=4096).history(4096)
    factor = 2.0 ** zoom_for(history, 0.9, largest) * 0.1 / largest
    for rewards in episodes:
        total = 0.0
        for reward in reversed(rewards):
            total = reward + 0.9 * total
            if terminated:
                assert abs(factor * total) <= 1.0 + 1e-6


def test_curvature_by_hand():
    def bend(*rewards):
        return curvature_for(replay_of([rewards], terminated=True).history(100))

    assert bend(1.0, 1.0, 1.0) == bend(-2.0, 2.0, 0.0, 0.0) == FLAT
    np.testing.assert_allclose(
        bend(0.1, 0.1, 0.0, -1.0), np.arcsinh(10.0) - np.arcsinh(1.0), rtol=1e-6
    )
    assert bend(1e-4, 1e-4, 100.0) == 5.0


def test_a_learner_is_fitted_before_its_first_update_and_only_widened_after(filled):
    sizes, heads, box = Sizes(4, 2), ValueConfig(hidden=8, depth=1, bins=21), ActionLayout.box(2)
    model = LoopedConfig(latent=6, hidden=8, depth=1, core=CoreConfig(width=6))
    networks = filled(lambda key: build_networks(model, heads, sizes, actions=box, key=key))
    config = LearnerConfig(discount=0.9, average_rate=0.1)
    state = init_learner(networks, config, key=jax.random.key(0))
    rare = replay_of([[-0.01, -0.01, -1.0]], terminated=True)
    begun = fitted(state, rare, 0.9, 1.0)
    critics = (begun.networks.critic, begun.target_critic, begun.average.critic)
    assert [int(critic.zoom) for critic in critics] == [3, 3, 3]
    assert float(begun.networks.critic.scale) == 8.0
    z, u = jnp.zeros(networks.world_model.latent), jnp.zeros(networks.policy.action_size)
    np.testing.assert_allclose(
        begun.networks.critic.values(z, u),
        [-1.0] * 2,
        atol=0.1,  # 8 · −0.34, clipped
    )
    np.testing.assert_allclose(begun.curvature, np.arcsinh(100.0) - np.arcsinh(1.0), rtol=1e-5)
    later = dataclasses.replace(begun, updates=jnp.asarray(8))
    same = fitted(later, replay_of([[0.0, 0.0, -1e-3]], terminated=True), 0.9, 1.0)
    assert int(same.networks.critic.zoom) == 3
    wider = fitted(later, replay_of([[1.0] * 5], terminated=True), 0.9, 1.0)
    assert int(wider.networks.critic.zoom) == int(wider.target_critic.zoom) == 0


def test_the_time_limit_shortens_the_horizon(assert_helpful):
    from loopwm.errors import UsageError

    config = LearnerConfig(discount=0.99)
    assert config.for_limit(None) is config
    assert config.for_limit(500).discount == config.for_limit(200).discount == 0.99
    np.testing.assert_allclose(config.for_limit(50).discount, 1.0 - 1.0 / 25.0)
    np.testing.assert_allclose(config.for_limit(10).discount, 0.95)
    assert LearnerConfig(discount=0.99, limit_share=None).for_limit(50).discount == 0.99
    with pytest.raises(UsageError, match="limit_share is 0") as raised:
        LearnerConfig(limit_share=0.0)
    assert_helpful(raised)


def test_an_empty_history_has_the_right_shape():
    history = Replay(10, 2, 1, 1).history(4)
    assert isinstance(history, History)
    assert history.reward.shape == history.made.shape == (2, 4) and not history.made.any()
