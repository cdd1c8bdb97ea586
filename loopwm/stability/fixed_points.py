r"""Fixed points F(h) = h found from many starts, and what the Jacobian says beside each.

Newton's method finds repelling points as well as attracting ones, so a point that is reached here
need not be where the loop itself would go from that start. A search never shows that there are no
others: level `empirical`.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from loopwm.errors import UsageError
from loopwm.stability import norms
from loopwm.stability.bounds import Estimate, Level
from loopwm.stability.spectra import DENSE_LIMIT, Eigenvalues, eigenvalues
from loopwm.stability.trajectories import VectorMap, differentiating, vector_map

# Distance from 1 within which a modulus counts as 1: more than what a residual at the tolerance and
# rounding make of it.
_MARGIN = {"float64": 1e-6, "float32": 1e-3}


class Kind(enum.StrEnum):
    """What the loop was seen to do beside a fixed point, from the eigenvalues of its Jacobian."""

    ATTRACTING = "attracting"
    """All eigenvalues inside the unit circle: states close enough come closer."""
    SADDLE = "saddle"
    """Some inside, some outside."""
    REPELLING = "repelling"
    """All outside: states nearby move away."""
    EXPANDING = "expanding"
    """Some outside; the others were not computed, because the state is large."""
    MARGINAL = "marginal"
    """One on the circle, as far as rounding tells: the derivative does not decide."""


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """A fixed point that was found; level `empirical`."""

    state: Float[np.ndarray, "..."]
    """h with F(h) ≈ h, in the shape of a state, float64."""
    residual: float
    """‖F(h) − h‖₂."""
    eigenvalues: Complex[np.ndarray, " values"]
    """Of the Jacobian there, by falling modulus: all of a small state's, the largest otherwise."""
    kind: Kind
    """What the eigenvalues say of the loop beside it."""
    starts: tuple[int, ...]
    """Indices of the starts from which the search ended here."""
    level: Level = Level.EMPIRICAL
    """Always `empirical`."""

    @property
    def reached(self) -> int:
        """From how many starts the search ended here."""
        return len(self.starts)

    @property
    def spectral_radius(self) -> Estimate:
        """Largest modulus of an eigenvalue: the rate of the loop beside the point."""
        return Estimate(float(np.abs(self.eigenvalues[0])))


@dataclasses.dataclass(frozen=True)
class FixedPoints:
    """What a search from many starts has found; level `empirical`: there may be others."""

    points: tuple[FixedPoint, ...]
    """Distinct fixed points, the one reached from most starts first."""
    failures: tuple[int, ...]
    """Indices of the starts from which none was found."""
    residuals: Float[np.ndarray, " starts"]
    """‖F(h) − h‖₂ where the search of each start ended, shape (starts,); NaN where it left the
    finite numbers."""
    tolerance: float
    """Largest residual of a fixed point."""
    dtype: str
    """Type that the update computed in."""
    level: Level = Level.EMPIRICAL
    """Always `empirical`."""


def find_fixed_points(
    update: Callable[..., object],
    starts: Array | np.ndarray,
    *,
    tolerance: float = 1e-8,
    max_steps: int = 100,
    distinct: float = 1e-4,
    key: PRNGKeyArray,
) -> FixedPoints:
    """Solves F(h) = h from every start and sorts what is found.

    Each start gets Newton's method; where that fails, Levenberg-Marquardt; where that fails, loops
    of the update itself and both methods from where they lead. Large states (over `DENSE_LIMIT`
    entries) have their Newton steps solved by GMRES, and no Levenberg-Marquardt.

    Args:
        update: the map h → h⁺, from any shape to itself.
        starts: where to search from, shape (starts, *state), float32 or float64.
        tolerance: largest ‖F(h) − h‖₂ of a fixed point, in float64 arithmetic.
        max_steps: largest number of steps of each method, and of loops.
        distinct: points closer than this, in the 2-norm, are one. Beside a marginal point a small
            residual leaves the place open, and more is needed to keep it from being split.
        key: PRNG key, for the eigenvalues of large states.

    Returns:
        The distinct fixed points with residuals, eigenvalues and counts, and the failures.

    Raises:
        UsageError: the update cannot be repeated or differentiated, or an argument is out of range.
    """
    if np.ndim(starts) < 1 or len(starts) == 0:
        raise UsageError(f"The starts have shape {np.shape(starts)}; pass at least one start.")
    if not (tolerance > 0 and distinct > 0) or max_steps < 1:
        raise UsageError(
            f"tolerance is {tolerance}, distinct {distinct} and max_steps {max_steps}; give"
            " positive numbers."
        )
    mapped, first = vector_map(update, starts[0])
    vectors = np.asarray(starts, np.float64).reshape(len(starts), -1)
    direct = first.size <= DENSE_LIMIT
    with differentiating(), jax.enable_x64(True):
        outputs = _solve(mapped, vectors, tolerance, max_steps, direct)
    ends, residuals = map(np.asarray, outputs)
    failures = tuple(int(i) for i in np.flatnonzero(~(residuals <= tolerance)))
    measured = functools.partial(_fixed_point, mapped, np.shape(starts)[1:], ends, residuals)
    groups = _groups(ends, residuals, tolerance, distinct)
    keys = jax.random.split(key, max(len(groups), 1))
    points = [measured(group, one) for group, one in zip(groups, keys, strict=False)]
    return FixedPoints(
        points=tuple(sorted(points, key=lambda point: -point.reached)),
        failures=failures,
        residuals=residuals,
        tolerance=tolerance,
        dtype=mapped.dtype,
    )


