"""Depth as a user writes it, and what a core refuses."""

import equinox as eqx
import jax.numpy as jnp
import pytest

from loopwm.core import (
    CertifiedHalting,
    ConvolutionConfig,
    CoreConfig,
    FixedDepth,
    GateHalting,
    GridCore,
    HaltingGate,
    LoopedCore,
    ResidualHalting,
    SecondDifferenceHalting,
    check_rule,
    parse_depth,
)
from loopwm.errors import UsageError
from loopwm.stability import Mode


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("4", FixedDepth(4)),
        ("fixed:4", FixedDepth(4)),
        ("residual:1e-3", ResidualHalting(1e-3)),
        ("certified:1e-3", CertifiedHalting(1e-3)),
        ("second_difference:0.5", SecondDifferenceHalting(0.5)),
        ("gate:0.5", GateHalting(0.5)),
    ],
)
def test_a_text_names_a_rule(text, rule):
    assert parse_depth(text) == rule


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0", "depth is 0"),
        ("fixed:-2", "depth is -2"),
        ("residual:0", "tolerance is 0"),
        ("certified:-1e-3", "tolerance is -0.001"),
        ("second_difference:inf", "tolerance is inf"),
        ("gate:1", "threshold is 1"),
        ("gate:0", "threshold is 0"),
        ("deep:3", "--depth deep:3"),
        ("fixed:", "--depth fixed:"),
        ("gate", "--depth gate"),
        ("residual:small", "--depth residual:small"),
        ("4:residual", "--depth 4:residual"),
    ],
)
def test_a_text_that_names_none_is_refused(text, said, assert_helpful):
    with pytest.raises(UsageError, match=said) as raised:
        parse_depth(text)
    assert_helpful(raised)


def small_core(filled, mode, gate=False):
    config = CoreConfig(width=4, layers=1, mode=mode, gate=gate)
    return filled(lambda key: LoopedCore(3, 2, config, key=key))


def grid_core(filled, **changes):
    config = ConvolutionConfig(channels=2, inputs=2, hidden=2, layers=1, readout=2, **changes)
    return filled(lambda key: GridCore(1, 1, config, key=key))


@pytest.mark.parametrize("mode", [Mode.BOUNDED, Mode.LINEAR, Mode.FREE])
def test_certified_halting_needs_a_certified_core(filled, mode, assert_helpful):
    core = small_core(filled, mode)
    with pytest.raises(UsageError, match=f"mode '{mode}'") as raised:
        check_rule(CertifiedHalting(0.1), core)
    assert_helpful(raised)
    for rule in (None, FixedDepth(3), ResidualHalting(0.1), SecondDifferenceHalting(0.1)):
        check_rule(rule, core)


def test_a_grid_core_is_checked_alike(filled, assert_helpful):
    core = grid_core(filled, mode=Mode.BOUNDED)
    with pytest.raises(UsageError, match="mode 'bounded'") as raised:
        check_rule(CertifiedHalting(0.1), core)
    assert_helpful(raised)


def test_a_core_without_any_certificate_is_refused(assert_helpful):
    with pytest.raises(UsageError, match="no certificate") as raised:
        check_rule(CertifiedHalting(0.1), object())
    assert_helpful(raised)


def test_a_contractive_core_is_accepted(core):
    check_rule(CertifiedHalting(0.1), core)


def test_a_gate_rule_needs_a_gate(filled, core, assert_helpful):
    for without in (core, grid_core(filled), object()):
        with pytest.raises(UsageError, match="model.core.gate=true") as raised:
            check_rule(GateHalting(0.5), without)
        assert_helpful(raised)
    check_rule(GateHalting(0.5), small_core(filled, Mode.FREE, gate=True))
    check_rule(GateHalting(0.5), grid_core(filled, gate=True))
    check_rule(GateHalting(0.5, gate=HaltingGate(8)), core)


@pytest.mark.parametrize("kind", ["vector", "grid"])
def test_a_core_puts_its_gate_into_the_rule(kind, filled, inputs):
    if kind == "vector":
        config = CoreConfig(width=4, layers=1, gate=True)
        core = filled(lambda key: LoopedCore(5, 2, config, key=key))
    else:
        core, inputs = grid_core(filled, gate=True), (jnp.ones((2, 3, 1)),)
    core = eqx.tree_at(lambda c: c.gate, core, HaltingGate(core.gate.weight.size))
    call = eqx.filter_jit(core)
    # A fresh gate says 0.2 of every state: it stops at once, or never.
    assert int(call(*inputs, GateHalting(0.1)).stats.loops) == 1
    assert int(call(*inputs, GateHalting(0.3, 5)).stats.loops) == 5
