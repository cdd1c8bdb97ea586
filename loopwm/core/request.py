"""Depth as a user asks for it: read from text, and held against the core it is asked of."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from loopwm.core.depth import (
    AbstractDepthRule,
    CertifiedHalting,
    FixedDepth,
    ResidualHalting,
    SecondDifferenceHalting,
)
from loopwm.core.gate import NO_GATE, GateHalting, HaltingGate
from loopwm.errors import UsageError
from loopwm.stability import Certifiable, Mode, certify

_RULES: dict[str, Callable[[str], AbstractDepthRule]] = {
    "fixed": lambda number: FixedDepth(int(number)),
    "residual": lambda number: ResidualHalting(tolerance=float(number)),
    "certified": lambda number: CertifiedHalting(tolerance=float(number)),
    "second_difference": lambda number: SecondDifferenceHalting(tolerance=float(number)),
    "gate": lambda number: GateHalting(threshold=float(number)),
}


def parse_depth(text: str) -> AbstractDepthRule:
    """The depth rule that a text names.

    Args:
        text: `T` or `fixed:T` for T loops, `residual:TOL`, `certified:TOL`,
            `second_difference:TOL`, or `gate:P` with the exit probability that stops.

    Returns:
        The rule.

    Raises:
        UsageError: the text names no rule, or its number is out of range.
    """
    kind, sign, number = text.partition(":")
    if not sign:
        kind, number = "fixed", text
    if kind in _RULES:
        try:
            return _RULES[kind](number)
        except UsageError:
            raise
        except ValueError:
            pass
    raise UsageError(
        f"--depth {text} is not understood; give a number of loops, residual:TOL, certified:TOL, "
        "second_difference:TOL or gate:P."
    )


# Products of bounds are rounded up by a little more than they err.
_ROUNDING = 1.0 + 1e-12


@runtime_checkable
class _Gated(Protocol):
    gate: HaltingGate | None


def check_rule(rule: AbstractDepthRule | None, core: object) -> None:
    """Refuses a depth rule that this core cannot keep; the loop itself, compiled, could not.

    Args:
        rule: the wanted rule; None for the model's own depth, which is always kept.
        core: the core, with its weights as they are now.

    Raises:
        UsageError: certified halting on a core that is not certified to contract, or has layers
            that expand, or halting by a gate on a core that has none.
    """
    if isinstance(rule, CertifiedHalting):
        _check_contracts(core)
    if isinstance(rule, GateHalting) and rule.gate is None:
        if not isinstance(core, _Gated) or core.gate is None:
            raise UsageError(NO_GATE)


def _check_contracts(core: object) -> None:
    declared = core.declare() if isinstance(core, Certifiable) else None
    mode = None if declared is None else declared.mode
    if declared is None or mode is not Mode.CONTRACTIVE:
        kind = "carries no certificate" if mode is None else f"is of mode '{mode}'"
        raise UsageError(
            f"Certified halting needs a core that is certified to contract, and this one {kind}; "
            "use a number of loops or residual halting, or train with "
            "model.core.mode=contractive."
        )
    certificate = certify(core)
    if not certificate.contracts:
        raise UsageError(
            f"Certified halting needs a rate below 1, and this core's is {certificate.rate:.4g}; "
            "use a number of loops or residual halting."
        )
    # The loop itself rests on γ alone: constants of layers are not found again at every input.
    gamma, scale = certificate.gamma, declared.scale
    if gamma is not None and gamma > scale * _ROUNDING:
        raise UsageError(
            f"Certified halting needs layers with constants of at most 1, and this core's multiply "
            f"to {gamma / scale:.4g}; cap its layers, or use a number of loops or residual halting."
        )
