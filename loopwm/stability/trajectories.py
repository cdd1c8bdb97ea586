"""What a loop is observed to do from one state: residuals, norms, rate of convergence.

Also `VectorMap`, the form in which the tools beside this one (spectra, Lyapunov exponents, fixed
points) take anyone's update: a map of vectors, in float64 wherever the update allows it.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from loopwm.errors import UsageError, as_clause
from loopwm.stability import norms
from loopwm.stability.bounds import Level
from loopwm.stability.certificate import Certificate
from loopwm.stability.checks import check_module, check_update
from loopwm.stability.norms import Norm

# A residual below this many times the rounding of the state is taken for rounding.
_ROUNDINGS = 40.0

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class ConvergenceRate:
    """Geometric rate at which residuals were seen to shrink; observed, no guarantee."""

    rate: float
    """Factor per loop, exp of the slope of log ‖h_{t+1} − h_t‖ over t; above 1 when residuals
    grow; NaN when fewer than two residuals are above the floor, or one is NaN or infinite."""
    spread: float
    """Root mean square distance of log residuals from the fitted line; large when the decay is
    not geometric. NaN where the rate is."""
    first: int
    """Index of the first residual of the fit."""
    last: int
    """Index after the last residual of the fit; later ones are mostly rounding."""
    level: Level = Level.EMPIRICAL
    """Always `empirical`."""


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """States of a loop from one start, and what is seen of its convergence; level `empirical`."""

    states: Shaped[np.ndarray, "states ..."]
    """h_0 ... h_T, shape (steps + 1, *state), in the type that the loop ran in."""
    residuals: Float[np.ndarray, " steps"]
    """‖h_{t+1} − h_t‖ in the given norm, shape (steps,); entry t belongs to loop t + 1."""
    norms: Float[np.ndarray, " states"]
    """‖h_t‖ in that norm, shape (steps + 1,)."""
    ratios: Float[np.ndarray, " ratios"]
    """Each residual over the one before it, shape (steps − 1,); NaN for 0/0. A lower bound of the
    update's Lipschitz constant in that norm, down to the rounding floor."""
    convergence: ConvergenceRate
    """Rate fitted to the residuals above the rounding floor."""
    floor: float
    """Size below which a residual is taken for rounding."""
    envelope: Float[np.ndarray, " steps"] | None
    """Certified bound ρ^t ‖h_1 − h_0‖ of residual t in exact arithmetic, shape (steps,); None
    without a certificate. Proven, unlike the rest."""
    nonfinite_at: int | None
    """First t at which h_t is NaN or infinite; None when all are finite."""
    level: Level = Level.EMPIRICAL
    """Always `empirical`: of everything but `envelope`."""

    @property
    def excess(self) -> float:
        """Largest residual − envelope, NaN if one is NaN; beyond `floor` it refutes the bound.

        Raises:
            UsageError: the trajectory was followed without a certificate.
        """
        if self.envelope is None:
            raise UsageError("This trajectory has no envelope; pass a certificate to follow.")
        return float(np.max(self.residuals - self.envelope))


class VectorMap(eqx.Module):
    """Someone's update as a map of float64 vectors of shape (dimension,)."""

    update: Callable
    shape: tuple[int, ...] = eqx.field(static=True)
    """Shape of the state that the update takes."""
    dtype: str = eqx.field(static=True)
    """Type that the update computes in: float64, or float32 where it insists on that."""

    def __call__(self, x: Float[Array, " dimension"], *inputs: Array) -> Float[Array, " dimension"]:
        """The next state as a vector."""
        after = self.update(x.reshape(self.shape).astype(self.dtype), *inputs)
        return after.reshape(-1).astype(x.dtype)

    @property
    def epsilon(self) -> float:
        """Machine epsilon of the type that the update computes in."""
        return float(np.finfo(self.dtype).eps)


