"""The looped core: its certificate against adversaries, and its mathematics by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.core import RESULTS, CoreConfig, FixedDepth, LoopedCore, ResidualHalting
from loopwm.errors import UsageError
from loopwm.nn import resolve
from loopwm.stability import Level, Norm, attack, certify

WIDTH = 8
NAMES = ["fresh", "block x100", "prelude x1e6", "all loud", "quiet"]


@pytest.mark.parametrize("name", NAMES)
def test_certificate_is_global_and_below_one_for_any_weights(name, perturbed):
    certificate = certify(perturbed[name])
    assert certificate.level is Level.GLOBAL and certificate.norm is Norm.P
    assert certificate.rate == pytest.approx(0.6 + 0.4 * 0.95) and certificate.rate < 1
    assert [layer.constant for layer in certificate.layers] == [1.0, 1.0]
    assert certify(resolve(perturbed[name])).rate == certificate.rate


@eqx.filter_jit
def _ratios(update, x, y):
    before = jax.vmap(update.norm)(x - y)
    after = jax.vmap(lambda a, b: update.norm(update(a) - update(b)))(x, y)
    return after / before


@pytest.mark.parametrize("name", NAMES)
def test_random_pairs_near_and_far_stay_below_the_rate(name, perturbed, bind, inputs, rng):
    rate = certify(perturbed[name]).rate
    update = bind(perturbed[name], *inputs)
    scale = 10.0 ** rng.uniform(-1, 4, size=(256, 1))
    x = jnp.asarray(scale * rng.normal(size=(256, WIDTH)), jnp.float32)
    y = x + jnp.asarray(scale * 0.3 * rng.normal(size=(256, WIDTH)), jnp.float32)
    assert float(jnp.max(_ratios(update, x, y))) <= rate * (1 + 1e-4)


@pytest.mark.parametrize("name", ["fresh", "all loud"])
def test_the_adversary_does_not_exceed_the_rate(name, perturbed, bind, inputs, key):
    update = bind(perturbed[name], *inputs)
    result = attack(update, update.norm, WIDTH, key=key, starts=16, steps=80)
    assert result.ratio <= certify(perturbed[name]).rate * (1 + 1e-4)
    assert result.ratio > 0.5  # it did look


def test_the_adversary_breaks_a_core_without_its_cap(core, bind, inputs, key):
    # Teeth: the same search finds expansion once the weights leave the cap.
    free = [layer.weight.value() * 2.0 for layer in core.block.layers]
    broken = eqx.tree_at(lambda c: [layer.weight for layer in c.block.layers], core, free)
    update = bind(broken, *inputs)
    assert attack(update, update.norm, WIDTH, key=key, starts=16, steps=80).ratio > 1.5
    with pytest.raises(UsageError, match="not below 1"):
        certify(broken)


@eqx.filter_jit
def _advance(update, pair):
    """One loop of both states, their distance in P and the rounding of it."""
    pair = jax.vmap(update)(pair)
    return pair, update.norm(pair[0] - pair[1]), jnp.max(jax.vmap(update.rounding)(pair))


@pytest.mark.parametrize("name", NAMES)
def test_two_starts_approach_at_rate_to_the_depth(name, perturbed, bind, inputs, rng):
    update = bind(perturbed[name], *inputs)
    rate = certify(perturbed[name]).rate
    pair = jnp.asarray(rng.normal(size=(2, WIDTH)) * 10.0, jnp.float32)
    start = float(update.norm(pair[0] - pair[1]))
    for depth in range(1, 41):
        pair, distance, rounding = _advance(update, pair)
        slack = 2.0 * float(rounding) / (1 - rate)
        assert float(distance) <= rate**depth * start * (1 + 1e-4) + slack


def test_retention_stays_in_its_range_and_depends_on_the_input(perturbed, bind, rng):
    seen = []
    for name in NAMES:
        declared = perturbed[name].declare()
        for _ in range(3):
            z = jnp.asarray(rng.normal(size=5) * 5, jnp.float32)
            update = bind(perturbed[name], z, jnp.asarray(rng.normal(size=2), jnp.float32))
            seen.append(np.asarray(update.retention))
            assert declared.retention_min <= seen[-1].min()
            assert seen[-1].max() <= declared.retention_max
    assert np.ptp(np.stack(seen), axis=0).max() > 0.1


def test_the_rate_of_an_input_is_rounded_up_and_below_the_certificate(core, bind, inputs, rng):
    certificate, update = certify(core), bind(core, *inputs)
    rate = jax.jit(lambda a: eqx.tree_at(lambda u: u.retention, update, a).rate())
    for _ in range(50):
        retention = rng.uniform(0.05, 0.6, size=WIDTH).astype(np.float32)
        exact = np.max(retention.astype(float) + (1 - retention.astype(float)) * certificate.gamma)
        assert exact <= float(rate(jnp.asarray(retention))) <= certificate.rate * (1 + 1e-6)


def test_declaration_holds_for_the_numbers_that_are_computed():
    # float32 rounds 0.99999999 to 1, where nothing contracts: refused, not certified.
    for config in (
        {"gamma": 1 - 1e-9},
        {"retention_max": 1 - 1e-9},
        {"gamma": 1e-60},
        {"retention_min": 1e-60},
    ):
        with pytest.raises(UsageError):
            CoreConfig(width=4, **config)
    core = LoopedCore(2, 1, CoreConfig(width=2, gamma=0.1), key=jax.random.key(0))
    assert core.declare().scale >= float(np.float32(0.1)) > 0.1


def test_jvp_of_one_loop_matches_finite_differences(core, bind, inputs, reference, rng):
    update = bind(core, *inputs)
    twin = reference(update)
    h, direction = rng.normal(size=WIDTH), rng.normal(size=WIDTH)
    _, tangent = jax.jit(lambda x, v: jax.jvp(update, (x,), (v,)))(
        jnp.asarray(h, jnp.float32), jnp.asarray(direction, jnp.float32)
    )
    numeric = (twin(h + 1e-6 * direction) - twin(h - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(tangent, numeric, rtol=1e-3, atol=1e-4)


def test_call_is_prelude_loop_coda(core, bind, inputs, reference):
    solution = eqx.filter_jit(core)(*inputs, FixedDepth(3))
    twin, h = reference(bind(core, *inputs)), np.zeros(WIDTH)
    for _ in range(3):
        h = twin(h)
    joined = np.concatenate(inputs).astype(np.float64)
    raw = np.asarray(core.prelude.linear.weight) @ joined + np.asarray(core.prelude.linear.bias)
    e = raw / (1 + np.exp(-raw))
    e = e / np.sqrt(1 + np.sum(e**2) / WIDTH)
    expected = core.coda.weight @ np.concatenate([h, e]) + core.coda.bias
    np.testing.assert_allclose(solution.value, expected, atol=1e-5)
    assert solution.result == RESULTS.successful and int(solution.stats.loops) == 3


def test_resolved_core_is_the_same_function(core, inputs):
    call = eqx.filter_jit(lambda c: c(*inputs, ResidualHalting(1e-3)).value)
    np.testing.assert_allclose(call(core), call(resolve(core)), atol=1e-6)


def test_nan_input_is_reported(core, inputs):
    solution = eqx.filter_jit(core)(inputs[0].at[0].set(jnp.nan), inputs[1], FixedDepth(3))
    assert solution.result == RESULTS.nonfinite


def test_float16_core_is_refused(core, assert_helpful):
    half = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x, resolve(core)
    )
    with pytest.raises(UsageError, match="bfloat16") as raised:
        certify(half)
    assert_helpful(raised)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"layers": 0},
        {"gamma": 1.0},
        {"gamma": 0.0},
        {"gamma": float("nan")},
        {"retention_min": 0.0},
        {"retention_max": 1.0},
        {"retention_min": 0.7},
    ],
    ids=str,
)
def test_impossible_configurations_are_refused(change, assert_helpful):
    with pytest.raises(UsageError) as raised:
        CoreConfig(**change)
    assert_helpful(raised)
