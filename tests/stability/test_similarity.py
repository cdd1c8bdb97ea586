"""Similarity of loops: values by hand, invariances, and what has no similarity."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwm.errors import UsageError
from loopwm.stability import Level
from loopwm.stability.similarity import attention_drift, cka_between_loops, linear_cka


def _unbiased_hsic(x, y):
    n = len(x)
    left, right = x @ x.T, y @ y.T
    np.fill_diagonal(left, 0)
    np.fill_diagonal(right, 0)
    one = np.ones(n)
    middle = (one @ left @ one) * (one @ right @ one) / ((n - 1) * (n - 2))
    last = 2 / (n - 2) * (one @ left @ right @ one)
    return (np.trace(left @ right) + middle - last) / (n * (n - 3))


def test_cka_by_hand():
    # Centred columns (−1, 0, 1) and (1, −2, 1): XᵀX = 2, YᵀY = 6; alone orthogonal, together
    # YᵀX has the entries 2 and 0.
    line, bend = np.asarray([[0.0], [1.0], [2.0]]), np.asarray([[1.0], [-2.0], [1.0]])
    assert linear_cka(line, bend).value == pytest.approx(0.0, abs=1e-15)
    both = np.hstack([line, bend])
    assert linear_cka(line, both).value == pytest.approx(4 / (2 * np.sqrt(4 + 36)))
    found = linear_cka(line, line)
    assert found.value == pytest.approx(1.0) and found.samples == 3
    assert found.level is Level.EMPIRICAL and not found.debiased


@given(
    seed=st.integers(0, 2**16),
    scale=st.floats(1e-6, 1e6),
    widths=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    debiased=st.booleans(),
)
def test_invariant_to_rotation_scale_and_shift(seed, scale, widths, debiased):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(8, widths[0])), rng.normal(size=(8, widths[1]))
    turn = np.linalg.qr(rng.normal(size=(widths[0],) * 2))[0]
    plain = linear_cka(x, y, debiased=debiased).value
    moved = linear_cka(scale * (x @ turn + rng.normal(size=widths[0])), y, debiased=debiased).value
    assert moved == pytest.approx(plain, rel=1e-6, abs=1e-6)
    assert linear_cka(y, x, debiased=debiased).value == pytest.approx(plain)
    if not debiased:
        assert -1e-12 <= plain <= 1 + 1e-12


@pytest.mark.parametrize("features", [3, 40])
def test_both_estimators_against_their_definitions(features, rng):
    x, y = rng.normal(size=(12, features)) + 3.0, rng.normal(size=(12, 5))
    y[:, 0] += x[:, 0]
    centre = np.eye(12) - 1 / 12
    left, right = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    biased = np.sum(left * right) / np.sqrt(np.sum(left**2) * np.sum(right**2))
    assert linear_cka(x, y).value == pytest.approx(biased)
    unbiased = _unbiased_hsic(x, y) / np.sqrt(_unbiased_hsic(x, x) * _unbiased_hsic(y, y))
    assert linear_cka(x, y, debiased=True).value == pytest.approx(unbiased)


def test_debiasing_is_what_wide_representations_need(rng):
    x, y = rng.normal(size=(2, 50, 400))
    assert linear_cka(x, y).value > 0.8  # independent!
    assert abs(linear_cka(x, y, debiased=True).value) < 0.1


def test_cka_between_loops_names_a_common_start(rng):
    states = np.cumsum(rng.normal(size=(4, 20, 6)), axis=0).astype(np.float32)
    states[0] = 0.7
    found = cka_between_loops(jnp.asarray(states))
    assert found.degenerate == (0,) and found.samples == 20
    assert np.all(np.isnan(found.values[0])) and np.all(np.isnan(found.values[:, 0]))
    inner = found.values[1:, 1:]
    assert np.diag(inner) == pytest.approx(np.ones(3)) and np.array_equal(inner, inner.T)
    assert inner[0, 2] == pytest.approx(linear_cka(states[1], states[3]).value)
    assert found.level is Level.EMPIRICAL
    # Float32 rounding beside a large common part is no variation either.
    states[1] = (1e4 + 1e-4 * rng.normal(size=(20, 6))).astype(np.float32)
    assert cka_between_loops(states).degenerate == (0, 1)


def test_attention_drift_by_hand():
    # One head, one query, two keys, three loops.
    rows = np.asarray([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])[:, None, None, :]
    drift = attention_drift(rows)
    assert drift.consecutive == pytest.approx([0.5, 0.5])
    assert drift.to_last == pytest.approx([1.0, 0.5, 0.0])
    assert drift.heads.shape == (2, 1) and drift.level is Level.EMPIRICAL
    shannon = attention_drift(rows, distance="jensen_shannon")
    # m = (3/4, 1/4): ½ log2(4/3) + ½ (½ log2(2/3) + ½ log2 2)
    half = 0.5 * np.log2(4 / 3) + 0.5 * (0.5 * np.log2(2 / 3) + 0.5)
    assert shannon.consecutive == pytest.approx(np.sqrt([half, half]))
    assert shannon.to_last == pytest.approx([1.0, np.sqrt(half), 0.0])


@pytest.mark.parametrize("distance", ["total_variation", "jensen_shannon"])
def test_attention_drift_is_per_head_and_a_metric(distance, rng):
    weights = rng.dirichlet(np.ones(5), size=(4, 3, 6)).astype(np.float32)
    weights[:, 1] = weights[0, 1]  # the second head is at rest
    drift = attention_drift(jnp.asarray(weights), distance=distance)
    assert drift.heads.shape == (3, 3) and drift.heads[:, 1] == pytest.approx(np.zeros(3))
    assert drift.consecutive == pytest.approx(drift.heads.mean(axis=1))
    assert np.all(drift.consecutive > 0) and np.all(drift.to_last[:-1] <= 1)
    # Triangle: no farther from the last than the way there is long.
    assert drift.to_last[0] <= np.sum(drift.consecutive) + 1e-12


SOME = np.asarray([[0.0, 1], [1, 0], [2, 2], [0, 3]])


@pytest.mark.parametrize(
    "call",
    [
        lambda: linear_cka(SOME, np.ones((4, 2))),
        lambda: linear_cka(np.ones((4, 2), np.float32), SOME),
        lambda: linear_cka(np.eye(4), SOME, debiased=True),
        lambda: linear_cka(SOME, SOME[:3]),
        lambda: linear_cka(SOME[:, 0], SOME[:, 0]),
        lambda: linear_cka(SOME[:1], SOME[:1]),
        lambda: linear_cka(SOME[:3], SOME[:3], debiased=True),
        lambda: linear_cka(SOME, np.where(SOME == 3, np.nan, SOME)),
        lambda: linear_cka(SOME, SOME.astype(int)),
        lambda: cka_between_loops(SOME),
        lambda: cka_between_loops(np.full((2, 4, 3), np.inf)),
        lambda: attention_drift(np.ones((2, 2, 2))),
        lambda: attention_drift(np.ones((1, 1, 1, 1))),
        lambda: attention_drift(np.ones((2, 1, 1, 3))),
        lambda: attention_drift(np.full((2, 1, 1, 2), np.nan)),
        lambda: attention_drift(np.full((2, 1, 1, 2), 0.5), distance="euclid"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, assert_helpful):
    with pytest.raises(UsageError) as raised:
        call()
    assert_helpful(raised)
