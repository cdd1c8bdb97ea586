"""Settings that are numbers: what no computation could work with is refused where it is set."""

import pytest

from loopwm.errors import UsageError
from loopwm.models import EnsembleConfig, RSSMConfig
from loopwm.planning import (
    CategoricalCEMConfig,
    GradientConfig,
    GumbelMuZeroConfig,
    ICEMConfig,
    MPPIConfig,
    PlanningConfig,
    RandomShootingConfig,
)
from loopwm.training import (
    CollectionConfig,
    DeferredConfig,
    EvaluationConfig,
    LearnerConfig,
    TrainingDepth,
)
from loopwm.training.supervised import SupervisedConfig

NAN, INF = float("nan"), float("inf")
POSITIVE = [
    (LearnerConfig, "learner.", ("learning_rate", "gradient_clip", "limit_share")),
    (SupervisedConfig, "", ("learning_rate", "gradient_clip")),
    (MPPIConfig, "planning.mppi.", ("temperature",)),
    (CategoricalCEMConfig, "planning.categorical_cem.", ("temperature",)),
    (RandomShootingConfig, "planning.random_shooting.", ("temperature",)),
    (GradientConfig, "planning.gradient.", ("rate",)),
    (GumbelMuZeroConfig, "planning.gumbel_muzero.", ("value_scale",)),
    (CollectionConfig, "collection.", ("worker_timeout", "updates_per_step")),
]
AT_LEAST_ZERO = [
    (
        LearnerConfig,
        "learner.",
        (
            "consistency_weight",
            "reconstruction_weight",
            "reward_weight",
            "continuation_weight",
            "value_weight",
            "imagined_value_weight",
            "policy_weight",
            "gate_weight",
            "gate_entropy",
            "auxiliary_weight",
            "temperature_rate",
        ),
    ),
    (TrainingDepth, "learner.depth.", ("loop_cost",)),
    (DeferredConfig, "learner.deferred.", ("movement_weight", "movement_limit")),
    (RSSMConfig, "model.", ("free_nats", "dynamics_weight", "representation_weight")),
    (EnsembleConfig, "model.", ("bound_weight",)),
    (GumbelMuZeroConfig, "planning.gumbel_muzero.", ("visits",)),
    (PlanningConfig, "planning.", ("bonus_weight",)),
]
SHARES = [
    (LearnerConfig, "learner.", ("imagined_trace", "rollout_decay", "trace", "discount")),
    (CollectionConfig, "collection.", ("epsilon",)),
]


def defaults(kind):
    return {"horizon": DeferredConfig(steps=2)} if kind is SupervisedConfig else {}


def refused(kind, name, said, value, assert_helpful):
    with pytest.raises(UsageError, match=rf"{said} is {value}".replace("+", r"\+")) as raised:
        kind(**defaults(kind), **{name: value})
    assert_helpful(raised)


@pytest.mark.parametrize("kind, section, names", POSITIVE + AT_LEAST_ZERO + SHARES, ids=str)
def test_no_number_or_none_that_is_finite(kind, section, names, assert_helpful):
    for name in names:
        for value in (NAN, INF, -INF, -0.1):
            refused(kind, name, f"{section}{name}", value, assert_helpful)


@pytest.mark.parametrize("kind, section, names", POSITIVE, ids=str)
def test_nothing_where_something_is_needed(kind, section, names, assert_helpful):
    for name in names:
        refused(kind, name, f"{section}{name}", 0.0, assert_helpful)


@pytest.mark.parametrize("kind, section, names", AT_LEAST_ZERO, ids=str)
def test_nothing_where_it_means_off(kind, section, names):
    for name in names:
        assert getattr(kind(**defaults(kind), **{name: 0.0}), name) == 0.0


def test_numbers_that_only_float64_holds(assert_helpful):
    refused(LearnerConfig, "gradient_clip", "learner.gradient_clip", 1e39, assert_helpful)
    refused(LearnerConfig, "gradient_clip", "learner.gradient_clip", 1e-60, assert_helpful)
    refused(LearnerConfig, "reward_weight", "learner.reward_weight", 1e39, assert_helpful)


def test_shares_beyond_one(assert_helpful):
    for kind, section, names in SHARES:
        for name in names:
            refused(kind, name, f"{section}{name}", 1.5, assert_helpful)


def test_other_numbers_that_cannot_be_used(assert_helpful):
    for value in (NAN, INF):
        refused(EvaluationConfig, "threshold", "evaluation.threshold", value, assert_helpful)
    assert EvaluationConfig(threshold=-200.0).threshold == -200.0
    for name in ("random_hold", "search_hold", "epsilon_hold"):
        # More steps than int32 counts.
        with pytest.raises(UsageError, match=f"collection.{name} is 1, {10**10}") as raised:
            CollectionConfig(**{name: (1, 10**10)})
        assert_helpful(raised)
    with pytest.raises(UsageError, match="capacity is 11 for 4 .* at least 12") as raised:
        CollectionConfig(envs=4, replay_capacity=11)
    assert_helpful(raised)
    with pytest.raises(UsageError, match="0 \\+ 12 \\+ 1 sequences and leave none") as raised:
        ICEMConfig(population=13, elites=12, kept=1.0, proposals=0)
    assert_helpful(raised)
    assert ICEMConfig(decay=1e300).populations == (64, 24, 24, 24)
