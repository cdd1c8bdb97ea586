"""The return of an imagined sequence, by hand, and the seam to the trained networks."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.actions import ActionLayout
from loopwm.core import CoreConfig, FixedDepth
from loopwm.models import LoopedConfig, Sizes, ValueConfig, build_networks
from loopwm.nn import resolve
from loopwm.planning import (
    AbstractPlanningModel,
    NetworksModel,
    Scoring,
    Separable,
    rollouts,
    score,
)


@pytest.mark.parametrize(
    "reward, go_on, terminal", [(2.0, 0.8, 0.0), (0.0, 0.5, 3.0), (1.0, 0.99, -2.0)]
)
def test_score_is_the_geometric_sum(reward, go_on, terminal, toys):
    model = toys["constant"](reward, go_on, terminal)
    horizon, ratio = 4, 0.9 * go_on
    result = eqx.filter_jit(score)(model, jnp.asarray([7.0]), jnp.zeros((horizon, 1)))
    by_hand = reward * (1 - ratio**horizon) / (1 - ratio)
    by_hand += ratio**horizon * terminal * (7.0 + horizon)
    assert float(result.value) == pytest.approx(by_hand, rel=1e-5)
    assert float(result.loops) == pytest.approx((7 + 8 + 9 + 10) / 4)


def test_nothing_counts_after_the_end(toys):
    ends = eqx.filter_jit(score)(toys["constant"](1.5, 0.0, 100.0), jnp.zeros(1), jnp.zeros((5, 1)))
    assert float(ends.value) == pytest.approx(1.5)  # the step that ends still pays


def test_score_follows_the_actions(toys):
    run = eqx.filter_jit(lambda u: score(toys["regulator"](), jnp.asarray([0.5]), u).value)
    # z: .5 → .2 → −.4, so −.04 − .16.
    assert float(run(jnp.asarray([[-0.3], [-0.6]]))) == pytest.approx(-0.2, rel=1e-5)
    assert float(run(jnp.asarray([[-0.5], [0.0]]))) == pytest.approx(0.0, abs=1e-6)


def test_every_sequence_of_the_tempting_game(toys):
    run = eqx.filter_jit(
        jax.vmap(lambda u: score(toys["tempting"](), jnp.zeros(2), jax.nn.one_hot(u, 3)).value)
    )
    sequences = np.array(list(itertools.product(range(3), repeat=3)))
    for sequence, value in zip(sequences, np.asarray(run(sequences)), strict=True):
        pairs = [(a, b) for a, b in zip([0, *sequence], sequence, strict=False)]
        by_hand = sum(0.3 * (b == 0) + 1.0 * ((a, b) == (1, 2)) for a, b in pairs)
        assert value == pytest.approx(by_hand, rel=1e-5)


@pytest.fixture(scope="module")
def networks(filled):
    config = LoopedConfig(latent=6, hidden=8, depth=3, core=CoreConfig(width=6))
    heads = ValueConfig(hidden=8, depth=1, bins=21)

    def build(key):
        actions = ActionLayout.categorical(2)
        return build_networks(config, heads, Sizes(4, 2), actions=actions, key=key)

    return resolve(filled(build))


def test_networks_as_a_planner_sees_them(networks, key, rng):
    model = NetworksModel(networks, None, discount=0.97, action_size=2)
    deeper = NetworksModel(networks, FixedDepth(9), discount=0.97, action_size=2)
    z, u = jnp.asarray(rng.normal(size=6), jnp.float32), jnp.asarray([0.0, 1.0])

    @eqx.filter_jit
    def run(networks):
        world = networks.world_model
        solution = world.transition(z, u)
        outcome = world.outcome(z, u, solution.value)
        q = networks.critic.values(z, networks.policy.mode(z))
        given = jnp.zeros((0, 3, 2))
        proposed = rollouts(model, z, given, proposals=4, key=key).actions
        return (solution, outcome, q), model.step(z, u), deeper.step(z, u), model.value(z), proposed

    (solution, outcome, q), imagined, deep, value, proposed = run(networks)
    np.testing.assert_allclose(imagined.z, solution.value, atol=1e-6)
    # Rewards are brought to the units of values, which are averages over the horizon 1/(1 − γ).
    assert float(imagined.reward) == pytest.approx(0.03 * float(outcome.reward), rel=1e-4)
    expected = 1.0 / (1.0 + np.exp(-float(outcome.continuation_logit)))
    assert float(imagined.continuation) == pytest.approx(expected, rel=1e-4)
    head = networks.world_model.head
    for logit in (-3.0, 3.0):
        fixed = jax.tree.map(jnp.zeros_like, head.readout)
        fixed = eqx.tree_at(lambda r: r.bias, fixed, jnp.asarray([0.5, logit]))
        forced = eqx.tree_at(lambda m: m.networks.world_model.head.readout, model, fixed)
        found = float(eqx.filter_jit(forced.step)(z, u).continuation)
        assert found == pytest.approx(1.0 / (1.0 + np.exp(-logit)), rel=1e-4)
    assert float(imagined.loops) == 3.0 and float(deep.loops) == 9.0
    assert float(value) == pytest.approx(float(jnp.mean(q)), rel=1e-4)
    assert float(jnp.ptp(q)) > 1e-4
    assert proposed.shape == (4, 3, 2) and np.all(np.sum(proposed, axis=2) == 1.0)


class Whole(AbstractPlanningModel):
    """A planning model whose outcomes come with its steps."""

    inner: NetworksModel
    discount: float = eqx.field(static=True, default=0.97)
    action_size: int = eqx.field(static=True, default=2)

    def step(self, z, u):
        return self.inner.step(z, u)

    def value(self, z):
        return self.inner.value(z)

    def propose(self, z, *, key):
        return self.inner.propose(z, key=key)

    def at_depth(self, depth):
        return self


@pytest.mark.parametrize("scoring", Scoring)
def test_outcomes_in_one_batch_are_those_of_every_step(scoring, networks, key, rng):
    model = NetworksModel(networks, None, discount=0.97, action_size=2)
    assert isinstance(model, Separable) and not isinstance(Whole(model), Separable)
    z = jnp.asarray(rng.normal(size=6), jnp.float32)
    given = jax.nn.one_hot(rng.integers(0, 2, (5, 4)), 2)
    run = eqx.filter_jit(lambda m: rollouts(m, z, given, scoring, proposals=3, key=key))
    batched, stepwise = run(model), run(Whole(model))
    np.testing.assert_array_equal(batched.actions, stepwise.actions)
    np.testing.assert_allclose(batched.value, stepwise.value, rtol=2e-5)
    np.testing.assert_array_equal(batched.loops, np.full(8, 3.0))
    # Proposals come first, are the policy's own, and are worth what the sequence is worth alone.
    np.testing.assert_array_equal(batched.actions[3:], given)
    alone = eqx.filter_jit(jax.vmap(lambda u: score(model, z, u, scoring).value))(batched.actions)
    np.testing.assert_allclose(batched.value, alone, rtol=2e-5)
    assert float(jnp.ptp(batched.value)) > 1e-4


def test_proposals_follow_the_policy_along_the_way(toys):
    # z counts how often the policy has acted; a regulator's policy that is not 0 drives it away.
    model = toys["regulator"](0.25)
    found = eqx.filter_jit(
        lambda: rollouts(
            model, jnp.zeros(1), jnp.zeros((1, 3, 1)), proposals=2, key=jax.random.key(0)
        )
    )()
    np.testing.assert_allclose(found.actions[:2], np.full((2, 3, 1), 0.25))
    squares = 0.25**2 * (1 + 4 + 9)
    np.testing.assert_allclose(found.value, [-squares, -squares, 0.0], rtol=1e-6)
