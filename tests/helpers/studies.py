"""Hand-made stability studies, for tests of what is made of the measurements."""

import dataclasses

import numpy as np

from loopwm.evaluation.rollouts import ADVERSARIAL, POLICY, RANDOM
from loopwm.evaluation.study import InnerStudy, OuterStudy, Study
from loopwm.evaluation.study_config import StudyConfig
from loopwm.stability import (
    Certificate,
    LayerBound,
    Level,
    Norm,
    TransitionCertificate,
    UpperBound,
)

RATE = 0.9
RADIUS = 2.0
CERTIFICATE = Certificate(
    level=Level.GLOBAL,
    rate=RATE,
    norm=Norm.P,
    gamma=0.8,
    condition=1.5,
    layers=(LayerBound("layers[0]", UpperBound(1.0)), LayerBound("layers[1]", UpperBound(0.8))),
    dtype="float32",
)
BALL = TransitionCertificate(radius=RADIUS, norm=Norm.TWO, dtype="float32")


def inner_study(**changes) -> InnerStudy:
    """Two inputs, three loops; everything within a certified rate of 0.9."""
    limits = RATE ** np.arange(3.0) * np.ones((2, 1))
    study = InnerStudy(
        kinds=("visited", "far"),
        norm=Norm.P,
        ratios=np.array([0.85]),
        pairs=4,
        residuals=limits * np.array([1.0, 0.9, 0.6]),
        limits=limits,
        jacobian_norms=np.array([[0.5, 0.7], [0.6, 0.89]]),
        spectral_norms=np.array([[0.6, 0.8], [0.7, 1.1]]),
        spectral_radii=np.array([[0.4, 0.5], [0.3, 0.6]]),
        eigenvalues=np.array([[0.5, -0.2], [0.3 + 0.52j, 0.3 - 0.52j]]),
        exponents=np.array([-0.7, -0.5]),
        rates=np.array([0.5, 0.6]),
        outcomes=("settled to rounding at loop 3", "still moving after 3 loops"),
        fixed_points=(("attracting",), ("attracting",)),
        rests=(np.zeros(2), np.zeros(2)),
        largest_entry=3.0,
        stops=2,
    )
    return dataclasses.replace(study, **changes)


def outer_study(**changes) -> OuterStudy:
    """Rollouts of three steps inside a ball of radius 2; nearby states part under the policy."""
    sizes = np.array([[2.5, 1.0, 1.5, 1.2], [0.5, 0.6, 0.7, 0.8]])
    study = OuterStudy(
        norms={POLICY: sizes, RANDOM: 0.9 * sizes, ADVERSARIAL: 1.2 * sizes},
        norm=Norm.TWO,
        eigenvalues=np.array([[1.2, 0.3], [0.9j, -0.9j]]),
        exponents={POLICY: 0.05, RANDOM: -0.02},
    )
    return dataclasses.replace(study, **changes)


def study(**changes) -> Study:
    """A study of a run in which every measurement keeps its bound."""
    made = Study(
        name="runs/one",
        env="CartPole-v1",
        seed=3,
        params={"total": 30, "world_model": 20, "core": 10},
        certificate=CERTIFICATE,
        reason=None,
        transition=BALL,
        guarantees=(CERTIFICATE.statement(), BALL.statement()),
        inner=inner_study(),
        outer=outer_study(),
        verification=None,
        verified_ratio=None,
        config=StudyConfig(),
    )
    return dataclasses.replace(made, **changes)
