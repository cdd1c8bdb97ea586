"""A stability study: what is proven of a loop, what was observed, and whether they agree."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Complex, Float

from loopwm.evaluation.study_config import StudyConfig
from loopwm.stability import Certificate, Level, Mode, Norm, TransitionCertificate, Verification

# Measurements run in float64, with the same float32 weights that the certificate was issued for.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class InnerStudy:
    """What was observed of an inner loop; level `empirical`, except for `limits`."""

    kinds: tuple[str, ...]
    """Where each input comes from."""
    norm: Norm
    """Norm of ratios, residuals and `jacobian_norms`."""
    ratios: Float[np.ndarray, " attacked"]
    """Largest ratio ‖F(x) − F(y)‖ / ‖x − y‖ that the search found at each attacked input. Empty for
    an update that insists on float32, in which differences of far states are mostly rounding."""
    pairs: int
    """Pairs of states that were searched."""
    residuals: Float[np.ndarray, "inputs loops"]
    """‖h_{t+1} − h_t‖."""
    limits: Float[np.ndarray, "inputs loops"] | None
    """Certified bound of each residual, rounding included; None where nothing bounds it."""
    jacobian_norms: Float[np.ndarray, "inputs states"]
    """Norm of the Jacobian at states along the loop, the last one where the loop came to; a lower
    bound of it in the norm of the worst token."""
    spectral_norms: Float[np.ndarray, "inputs states"]
    """The same in the 2-norm."""
    spectral_radii: Float[np.ndarray, "inputs states"]
    """Largest modulus of an eigenvalue at these states."""
    eigenvalues: Complex[np.ndarray, "inputs k"]
    """Largest eigenvalues at the last of these states."""
    exponents: Float[np.ndarray, " inputs"]
    """Largest Lyapunov exponent per loop."""
    rates: Float[np.ndarray, " inputs"]
    """Factor per loop at which residuals were seen to shrink late; NaN where too few were."""
    outcomes: tuple[str, ...]
    """What each loop was seen to come to."""
    fixed_points: tuple[tuple[str, ...], ...]
    """Kind of each distinct fixed point that was found, such as `attracting`, for each input."""
    rests: tuple[Float[np.ndarray, "..."] | None, ...]
    """One of these points for each input, an attracting one if there is any; None without."""
    largest_entry: float
    """Largest absolute entry of a state, starts left out."""
    stops: int
    """Loops after which the model stops."""

    @property
    def max_ratio(self) -> float:
        """Largest ratio observed: of a pair, or of nearby pairs in the limit (a Jacobian norm)."""
        return float(np.max([*self.ratios, np.max(self.jacobian_norms)]))

    @property
    def spectral_norm(self) -> float:
        """Largest norm of a Jacobian."""
        return float(np.max(self.jacobian_norms))

    @property
    def spectral_radius(self) -> float:
        """Largest modulus of an eigenvalue of a Jacobian."""
        return float(np.max(self.spectral_radii))

    @property
    def exponent(self) -> float:
        """Largest Lyapunov exponent over the inputs."""
        return float(np.max(self.exponents))


@dataclasses.dataclass(frozen=True)
class OuterStudy:
    """What was observed of imagined transitions z → z'; level `empirical`."""

    norms: dict[str, Float[np.ndarray, "rollouts states"]]
    """‖z‖ along rollouts, shape (rollouts, horizon + 1), for each way to choose actions."""
    norm: Norm
    """The norm of these: the proven ball's, and the 2-norm where none is proven."""
    eigenvalues: Complex[np.ndarray, "visits k"]
    """Largest eigenvalues of ∂z'/∂z at visited states under the actions taken there."""
    exponents: dict[str, float]
    """Largest Lyapunov exponent per imagined step, under the policy's and under random actions."""

    @property
    def spectral_radius(self) -> float:
        """Largest modulus of an eigenvalue at the visited states."""
        return float(np.max(np.abs(self.eigenvalues)))

    @property
    def exponent(self) -> float:
        """The larger of the exponents; above 0, nearby imagined states were seen to move apart."""
        return float(np.max(list(self.exponents.values())))

    @property
    def largest_norm(self) -> float:
        """Largest norm of an imagined state; NaN if one was NaN. The first states are encoded."""
        return float(np.max([np.max(sizes[:, 1:]) for sizes in self.norms.values()]))


@dataclasses.dataclass(frozen=True)
class Check:
    """A measurement beside the proven bound that it may not pass."""

    name: str
    """What was measured."""
    observed: float
    """The largest value seen."""
    bound: float
    """The proven bound."""

    @property
    def holds(self) -> bool:
        """Whether the observation is at or below the bound; NaN is not."""
        return bool(self.observed <= self.bound * (1.0 + _ROUNDING))