def vector_map(
    update: Callable[..., object], state: Array | np.ndarray, *inputs: Array
) -> tuple[VectorMap, Float[np.ndarray, " dimension"]]:
    """Checks an update and takes it to vectors in float64.

    Args:
        update: the map, from a state and the inputs to the next state.
        state: a state, float32 or float64, of any shape.
        inputs: further arguments, held constant here.

    Returns:
        The map of vectors, and the state as a float64 vector of shape (dimension,).

    Raises:
        UsageError: see `check_update` and, for an Equinox module, `check_module`; or the state is
            empty, NaN or infinite.
    """
    state = jnp.asarray(state)
    if not isinstance(update, VectorMap):
        update = _checked(update, state, inputs)
    vector = np.asarray(state, np.float64).reshape(-1)
    if vector.size == 0:
        raise UsageError("The state has no entries; pass one that has some.")
    if not np.all(np.isfinite(vector)):
        raise UsageError("The state has NaN or infinite entries; pass a finite one.")
    return update, vector


def _checked(update: Callable, state: Array, inputs: tuple[Array, ...]) -> VectorMap:
    if _is_module(update):
        check_module(update)
    check_update(lambda h: update(h, *inputs), state)
    with jax.enable_x64(True):
        double = jax.ShapeDtypeStruct(state.shape, jnp.float64)
        try:
            after = jax.eval_shape(lambda h: update(h, *inputs), double)
            accepted = after.dtype == jnp.float64
        except Exception:  # traced for its own type above: it holds on to float32, in whatever way
            accepted = False
    return VectorMap(fresh(update), state.shape, "float64" if accepted else str(state.dtype))


def fresh(update: Callable) -> Callable:
    """The same update under a new identity, unless it is a module.

    Compiled programs are kept for a function's identity, and a plain function may read variables
    that have changed since the last call; a module's arrays are arguments of the program.
    """
    return update if _is_module(update) else lambda *arguments: update(*arguments)


def _is_module(update: object) -> bool:
    return isinstance(update, eqx.Module)


@contextlib.contextmanager
def differentiating() -> Iterator[None]:
    """Says which derivative an update lacks, where JAX raises inside the block."""
    try:
        yield
    except (TypeError, ValueError, NotImplementedError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"The update cannot be differentiated ({as_clause(error, 160)}); give one that has "
            "forward derivatives, and use method='dense' for singular values where the reverse "
            "ones are missing."
        ) from error


def at_states(
    measure: Callable[..., Result],
    update: Callable[..., object],
    states: Array | np.ndarray,
    *,
    key: PRNGKeyArray,
    **options,
) -> tuple[Result, ...]:
    """The same measurement at several states, one after the other, compiled once.

    Args:
        measure: `singular_values`, `eigenvalues`, `spectral_radius`, or another function of
            (update, state, *, key, ...).
        update: the map h → h⁺.
        states: shape (states, *state).
        key: PRNG key, split over the states.
        options: passed on to `measure`.

    Returns:
        One result per state.

    Raises:
        UsageError: there is no state, or see `measure`.
    """
    if np.ndim(states) < 1 or len(states) == 0:
        raise UsageError(
            f"The states have shape {np.shape(states)}; pass at least one along the first axis."
        )
    mapped = vector_map(update, states[0])[0]
    keys = jax.random.split(key, len(states))
    return tuple(
        measure(mapped, h, key=one, **options) for h, one in zip(states, keys, strict=True)
    )


