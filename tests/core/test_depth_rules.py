"""Depth rules: what they refuse, and how depths are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from loopwm.core import (
    CertifiedHalting,
    FixedDepth,
    ResidualHalting,
    SampledDepth,
    poisson_depth,
)
from loopwm.errors import UsageError


@pytest.mark.parametrize("depth", [0, -3])
@pytest.mark.parametrize(
    "build",
    [
        FixedDepth,
        lambda depth: SampledDepth(jnp.asarray(1), depth),
        lambda depth: ResidualHalting(0.1, depth),
        lambda depth: CertifiedHalting(0.1, depth),
    ],
    ids=["fixed", "sampled", "residual", "certified"],
)
def test_depth_below_one_is_refused(build, depth, assert_helpful):
    with pytest.raises(UsageError, match=f"depth is {depth}") as raised:
        build(depth)
    assert_helpful(raised)


@pytest.mark.parametrize("tolerance", [0.0, -1e-3, float("nan")])
@pytest.mark.parametrize("rule", [ResidualHalting, CertifiedHalting])
def test_tolerance_that_is_not_positive_is_refused(rule, tolerance, assert_helpful):
    with pytest.raises(UsageError, match="tolerance") as raised:
        rule(tolerance)
    assert_helpful(raised)


def test_poisson_depth_is_clamped_and_follows_the_law(key):
    mean, most = 4.0, 8
    depth = np.asarray(poisson_depth(key, mean, most, (4000,)))
    assert depth.dtype.kind == "i" and depth.min() == 1 and depth.max() == most
    outcomes = np.arange(60)
    expected = np.sum(np.clip(outcomes, 1, most) * stats.poisson.pmf(outcomes, mean))
    assert depth.mean() == pytest.approx(expected, abs=0.1)
    # Zeros are moved to one, not drawn again.
    ones = stats.poisson.cdf(1, mean)
    assert np.mean(depth == 1) == pytest.approx(ones, abs=0.02)


def test_poisson_depth_is_one_even_for_tiny_means(key):
    assert np.all(np.asarray(poisson_depth(key, 1e-6, 8, (4000,))) == 1)
    assert jax.eval_shape(lambda k: poisson_depth(k, 3.0, 8), key).shape == ()
