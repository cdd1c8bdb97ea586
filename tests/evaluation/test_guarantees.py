"""What is said about a world model, for every mode of its core."""

import equinox as eqx
import jax
import pytest

from loopwm.core import CoreConfig
from loopwm.errors import UsageError
from loopwm.evaluation import certificate_of, statements
from loopwm.models import LoopedConfig, Sizes
from loopwm.stability import Mode, certify_transition


@pytest.fixture(scope="module")
def models(filled):
    def build(mode):
        config = LoopedConfig(latent=6, hidden=8, core=CoreConfig(mode=mode, width=6))
        return filled(lambda key: config.build(Sizes(3, 2), key=key))

    return {mode: build(mode) for mode in Mode}


def test_a_contraction_and_a_ball_are_kept_apart(models):
    inner, outer = statements(models[Mode.CONTRACTIVE])
    assert "(equilibrium loop, mode contractive)" in inner
    assert inner.startswith("Inner loop") and "multiplies the distance" in inner and "0.98" in inner
    assert outer.startswith("Imagined transition") and "ball of radius 2.449" in outer
    assert "may move apart" in outer and "stable" not in (inner + outer).lower()


def test_a_bounded_core_promises_no_contraction(models):
    inner, outer = statements(models[Mode.BOUNDED])
    assert "(process loop, mode bounded)" in inner
    assert "'ball'" in inner and "closer" not in inner and "move apart" not in inner
    assert "moves two states apart by a factor of" in inner and "ball of radius" in outer


def test_linear_and_free_cores_promise_what_they_hold(models):
    inner, outer = statements(models[Mode.LINEAR])
    assert "(neither equilibrium nor process loop by any promise, mode linear)" in inner
    assert "retention term alone" in inner and "nothing is proven" in outer
    (nothing,) = statements(models[Mode.FREE])
    assert "Nothing is guaranteed" in nothing
    assert certificate_of(models[Mode.FREE].core) is None


@pytest.mark.parametrize("mode", [Mode.LINEAR, Mode.FREE])
def test_no_ball_without_a_bounded_loop(mode, models, assert_helpful):
    with pytest.raises(UsageError, match=f"mode '{mode}'") as raised:
        certify_transition(models[mode])
    assert_helpful(raised)


def test_a_voided_certificate_is_not_passed_over(models):
    nan = eqx.tree_at(
        lambda m: m.core.coda.bias, models[Mode.CONTRACTIVE], replace_fn=lambda b: b * jax.numpy.nan
    )
    with pytest.raises(UsageError, match="NaN"):
        statements(nan)
