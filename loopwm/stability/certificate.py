"""Certificates of contraction: what is claimed, at which level, in which norm."""

import dataclasses
import enum
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import numpy as np

from loopwm.errors import UsageError


class Level(enum.StrEnum):
    """How much a certificate claims."""

    GLOBAL = "global"
    """Proven for every latent state and every input."""
    BALL = "ball"
    """Proven inside an invariant set."""
    LINEAR = "linear"
    """Proven for the linear retention term alone."""
    EMPIRICAL = "empirical"
    """Observed; a lower bound of the true rate, never a guarantee."""


class Norm(enum.StrEnum):
    """The norm a statement is made in."""

    P = "P"
    """Weighted 2-norm ‖x‖_P² = Σ p x² with p from the retention (see `stability.weighted`)."""
    TWO = "2"
    """Plain Euclidean norm."""
    INFINITY = "inf"
    """Largest absolute entry."""


@dataclasses.dataclass(frozen=True)
class LayerBound:
    """An upper bound of one layer's Lipschitz constant in the latent state, in the 2-norm."""

    name: str
    """Where the layer stands in the block."""
    constant: float
    """The bound, from float64 singular values."""


@dataclasses.dataclass(frozen=True)
class UpdateDeclaration:
    """What an inner update h⁺ = ā⊙h + (1−ā)⊙g(h, e) declares so that it can be certified."""

    layers: tuple[LayerBound, ...]
    """Bounds of the layers of g, to be multiplied."""
    scale: float
    """Factor in front of the layers: g = scale · layers."""
    retention_min: float
    """Smallest retention ā that any input can produce, in (0, 1)."""
    retention_max: float
    """Largest retention ā that any input can produce, in (0, 1)."""


@runtime_checkable
class Certifiable(Protocol):
    """Anything that can declare its inner update."""

    def declare(self) -> UpdateDeclaration:
        """Returns the declaration of the inner update, with weights as they are now."""
        ...


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A proven contraction of the inner update h → h⁺, for every input e held constant.

    It says nothing about the outer map z → z', which may expand.
    """

    level: Level
    """What is claimed."""
    rate: float
    """ρ < 1: ‖F(x) − F(y)‖ ≤ ρ‖x − y‖ in `norm`."""
    norm: Norm
    """The norm of the claim."""
    gamma: float
    """Lipschitz bound of the nonlinear part g in the 2-norm."""
    condition: float
    """κ: the same claim holds in the 2-norm over T loops with κ·ρ^T."""
    layers: tuple[LayerBound, ...]
    """The bounds it rests on."""
    dtype: str
    """Type of the weights it was computed for."""

    def sufficient_depth(self, tolerance: float, initial_error: float) -> int:
        """Loops after which the distance to the fixed point is at most `tolerance`.

        Closed form: T = ⌈log(tolerance / initial_error) / log ρ⌉, at least 0.

        Args:
            tolerance: wanted distance to the fixed point in `norm`, positive.
            initial_error: distance of the first state to the fixed point in `norm`, or a bound.

        Returns:
            The number of loops.

        Raises:
            UsageError: the tolerance is not positive, or the initial error is no distance.
        """
        if not tolerance > 0:
            raise UsageError(f"tolerance is {tolerance}; give a positive distance.")
        if not 0 <= initial_error < float("inf"):
            raise UsageError(f"initial_error is {initial_error}; give a finite distance.")
        if initial_error <= tolerance:
            return 0
        return int(np.ceil(np.log(tolerance / initial_error) / np.log(self.rate)))

    def summary(self) -> dict[str, str | float]:
        """The three fields that a run's summary.json keeps: level, rate, norm."""
        return {"level": str(self.level), "rate": self.rate, "norm": str(self.norm)}


def certify(module: object) -> Certificate:
    r"""Certifies that the whole inner update of a looped core contracts.

    With γ the product of the layers' bounds and ā ∈ [a_min, a_max], the update contracts in the
    P-norm at $\rho = a_{max} + (1 - a_{max})\gamma$ for every state and every input
    (proof in `loopwm.stability.weighted`). Bounds come from float64 singular values.

    Args:
        module: a core that declares its inner update, such as `LoopedCore`.

    Returns:
        A certificate of level `global`.

    Raises:
        UsageError: the module declares no inner update, has NaN weights or weights of lower
            precision than float32, its retention leaves (0, 1), or γ is not below 1, so that no
            certificate exists.
    """
    if not isinstance(module, Certifiable):
        raise UsageError(
            f"{type(module).__name__} does not declare an inner update, so there is nothing to "
            "certify; pass a looped core, such as agent.world_model.core."
        )
    dtype = _weights_dtype(module)
    declared = module.declare()
    gamma = declared.scale * float(np.prod([layer.constant for layer in declared.layers]))
    if not gamma < 1.0:
        raise UsageError(
            f"The block's Lipschitz bound is {gamma:.4f}, not below 1, so the update is not "
            "certified to contract; lower gamma or cap the layers."
        )
    low, high = declared.retention_min, declared.retention_max
    if not 0.0 < low <= high < 1.0:
        raise UsageError(
            f"The declared retention lies in [{low}, {high}], not inside (0, 1), so the update is "
            "not certified to contract; lower its largest value or raise its smallest."
        )
    rates = [a + (1.0 - a) * gamma for a in (low, high)]
    p = [1.0 / ((1.0 - a) * c) for a, c in zip((low, high), rates, strict=True)]
    return Certificate(
        level=Level.GLOBAL,
        rate=max(rates),
        norm=Norm.P,
        gamma=gamma,
        condition=_largest_condition(low, high, gamma, p),
        layers=declared.layers,
        dtype=dtype,
    )


def _largest_condition(low: float, high: float, gamma: float, ends: list[float]) -> float:
    """κ over all ā in [low, high]: p(ā) may have its minimum inside, where (1−ā)c is largest."""
    # (1−ā)(ā + (1−ā)γ) is a concave quadratic in ā with its top at (1−2γ)/(2(1−γ)).
    top = (1.0 - 2.0 * gamma) / (2.0 * (1.0 - gamma))
    smallest = min(ends)
    if low < top < high:
        smallest = min(smallest, 1.0 / ((1.0 - top) * (top + (1.0 - top) * gamma)))
    return float(np.sqrt(max(ends) / smallest))


def _weights_dtype(module: object) -> str:
    """Checks that all weights are finite and at least float32; names their type."""
    names = set()
    for leaf in jax.tree.leaves(eqx.filter(module, eqx.is_inexact_array)):
        names.add(str(leaf.dtype))
        if leaf.dtype.itemsize < 4:
            raise UsageError(
                f"The core has {leaf.dtype} weights, in which rounding can hide an error as large "
                "as the state; cast it to float32 to certify it."
            )
        if not np.all(np.isfinite(np.asarray(leaf))):
            raise UsageError(
                "The core has NaN or infinite weights, so nothing can be certified; load an "
                "earlier checkpoint."
            )
    return ", ".join(sorted(names)) or "none"
