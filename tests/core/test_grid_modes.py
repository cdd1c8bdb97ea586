"""Convolutional blocks in the other modes: what they guarantee, near and far."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.core import ConvolutionConfig, FixedDepth, GridCore, InfinityConfig, iterate
from loopwm.errors import UsageError
from loopwm.models import count_parameters
from loopwm.nn import resolve
from loopwm.stability import Level, Mode, attack, certify, weighted

RING, CHANNELS = 5, 4
SHAPE = (RING, CHANNELS)
MODES = [Mode.BOUNDED, Mode.LINEAR, Mode.FREE]


def _config(mode: Mode) -> ConvolutionConfig:
    return ConvolutionConfig(
        channels=CHANNELS, hidden=6, inputs=3, readout=4, dimensions=1, periodic=True, mode=mode
    )


@pytest.fixture(scope="module")
def cores(filled):
    return {mode: filled(lambda key, m=mode: GridCore(2, 1, _config(m), key=key)) for mode in Mode}


@pytest.fixture(scope="module")
def updates(cores):
    grid = jnp.asarray(np.random.default_rng(3).normal(size=(RING, 2)), jnp.float32)

    @eqx.filter_jit
    def bound(core):
        return resolve(core).bind(core.prelude(grid))

    return {mode: bound(core) for mode, core in cores.items()}


def test_modes_have_about_as_many_weights(cores):
    counts = {mode: count_parameters(core) for mode, core in cores.items()}
    assert max(counts.values()) <= 1.1 * min(counts.values()), counts


@eqx.filter_jit
def _states(update, h):
    """h after each of 200 loops."""
    return jax.lax.scan(lambda h, _: ((n := jax.vmap(update)(h)), n), h, None, 200)[1]


@pytest.mark.parametrize("factor", [1.0, 1e3])
def test_bounded_states_stay_in_the_box_for_every_depth(factor, cores, updates, rng):
    radius = certify(cores[Mode.BOUNDED]).radius
    assert radius is not None
    update = eqx.tree_at(
        lambda u: [layer.weight for layer in u.layers],
        updates[Mode.BOUNDED],
        replace_fn=lambda w: factor * w,
    )
    h = jnp.asarray(radius * np.sign(rng.normal(size=(16, *SHAPE))), jnp.float32)
    found = np.abs(np.asarray(_states(update, h), np.float64))
    assert 0.3 * radius / np.sqrt(CHANNELS) < found.max() <= radius


def test_bounded_growth_is_not_exceeded(cores, updates, key):
    certificate, update = certify(cores[Mode.BOUNDED]), updates[Mode.BOUNDED]
    assert certificate.level is Level.BALL and certificate.rate > 1
    p = weighted.weights(update.retention.ravel(), certificate.gamma)

    def norm(x):
        return weighted.norm(x.ravel(), p)

    found = attack(update, norm, SHAPE, key=key, starts=8, steps=60)
    assert 0.5 < found.ratio <= certificate.rate


def test_linear_speaks_of_the_retention_and_free_of_nothing(cores, assert_helpful):
    certificate = certify(cores[Mode.LINEAR])
    retention = cores[Mode.LINEAR].block.retention()
    assert certificate.level is Level.LINEAR
    assert certificate.rate == pytest.approx(float(jnp.max(retention)))
    with pytest.raises(UsageError, match="mode 'free'") as raised:
        certify(cores[Mode.FREE])
    assert_helpful(raised)


@pytest.mark.parametrize("mode", MODES)
def test_cells_of_a_ring_are_alike_and_every_weight_learns(mode, cores, rng):
    x = jnp.asarray(rng.normal(size=(RING, 2)), jnp.float32)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(core, x):
        return jnp.sum(resolve(core)(x, FixedDepth(2)).value ** 2)

    value, gradient = loss(cores[mode], x)
    np.testing.assert_allclose(value, loss(cores[mode], jnp.roll(x, 2, axis=0))[0], rtol=1e-4)
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf)) and np.any(np.asarray(leaf) != 0)


@pytest.mark.parametrize("mode", MODES)
def test_no_error_bound_without_a_contraction(mode, updates):
    update = updates[mode]
    solution = iterate(update, update.start(), FixedDepth(2))
    assert np.isinf(solution.stats.error_bound) and np.isfinite(solution.stats.residual)


def test_residual_layer_by_hand(updates, rng):
    layer, injected = updates[Mode.FREE].layers[0], updates[Mode.FREE].injected[0]
    y = rng.normal(size=SHAPE)
    kernel = np.asarray(layer.weight, np.float64)
    before = sum(np.roll(y, 1 - tap, axis=0) @ kernel[:, :, tap].T for tap in range(3))
    hidden = np.maximum(before + np.asarray(injected, np.float64), 0.0)
    expected = y + hidden @ np.asarray(layer.readout, np.float64).T
    np.testing.assert_allclose(layer(jnp.asarray(y, jnp.float32), injected), expected, atol=1e-4)


def test_a_start_from_the_input_lies_in_the_ball_and_is_where_the_loop_begins(filled, rng):
    config = dataclasses.replace(_config(Mode.BOUNDED), start_from_input=True)
    core = filled(lambda key: GridCore(2, 1, config, key=key))
    x = jnp.asarray(100.0 * rng.normal(size=(RING, 2)), jnp.float32)
    e = core.prelude(x)
    before = np.asarray(e, np.float64) @ np.asarray(core.initial.weight, np.float64).T
    before = before + np.asarray(core.initial.bias, np.float64)
    start = before / np.sqrt(1.0 + np.sum(before**2, axis=-1, keepdims=True) / CHANNELS)
    assert np.linalg.norm(start, axis=-1).max() <= np.sqrt(CHANNELS)
    update = core.bind(e)
    expected = core.readout(update(jnp.asarray(start, jnp.float32)), e)
    np.testing.assert_allclose(core(x, FixedDepth(1)).value, expected, atol=1e-4)


@pytest.mark.parametrize("mode", [Mode.CONTRACTIVE, *MODES])
def test_a_loop_that_knows_its_state_alone(mode, filled, rng):
    config = dataclasses.replace(_config(mode), start_from_input=True, injected=False, gated=False)
    core = eqx.filter_jit(resolve)(filled(lambda key: GridCore(2, 1, config, key=key)))
    a, b = (core.prelude(jnp.asarray(rng.normal(size=(RING, 2)), jnp.float32)) for _ in range(2))
    h = jnp.asarray(rng.normal(size=SHAPE), jnp.float32)
    np.testing.assert_array_equal(core.bind(a)(h), core.bind(b)(h))
    assert not np.array_equal(
        core(a[:, :2], FixedDepth(2)).value, core(b[:, :2], FixedDepth(2)).value
    )
    if mode is not Mode.FREE:
        assert certify(core).level in (Level.GLOBAL, Level.BALL, Level.LINEAR)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ConvolutionConfig(injected=False, gated=False),
        lambda: ConvolutionConfig(injected=False, start_from_input=True),
        lambda: InfinityConfig(injected=False, start_from_input=True),
        lambda: InfinityConfig(rest=True, start_from_input=True),
        lambda: ConvolutionConfig(prelude_window=2),
    ],
)
def test_loops_that_could_not_work_are_refused(call, assert_helpful):
    with pytest.raises(UsageError) as raised:
        call()
    assert_helpful(raised)
