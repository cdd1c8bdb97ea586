"""The learned gate: its exit distribution, its loss, and what training does to it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwm.core import (
    HaltingGate,
    exit_entropy,
    exit_log_probabilities,
    expected_loss,
    halting_loss,
)
from loopwm.errors import UsageError

LOGIT = st.floats(-80.0, 80.0, width=32)
_log_probabilities = jax.jit(exit_log_probabilities)


def logit(p):
    return np.log(np.asarray(p)) - np.log1p(-np.asarray(p))


def test_the_exit_distribution_by_hand():
    # 1/4 exits; of the other 3/4 a third does; what is left, 1/2, exits at the end.
    found = exit_log_probabilities(jnp.asarray(logit([0.25, 1 / 3, 0.9]), jnp.float32))
    np.testing.assert_allclose(np.exp(found), [0.25, 0.25, 0.5], rtol=1e-6)
    assert float(expected_loss(found, jnp.asarray([4.0, 2.0, 1.0]))) == pytest.approx(2.0)
    assert float(exit_entropy(found)) == pytest.approx(1.5 * np.log(2.0), rel=1e-6)
    loss = halting_loss(jnp.asarray(logit([0.25, 1 / 3, 0.9])), jnp.asarray([4.0, 2.0, 1.0]), 0.1)
    assert float(loss) == pytest.approx(2.0 - 0.15 * np.log(2.0), rel=1e-5)


@given(logits=st.lists(LOGIT, min_size=5, max_size=5))
def test_it_is_a_distribution_for_all_logits(logits):
    found = _log_probabilities(jnp.asarray(logits, jnp.float32))
    assert float(jnp.sum(jnp.exp(found))) == pytest.approx(1.0, abs=1e-5)
    assert np.all(np.isfinite(found)) and np.all(np.asarray(found) <= 0.0)
    assert -1e-6 <= float(exit_entropy(found)) <= np.log(5) + 1e-5


def test_one_loop_exits_for_sure():
    np.testing.assert_array_equal(exit_log_probabilities(jnp.asarray([-3.0])), [0.0])


def test_a_gate_pools_over_cells():
    gate = eqx.tree_at(lambda g: g.weight, HaltingGate(2), jnp.asarray([1.0, -1.0]))
    cells = jnp.arange(12.0).reshape(2, 3, 2) ** 2
    expected = float(jnp.mean(cells[..., 0]) - jnp.mean(cells[..., 1]) + gate.bias)
    assert float(gate(cells)) == pytest.approx(expected, rel=1e-6)
    assert float(gate(jnp.mean(cells, (0, 1)))) == pytest.approx(expected, rel=1e-5)
    assert float(jax.nn.sigmoid(HaltingGate(2, loops=4.0)(cells))) == pytest.approx(0.2)


@eqx.filter_jit
def _train(gate, states, losses, weight):
    def loss(g):
        return halting_loss(jax.vmap(g)(states), losses, weight)

    def body(g, _):
        gradient = jax.grad(loss)(g)
        return jax.tree.map(lambda x, d: x - 0.3 * d, g, gradient), None

    return jax.lax.scan(body, gate, None, 2000)[0]


def test_training_moves_the_exit_to_the_best_loop_and_entropy_spreads_it():
    states = jnp.asarray([[-1.0, 0.0], [-0.5, 0.0], [1.5, 0.0], [2.0, 0.0], [2.5, 0.0]])
    losses = jnp.asarray([3.0, 2.0, 0.5, 1.5, 2.5])
    start = HaltingGate(2)
    before = jnp.exp(exit_log_probabilities(jax.vmap(start)(states)))
    sharp = exit_log_probabilities(jax.vmap(_train(start, states, losses, 0.01))(states))
    spread = exit_log_probabilities(jax.vmap(_train(start, states, losses, 1.0))(states))
    assert float(jnp.exp(sharp[2])) > 0.9 > float(before[2]) + 0.5
    assert float(exit_entropy(spread)) > float(exit_entropy(sharp)) + 0.3
    assert float(expected_loss(sharp, losses)) < float(expected_loss(spread, losses))


@pytest.mark.parametrize(("width", "loops"), [(0, 4.0), (3, 0.0), (3, -1.0)])
def test_sizes_that_are_not_positive_are_refused(width, loops, assert_helpful):
    with pytest.raises(UsageError, match="loops") as raised:
        HaltingGate(width, loops=loops)
    assert_helpful(raised)
