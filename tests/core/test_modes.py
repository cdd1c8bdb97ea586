"""The core's modes: what each guarantees, and that it is no more than that."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.core import CoreConfig, FixedDepth, LayerKind, LoopedCore, iterate
from loopwm.errors import UsageError
from loopwm.models import count_parameters
from loopwm.nn import resolve
from loopwm.stability import Level, Mode, Norm, attack, certify, weighted

WIDTH = 8


@pytest.fixture(scope="module")
def cores():
    def build(mode):
        return LoopedCore(5, 2, CoreConfig(mode=mode, width=WIDTH), key=jax.random.key(3))

    return {mode: build(mode) for mode in Mode}


@pytest.fixture(scope="module")
def updates(cores):
    @eqx.filter_jit
    def bound(core):
        core = resolve(core)
        return core.bind(core.prelude(jnp.linspace(-1.0, 1.0, 5), jnp.asarray([0.5, -1.0])))

    return {mode: bound(core) for mode, core in cores.items()}


def _louder(update, factor):
    """The update with the matrices of its residual layers multiplied."""
    return eqx.tree_at(
        lambda u: [layer.weight for layer in u.layers],
        update,
        replace_fn=lambda w: factor * w,
    )


def test_modes_have_as_many_weights():
    counts = {}
    for mode in (Mode.CONTRACTIVE, Mode.BOUNDED, Mode.FREE):
        config = CoreConfig(mode=mode, width=48)
        shapes = eqx.filter_eval_shape(LoopedCore, 48, 2, config, key=jax.random.key(0))
        counts[mode] = count_parameters(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes))
    assert max(counts.values()) <= 1.01 * min(counts.values())


@pytest.mark.parametrize("mode", Mode)
def test_every_mode_imagines_and_learns(mode, cores):
    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(core):
        core = resolve(core)
        solution = core(jnp.linspace(-1.0, 1.0, 5), jnp.asarray([0.5, -1.0]), FixedDepth(3))
        return jnp.sum(solution.value**2)

    value, gradient = loss(cores[mode])
    assert np.isfinite(value) and value > 0
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient.block))


@pytest.mark.parametrize("factor", [1.0, 1e3])
def test_bounded_states_stay_in_the_box_for_every_depth(factor, cores, updates, rng):
    core, update = cores[Mode.BOUNDED], _louder(updates[Mode.BOUNDED], factor)
    radius = certify(core).radius
    corners = radius * np.sign(rng.normal(size=(32, WIDTH)))
    states = jnp.asarray(np.concatenate([corners, np.zeros((1, WIDTH))]), jnp.float32)

    @jax.jit
    def loops(states):
        return jax.lax.scan(lambda h, _: ((n := jax.vmap(update)(h)), n), states, None, 300)[1]

    found = np.abs(np.asarray(loops(states), np.float64))
    assert found.max() <= radius
    assert found.max() > 0.3 * radius / np.sqrt(WIDTH)  # and not because nothing moves


def test_bounded_growth_is_not_exceeded(cores, updates, key):
    certificate, update = certify(cores[Mode.BOUNDED]), updates[Mode.BOUNDED]
    assert certificate.level is Level.BALL and certificate.norm is Norm.P
    assert certificate.rate > 1 and certificate.growth(3) == pytest.approx(certificate.rate**3)
    p = weighted.weights(update.retention, certificate.gamma)
    found = attack(update, lambda x: weighted.norm(x, p), WIDTH, key=key, starts=16, steps=100)
    assert 1.0 < found.ratio <= certificate.rate
    with pytest.raises(UsageError, match="no contraction"):
        certificate.sufficient_depth(0.1, 1.0)


def test_linear_says_nothing_about_the_whole_update(cores, updates, key, assert_helpful):
    certificate = certify(cores[Mode.LINEAR])
    assert certificate.level is Level.LINEAR and certificate.rate == pytest.approx(np.exp(-1.0))
    # The retention contracts at 0.37, the update it is part of does not.
    update = updates[Mode.LINEAR]
    assert attack(update, update.norm, WIDTH, key=key, starts=8, steps=60).ratio > 1.5
    for promise in (lambda: certificate.sufficient_depth(0.1, 1.0), lambda: certificate.growth(2)):
        with pytest.raises(UsageError, match="whole update") as raised:
            promise()
        assert_helpful(raised)


def test_free_is_refused(cores, assert_helpful):
    with pytest.raises(UsageError, match="mode 'free'") as raised:
        certify(cores[Mode.FREE])
    assert_helpful(raised)


@pytest.mark.parametrize("mode", [Mode.BOUNDED, Mode.LINEAR, Mode.FREE])
def test_no_error_bound_without_a_contraction(mode, updates):
    solution = iterate(updates[mode], jnp.zeros(WIDTH), FixedDepth(3))
    assert np.isinf(solution.stats.error_bound) and np.isfinite(solution.stats.residual)


def test_modes_by_hand(updates):
    h = jnp.linspace(-1.0, 2.0, WIDTH)

    def branch(layer, injected, y):
        inner = np.maximum(np.asarray(layer.weight) @ y + injected, 0.0)
        return np.asarray(layer.readout) @ inner

    bounded = updates[Mode.BOUNDED]
    y = np.asarray(h, np.float64)
    for layer, injected in zip(bounded.layers, bounded.injected, strict=True):
        y = y + branch(layer, injected, y)
    kept = np.asarray(bounded.retention)
    expected = kept * h + (1 - kept) * y / np.sqrt(1 + y @ y / WIDTH)
    np.testing.assert_allclose(bounded(h), expected, rtol=1e-4, atol=1e-5)

    for mode in (Mode.LINEAR, Mode.FREE):
        update = updates[mode]
        y = np.asarray(h, np.float64)
        for layer, injected in zip(update.layers, update.injected, strict=True):
            y = y + branch(layer, injected, y / np.sqrt(np.mean(y * y) + 1e-6))
        kept = np.asarray(update.retention)
        expected = kept * h + (1 - kept) * update.drive + update.share * (y - h)
        np.testing.assert_allclose(update(h), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", LayerKind)
def test_every_kind_of_layer_is_certified_and_holds(layer, key):
    core = LoopedCore(5, 2, CoreConfig(layer=layer, width=WIDTH), key=jax.random.key(3))
    core = eqx.filter_jit(resolve)(core)
    certificate = certify(core)
    assert certificate.level is Level.GLOBAL
    assert certificate.rate == pytest.approx(0.6 + 0.4 * 0.95, rel=1e-5)
    update = core.bind(core.prelude(jnp.linspace(-1.0, 1.0, 5), jnp.asarray([0.5, -1.0])))
    found = attack(update, update.norm, WIDTH, key=key, starts=8, steps=60)
    assert 0.5 < found.ratio <= certificate.rate
