"""What a module declares about its inner update, so that it can be certified."""

import dataclasses
import enum
from typing import Any, Protocol, runtime_checkable

from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.stability.bounds import UpperBound
from loopwm.stability.norms import Norm


class Mode(enum.StrEnum):
    """What a looped core is built to guarantee."""

    CONTRACTIVE = "contractive"
    """The whole update contracts: one fixed point for each input (level `global`)."""
    BOUNDED = "bounded"
    """States stay in a box for every depth, and differences grow by a known factor at most
    (level `ball`)."""
    LINEAR = "linear"
    """The retention alone contracts, as in the published model (level `linear`)."""
    FREE = "free"
    """Nothing is guaranteed; a control."""


@dataclasses.dataclass(frozen=True)
class LayerBound:
    """An upper bound of one layer's Lipschitz constant in the latent state."""

    name: str
    """Where the layer stands in the block."""
    bound: UpperBound
    """The bound, for the weights as they are now."""

    @property
    def constant(self) -> float:
        """The bound as a number."""
        return float(self.bound)


@dataclasses.dataclass(frozen=True)
class UpdateDeclaration:
    """What an inner update h⁺ = ā⊙h + (1−ā)⊙g(h, e) declares so that it can be certified."""

    layers: tuple[LayerBound, ...]
    """Bounds of the layers of g, to be multiplied; all in `norm`, or in the 2-norm where `norm`
    is P."""
    scale: float
    """Factor in front of the layers: g = scale · layers."""
    retention_min: float
    """Smallest retention ā that any input can produce, in (0, 1), or 0 where ā is always 0."""
    retention_max: float
    """Largest retention ā that any input can produce, in (0, 1), or 0 where ā is always 0."""
    norm: Norm = Norm.P
    """Norm of the claim. P and ∞ allow a retention of its own for each channel; in the others
    ā has to be one number for all channels."""
    mode: Mode = Mode.CONTRACTIVE
    """What the core is built to guarantee."""
    radius: float | None = None
    """For `bounded`: the largest |g_i| of any entry, for every state and input."""

    def __post_init__(self):
        """Takes norm and mode by their texts too, and numbers of any type in float64.

        Raises:
            UsageError: there is no such norm or mode, or a number is none.
        """
        object.__setattr__(self, "norm", member(Norm, self.norm, "norm"))
        object.__setattr__(self, "mode", member(Mode, self.mode, "mode"))
        for name in ("scale", "retention_min", "retention_max", "radius"):
            value = getattr(self, name)
            if value is not None or name != "radius":
                object.__setattr__(self, name, _number(name, value))


def _number(name: str, value: Any) -> float:
    """One number in float64, in which a certificate computes."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The declared {name} is {value!r}; give one number.") from error


@runtime_checkable
class Certifiable(Protocol):
    """Anything that can declare its inner update."""

    def declare(self) -> UpdateDeclaration:
        """Returns the declaration of the inner update, with weights as they are now."""
        ...


@dataclasses.dataclass(frozen=True)
class TransitionDeclaration:
    """What an imagined transition z, u → z' declares so that its ball can be certified."""

    radius: float
    """R: ‖z'‖ ≤ R for every z and u, rounding included."""
    norm: Norm = Norm.TWO
    """Norm of the ball."""

    def __post_init__(self):
        """As `UpdateDeclaration`."""
        object.__setattr__(self, "norm", member(Norm, self.norm, "norm"))
        object.__setattr__(self, "radius", _number("radius", self.radius))


@runtime_checkable
class CertifiableTransition(Protocol):
    """A world model that can declare the ball of its imagined transition."""

    def declare_transition(self) -> TransitionDeclaration:
        """Returns the declaration of the imagined transition."""
        ...
