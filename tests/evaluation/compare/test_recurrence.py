"""φ on errors that were made from a known one."""

import numpy as np
import pytest

from loopwm.evaluation.compare.recurrence import fit_worth

COUNTS = (1, 2, 4, 8)


def errors(power, rng=None, spread=0.0):
    noise = 0.0 if rng is None else spread * rng.normal(size=(len(COUNTS), 5))
    values = np.array(COUNTS, float)[:, None] ** -power * np.exp(noise + np.zeros((4, 5)))
    return {count: dict(enumerate(row)) for count, row in zip(COUNTS, values, strict=True)}


@pytest.mark.parametrize("phi", [0.0, 0.46, 1.0])
def test_phi_is_found(phi):
    # Errors fall as blocks^−1, so loops^−φ is what r^φ blocks reach.
    worth = fit_worth(errors(phi), errors(1.0))
    assert worth is not None
    np.testing.assert_allclose(worth.phi.estimate, phi, atol=1e-9)
    np.testing.assert_allclose(
        [worth.equivalent[r] for r in (2, 4, 8)], np.array([2, 4, 8.0]) ** phi
    )
    assert worth.limited == ()


def test_interval_covers_phi(rng):
    worth = fit_worth(errors(0.46, rng, 0.02), errors(1.0, rng, 0.02))
    assert worth is not None
    assert worth.phi.low is not None and worth.phi.high is not None
    assert worth.phi.low < 0.46 < worth.phi.high < worth.phi.low + 0.2


def test_beyond_the_stacks_is_a_bound():
    worth = fit_worth(errors(2.0), errors(1.0))
    assert worth is not None and worth.limited == (4, 8)
    assert worth.equivalent == pytest.approx({2: 4.0, 4: 8.0, 8: 8.0})


def test_too_little_to_fit():
    assert fit_worth({1: {0: 1.0}}, errors(1.0)) is None
    assert fit_worth(errors(1.0), {4: {0: 1.0}}) is None
    assert fit_worth(errors(1.0), {1: {7: 1.0}, 4: {7: 1.0}}) is None


def test_what_seeds_have_in_common_does_not_widen_the_interval(rng):
    hard = np.exp(0.5 * rng.normal(size=5))
    looped, stacks = (
        {count: {seed: hard[seed] * e for seed, e in row.items()} for count, row in found.items()}
        for found in (errors(0.46, rng, 0.02), errors(1.0, rng, 0.02))
    )
    worth = fit_worth(looped, stacks)
    assert worth is not None and worth.phi.low is not None and worth.phi.high is not None
    assert worth.phi.low < 0.46 < worth.phi.high < worth.phi.low + 0.2
