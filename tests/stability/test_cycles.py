"""Cycles: periods known in advance, at block boundaries and layer by layer."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.stability import Level
from loopwm.stability.cycles import detect_cycle, layer_cycles
from loopwm.stability.trajectories import follow


def _turn(period: int) -> np.ndarray:
    angle = 2 * np.pi / period
    return np.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize("period", [1, 2, 3, 5, 8])
def test_the_period_of_a_rotation(period):
    states = follow(lambda h: _turn(period) @ h, np.asarray([1.0, 0.0]), steps=20).states
    cycle = detect_cycle(states, tolerance=1e-9)
    assert cycle.period == period and cycle.distance < 1e-12
    assert cycle.distances.shape == (10,)
    if period > 1:
        side = 2 * np.sin(np.pi / period)  # of the polygon
        assert cycle.distances[0] == pytest.approx(side)
    assert cycle.level is Level.EMPIRICAL


@pytest.mark.parametrize("r, period", [(2.8, 1), (3.2, 2), (3.5, 4), (3.83, 3), (3.9, None)])
def test_the_logistic_map_on_its_way_to_chaos(r, period):
    states = follow(lambda h: r * h * (1 - h), np.asarray([0.3]), steps=600).states
    cycle = detect_cycle(states, tolerance=1e-6, max_period=16)
    assert cycle.period == period
    assert (cycle.distance <= 1e-6) == (period is not None)


def test_only_the_end_counts_and_a_slow_drift_is_no_fixed_point():
    settled = np.concatenate([np.linspace(5, 1, 30), np.ones(9)])[:, None]
    assert detect_cycle(settled, tolerance=1e-9, max_period=4).period == 1
    drift = 0.01 * np.arange(40.0)[:, None]
    cycle = detect_cycle(drift, tolerance=1e-3, max_period=4)
    assert cycle.period is None and cycle.distance == pytest.approx(0.01)
    assert cycle.distances == pytest.approx([0.01, 0.02, 0.03, 0.04])
    assert detect_cycle(drift, tolerance=0.02, max_period=4).period == 1  # as the docs warn


def test_one_state_that_repeats_by_chance_is_no_cycle():
    states = np.asarray([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 7])[:, None]  # h_9 = h_7 only
    assert detect_cycle(states, tolerance=1e-9).period is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_has_not_settled(bad):
    cycle = detect_cycle(np.full((8, 2), bad), tolerance=1.0)
    assert cycle.period is None and np.isnan(cycle.distance)


def test_each_layer_settles_at_a_point_of_its_own():
    keys = jax.random.split(jax.random.key(0), 2)
    wide, narrow = eqx.nn.Linear(3, 7, key=keys[0]), eqx.nn.Linear(7, 3, key=keys[1])
    halved = eqx.tree_at(lambda layer: layer.weight, narrow, 0.3 * narrow.weight)
    found = layer_cycles((wide, jnp.tanh, halved), jnp.ones(3), 60, tolerance=1e-5)
    assert [layer.cycle.period for layer in found] == [1, 1, 1]
    assert [layer.name for layer in found] == ["Linear", "tanh", "Linear"]
    assert [layer.layer for layer in found] == [0, 1, 2]
    # By hand: the first residual of the first layer is ‖W(h_1 − h_0)‖.
    h0 = jnp.ones(3)
    h1 = halved(jnp.tanh(wide(h0)))
    assert found[0].residuals.shape == (59,)
    assert found[0].residuals[0] == pytest.approx(
        float(jnp.linalg.norm(wide(h1) - wide(h0))), rel=1e-4
    )


def test_layers_share_the_period_of_the_block_and_not_its_residuals():
    # The first layer turns by a quarter; the second triples, and the third undoes that.
    quarter = _turn(4)
    layers = (lambda h: quarter @ h, lambda h: 3.0 * h, lambda h: h / 3.0)
    found = layer_cycles(layers, np.asarray([1.0, 0.0]), 24, tolerance=1e-9)
    assert [layer.cycle.period for layer in found] == [4, 4, 4]
    side = np.sqrt(2.0)
    for layer, size in zip(found, (1.0, 3.0, 1.0), strict=True):
        assert layer.residuals == pytest.approx(np.full(23, size * side))
    # So the tolerance can be met by one and not by another.
    slow = layer_cycles(
        (lambda h: 0.9 * h, lambda h: 100 * h, lambda h: h / 100),
        np.ones(2),
        50,
        **{"tolerance": 0.05},
    )
    assert [layer.cycle.period for layer in slow] == [1, None, 1]


@pytest.mark.parametrize(
    "call",
    [
        lambda: detect_cycle(np.ones((2, 1)), tolerance=1.0),
        lambda: detect_cycle(np.ones((9, 1)), tolerance=0.0),
        lambda: detect_cycle(np.ones((9, 1)), tolerance=float("nan")),
        lambda: detect_cycle(np.ones((9, 1)), tolerance=1.0, max_period=5),
        lambda: detect_cycle(np.ones((9, 1)), tolerance=1.0, max_period=0),
        lambda: layer_cycles((), np.ones(2), 9, tolerance=1.0),
        lambda: layer_cycles((jnp.tanh,), np.ones(2), 2, tolerance=1.0),
        lambda: layer_cycles((jnp.tanh, lambda h: h[:1]), np.ones(2), 9, tolerance=1.0),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, assert_helpful):
    with pytest.raises(UsageError) as raised:
        call()
    assert_helpful(raised)