@eqx.filter_jit
def _solve(
    mapped: VectorMap, starts: Array | np.ndarray, tolerance: float, max_steps: int, direct: bool
) -> tuple[Array, Array]:
    """Where the search of each start ends, shape (starts, n), and the residuals there."""
    # Solvers measure in the ∞-norm; the 2-norm is √n times that at most.
    close = 0.5 * tolerance / starts.shape[1] ** 0.5
    tight = {"rtol": 1e-10, "atol": close}
    linear = lx.AutoLinearSolver(well_posed=None) if direct else lx.GMRES(rtol=1e-8, atol=1e-14)

    def error(h, _):
        return mapped(h) - h

    def residual(h):
        return norms.two(error(h, None))

    def solved(solver, h):
        return optx.root_find(error, solver, h, max_steps=max_steps, throw=False).value

    def looped(h):
        return jax.lax.scan(lambda x, _: (mapped(x), None), h, None, max_steps)[0]

    def attempt(end, start, from_loop):
        h = jax.lax.cond(from_loop, looped, lambda x: x, start)
        tried = solved(optx.Newton(**tight, linear_solver=linear), h)
        if direct:
            damped = optx.LevenbergMarquardt(**tight)
            failed = ~(residual(tried) <= tolerance)
            tried = jax.lax.cond(failed, lambda _: solved(damped, h), lambda x: x, tried)
        better = (residual(tried) < residual(end)) | jnp.isnan(residual(end))
        return jnp.where(better, tried, end)

    def search(start):
        def unless_found(end, from_loop):  # a scan, so that the solvers are compiled once
            found = from_loop & (residual(end) <= tolerance)
            go = functools.partial(attempt, start=start, from_loop=from_loop)
            return jax.lax.cond(found, lambda x: x, go, end), None

        end, _ = jax.lax.scan(unless_found, start, jnp.asarray([False, True]))
        return end, residual(end)

    return jax.lax.map(search, jnp.asarray(starts))


def _groups(
    ends: np.ndarray, residuals: np.ndarray, tolerance: float, distinct: float
) -> list[list[int]]:
    """Indices of starts that ended at the same point, the one of smallest residual first."""
    groups: list[list[int]] = []
    for i in np.argsort(residuals):
        if not residuals[i] <= tolerance:
            continue
        for group in groups:
            if np.linalg.norm(ends[i] - ends[group[0]]) < distinct:
                group.append(int(i))
                break
        else:
            groups.append([int(i)])
    return groups


def _fixed_point(
    mapped: VectorMap,
    shape: tuple[int, ...],
    ends: np.ndarray,
    residuals: np.ndarray,
    group: list[int],
    key: PRNGKeyArray,
) -> FixedPoint:
    state = ends[group[0]].reshape(shape)
    size = state.size
    spectrum = eigenvalues(mapped, state, k=size if size <= DENSE_LIMIT else 4, key=key)
    return FixedPoint(
        state=state,
        residual=float(residuals[group[0]]),
        eigenvalues=spectrum.values,
        kind=_kind(spectrum, size, _MARGIN[mapped.dtype]),
        starts=tuple(sorted(group)),
    )


def _kind(spectrum: Eigenvalues, size: int, margin: float) -> Kind:
    moduli = np.abs(spectrum.values)
    if np.any(np.abs(moduli - 1.0) <= margin):
        return Kind.MARGINAL
    if moduli[0] < 1.0:
        return Kind.ATTRACTING
    if len(moduli) < size:
        return Kind.EXPANDING
    return Kind.REPELLING if moduli[-1] > 1.0 else Kind.SADDLE
