"""Norms, levels, modes and paddings may be given by texts, which equal members but are none."""

import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.stability import (
    Estimate,
    Interval,
    LayerBound,
    Level,
    Mode,
    Norm,
    Padding,
    TransitionDeclaration,
    UpdateDeclaration,
    UpperBound,
    attack,
    chain,
    converted,
    convolution_gram_bound,
    convolution_norm,
    lipschitz_on,
    verify,
)

SPREADS = jnp.asarray([[0.6, 0.6], [0.0, 0.0]])  # 1.2 in the ∞-norm, 0.85 in the 2-norm


pytestmark = pytest.mark.usefixtures("without_type_checks")


BOX = Interval(-np.ones(2), np.ones(2))


def test_a_norm_by_its_text_is_that_norm():
    found = verify(lambda h: SPREADS @ h + 0.01, np.zeros(2), radius=1.0, norm="inf")
    assert not found.verified and found.norm is Norm.INFINITY
    assert float(lipschitz_on(lambda h: SPREADS @ h, BOX, "inf")) >= 1.2
    assert converted(UpperBound(1.0), "inf", 2.0).norm is Norm.INFINITY
    assert UpperBound(1.0, "2,inf").norm is Norm.TOKENS


def test_a_level_by_its_text_is_that_level():
    assert UpperBound(1.0, level="ball").level is Level.BALL
    assert chain(UpperBound(1.0, level="ball"), UpperBound(1.0)).level is Level.BALL
    assert Estimate(1.0, level="empirical").level is Level.EMPIRICAL
    with pytest.raises(UsageError, match="no upper bound"):
        UpperBound(0.5, level="empirical")


def test_a_declaration_by_texts_is_what_they_say():
    declared = UpdateDeclaration((), 0.5, 0.1, 0.7, norm="inf", mode="linear")
    assert declared.norm is Norm.INFINITY and declared.mode is Mode.LINEAR
    assert TransitionDeclaration(1.0, "inf").norm is Norm.INFINITY


@pytest.mark.parametrize("bound", [convolution_norm, convolution_gram_bound])
def test_a_padding_by_its_text_is_that_padding(bound):
    kernel = np.ones((1, 1, 3), np.float32)
    assert float(bound(kernel, (4,), "circular")) >= 3.0  # 2.62 with zeros beyond the edge
    assert float(bound(kernel, (4,), "circular")) == float(bound(kernel, (4,), Padding.CIRCULAR))


@pytest.mark.parametrize(
    "make",
    [
        lambda: UpperBound(1.0, "max"),
        lambda: UpperBound(1.0, level="certain"),
        lambda: UpdateDeclaration((), 1.0, 0.1, 0.2, mode="stable"),
        lambda: verify(lambda h: 0.5 * h, np.zeros(2), norm="max"),
        lambda: lipschitz_on(lambda h: 0.5 * h, BOX, "max"),
        lambda: convolution_norm(np.ones((1, 1, 3)), (4,), "reflect"),
        lambda: attack(lambda h: h, jnp.max, 2, key=None, geometry="max"),
        lambda: UpdateDeclaration((), None, 0.1, 0.2),
        lambda: UpdateDeclaration((), 1.0, np.array([0.1, 0.2]), 0.2),
    ],
)
def test_what_is_no_choice_is_refused(make, assert_helpful):
    with pytest.raises(UsageError) as raised:
        make()
    assert_helpful(raised.value)


def test_numbers_of_float32_are_taken_into_float64():
    # NumPy and JAX round a sum of such a number and a Python float to float32.
    for kind in (np.float32, jnp.float32):
        declared = UpdateDeclaration(
            (LayerBound("layer", UpperBound(0.9)),), kind(0.3), kind(0.1), kind(0.7)
        )
        for value in (declared.scale, declared.retention_min, declared.retention_max):
            assert type(value) is float and value == float(np.float32(value))
        bound = converted(UpperBound(0.1), Norm.TWO, kind(1.3))
        assert type(bound.value) is float