@dataclasses.dataclass(frozen=True)
class Study:
    """Certificates and measurements of a run's world model, or of anyone's update."""

    name: str
    """The run's folder, or `module:factory`."""
    env: str | None
    """Environment id of a run."""
    seed: int | None
    """Seed of a run."""
    params: dict[str, int | None]
    """Number of parameters: total, world_model, core."""
    certificate: Certificate | None
    """What is proven of the inner loop."""
    reason: str | None
    """Why nothing is, in a sentence."""
    transition: TransitionCertificate | None
    """What is proven of imagined transitions; None for an update that is no world model."""
    guarantees: tuple[str, ...]
    """What is proven, and what is not, in sentences."""
    inner: InnerStudy
    """What was observed of the inner loop."""
    outer: OuterStudy | None
    """What was observed of imagined transitions; None for an update that is no world model."""
    verification: Verification | None
    """What is proven around a found state, where the whole update has no certificate."""
    verified_ratio: float | None
    """Largest ratio of distances observed inside the verified ball."""
    config: StudyConfig
    """Sizes of the study."""

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every measurement that a proven bound exists for."""
        return (*self._inner_checks(), *self._verified_checks(), *self._outer_checks())

    @property
    def bounds_hold(self) -> bool | None:
        """Whether every measurement kept its bound; None where no bound is proven."""
        checks = self.checks
        return all(check.holds for check in checks) if checks else None

    def record(self, report: str | None = None) -> dict[str, Any]:
        """The study as one object for JSON, where a number that is NaN or infinite is None.

        Args:
            report: path of the report, if one was written.

        Returns:
            run, env, seed, params, certificate, transition, empirical, bounds_hold, report. Where
            nothing is certified the certificate has the level `empirical`, the largest ratio seen
            for its rate, the reason, and what was verified around a found state.
        """
        transition, outer = self.transition, self.outer
        return {
            "run": self.name,
            "env": self.env,
            "seed": self.seed,
            "params": self.params,
            "certificate": self._summary(),
            "transition": None
            if transition is None
            else {
                "level": str(transition.level),
                "radius": transition.radius,
                "norm": str(transition.norm),
            },
            "empirical": {
                "max_ratio": _number(self.inner.max_ratio),
                "spectral_norm": _number(self.inner.spectral_norm),
                "spectral_radius": _number(self.inner.spectral_radius),
                "lyapunov_inner": _number(self.inner.exponent),
                "lyapunov_outer": None if outer is None else _number(outer.exponent),
            },
            "bounds_hold": self.bounds_hold,
            "report": report,
        }

    def _summary(self) -> dict[str, Any]:
        """Level, rate and norm; without a certificate, the reason and what was verified too."""
        if self.certificate is not None:
            return self.certificate.summary()
        return {
            "level": str(Level.EMPIRICAL),
            "rate": _number(self.inner.max_ratio),
            "norm": str(self.inner.norm),
            "reason": self.reason,
            "verified": self._verified(),
        }

    def _verified(self) -> dict[str, Any] | None:
        """What is proven around a found state, if anything."""
        found = self.verification
        if found is None or not found.verified:
            return None
        return {
            "level": str(found.level),
            "radius": found.radius,
            "rate": float(found.rate),
            "norm": str(found.norm),
        }

    def _inner_checks(self) -> list[Check]:
        certificate, inner = self.certificate, self.inner
        if certificate is None or certificate.level is Level.LINEAR:
            return []  # a bound of the retention says nothing about the whole update
        found = [Check("largest ratio of distances", inner.max_ratio, certificate.rate)]
        found.append(Check("largest Jacobian norm", inner.spectral_norm, certificate.rate))
        found.append(Check("spectral radius", inner.spectral_radius, certificate.rate))
        if certificate.contracts:
            distinct = max(len(kinds) for kinds in inner.fixed_points)
            found.append(Check("distinct fixed points of one input", float(distinct), 1.0))
        if inner.limits is not None:
            # The first residual is where its envelope starts. One of 0 keeps a limit of 0.
            later, limits = inner.residuals[:, 1:], inner.limits[:, 1:]
            with np.errstate(divide="ignore", invalid="ignore"):
                shares = np.where(later == 0, 0.0, later / limits)
            worst = float(np.max(shares, initial=0.0))
            found.append(Check("residual over its certified envelope", worst, 1.0))
        if certificate.mode is Mode.BOUNDED and certificate.radius is not None:
            found.append(Check("largest entry of a state", inner.largest_entry, certificate.radius))
        return found

    def _verified_checks(self) -> list[Check]:
        verified, ratio = self.verification, self.verified_ratio
        if verified is None or not verified.verified or ratio is None:
            return []
        return [Check("largest ratio in the verified ball", ratio, float(verified.rate))]

    def _outer_checks(self) -> list[Check]:
        if self.transition is None or self.outer is None:
            return []
        name = "norm of an imagined state"
        return [Check(name, self.outer.largest_norm, self.transition.radius)]


def _number(value: float) -> float | None:
    """The number for JSON, which knows neither NaN nor infinity."""
    return value if math.isfinite(value) else None
