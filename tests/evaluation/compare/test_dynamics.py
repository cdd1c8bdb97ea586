"""Normalisation of logged data by what the training part varies."""

import numpy as np

from loopwm.evaluation.compare.dynamics import Scale
from loopwm.evaluation.compare.logged import Episode


def test_entries_of_any_unit_are_normalised_and_constant_ones_left(rng):
    wanted = rng.normal(size=(2_000, 4))
    shown = wanted * np.array([1e-9, 1.0, 1e6, 0.0]) + np.array([3e-9, 0.0, -1e6, 1e12])
    # An entry that varies by rounding alone is as good as constant.
    shown = np.append(shown, 1.0 + 6e-8 * rng.integers(0, 2, size=(2_000, 1)), axis=1)
    shown = shown.astype(np.float32)
    scale = Scale.of([Episode(shown, np.zeros((1_999, 1)), np.zeros(1_999), terminated=False)])
    found = scale.observation(shown)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, :3].mean(axis=0), 0.0, atol=1e-3)
    np.testing.assert_allclose(found[:, :3].std(axis=0), 1.0, atol=1e-3)
    np.testing.assert_array_equal(found[:, 3], 0.0)
    np.testing.assert_allclose(found[:, 4], 0.0, atol=1e-6)
    assert scale.reward == 1.0
