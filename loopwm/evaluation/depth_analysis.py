"""What each loop of a trained world model is worth, on real transitions."""

import dataclasses
import enum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int64

from loopwm.agents import PlanningAgent, PolicyAgent
from loopwm.envs import EnvSource, Spaces
from loopwm.errors import UsageError
from loopwm.evaluation.depth import DepthCurve, Saturation, fit_saturation, spearman
from loopwm.evaluation.guarantees import certificate_of
from loopwm.evaluation.transitions import RealTransitions, play_transitions
from loopwm.models import AbstractWorldModel, EveryDepth, Normalizer
from loopwm.stability import Certificate

HELD_OUT = 1_500_000
"""Seed of the environments that an agent is analysed in, unless another one is given."""


@dataclasses.dataclass(frozen=True)
class DepthConfig:
    """Sizes of a depth analysis."""

    transitions: int = 256
    """Transitions to measure on."""
    envs: int = 10
    """Environments that they are played in, side by side."""
    multiple: int = 3
    """The curve of errors ends at this many times the trained depth, so that over-thinking is
    seen."""
    loops: int = 64
    """Loops after which halting gives up; raised to the end of the curve where that is more."""
    residual_tolerance: float | None = None
    """Tolerance of residual halting; when None, the median residual after the model's own depth,
    rounded to two digits."""
    certified_tolerance: float = 1e-2
    """Tolerance of certified halting, in the norm of the certificate."""

    def __post_init__(self):
        """Refuses counts below 1, a curve without loops beyond, and impossible tolerances."""
        if min(self.transitions, self.envs, self.loops) < 1 or self.multiple < 2:
            raise UsageError(
                f"transitions, envs and loops are {self.transitions}, {self.envs} and "
                f"{self.loops}, and multiple is {self.multiple}; give at least 1, and 2."
            )
        given = (self.residual_tolerance, self.certified_tolerance)
        if not all(0.0 < value < np.inf for value in given if value is not None):
            raise UsageError(
                f"residual_tolerance is {given[0]} and certified_tolerance {given[1]}; give "
                "positive numbers."
            )


@dataclasses.dataclass(frozen=True)
class DepthTraces:
    """What was measured after t = 0, 1 … T loops of each transition; level `empirical`."""

    errors: Float[np.ndarray, "samples depths"]
    """Root mean square over the entries of decoded less true next observation, both normalised as
    the model sees them, shape (samples, T + 1); not finite where the loop diverged."""
    residuals: Float[np.ndarray, "samples depths"]
    """‖h_t − h_{t−1}‖ in the update's norm, same shape; infinite at t = 0."""
    bounds: Float[np.ndarray, "samples depths"]
    """Certified bound of ‖h_t − h*‖ in that norm, same shape; infinite at t = 0 and where nothing
    is certified."""


class HaltingKind(enum.StrEnum):
    """Rules that stop at a small number."""

    RESIDUAL = "residual"
    """Stops at a residual that is at most the tolerance."""
    CERTIFIED = "certified"
    """Stops at a certified bound that is at most the tolerance."""


@dataclasses.dataclass(frozen=True)
class Halting:
    """What a halting rule did on transitions; level `empirical`."""

    kind: HaltingKind
    """The rule."""
    tolerance: float
    """Its tolerance."""
    loops: Int64[np.ndarray, " samples"]
    """Loops used by each transition, shape (samples,)."""
    met: Bool[np.ndarray, " samples"]
    """Whether the rule stopped it; where not, it went on to the last loop measured."""
    errors: Float[np.ndarray, " samples"]
    """Error of each transition where it stopped, shape (samples,)."""
    correlation: float
    """Spearman's rank correlation of loops used with the true depth; NaN where the true depth is
    not known, or where it or the loops are the same for all transitions."""


