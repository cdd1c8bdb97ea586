"""What an inner loop h → h⁺ is observed to do at given inputs, beside what is certified of it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.evaluation.study import InnerStudy
from loopwm.evaluation.study_config import StudyConfig
from loopwm.evaluation.study_norms import StudyNorm, jacobian_norm, study_norm
from loopwm.stability import Certificate, Level, attack
from loopwm.stability.cycles import detect_cycle
from loopwm.stability.fixed_points import FixedPoints, Kind, find_fixed_points
from loopwm.stability.lyapunov import lyapunov_exponents
from loopwm.stability.norms import Norm
from loopwm.stability.spectra import eigenvalues, singular_values
from loopwm.stability.trajectories import (
    Trajectory,
    VectorMap,
    differentiating,
    follow,
    vector_map,
)

_STACKED = (
    "residuals",
    "jacobian_norms",
    "spectral_norms",
    "spectral_radii",
    "eigenvalues",
    "exponents",
    "rates",
)
# States of a cycle count as equal up to this share of their size.
_SAME = 1e-4


class InnerInput(NamedTuple):
    """An input of the inner loop, held constant, and the state that the loop starts from."""

    kind: str
    """Where it comes from, such as `visited`, `random` or `far`."""
    update: Callable[..., Array]
    """The map h → h⁺ for that input."""
    start: Float[Array, "*state"] | Float[np.ndarray, "*state"]
    """h_0."""
    depth: int
    """Loops after which the model stops, for a measurement there."""


def study_inner(
    inputs: Sequence[InnerInput],
    certificate: Certificate | None,
    config: StudyConfig,
    *,
    key: PRNGKeyArray,
) -> InnerStudy:
    """Measures the inner loop at every input.

    Args:
        inputs: the inputs, at least one, with states of one shape.
        certificate: what is proven of the update; its norm is used. None measures in the 2-norm.
        config: sizes of the study.
        key: PRNG key.

    Returns:
        What was observed.

    Raises:
        UsageError: an update cannot be repeated or differentiated, or became NaN.
    """
    keys = jax.random.split(key, 2 * len(inputs))
    spaces = [study_norm(one.update, one.start, certificate) for one in inputs]
    measured = [
        _at_input(one, norm, certificate, config, key=one_key)
        for one, norm, one_key in zip(inputs, spaces, keys[: len(inputs)], strict=True)
    ]
    table = {name: np.stack([one[name] for one in measured]) for name in _STACKED}
    chosen: dict[int, int] = {}  # inputs with updates of their own, the steepest first
    for i in np.argsort(-np.max(table["jacobian_norms"], axis=1)):
        chosen.setdefault(id(inputs[i].update), int(i))
    rows = list(chosen.values())[: config.attacked]
    found = [_attacked(inputs[i], spaces[i], config, key=keys[len(inputs) + i]) for i in rows]
    ratios = [ratio for ratio in found if ratio is not None]
    bounded = measured[0]["limits"] is not None
    return InnerStudy(
        kinds=tuple(one.kind for one in inputs),
        norm=spaces[0].name,
        ratios=np.asarray(ratios),
        pairs=config.attack_starts * len(ratios),
        limits=np.stack([one["limits"] for one in measured]) if bounded else None,
        outcomes=tuple(one["outcome"] for one in measured),
        fixed_points=tuple(tuple(str(p.kind) for p in one["points"].points) for one in measured),
        rests=tuple(_rest(one["points"]) for one in measured),
        largest_entry=float(np.max([one["largest_entry"] for one in measured])),
        stops=inputs[0].depth,
        **table,
    )


def _at_input(
    one: InnerInput,
    norm: StudyNorm,
    certificate: Certificate | None,
    config: StudyConfig,
    *,
    key: PRNGKeyArray,
) -> dict[str, Any]:
    """Everything but the search for pairs."""
    key_spectra, key_exponents, key_points, key_far = jax.random.split(key, 4)
    proven = None if certificate is None or certificate.level is Level.LINEAR else certificate
    path = follow(one.update, one.start, steps=config.loops, norm=norm.function, certificate=proven)
    mapped, start = vector_map(one.update, one.start)
    places = sorted({0, 1, min(one.depth, config.loops), config.loops})
    reached = [path.states[t] for t in places if np.all(np.isfinite(path.states[t]))]
    # A loop that left the finite numbers has no state there; its last finite one stands in.
    reached += [reached[-1]] * (len(places) - len(reached))
    at = [_spectra(mapped, h, norm, config, key=key_spectra) for h in reached]
    far = config.far * np.asarray(jax.random.normal(key_far, np.shape(one.start)))
    starts = np.stack([np.asarray(one.start), np.asarray(reached[-1]), far.astype(start.dtype)])
    exponents = lyapunov_exponents(
        one.update, one.start, steps=config.exponent_steps, key=key_exponents
    )
    return {
        "residuals": path.residuals,
        "limits": None if path.envelope is None else _limits(one, path, proven),
        "jacobian_norms": np.array([jacobian for jacobian, *_ in at]),
        "spectral_norms": np.array([spectral for _, spectral, _ in at]),
        "spectral_radii": np.array([np.abs(values[0]) for *_, values in at]),
        "eigenvalues": at[-1][-1],
        "exponents": exponents.exponents[0],
        "rates": path.convergence.rate,
        "points": find_fixed_points(one.update, starts, key=key_points),
        "outcome": _outcome(path),
        "largest_entry": _largest_entry(path, proven),
    }


def _spectra(
    mapped: VectorMap, state: np.ndarray, norm: StudyNorm, config: StudyConfig, *, key: PRNGKeyArray
) -> tuple[float, float, np.ndarray]:
    """Norm of the Jacobian at a state in the study's norm and in the 2-norm; its eigenvalues."""
    h = np.asarray(state, np.float64).reshape(-1)
    own = jacobian_norm(mapped, h, norm, key=key)
    spectral = own
    if norm.name is not Norm.TWO:
        spectral = float(singular_values(mapped, h, key=key).largest)
    return own, spectral, eigenvalues(mapped, h, k=min(config.eigenvalues, h.size), key=key).values


