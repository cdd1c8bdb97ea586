"""The convolutional core: its certificate against adversaries, and its mathematics by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.core import (
    RESULTS,
    ContractiveUpdate,
    ConvolutionConfig,
    FixedDepth,
    GridCore,
    SampledDepth,
    iterate,
)
from loopwm.errors import UsageError
from loopwm.nn import resolve
from loopwm.stability import Level, Norm, attack, certify

CHANNELS, RING = 3, 5


@pytest.fixture(scope="module")
def cores(filled):
    def build(**changes) -> GridCore:
        config = ConvolutionConfig(channels=CHANNELS, hidden=4, inputs=3, readout=4, **changes)
        return filled(lambda key: GridCore(2, 1, config, key=key))

    ring = build(dimensions=1, periodic=True)
    alone = {"periodic": True, "grid": (RING,), "gated": False}
    return {
        "ring": ring,
        "ring, loud": jax.tree.map(lambda x: 30.0 * x, ring),
        "one ring": build(dimensions=1, **alone),
        "plane": build(),
    }


@pytest.fixture(scope="module")
def resolved(cores):
    """The same cores with their caps computed, once."""
    return {name: eqx.filter_jit(resolve)(core) for name, core in cores.items()}


@pytest.fixture(scope="module")
def certificates(resolved):
    return {name: certify(core) for name, core in resolved.items()}


NAMES = ["ring", "ring, loud", "one ring", "plane"]


def _cells(name) -> tuple[int, ...]:
    return (2, 3) if name == "plane" else (RING,)


@eqx.filter_jit
def _bind(resolved, grid):
    return resolved.bind(resolved.prelude(grid))


@pytest.fixture(scope="module")
def updates(resolved):
    rng = np.random.default_rng(8)
    return {
        name: _bind(core, jnp.asarray(rng.normal(size=(*_cells(name), 2)), jnp.float32))
        for name, core in resolved.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_certificate_is_global_in_the_p_norm_for_any_weights(name, certificates):
    certificate = certificates[name]
    assert certificate.level is Level.GLOBAL and certificate.norm is Norm.P
    assert certificate.rate == pytest.approx(0.6 + 0.4 * 0.95) and certificate.rate < 1
    assert [layer.constant for layer in certificate.layers] == [1.0, 1.0]


@eqx.filter_jit
def _ratios(update, x, y):
    before = jax.vmap(update.norm)(x - y)
    return jax.vmap(lambda a, b: update.norm(update(a) - update(b)))(x, y) / before


@pytest.mark.parametrize("name", NAMES)
def test_random_pairs_near_and_far_stay_below_the_rate(name, certificates, updates, rng):
    shape = (128, *_cells(name), CHANNELS)
    scale = 10.0 ** rng.uniform(-1, 4, size=(128,) + (1,) * (len(shape) - 1))
    x = jnp.asarray(scale * rng.normal(size=shape), jnp.float32)
    y = x + jnp.asarray(0.3 * scale * rng.normal(size=shape), jnp.float32)
    worst = float(_ratios(updates[name], x, y).max())
    assert 0.3 < worst <= float(updates[name].rate()) * (1 + 1e-4)
    assert float(updates[name].rate()) <= certificates[name].rate * (1 + 1e-6)


def _flat(update, name):
    shape = (*_cells(name), CHANNELS)
    size = int(np.prod(shape))
    return lambda x: update(x.reshape(shape)).ravel(), lambda x: update.norm(x.reshape(shape)), size


@pytest.mark.parametrize("name", ["ring", "plane"])
def test_the_adversary_does_not_exceed_the_rate(name, updates, key):
    result = attack(*_flat(updates[name], name), key=key, starts=8, steps=40)
    assert 0.6 < result.ratio <= float(updates[name].rate()) * (1 + 1e-4)


def test_the_adversary_breaks_a_core_without_its_cap(cores, key):
    free = [2.0 * layer.weight.value() for layer in cores["ring"].block.layers]
    broken = eqx.tree_at(lambda c: [layer.weight for layer in c.block.layers], cores["ring"], free)
    update = broken.bind(broken.prelude(jnp.ones((RING, 2))))
    assert attack(*_flat(update, "ring"), key=key, starts=8, steps=40).ratio > 1.2
    with pytest.raises(UsageError, match="not below 1"):
        certify(broken)


def _by_hand(update: ContractiveUpdate, h: np.ndarray) -> np.ndarray:
    """One loop on a ring in float64, each layer as a dense circulant matrix."""
    n, retention, y = len(h), np.asarray(update.retention, np.float64), h
    for layer, injected in zip(update.layers, update.injected, strict=True):
        kernel = np.asarray(layer.weight, np.float64)
        dense = np.zeros((n, kernel.shape[0], n, kernel.shape[1]))
        for cell in range(n):
            for tap in range(3):
                dense[cell, :, (cell + tap - 1) % n] += kernel[:, :, tap]
        dense = dense.reshape(n * kernel.shape[0], -1)
        hidden = np.maximum(dense @ y.ravel() + np.asarray(injected, np.float64).ravel(), 0.0)
        y = y - (dense.T @ hidden).reshape(y.shape)
    return retention * h + (1.0 - retention) * float(np.float32(update.gamma)) * y


@pytest.mark.parametrize("name", ["ring", "ring, loud", "one ring"])
def test_one_loop_by_hand(name, updates, rng):
    h = rng.normal(size=(RING, CHANNELS))
    result = eqx.filter_jit(updates[name])(jnp.asarray(h, jnp.float32))
    np.testing.assert_allclose(result, _by_hand(updates[name], h), rtol=1e-4, atol=1e-4)


@eqx.filter_jit
def _solve(update, h, depth):
    return iterate(update, h, SampledDepth(depth, 400))


@pytest.mark.parametrize("name", ["ring", "ring, loud", "one ring"])
def test_true_error_never_exceeds_the_bound(name, updates, rng):
    update = updates[name]
    fixed = np.zeros((RING, CHANNELS))
    for _ in range(2000):
        fixed = _by_hand(update, fixed)
    a = np.asarray(update.retention, np.float64)
    p = 1.0 / ((1.0 - a) * (a + (1.0 - a) * float(np.float32(update.gamma))))
    for depth in (1, 4, 40, 400):
        h = jnp.asarray(rng.normal(size=fixed.shape) * 100.0, jnp.float32)
        solution = _solve(update, h, jnp.asarray(depth))
        error = np.sqrt(np.sum(p * (np.asarray(solution.value, np.float64) - fixed) ** 2))
        assert error <= float(solution.stats.error_bound), depth
    size = np.sqrt(np.sum(p * fixed**2))
    assert 0.0 < float(solution.stats.error_bound) <= 2e-2 * max(size, 1.0)


def test_retention_keeps_to_its_range_and_to_its_kind(updates):
    for name, update in updates.items():
        retention = np.asarray(update.retention)
        assert np.float32(0.05) <= retention.min() <= retention.max() <= np.float32(0.6)
        varies = np.ptp(retention.reshape(-1, CHANNELS), axis=0).max()
        assert (varies == 0.0) == (name == "one ring")


def test_a_ring_has_no_first_cell(resolved, rng):
    x = jnp.asarray(rng.normal(size=(RING, 2)), jnp.float32)
    call = eqx.filter_jit(lambda core, x: core(x, FixedDepth(3)))
    for name in ("ring", "one ring"):
        solution = call(resolved[name], x)
        assert solution.value.shape == (RING, 1) and int(solution.stats.loops) == 3
        moved = call(resolved[name], jnp.roll(x, 2, axis=0)).value
        np.testing.assert_allclose(moved, jnp.roll(solution.value, 2, axis=0), atol=1e-5)
    assert call(resolved["ring"], jnp.ones((9, 2))).value.shape == (9, 1)
    solution = call(resolved["ring"], x.at[0, 0].set(jnp.nan))
    assert solution.result == RESULTS.nonfinite


def test_resolved_core_is_the_same_function_with_gradients(cores, resolved, rng):
    x = jnp.asarray(rng.normal(size=(RING, 2)), jnp.float32)

    def loss(core):
        return jnp.sum(core(x, FixedDepth(2)).value ** 2)

    value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss))(cores["ring"])
    np.testing.assert_allclose(value, eqx.filter_jit(loss)(resolved["ring"]), rtol=1e-5)
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf)) and float(jnp.abs(leaf).max()) > 0.0


def test_another_grid_is_refused(cores, assert_helpful):
    for name, shape in (("one ring", (6, 2)), ("ring", (5, 3)), ("plane", (5, 2))):
        with pytest.raises(UsageError) as raised:
            cores[name](jnp.ones(shape), FixedDepth(1))
        assert_helpful(raised)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 0},
        {"layers": 0},
        {"window": 0},
        {"gamma": 1.0},
        {"gamma": 1 - 1e-9},
        {"retention_min": 0.0},
        {"retention_max": 1.0},
        {"retention_min": 0.7},
    ],
    ids=str,
)
def test_impossible_configurations_are_refused(change, assert_helpful):
    with pytest.raises(UsageError) as raised:
        ConvolutionConfig(**change)
    assert_helpful(raised)
