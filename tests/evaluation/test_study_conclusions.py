"""What a stability study concludes from its measurements."""

import dataclasses
import json

import numpy as np
import pytest
import studies

from loopwm.errors import UsageError
from loopwm.evaluation import StudyConfig
from loopwm.evaluation.rollouts import RANDOM
from loopwm.stability import (
    Level,
    Mode,
    Norm,
    UpperBound,
)
from loopwm.stability.verify import Reason, Verification


def test_every_measurement_with_a_bound_is_checked():
    checks = {check.name: check for check in studies.study().checks}
    assert {name: (c.observed, c.bound) for name, c in checks.items()} == {
        "largest ratio of distances": (0.89, 0.9),
        "largest Jacobian norm": (0.89, 0.9),
        "spectral radius": (0.6, 0.9),
        "distinct fixed points of one input": (1, 1.0),
        "residual over its certified envelope": (pytest.approx(0.9), 1.0),
        # The first state was not imagined: an encoder's may lie where it likes.
        "norm of an imagined state": (pytest.approx(1.8), 2.0),
    }
    assert studies.study().bounds_hold is True


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ({"ratios": np.array([0.95])}, {}),
        ({"ratios": np.array([np.nan])}, {}),
        ({"jacobian_norms": np.array([[0.5, 0.91], [0.1, 0.2]])}, {}),
        ({"spectral_radii": np.array([[0.95, 0.1], [0.1, 0.1]])}, {}),
        ({"residuals": np.array([[1.0, 0.95, 0.1], [1.0, 0.5, 0.1]])}, {}),
        ({"residuals": np.array([[1.0, np.nan, np.nan], [1.0, 0.5, 0.1]])}, {}),
        ({"fixed_points": (("attracting", "saddle"), ("attracting",))}, {}),
        ({}, {"norms": {RANDOM: np.array([[0.0, 2.01]])}}),
        ({}, {"norms": {RANDOM: np.array([[0.0, np.nan]])}}),
    ],
)
def test_a_broken_bound_is_seen(inner, outer):
    seen = studies.study(inner=studies.inner_study(**inner), outer=studies.outer_study(**outer))
    assert seen.bounds_hold is False
    assert json.loads(json.dumps(seen.record(), allow_nan=False))["bounds_hold"] is False


def test_a_box_is_a_bound_of_entries():
    certificate = dataclasses.replace(
        studies.CERTIFICATE, level=Level.BALL, mode=Mode.BOUNDED, rate=1.5, radius=2.9
    )
    seen = studies.study(certificate=certificate)
    assert seen.bounds_hold is False  # the hand-made states have an entry of 3
    assert [c.name for c in seen.checks if not c.holds] == ["largest entry of a state"]
    # Growth is no contraction: two fixed points would be in order.
    assert "distinct fixed points of one input" not in [c.name for c in seen.checks]


@pytest.mark.parametrize("level", [Level.LINEAR, None])
def test_without_a_bound_of_the_whole_update_nothing_holds(level):
    certificate = level and dataclasses.replace(studies.CERTIFICATE, level=level)
    seen = studies.study(certificate=certificate, transition=None, reason="It has none.")
    assert seen.bounds_hold is None and seen.checks == ()
    given = seen.record()["certificate"]
    if level is None:
        assert given == {
            "level": "empirical",
            "rate": 0.89,
            "norm": "P",
            "reason": "It has none.",
            "verified": None,
        }
    else:
        assert given == {"level": "linear", "rate": 0.9, "norm": "P"}


def test_a_verified_state_is_reported_and_held_to():
    verified = Verification(
        True, 0.5, UpperBound(0.7, level=Level.BALL), 0.0, 0.0, Norm.TWO, Reason.VERIFIED
    )
    changes = {"certificate": None, "transition": None, "outer": None, "verification": verified}
    seen = studies.study(**changes, verified_ratio=0.69)
    assert seen.bounds_hold is True
    assert seen.record()["certificate"]["verified"] == {
        "level": "ball",
        "radius": 0.5,
        "rate": 0.7,
        "norm": "2",
    }
    assert studies.study(**changes, verified_ratio=0.71).bounds_hold is False


def test_the_record_is_the_contract():
    record = studies.study().record("there/report.html")
    assert record == {
        "run": "runs/one",
        "env": "CartPole-v1",
        "seed": 3,
        "params": {"total": 30, "world_model": 20, "core": 10},
        "certificate": {"level": "global", "rate": 0.9, "norm": "P"},
        "transition": {"level": "ball", "radius": 2.0, "norm": "2"},
        "empirical": {
            "max_ratio": 0.89,
            "spectral_norm": 0.89,
            "spectral_radius": 0.6,
            "lyapunov_inner": -0.5,
            "lyapunov_outer": 0.05,
        },
        "bounds_hold": True,
        "report": "there/report.html",
    }
    assert studies.study(outer=None).record()["empirical"]["lyapunov_outer"] is None


def test_sizes_that_mean_nothing_are_refused(assert_helpful):
    for change in ({"loops": 0}, {"far": -1.0}, {"far": float("nan")}):
        with pytest.raises(UsageError) as raised:
            StudyConfig(**change)
        assert_helpful(raised)