@dataclasses.dataclass(frozen=True)
class DepthAnalysis:
    """Depth of a trained world model on real transitions; observed, unless it says certified."""

    transitions: RealTransitions
    """What it was measured on, with the true depths where they are known."""
    traces: DepthTraces
    """Everything measured, by transition and depth."""
    depth: int
    """The model's own depth: the loops of a transition when no rule is given."""
    trained: int
    """Largest depth in training; loops beyond it were never trained."""
    curve: DepthCurve | None
    """Errors from depth 0 to the end of the curve, or to the last depth at which all are finite;
    None where not even those after one loop are."""
    diverged: int | None
    """First depth of the curve at which an error is not finite; None where there is none."""
    fit: Saturation | None
    """a + b·exp(−cT) of the curve; None where it has fewer than three depths."""
    effective: float
    """Share of the loops up to `trained` that reduced the error of their transition, in [0, 1];
    NaN where the curve does not reach that depth."""
    overthinking: float
    """Largest mean error beyond `trained` over that at `trained`, less 1; NaN where the curve does
    not reach beyond."""
    residual: Halting | None
    """Residual halting; None where its tolerance is unknown, as residuals are not finite."""
    certified: Halting | None
    """Certified halting; None where the core is not certified to contract."""
    certificate: Certificate | None
    """The core's certificate, if it has one."""


def analyse_depth(
    agent: PlanningAgent | PolicyAgent,
    source: EnvSource,
    *,
    trained: int | None = None,
    seed: int = HELD_OUT,
    config: DepthConfig | None = None,
) -> DepthAnalysis:
    """Plays an agent in environments of its own and measures its world model's depth there.

    Args:
        agent: the agent, from `loopwm.train` or `loopwm.load`.
        source: the environment, whose spaces are those that the agent was trained in.
        trained: largest depth in training; the model's own when left out.
        seed: seed of environments and agent.
        config: sizes.

    Returns:
        The analysis; `depth_section` and `write_depth_figures` show it.

    Raises:
        UsageError: the model has no inner loop, the environment cannot be made, or the trained
            depth is below 1.
        RunFailure: the environment failed, or a decision became NaN.
    """
    config = DepthConfig() if config is None else config
    model = agent.world_model
    _check_loops(model)
    spaces = Spaces.of_source(source)
    transitions = play_transitions(
        agent, source, spaces, count=config.transitions, envs=config.envs, seed=seed
    )
    certificate = certificate_of(model.core)
    return measure_depth(
        model, agent.normalizer, transitions, certificate, trained=trained, config=config
    )


def measure_depth(
    model: AbstractWorldModel,
    normalizer: Normalizer,
    transitions: RealTransitions,
    certificate: Certificate | None,
    *,
    trained: int | None = None,
    config: DepthConfig | None = None,
) -> DepthAnalysis:
    """Measures errors, residuals and bounds after every loop, in one compiled program.

    Args:
        model: the world model, its constrained weights resolved.
        normalizer: its normaliser.
        transitions: real transitions.
        certificate: the core's, from `certificate_of`.
        trained: largest depth in training; the model's own when left out.
        config: sizes.

    Returns:
        The analysis.

    Raises:
        UsageError: the model has no inner loop, or the trained depth is below 1.
    """
    config = DepthConfig() if config is None else config
    _check_loops(model)
    trained = model.depth if trained is None else trained
    if trained < 1:
        raise UsageError(f"The trained depth is {trained}; give at least 1 loop.")
    end = config.multiple * max(trained, model.depth)
    arrays = (transitions.observation, transitions.action, transitions.next_observation)
    found = _traced(model, normalizer, *arrays, max(end, config.loops))
    traces = DepthTraces(*(np.asarray(array, np.float64) for array in found))
    curve, diverged = _curve(traces.errors[:, : end + 1])
    fit = residual = certified = None
    effective = overthinking = float("nan")
    reached = 0 if curve is None else len(curve.mean) - 1
    if curve is not None and reached >= 2:
        fit = fit_saturation(np.arange(reached + 1), curve.mean)
    if curve is not None and reached >= trained:
        effective = float(DepthCurve(curve.errors[:, : trained + 1]).effective_loops.mean())
    if curve is not None and reached > trained:
        overthinking = curve.overthinking(trained)
    tolerance = _tolerance(traces.residuals[:, model.depth], config)
    known = transitions.true_depth
    if tolerance is not None:
        residual = halt(traces, HaltingKind.RESIDUAL, tolerance, known)
    if certificate is not None and certificate.contracts:
        certified = halt(traces, HaltingKind.CERTIFIED, config.certified_tolerance, known)
    return DepthAnalysis(
        transitions=transitions,
        traces=traces,
        depth=model.depth,
        trained=trained,
        curve=curve,
        diverged=diverged,
        fit=fit,
        effective=effective,
        overthinking=overthinking,
        residual=residual,
        certified=certified,
        certificate=certificate,
    )


