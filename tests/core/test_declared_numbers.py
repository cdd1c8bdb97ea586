"""Declarations cover the numbers of both precisions, and halting the layers' constants."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.core import (
    CertifiedHalting,
    ConvolutionConfig,
    CoreConfig,
    GridCore,
    InfinityConfig,
    LoopedCore,
    Preset,
    TokenConfig,
    check_rule,
)
from loopwm.errors import UsageError
from loopwm.nn import AbstractParametrization
from loopwm.stability import Mode, certify

# float32(0.95) < 0.95 and float32(0.1) > 0.1; likewise 0.6 and 0.7.
NUMBERS = ((0.95, 0.05, 0.6), (0.1, 0.3, 0.7))


def _configs(gamma, low, high):
    kept = {"retention_min": low, "retention_max": high}
    small = {"channels": 2, "inputs": 2, "readout": 2}
    return {
        "vector": CoreConfig(width=2, layers=1, gamma=gamma, **kept),
        "bounded": CoreConfig(width=2, layers=1, mode=Mode.BOUNDED, **kept),
        "grid": ConvolutionConfig(hidden=2, layers=1, gamma=gamma, **small, **kept),
        "infinity": InfinityConfig(mixes=0, gamma=gamma, **small),
        "cross": TokenConfig(heads=1, gamma=gamma, **small, **kept),
        "self": TokenConfig(heads=1, gamma=gamma, preset=Preset.SELF, **small, **kept),
    }


@pytest.mark.parametrize("name", list(_configs(*NUMBERS[0])))
@pytest.mark.parametrize("numbers", NUMBERS, ids=str)
def test_a_declaration_covers_loops_in_either_precision(name, numbers, filled):
    config, (gamma, low, high) = _configs(*numbers)[name], numbers
    build = LoopedCore if isinstance(config, CoreConfig) else GridCore
    declared = filled(lambda key: build(2, 1, config, key=key)).declare()
    if name != "bounded":
        assert declared.scale == max(gamma, float(np.float32(gamma)))
    if name != "infinity":
        assert declared.retention_min == min(low, float(np.float32(low)))
        assert declared.retention_max == max(high, float(np.float32(high)))


def test_certified_halting_needs_layers_that_do_not_expand(filled, assert_helpful):
    config = CoreConfig(width=4, layers=1, gamma=0.5)
    core = filled(lambda key: LoopedCore(3, 2, config, key=key))
    check_rule(CertifiedHalting(0.1), core)
    # ‖S‖² = 2.35 makes a layer with constant 1.35: γ·1.35 < 1 is certified, but the loop takes γ.
    steep = eqx.tree_at(
        lambda c: c.block.layers[0].weight,
        core,
        jnp.eye(4) * np.sqrt(2.35),
        is_leaf=lambda x: isinstance(x, AbstractParametrization),
    )
    assert certify(steep).contracts
    with pytest.raises(UsageError, match="constants of at most 1") as raised:
        check_rule(CertifiedHalting(0.1), steep)
    assert_helpful(raised)
