"""Hooks of the seam in the losses: a model's own term, and memory that no target has."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from loopwm.core import RESULTS, LoopStats, Solution
from loopwm.models import (
    AbstractWorldModel,
    CategoricalPolicy,
    Critic,
    LoopedConfig,
    Networks,
    Outcome,
    Sizes,
    ValueConfig,
)
from loopwm.training import (
    Decoding,
    DeferredConfig,
    OpenLoopWorldModel,
    SupervisedConfig,
)
from loopwm.training.config import LearnerConfig
from loopwm.training.deferred import deferred_terms
from loopwm.training.losses import Sequence, _smaller, has_auxiliary, sequence_terms
from loopwm.training.supervised import open_loop_loss

HEADS = ValueConfig(hidden=4, depth=1, bins=11)


class Counting(AbstractWorldModel):
    """z = [o, imagined steps so far]; o' = o + gain · u_0, and a term of its own."""

    gain: Float[Array, ""]
    latent: int = eqx.field(static=True, default=2)
    present: int = eqx.field(static=True, default=1)
    depth: int = eqx.field(static=True, default=1)
    core: None = None

    def encode(self, observation):
        """[o, 0]."""
        return jnp.concatenate([observation, jnp.zeros(1)])

    def transition(self, z, u, rule=None):
        """[o + gain · u_0, count + 1]."""
        stats = LoopStats(jnp.ones((), jnp.int32), jnp.zeros(()), jnp.asarray(jnp.inf))
        after = jnp.stack([z[0] + self.gain * u[0], z[1] + 1.0])
        return Solution(after, RESULTS.successful, stats)

    def decode(self, z):
        """o."""
        return z[:1]

    def outcome(self, z, u, z_next):
        """Nothing."""
        return Outcome(jnp.zeros(()), jnp.zeros(()))

    def auxiliary(self, observation, action, valid, *, key):
        """10 for each valid step, and the length of the sequence."""
        return 10.0 * jnp.sum(valid) + jnp.sum(observation) + len(action)


MODEL = Counting(jnp.asarray(2.0))
OBSERVED = jnp.asarray([[0.0], [1.0], [5.0], [5.0]])
ACTION = jnp.ones((3, 2))


def test_losses_of_a_sequence():
    key = jax.random.key(0)
    networks = Networks(
        MODEL, Critic(1, 2, HEADS, key=key), CategoricalPolicy(1, (2,), HEADS, key=key)
    )
    valid = jnp.asarray([True, True, False])
    sequence = Sequence(OBSERVED, ACTION, jnp.zeros(3), jnp.zeros(3, bool), valid)
    config = LearnerConfig(rollout_decay=0.5, imagination=2)
    temperature = jnp.asarray(0.1)
    terms = eqx.filter_jit(sequence_terms)(
        networks, networks.critic, sequence, None, temperature, config, key=key
    )
    assert float(terms.auxiliary) == 2 * 10 + 11 + 3
    # Imagined 2 and 4 against 1 and 5, weights 1 and ½ over 1.75; the count is no part of it.
    assert float(terms.consistency) == pytest.approx((1.0 + 0.5) / 1.75)
    assert has_auxiliary(MODEL)


def test_a_looped_model_has_no_term_of_its_own(filled):
    looped = filled(lambda key: LoopedConfig(latent=4, hidden=4).build(Sizes(1, 2), key=key))
    assert not has_auxiliary(looped)
    none = OpenLoopWorldModel(looped).auxiliary(
        OBSERVED, ACTION, jnp.ones(3, bool), key=jax.random.key(0)
    )
    assert float(none) == 0.0


def test_deferred_terms_leave_memory_out():
    encoded = jax.vmap(MODEL.encode)(OBSERVED)
    after = jnp.asarray([[2.0, 1.0], [4.0, 2.0], [6.0, 3.0]])
    found = deferred_terms(
        MODEL, OBSERVED, encoded, after, jnp.ones(3, bool), jnp.asarray(2), limit=1.0
    )
    assert float(found.consistency) == pytest.approx((1.0 + 1.0) / 2)
    assert float(found.movement) == pytest.approx(4.0 - 2.0)


@pytest.mark.parametrize(
    ("decoding", "expected"), [(Decoding.EACH_STEP, 1.0), (Decoding.DEFERRED, 1.0 + 1.0 + 0.2)]
)
def test_supervised_losses(decoding, expected):
    horizon = DeferredConfig(steps=3, movement_weight=0.1, movement_limit=1.0)
    config = SupervisedConfig(decoding=decoding, horizon=horizon, auxiliary_weight=0.5)
    model, steps = OpenLoopWorldModel(MODEL), jnp.asarray(2)
    squared = lambda found, seen: jnp.sum((found - seen) ** 2)  # noqa: E731
    arguments = (model, OBSERVED, ACTION, steps, config, squared)
    assert float(open_loop_loss(*arguments)) == pytest.approx(expected)
    own = 0.5 * (2 * 10 + 11 + 3)  # K = 2 steps are valid
    with_own = open_loop_loss(*arguments, key=jax.random.key(0))
    assert float(with_own) == pytest.approx(expected + own)


def test_the_smaller_of_two_members():
    key = jax.random.key(1)
    assert float(_smaller(jnp.asarray([3.0, 1.0]), key)) == 1.0
    keys = jax.random.split(key, 400)
    drawn = np.asarray(jax.vmap(lambda k: _smaller(jnp.arange(5.0), k))(keys))
    assert set(drawn) == {0.0, 1.0, 2.0, 3.0}  # never 4: two different ones are drawn
    assert drawn.mean() == pytest.approx(1.0, abs=0.15)  # Σ m (4 − m) / 10


def test_a_critic_of_five(key):
    critic = Critic(3, 2, ValueConfig(hidden=4, depth=1, bins=11, members=5), key=key)
    started = critic.started_at(jnp.asarray(0.25))
    values = started.values(jnp.ones(3), jnp.ones(2))
    np.testing.assert_allclose(values, np.full(5, 0.25), atol=0.05)