def halt(
    traces: DepthTraces,
    kind: HaltingKind,
    tolerance: float,
    true_depth: Int64[np.ndarray, " samples"] | None = None,
) -> Halting:
    """Where a halting rule stops each transition: at the first loop that meets it.

    Args:
        traces: what was measured after every loop.
        kind: the rule, with a patience of one loop.
        tolerance: its tolerance, positive.
        true_depth: micro-steps that each transition needed, shape (samples,), if known.

    Returns:
        What it did.

    Raises:
        UsageError: the tolerance is not positive.
    """
    if not 0.0 < tolerance < np.inf:
        raise UsageError(f"tolerance is {tolerance}; give a positive number.")
    measured = traces.residuals if kind is HaltingKind.RESIDUAL else traces.bounds
    small = measured <= tolerance
    met = np.asarray(small.any(axis=1))
    loops = np.where(met, small.argmax(axis=1), measured.shape[1] - 1).astype(np.int64)
    return Halting(
        kind=kind,
        tolerance=tolerance,
        loops=loops,
        met=met,
        errors=np.take_along_axis(traces.errors, loops[:, None], axis=1)[:, 0],
        correlation=float("nan") if true_depth is None else spearman(loops, true_depth),
    )


def _check_loops(model: AbstractWorldModel) -> None:
    if not isinstance(model, EveryDepth):
        raise UsageError(
            f"A {type(model).__name__} has no inner loop, so there is no depth to analyse; use a "
            "looped world model."
        )


@eqx.filter_jit
def _traced(
    model: Any, normalizer: Normalizer, observation, action, following, depth: int
) -> tuple[Array, Array, Array]:
    """Errors, residuals and bounds, each of shape (samples, depth + 1)."""

    def one(o, u, o_next):
        wanted = normalizer(o_next)

        def read(solution):
            error = jnp.sqrt(jnp.mean((model.decode(solution.value) - wanted) ** 2))
            return error, solution.stats.residual, solution.stats.error_bound

        return model.unroll(model.encode(normalizer(o)), u, depth, read)

    return jax.vmap(one)(observation, action, following)


def _curve(errors: Float[np.ndarray, "samples depths"]) -> tuple[DepthCurve | None, int | None]:
    """The curve up to where all errors are finite, and the first depth where one is not."""
    finite = np.asarray(np.isfinite(errors).all(axis=0))
    end = len(finite) if finite.all() else int(np.argmin(finite))
    curve = DepthCurve(errors[:, :end]) if end >= 2 else None
    return curve, None if finite.all() else end


def _tolerance(residuals: Float[np.ndarray, " samples"], config: DepthConfig) -> float | None:
    """Tolerance of residual halting; None where the residuals do not give one."""
    if config.residual_tolerance is not None:
        return config.residual_tolerance
    median = float(np.median(residuals))
    if not np.isfinite(median):
        return None
    # A state that no longer moves at all is met by any tolerance.
    return float(f"{max(median, 1e-6):.2g}")
