"""What is guaranteed of a world model, and what is not, in sentences."""

from loopwm.core import (
    AbstractDepthRule,
    CertifiedHalting,
    GateHalting,
    ResidualHalting,
    SecondDifferenceHalting,
)
from loopwm.models import AbstractOnePassModel, AbstractWorldModel
from loopwm.stability import (
    Certifiable,
    CertifiableTransition,
    Certificate,
    Mode,
    certify,
    certify_transition,
)

_KINDS = {
    Mode.CONTRACTIVE: "equilibrium loop",
    Mode.BOUNDED: "process loop",
    Mode.LINEAR: "neither equilibrium nor process loop by any promise",
}
"""What a loop is for: to refine one answer, or to replay micro-steps; neither borrows the other's
promise. Without a certificate nothing is promised of either."""


def certificate_of(core: object) -> Certificate | None:
    """The certificate of a model's core; None for one that is not built to have any.

    Raises:
        UsageError: the core is built to have a certificate, but something voids it.
    """
    if not isinstance(core, Certifiable) or core.declare().mode is Mode.FREE:
        return None
    return certify(core)


def statements(model: AbstractWorldModel) -> list[str]:
    """One sentence for the inner loop, one for the imagined transition; one where nothing holds.

    Raises:
        UsageError: as in `certificate_of`.
    """
    if isinstance(model, AbstractOnePassModel):
        return [
            "Nothing is guaranteed of this world model: it imagines in one pass, so there is no "
            "inner loop that a certificate of any level could be about."
        ]
    certificate = certificate_of(model.core)
    if certificate is None:
        return ["Nothing is guaranteed of this world model: its core carries no certificate."]
    kind = f"{_KINDS[certificate.mode]}, mode {certificate.mode}"
    inner = f"Inner loop h → h⁺ ({kind}): {certificate.statement()}"
    if certificate.mode is Mode.LINEAR or not isinstance(model, CertifiableTransition):
        return [inner, "Imagined transition z → z': nothing is proven of it."]
    return [inner, f"Imagined transition z → z': {certify_transition(model).statement()}"]


def depth_promise(
    rule: AbstractDepthRule | None, model_depth: int | None, certificate: Certificate | None
) -> str:
    """What a depth rule promises of a model's inner loop: norm, level and bound, in one sentence.

    Args:
        rule: how many loops; None for the model's own depth.
        model_depth: the model's own depth; None for a model without loops.
        certificate: the core's certificate, from `certificate_of`.

    Returns:
        The sentence. Where nothing is promised, it says so.
    """
    if model_depth is None:
        return "Each imagined transition is one pass without loops; nothing is promised about it."
    proven = certificate if certificate is not None and certificate.contracts else None
    if isinstance(rule, CertifiedHalting):
        return _certified(rule, proven)
    if isinstance(rule, ResidualHalting):
        return _residual(rule, proven)
    if isinstance(rule, SecondDifferenceHalting):
        return (
            "Each imagined transition stops once its second difference is at most "
            f"{rule.tolerance:g} for {rule.patience} loop(s), or after {rule.max_depth} loops; "
            "that promises nothing about its distance to a fixed point."
        )
    if isinstance(rule, GateHalting):
        return (
            "Each imagined transition stops once the learned gate's exit probability is at least "
            f"{rule.threshold:g}, or after {rule.max_depth} loops; that promises nothing about its "
            "distance to a fixed point."
        )
    return _counted(model_depth if rule is None else rule.max_depth, proven)


def _counted(depth: int, proven: Certificate | None) -> str:
    loops = f"Each imagined transition uses {depth} loop(s)"
    if proven is None:
        return f"{loops}; nothing is promised about its distance to a fixed point."
    return (
        f"{loops}, after which at most {proven.growth(depth):.3g} of its first distance to the "
        f"fixed point is left, apart from rounding, in the {proven.norm}-norm (level "
        f"'{proven.level}', rate {proven.rate:.4f} a loop)."
    )


def _certified(rule: CertifiedHalting, proven: Certificate | None) -> str:
    if proven is None:
        return "Certified halting promises nothing here: the core is not certified to contract."
    return (
        f"Each imagined transition that stops before {rule.max_depth} loops is within "
        f"{rule.tolerance:g} of its fixed point in the {proven.norm}-norm, rounding included "
        f"(level '{proven.level}', rate {proven.rate:.4f} a loop at most)."
    )


def _residual(rule: ResidualHalting, proven: Certificate | None) -> str:
    stops = (
        f"Each imagined transition stops once its residual is at most {rule.tolerance:g} for "
        f"{rule.patience} loop(s), or after {rule.max_depth} loops"
    )
    if proven is None:
        return f"{stops}; that promises nothing about its distance to a fixed point."
    bound = proven.error_bound(rule.tolerance)
    return (
        f"{stops}; stopped by its residual it is within {bound:.3g} of its fixed point, apart from "
        f"rounding, in the {proven.norm}-norm (level '{proven.level}', rate {proven.rate:.4f} a "
        "loop at most)."
    )
