"""What is guaranteed of a world model, and what is not, in sentences."""

from loopwm.models import AbstractWorldModel
from loopwm.stability import (
    Certifiable,
    CertifiableTransition,
    Certificate,
    Mode,
    certify,
    certify_transition,
)


def certificate_of(core: object) -> Certificate | None:
    """The certificate of a model's core; None for one that is not built to have any.

    Raises:
        UsageError: the core is built to have a certificate, but something voids it.
    """
    if not isinstance(core, Certifiable) or core.declare().mode is Mode.FREE:
        return None
    return certify(core)


def statements(model: AbstractWorldModel) -> list[str]:
    """One sentence for the inner loop, one for the imagined transition.

    Raises:
        UsageError: as in `certificate_of`.
    """
    certificate = certificate_of(model.core)
    if certificate is None:
        return ["Nothing is guaranteed of this world model: its core carries no certificate."]
    inner = f"Inner loop h → h⁺: {certificate.statement()}"
    if certificate.mode is Mode.LINEAR or not isinstance(model, CertifiableTransition):
        return [inner, "Imagined transition z → z': nothing is proven of it."]
    return [inner, f"Imagined transition z → z': {certify_transition(model).statement()}"]
