"""When learning begins, and what happens before it."""

import numpy as np
import pytest

from loopwm.run import resolve_config
from loopwm.session import Session
from loopwm.training import CollectionConfig, Replay
from loopwm.training.exploration import may_learn, tells_of_states

RNG = np.random.default_rng(0)
BOX = RNG.uniform(-1.0, 1.0, (200, 2)).astype(np.float32)
ONE_HOT = np.eye(3, dtype=np.float32)[RNG.integers(0, 3, 200)]
STATE = RNG.normal(size=200).astype(np.float32)


@pytest.mark.parametrize(
    "action, reward, expected",
    [
        (BOX, np.full(200, -1.0), False),
        (BOX, np.zeros(200), False),
        (BOX, -0.1 * BOX[:, 0] ** 2, False),
        (BOX, 2.0 - np.sum(BOX**2, axis=1) + BOX[:, 1], False),
        (ONE_HOT, ONE_HOT @ np.array([0.0, -1.0, 3.0]), False),
        (BOX, STATE, True),
        (BOX, -0.1 * BOX[:, 0] ** 2 + 0.01 * STATE, True),
        (ONE_HOT, np.where(np.arange(200) == 77, 1.0, 0.0), True),
    ],
)
def test_what_rewards_tell(action, reward, expected):
    assert tells_of_states(action, reward.astype(np.float32)) is expected


def test_as_many_numbers_of_an_action_as_steps_explain_nothing():
    rng = np.random.default_rng(1)
    action = rng.uniform(-1.0, 1.0, (600, 60)).astype(np.float32)
    state, cost = rng.normal(size=600).astype(np.float32), -np.sum(action**2, axis=1)
    # 121 coefficients fit whatever 100 steps paid.
    for count in (50, 100, 121, 130, 600):
        assert not tells_of_states(action[:count], cost[:count])
        assert tells_of_states(action[:count], state[:count])
    # Actions that are held come again: the same action with another reward.
    held = np.repeat(action[:20], 5, axis=0)
    assert tells_of_states(held, state[:100])
    assert not tells_of_states(held, np.repeat(cost[:20], 5))
    one_hot = np.eye(300, dtype=np.float32)[rng.integers(0, 300, 600)]
    assert tells_of_states(one_hot, state) and tells_of_states(one_hot[:250], state[:250])
    assert not tells_of_states(one_hot, one_hot @ state[:300])


def test_costs_of_many_categories_are_told_from_states():
    rng = np.random.default_rng(2)
    drawn = rng.integers(0, 20, (1500, 20))
    action = np.eye(20, dtype=np.float32)[drawn].reshape(1500, 400)
    cost = action @ rng.normal(size=400).astype(np.float32)
    assert not tells_of_states(action, cost)
    assert tells_of_states(action, cost + rng.normal(size=1500).astype(np.float32))


steps = Replay.steps
CONFIG = CollectionConfig(random_steps=20, search_steps=300)


def begun(reward, terminated=-1, steps=400):
    """The env step at which learning begins in one environment that pays `reward(step)`."""
    replay = Replay(1000, 1, 1, 1)
    everyone = np.ones(1, bool)
    replay.begin(np.zeros((1, 1), np.float32), everyone)
    for step in range(steps):
        ended = np.array([step == terminated])
        paid, nothing = np.array([reward(step)], np.float32), np.zeros(1, bool)
        action = np.full((1, 1), np.sin(step), np.float32)
        replay.add(action, paid, ended, nothing, np.zeros((1, 1), np.float32), everyone)
        if ended[0]:
            replay.begin(np.zeros((1, 1), np.float32), everyone)
        if may_learn(replay, CONFIG, step, step + 1):
            return step + 1
    return None


def test_learning_begins_when_there_is_something_to_plan_for():
    assert begun(lambda step: np.cos(0.1 * step)) == 20
    assert begun(lambda step: -1.0) == 300
    assert begun(lambda step: -1.0, terminated=7) == 20
    assert begun(lambda step: -1.0, terminated=123) == 124
    # A reward that comes late is seen at the next look, every 50 steps.
    assert begun(lambda step: float(step >= 60)) == 100


def test_rewards_are_looked_at_more_rarely_where_actions_are_long(monkeypatch):
    replay, everyone, nothing = Replay(1000, 1, 1, 120), np.ones(1, bool), np.zeros(1, bool)
    replay.begin(np.zeros((1, 1), np.float32), everyone)
    looks = []
    monkeypatch.setattr(Replay, "steps", lambda self: looks.append(step) or steps(self))
    for step in range(1, 300):
        action = np.eye(120, dtype=np.float32)[[step % 120]]
        paid = np.ones(1, np.float32)
        replay.add(action, paid, nothing, nothing, np.zeros((1, 1), np.float32), everyone)
        assert not may_learn(replay, CONFIG, step - 1, step)
    assert looks == [20, 120, 240]


@pytest.mark.parametrize("length, expected", [(10, 300), (1, 300)])
def test_a_decision_that_the_end_cuts_short_is_no_news(length, expected):
    """Of repeated actions the last one is worth less where time runs out in it."""
    replay, everyone = Replay(1000, 1, 1, 1), np.ones(1, bool)
    replay.begin(np.zeros((1, 1), np.float32), everyone)
    for step in range(1, 400):
        cut = np.array([step % length == 0])
        paid = np.where(cut, -2.0, -3.0).astype(np.float32)
        action, seen = np.full((1, 1), np.sin(step), np.float32), np.zeros((1, 1), np.float32)
        replay.add(action, paid, np.zeros(1, bool), cut, seen, everyone)
        if cut[0]:
            replay.begin(seen, everyone)
        if may_learn(replay, CONFIG, step - 1, step):
            break
    assert step == expected


def test_numbers_of_steps_below_one_are_refused(assert_helpful):
    from loopwm.errors import UsageError

    for name in ("random_steps", "search_steps"):
        with pytest.raises(UsageError, match=f"collection.{name} is 0") as raised:
            CollectionConfig(**{name: 0})
        assert_helpful(raised)
    for name in ("search_hold", "epsilon_hold"):
        for hold in ((0, 4), (5, 4)):
            with pytest.raises(UsageError, match=f"collection.{name} is") as raised:
                CollectionConfig(**{name: hold})
            assert_helpful(raised)
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="collection.epsilon is") as raised:
            CollectionConfig(epsilon=rate)
        assert_helpful(raised)


def test_what_is_not_said_follows_the_kind_of_actions():
    def numbers(config, discrete):
        fitted = config.for_actions(discrete=discrete)
        return fitted.updates_per_step, fitted.epsilon

    unsaid = CollectionConfig()
    assert (numbers(unsaid, True), numbers(unsaid, False)) == ((2.0, 0.01), (1.0, 0.0))
    assert numbers(CollectionConfig(updates_per_step=0.5), True) == (0.5, 0.01)
    assert numbers(CollectionConfig(epsilon=0.5), False) == (1.0, 0.5)
    said = CollectionConfig(updates_per_step=0.5, epsilon=0.0)
    assert numbers(said, True) == (0.5, 0.0)


@pytest.mark.parametrize("env, discrete", [("CartPole-v1", True), ("Pendulum-v1", False)])
def test_a_session_fills_it_in(env, discrete):
    overrides = {"collection": {"updates_per_step": None}}
    debug = resolve_config(env, config="debug", overrides=overrides)
    assert debug.collection.updates_per_step is None
    assert Session(env, debug).config.collection == debug.collection.for_actions(discrete)