def _limits(
    one: InnerInput, path: Trajectory, certificate: Certificate | None
) -> Float[np.ndarray, " loops"]:
    r"""Bound of each residual: the envelope, and what rounding adds to it.

    With η a bound of the rounding of one loop, residuals grow by 2η at most before they shrink:
    $r_t \le \rho^t r_0 + 2\eta \sum_{s<t} \rho^s$.
    """
    assert certificate is not None and path.envelope is not None
    eta, rounding = 0.5 * path.floor, getattr(one.update, "rounding", None)
    if callable(rounding):
        own = np.asarray(jax.vmap(rounding)(jnp.asarray(path.states[:-1])), np.float64)
        eta = float(np.max(own)) if np.all(np.isfinite(own)) else eta
    growth = np.array([certificate.growth(t) for t in range(len(path.envelope))])
    return path.envelope + 2.0 * eta * (np.cumsum(growth) - growth)


def _outcome(path: Trajectory) -> str:
    """What the loop was seen to come to."""
    if path.nonfinite_at is not None:
        return f"left the finite numbers at loop {path.nonfinite_at}"
    settled = np.flatnonzero(path.residuals <= path.floor)
    if len(settled):
        return f"settled to rounding at loop {settled[0] + 1}"
    if len(path.states) >= 3:
        coarse = _SAME * float(np.linalg.norm(path.states[-1]))
        period = detect_cycle(path.states, tolerance=max(coarse, path.floor)).period
        if period is not None and period > 1:
            return f"went round a cycle of {period} states"
    return f"still moving after {len(path.residuals)} loops"


def _largest_entry(path: Trajectory, certificate: Certificate | None) -> float:
    """Largest absolute entry of a state; 0 where the start is outside the proven box itself."""
    entries = np.abs(np.asarray(path.states, np.float64))
    box = None if certificate is None else certificate.radius
    return 0.0 if box is not None and np.max(entries[0]) > box else float(np.max(entries))


def _rest(found: FixedPoints) -> np.ndarray | None:
    """A fixed point, an attracting one if there is any."""
    points = sorted(found.points, key=lambda point: point.kind is not Kind.ATTRACTING)
    return points[0].state if points else None


def _attacked(
    one: InnerInput, norm: StudyNorm, config: StudyConfig, *, key: PRNGKeyArray
) -> float | None:
    """Largest ratio that the search for pairs finds at an input; None where rounding hides it."""
    if vector_map(one.update, one.start)[0].dtype != "float64":
        return None
    with differentiating():
        return attack(
            one.update,
            norm.function,
            np.shape(one.start),
            key=key,
            starts=config.attack_starts,
            steps=config.attack_steps,
            geometry=Norm.INFINITY if norm.name is Norm.INFINITY else Norm.TWO,
        ).ratio
