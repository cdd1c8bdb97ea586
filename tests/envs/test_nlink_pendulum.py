"""The chain against energy, a period, the textbook double pendulum, and its own sub-steps."""

import gymnasium as gym
import numpy as np
import pytest
from scipy.special import ellipk

from loopwm.envs.nlink_pendulum import Chain, NLinkPendulum, transitions
from loopwm.errors import UsageError


@pytest.mark.parametrize("links", [1, 2, 5])
def test_energy_is_kept_without_torque(links, rng):
    chain = Chain(links, mass=0.7, length=0.6)
    angle = rng.uniform(-2.0, 2.0, links)
    velocity = rng.uniform(-2.0, 2.0, links)
    before = chain.energy(angle, velocity)
    drifts = []
    for substeps in (50, 100):
        after = chain.energy(
            *chain.advance(angle, velocity, np.zeros(links), time_step=0.25, substeps=substeps)
        )
        drifts.append(abs(float(after - before)))
    assert drifts[0] < 1e-4 * chain.mass * chain.gravity * chain.length
    # Fourth order: half the step, a sixteenth of the error or less, down to rounding.
    assert drifts[1] < drifts[0] / 10 + 1e-11


def test_energy_gained_is_the_work_of_the_torque():
    chain, torque = Chain(2), np.array([3.0, -1.5])
    angle, velocity = np.array([0.3, -0.4]), np.array([0.5, 1.0])
    before, work, h = chain.energy(angle, velocity), 0.0, 1e-3
    for _ in range(40):
        moved, velocity = chain.advance(angle, velocity, torque, time_step=h, substeps=1)
        turned = moved - angle
        work += torque[0] * turned[0] + torque[1] * (turned[1] - turned[0])  # relative angles
        angle = moved
    assert float(chain.energy(angle, velocity) - before) == pytest.approx(work, abs=1e-8)


@pytest.mark.parametrize("amplitude", [0.01, 1.5])
def test_the_period_of_one_link(amplitude):
    chain = Chain(1, mass=0.3, length=0.8)
    # T = 4 √(l/g) K(sin(a/2)), 2π√(l/g) for small a.
    period = 4.0 * np.sqrt(0.8 / 9.81) * ellipk(np.sin(amplitude / 2) ** 2)
    if amplitude < 0.1:
        assert period == pytest.approx(2 * np.pi * np.sqrt(0.8 / 9.81), rel=1e-4)
    start, still = np.array([amplitude]), np.zeros(1)
    angle, velocity = chain.advance(start, still, still, time_step=period, substeps=80)
    assert angle == pytest.approx(start, rel=1e-5) and velocity == pytest.approx(0.0, abs=1e-5)
    half, _ = chain.advance(start, still, still, time_step=period / 2, substeps=40)
    assert half == pytest.approx(-start, rel=1e-5)


def test_two_links_against_the_equations_solved_by_hand(rng):
    """ω̇ of the double pendulum of equal masses and rods, from its two equations by elimination."""
    chain = Chain(2, mass=1.3, length=0.7)
    a, b = rng.uniform(-3, 3, (2, 6))
    p, q = rng.uniform(-3, 3, (2, 6))
    g, l = 9.81, 0.7  # noqa: E741
    c, s = np.cos(a - b), np.sin(a - b)
    # 2l·ṗ + l c·q̇ = −l s q² − 2g sin a;   l c·ṗ + l·q̇ = l s p² − g sin b.
    right = np.stack([-l * s * q**2 - 2 * g * np.sin(a), l * s * p**2 - g * np.sin(b)])
    determinant = l * l * (2.0 - c * c)
    expected = np.stack([l * (right[0] - c * right[1]), l * (2 * right[1] - c * right[0])], axis=-1)
    found = chain.acceleration(np.stack([a, b], -1), np.stack([p, q], -1), np.zeros((6, 2)))
    np.testing.assert_allclose(found, expected / determinant[:, None], rtol=1e-10)


@pytest.mark.parametrize("links", [1, 3])
def test_holding_torque_keeps_a_level_chain_still(links):
    chain = Chain(links)
    level = np.full(links, np.pi / 2)
    rest = chain.acceleration(level, np.zeros(links), chain.holding())
    np.testing.assert_allclose(rest, 0.0, atol=1e-10)


def test_a_step_is_its_substeps_one_after_the_other():
    env = gym.make("loopwm/NLinkPendulum-v0", links=3, substeps=5, strength=0.3).unwrapped
    env.reset(seed=1)
    angle, velocity = env.state
    action = np.array([0.5, -2.0, 1.0], np.float32)  # clipped to −1
    torque = 0.3 * env.chain.holding() * [0.5, -1.0, 1.0]
    for _ in range(5):
        angle, velocity = env.chain.advance(angle, velocity, torque, time_step=0.01, substeps=1)
    observation, reward, terminated, truncated, info = env.step(action)
    expected = np.concatenate([np.cos(angle), np.sin(angle), velocity])
    np.testing.assert_allclose(observation, expected, rtol=1e-5, atol=1e-6)
    assert info == {"true_depth": 5} and (terminated, truncated) == (False, False)
    assert reward == pytest.approx((1.0 - np.cos(angle).mean()) / 2.0)


def test_rewards_and_speeds_are_bounded():
    env = NLinkPendulum(links=2, speed_limit=1.0)
    env.reset(seed=0)
    env.state = np.array([[np.pi, np.pi], [0.0, 0.0]])
    assert env.step(np.zeros(2))[1] == pytest.approx(1.0)
    env.state = np.zeros((2, 2))
    assert env.step(np.zeros(2))[1] == pytest.approx(0.0)
    fastest = 0.0
    for _ in range(20):
        observation, reward, *_ = env.step(np.ones(2))
        fastest = max(fastest, np.abs(observation[4:]).max())
        assert env.observation_space.contains(observation) and 0.0 <= reward <= 1.0
    assert fastest == 1.0


def test_the_longest_chain_stays_finite():
    env = NLinkPendulum(links=8, substeps=1, strength=1.0)
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(30):
        observation, *_ = env.step(np.sign(env.action_space.sample()))
        assert env.observation_space.contains(observation)


def test_sampled_steps_agree_with_the_environment(rng):
    drawn = transitions(rng, 20, links=3, substeps=2)
    env = NLinkPendulum(links=3, substeps=2)
    env.reset(seed=0)
    assert drawn.observation.shape == (20, 9) and (drawn.true_depth == 2).all()
    for before, action, after in zip(
        drawn.observation, drawn.action, drawn.next_observation, strict=True
    ):
        cosine, sine, velocity = before.reshape(3, 3).astype(np.float64)
        env.state = np.stack([np.arctan2(sine, cosine), velocity])
        np.testing.assert_allclose(env.step(action)[0], after, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [({"links": 9}, "links is 9"), ({"speed": 26.0}, "speed is 26"), ({"count": 0}, "count is 0")],
)
def test_bad_samples_are_refused(kwargs, said, rng, assert_helpful):
    with pytest.raises(UsageError, match=said) as raised:
        transitions(rng, **({"count": 1} | kwargs))
    assert_helpful(raised)
