"""Trajectories: residuals and rates by hand, the rounding floor, the certified envelope."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.stability import Certificate, Level, Norm, certify
from loopwm.stability.declaration import Mode
from loopwm.stability.trajectories import convergence_rate, follow


def _certificate(rate, norm=Norm.TWO, level=Level.GLOBAL, mode=Mode.CONTRACTIVE) -> Certificate:
    return Certificate(level, rate, norm, rate, 1.0, (), "float32", mode)


def test_a_halving_by_hand():
    seen = follow(lambda h: 0.5 * h, np.asarray([3.0, 4.0], np.float32), steps=4)
    assert seen.norms == pytest.approx([5.0, 2.5, 1.25, 0.625, 0.3125])
    assert seen.residuals == pytest.approx([2.5, 1.25, 0.625, 0.3125])
    assert seen.ratios == pytest.approx([0.5, 0.5, 0.5])
    assert seen.states.shape == (5, 2) and seen.states.dtype == np.float32
    assert seen.states[2] == pytest.approx([0.75, 1.0])
    assert seen.convergence.rate == pytest.approx(0.5, rel=1e-6)
    assert seen.convergence.spread == pytest.approx(0.0, abs=1e-6)
    assert seen.level is Level.EMPIRICAL and seen.convergence.level is Level.EMPIRICAL
    assert seen.envelope is None and seen.nonfinite_at is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_rate_is_not_spoilt_by_the_rounding_floor(dtype):
    # 400 loops at 0.9: from loop 150 (float32) or 330 (float64) on, residuals are rounding or 0.
    matrix = 0.9 * np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))[0]
    seen = follow(lambda h: matrix.astype(dtype) @ h + 1, np.ones(5, dtype), steps=400)
    assert seen.states.dtype == dtype
    assert seen.convergence.last < 400  # it saw the floor
    assert seen.convergence.rate == pytest.approx(0.9, rel=1e-4)
    assert seen.residuals[-1] < seen.floor


def test_the_rate_of_a_spiral_is_the_spectral_radius():
    turn = np.asarray([[np.cos(0.7), -2 * np.sin(0.7)], [0.5 * np.sin(0.7), np.cos(0.7)]])
    seen = follow(lambda h: 0.8 * turn @ h, np.asarray([1.0, 2.0]), steps=60)
    assert seen.convergence.rate == pytest.approx(0.8, rel=0.01)
    assert seen.convergence.spread > 0.1  # residuals swing around the line


def test_growth_is_reported_as_growth():
    seen = follow(lambda h: 1.5 * h, np.ones(2, np.float32), steps=20)
    assert seen.convergence.rate == pytest.approx(1.5, rel=1e-5)


@pytest.mark.parametrize("factor", [1e30, np.nan])
def test_a_divergence_is_named_and_not_masked(factor):
    seen = follow(lambda h: factor * h, np.ones(2, np.float32), steps=4)
    assert seen.nonfinite_at == (2 if factor == 1e30 else 1)
    assert np.isnan(seen.convergence.rate) and not np.all(np.isfinite(seen.residuals))


def test_a_map_that_is_done_after_one_loop_has_no_rate():
    seen = follow(lambda h: jnp.ones_like(h), np.zeros(3, np.float32), steps=5)
    assert seen.residuals == pytest.approx([np.sqrt(3), 0, 0, 0, 0])
    assert np.isnan(seen.convergence.rate) and seen.convergence.last == 1
    assert np.isnan(seen.ratios[1])  # 0/0 is named


def test_the_norm_is_the_one_that_is_given():
    seen = follow(lambda h: 0.5 * h, np.ones((2, 3)), steps=2, norm=lambda h: jnp.max(jnp.abs(h)))
    assert seen.norms == pytest.approx([1.0, 0.5, 0.25])
    assert seen.states.shape == (3, 2, 3)


def test_rate_by_hand_ignores_the_start_and_what_is_below_the_floor():
    residuals = np.concatenate([[100.0, 7.0], 0.5 ** np.arange(10), [1e-9, 3e-9, 1e-9]])
    fitted = convergence_rate(residuals, floor=1e-6)
    assert (fitted.first, fitted.last) == (6, 12)
    assert fitted.rate == pytest.approx(0.5)
    assert convergence_rate(jnp.ones(8)).rate == pytest.approx(1.0)
    assert np.isnan(convergence_rate(np.asarray([1.0, np.nan, 0.5])).rate)


def test_the_envelope_is_certified_and_holds():
    layer = eqx.nn.Linear(4, 4, key=jax.random.key(0))
    layer = eqx.tree_at(lambda x: x.weight, layer, 0.5 * layer.weight)
    module = eqx.nn.Sequential([layer, eqx.nn.Lambda(jnp.tanh)])
    certificate = certify(module, jnp.zeros(4))
    seen = follow(module, jnp.full(4, 3.0), steps=30, certificate=certificate)
    assert seen.envelope == pytest.approx(seen.residuals[0] * certificate.rate ** np.arange(30.0))
    assert seen.excess <= seen.floor


def test_an_envelope_that_is_too_small_is_refuted():
    seen = follow(lambda h: 0.9 * h, jnp.ones(2), steps=9, certificate=_certificate(0.7))
    assert seen.excess > 1e3 * seen.floor


@pytest.mark.parametrize(
    "norm, size", [(Norm.TWO, np.sqrt(14.0)), (Norm.INFINITY, 3.0), (Norm.TOKENS, np.sqrt(13.0))]
)
def test_the_norm_of_the_certificate_is_used(norm, size):
    state = jnp.asarray([[1.0, 0.0], [2.0, 3.0]])
    certificate = _certificate(0.5, norm)
    assert follow(lambda h: h, state, steps=1, certificate=certificate).norms[0] == (
        pytest.approx(size)
    )


def test_a_module_that_is_not_ours():
    cell = eqx.nn.GRUCell(3, 6, key=jax.random.key(1))
    x = jnp.asarray([0.3, -1.0, 2.0])
    seen = follow(lambda h: cell(x, h), jnp.zeros(6), steps=200)
    h, step = jnp.zeros(6), jax.jit(lambda h: cell(x, h))
    for _ in range(3):
        h = step(h)
    assert seen.states[3] == pytest.approx(np.asarray(h), abs=1e-6)
    assert 0 < seen.convergence.rate < 1 and seen.residuals[-1] <= seen.floor


def test_a_function_is_read_anew_at_every_call():
    scale = 0.5

    def update(h):
        return scale * h

    assert follow(update, jnp.ones(1), steps=1).states[1] == pytest.approx(0.5)
    scale = 0.25
    assert follow(update, jnp.ones(1), steps=1).states[1] == pytest.approx(0.25)


@pytest.mark.parametrize(
    "call",
    [
        lambda: follow(lambda h: h, jnp.ones(2), steps=0),
        lambda: follow(lambda h: h[:1], jnp.ones(2), steps=2),
        lambda: follow(lambda h: h, np.ones(2, np.int32), steps=2),
        lambda: follow(lambda h: h, jnp.ones(2), steps=2, norm=lambda h: h),
        lambda: follow(lambda h: h, jnp.ones(2), steps=2, certificate=_certificate(0.5, Norm.P)),
        lambda: follow(
            lambda h: h, jnp.ones(2), steps=2, certificate=_certificate(0.5, level=Level.LINEAR)
        ),
        lambda: follow(lambda h: h, jnp.ones(2), steps=2).excess,
        lambda: convergence_rate(np.ones((2, 2))),
        lambda: convergence_rate(np.asarray([1.0, -1.0])),
    ],
    ids=["steps", "square", "type", "norm", "P", "linear", "excess", "shape", "negative"],
)
def test_bad_input_is_refused_in_a_sentence(call, assert_helpful):
    with pytest.raises(UsageError) as raised:
        call()
    assert_helpful(raised)
