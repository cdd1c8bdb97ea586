"""What an evaluation says that its depth promises."""

import pytest

from loopwm.core import (
    CertifiedHalting,
    FixedDepth,
    GateHalting,
    ResidualHalting,
    SecondDifferenceHalting,
)
from loopwm.evaluation import depth_promise
from loopwm.stability import Certificate, Level, Mode, Norm

PROVEN = Certificate(
    level=Level.GLOBAL, rate=0.5, norm=Norm.INFINITY, gamma=0.5, condition=1.0, layers=(), dtype="f"
)
BOUNDED = Certificate(
    level=Level.BALL,
    rate=1.5,
    norm=Norm.P,
    gamma=1.5,
    condition=1.0,
    layers=(),
    dtype="f",
    mode=Mode.BOUNDED,
    radius=1.0,
)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (None, "uses 3 loop(s), after which at most 0.125 of its first distance"),
        (FixedDepth(2), "uses 2 loop(s), after which at most 0.25 of its first distance"),
        # ρ / (1 − ρ) times the tolerance.
        (ResidualHalting(0.01), "it is within 0.01 of its fixed point, apart from rounding"),
        (CertifiedHalting(0.02), "is within 0.02 of its fixed point in the inf-norm"),
    ],
)
def test_a_contraction_promises_a_distance_with_norm_level_and_rate(rule, said):
    sentence = depth_promise(rule, 3, PROVEN)
    assert said in sentence and "inf-norm" in sentence
    assert "level 'global'" in sentence and "rate 0.5000" in sentence
    assert sentence.count(". ") == 0 and sentence.endswith(".")


@pytest.mark.parametrize(
    "rule",
    [
        None,
        FixedDepth(2),
        ResidualHalting(0.01),
        CertifiedHalting(0.01),
        SecondDifferenceHalting(0.01),
        GateHalting(0.5),
    ],
)
@pytest.mark.parametrize("certificate", [None, BOUNDED], ids=["none", "bounded"])
def test_nothing_is_promised_without_a_contraction(rule, certificate):
    sentence = depth_promise(rule, 3, certificate)
    assert "nothing" in sentence and "within" not in sentence and "level" not in sentence


@pytest.mark.parametrize("rule", [SecondDifferenceHalting(0.01), GateHalting(0.5)])
def test_rules_that_measure_no_distance_promise_none(rule):
    assert "promises nothing" in depth_promise(rule, 3, PROVEN)