def follow(
    update: Callable[..., object],
    state: Array | np.ndarray,
    *,
    steps: int,
    norm: Callable[..., object] | None = None,
    certificate: Certificate | None = None,
    floor: float | None = None,
) -> Trajectory:
    r"""Applies an update again and again and reports $\|h_{t+1}-h_t\|$ and the rate it shrinks at.

    The loop runs in the type of the state, so that its own rounding is seen; norms are taken in
    float64.

    Args:
        update: the map h → h⁺ on states of one shape.
        state: h_0, any shape, float32 or float64 (a NumPy array of float64 is followed in it).
        steps: number of loops T, at least 1.
        norm: norm of a state, from its shape to a scalar; the one of the certificate if None, and
            the 2-norm without one.
        certificate: adds the certified envelope $\rho^t \|h_1 - h_0\|$.
        floor: size below which residuals are rounding; 40 roundings of the largest state if None.

    Returns:
        The trajectory, observed.

    Raises:
        UsageError: the update cannot be repeated, steps is below 1, or the certificate bounds no
            residual or is stated in the P-norm while no norm is given.
    """
    if steps < 1:
        raise UsageError(f"steps is {steps}; give at least 1 loop.")
    norm = _norm_of(certificate) if norm is None else norm
    state = np.asarray(state)
    with jax.enable_x64(state.dtype == np.float64):
        check_update(update, state)
        states = np.asarray(_states(fresh(update), jnp.asarray(state), steps))
    double = np.asarray(states, np.float64)
    with np.errstate(invalid="ignore"):  # inf − inf after a divergence is NaN, and reported
        differences = np.diff(double, axis=0)
    residuals, sizes = _norms(norm, differences), _norms(norm, double)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = residuals[1:] / residuals[:-1]
    finite = np.isfinite(double).reshape(len(double), -1).all(axis=1)
    if floor is None:
        largest = float(np.max(sizes, where=finite, initial=0.0))
        floor = _ROUNDINGS * float(np.finfo(states.dtype).eps) * largest
    envelope = None
    if certificate is not None:
        envelope = residuals[0] * np.array([certificate.growth(t) for t in range(steps)])
    return Trajectory(
        states=states,
        residuals=residuals,
        norms=sizes,
        ratios=ratios,
        convergence=convergence_rate(residuals, floor=floor),
        floor=floor,
        envelope=envelope,
        nonfinite_at=None if finite.all() else int(np.argmin(finite)),
    )


def convergence_rate(residuals: Array | np.ndarray, *, floor: float = 0.0) -> ConvergenceRate:
    r"""Fits $\|h_{t+1}-h_t\| \approx C\rho^t$ to the later half of the residuals above the floor.

    Least squares on the logarithms. From the first residual at or below the floor on everything is
    left out, because there the rounding shrinks no further.

    Args:
        residuals: shape (steps,), not negative.
        floor: size below which a residual is rounding.

    Returns:
        The rate, observed.

    Raises:
        UsageError: the residuals are no list of numbers that are not negative.
    """
    values = np.asarray(residuals, np.float64)
    if values.ndim != 1 or np.any(values < 0):
        raise UsageError(
            f"The residuals have shape {values.shape} or negative entries; pass one norm per loop."
        )
    above = values > floor
    end = len(values) if above.all() else int(np.argmin(above))
    start = min(end // 2, max(end - 3, 0))
    if end < 2 or not np.all(np.isfinite(values)):
        return ConvergenceRate(float("nan"), float("nan"), start, end)
    logs, loops = np.log(values[start:end]), np.arange(start, end)
    slope, intercept = np.polyfit(loops, logs, 1)
    spread = float(np.sqrt(np.mean((logs - intercept - slope * loops) ** 2)))
    return ConvergenceRate(float(np.exp(slope)), spread, start, end)


@eqx.filter_jit
def _states(update: Callable, state: Array, steps: int) -> Array:
    """h_0 ... h_T."""

    def body(h, _):
        after = update(h)
        return after, after

    _, later = jax.lax.scan(body, state, None, steps)
    return jnp.concatenate([state[None], later])


def _norms(norm: Callable, states: np.ndarray) -> np.ndarray:
    """The norm of each state, in float64."""
    with jax.enable_x64(True):
        sizes = np.asarray(jax.vmap(norm)(jnp.asarray(states)), np.float64)
    if sizes.shape != (len(states),):
        raise UsageError(
            f"The norm of a state has shape {sizes.shape[1:]}; pass a function from one state to "
            "a scalar."
        )
    return sizes


def _norm_of(certificate: Certificate | None) -> Callable[..., object]:
    if certificate is None:
        return norms.two
    if certificate.norm is Norm.P:
        raise UsageError(
            "The certificate is stated in the P-norm, whose weights depend on the input; pass "
            "norm=update.norm of the update that is followed."
        )
    return {Norm.TWO: norms.two, Norm.INFINITY: norms.infinity, Norm.TOKENS: norms.tokens}[
        certificate.norm
    ]
