r"""Singular values and eigenvalues of an update's Jacobian J at a state, without forming it.

The norm of J is the largest ratio $\|F(x)-F(y)\|/\|x-y\|$ of nearby pairs at that state, a lower
bound of the Lipschitz constant in that norm; its spectral radius is the rate at which the loop
converges near a fixed point. Both hold at that state alone: level `empirical`.

Up to `DENSE_LIMIT` entries J is formed and handed to LAPACK. Beyond, Golub-Kahan and Arnoldi
factorisations, fully reorthogonalised, are deepened until the residuals are small. A Krylov space
sees one vector of every multiple value, and states of equal cells or tokens have many of those; so
what was found is projected out and the search repeated until nothing larger turns up.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import scipy.linalg
from jaxtyping import Array, Complex, Float, PRNGKeyArray
from matfree import decomp

from loopwm.errors import UsageError
from loopwm.stability.bounds import Estimate, Level
from loopwm.stability.norms import Norm
from loopwm.stability.trajectories import VectorMap, differentiating, vector_map

DENSE_LIMIT = 256
"""Entries of a state up to which the Jacobian is formed, unless a method is asked for."""
METHODS = ("auto", "dense", "krylov")
"""How a spectrum can be computed."""
Numbers = Array | np.ndarray
_FIRST_STEPS, _MOST_STEPS = 40, 512
_BREAKDOWN = 100.0  # a Krylov vector this many roundings long is nothing but rounding


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Spectrum:
    """What singular values and eigenvalues have in common."""

    method: str
    """`dense` or `krylov`."""
    steps: int
    """Depth of the deepest Krylov space; 0 for a dense Jacobian."""
    converged: bool
    """Whether all errors met the tolerance."""
    dtype: str
    """Type that the update computed in."""
    level: Level = Level.EMPIRICAL
    """Always `empirical`: it holds at this state alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SingularValues(_Spectrum):
    """The largest singular values of a Jacobian at one state; level `empirical`."""

    values: Float[np.ndarray, " k"]
    """σ_1 ≥ σ_2 ≥ ..., shape (k,), float64."""
    errors: Float[np.ndarray, " k"]
    """Norm of the residual Jᵀu − σv of each, shape (k,): some singular value is that close.
    Rounding alone for a dense Jacobian."""
    norm: Norm
    """Norm of the state: the 2-norm, or P when weights were given."""

    @property
    def largest(self) -> Estimate:
        """‖J‖ at this state: the update's Lipschitz constant in `norm` is not below it."""
        return Estimate(float(self.values[0]), self.norm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eigenvalues(_Spectrum):
    """The eigenvalues of a Jacobian at one state that are largest in modulus; `empirical`."""

    values: Complex[np.ndarray, " k"]
    """λ_1, λ_2, ... by falling modulus, shape (k,); of a conjugate pair the upper one first."""
    errors: Float[np.ndarray, " k"]
    """Norm of the residual Jy − λy of each with ‖y‖ = 1, shape (k,): λ is an eigenvalue of a
    matrix that close to J. Rounding alone for a dense Jacobian."""

    @property
    def radius(self) -> Estimate:
        """max |λ| found: the update's Lipschitz constant in the 2-norm is not below it."""
        return Estimate(float(np.abs(self.values[0])), Norm.TWO)


def singular_values(
    update: Callable[..., object],
    state: Numbers,
    *,
    k: int = 1,
    weights: Numbers | None = None,
    key: PRNGKeyArray,
    method: str = "auto",
    tolerance: float = 1e-6,
    max_steps: int | None = None,
) -> SingularValues:
    r"""The k largest singular values of the Jacobian at a state.

    In the P-norm $\|x\|_P^2 = \sum_i p_i x_i^2$ these are those of $D J D^{-1}$ with
    $D = \mathrm{diag}(\sqrt{p})$, the largest being $\max_x \|Jx\|_P / \|x\|_P$.

    Args:
        update: the map h → h⁺, from any shape to itself; or an outer map z → z' under one action.
        state: h, float32 or float64, any shape.
        k: how many.
        weights: p, all positive, of the state's shape; the plain 2-norm if None.
        key: PRNG key for the start of the Krylov space.
        method: `dense`, `krylov`, or `auto`, which is dense up to `DENSE_LIMIT` entries.
        tolerance: wanted residual over the largest value.
        max_steps: largest Krylov depth; 512 (or 8k) if None.

    Returns:
        The values with error estimates.

    Raises:
        UsageError: the update cannot be repeated or differentiated, an argument is out of range,
            or the Jacobian has NaN or infinite entries.

    Source: Golub and Kahan (1965), "Calculating the singular values and pseudo-inverse of a
        matrix", SIAM J. Numer. Anal. B 2(2); carried out by matfree.
    """
    mapped, h = vector_map(update, state)
    root = _roots(weights, np.shape(state))
    search = _Search(k, h.size, tolerance, max_steps, mapped.epsilon)
    norm = Norm.TWO if weights is None else Norm.P
    if _is_dense(method, h.size):
        jacobian = _dense(mapped, h)
        values = np.linalg.svd(root[:, None] * jacobian / root, compute_uv=False)[:k]
        error = h.size * mapped.epsilon * values[0]
        found = _fields(values, np.full(k, error), "dense", 0, True)
    else:
        found = search.run(functools.partial(_golub_kahan, mapped, h, root), key)
    return SingularValues(**found, norm=norm, dtype=mapped.dtype)


def eigenvalues(
    update: Callable[..., object],
    state: Numbers,
    *,
    k: int = 1,
    key: PRNGKeyArray,
    method: str = "auto",
    tolerance: float = 1e-6,
    max_steps: int | None = None,
) -> Eigenvalues:
    """The k eigenvalues of the Jacobian at a state that are largest in modulus.

    Arguments and errors are those of `singular_values`; the tolerance is relative to the largest
    modulus.

    Returns:
        The values with error estimates.

    Source: Arnoldi (1951), "The principle of minimized iterations in the solution of the matrix
        eigenvalue problem", Quart. Appl. Math. 9(1); carried out by matfree.
    """
    mapped, h = vector_map(update, state)
    search = _Search(k, h.size, tolerance, max_steps, mapped.epsilon)
    if _is_dense(method, h.size):
        jacobian = _dense(mapped, h)
        values = np.linalg.eigvals(jacobian).astype(complex)
        error = h.size * mapped.epsilon * np.linalg.norm(jacobian, 2)
        found = _fields(values[_order(values)][:k], np.full(k, error), "dense", 0, True)
    else:
        found = search.run(functools.partial(_arnoldi, mapped, h), key)
    return Eigenvalues(**found, dtype=mapped.dtype)


def spectral_radius(
    update: Callable[..., object], state: Numbers, *, key: PRNGKeyArray, **options
) -> Estimate:
    """The largest modulus of an eigenvalue at a state; see `eigenvalues` and its options."""
    return eigenvalues(update, state, key=key, **options).radius


class _Round(NamedTuple):
    """What one Krylov space shows, largest modulus first."""

    values: np.ndarray
    errors: np.ndarray
    basis: Callable[[int], tuple[np.ndarray, np.ndarray]]
    """Orthonormal columns (left, right) that belong to the first so many values."""


class _Search:
    """Krylov spaces of growing depth, one after the other, each without what was found before."""

    def __init__(self, k: int, dimension: int, tolerance: float, limit: int | None, epsilon: float):
        """Checks the arguments; the deepest space is never below k."""
        if not 1 <= k <= dimension:
            raise UsageError(f"k is {k}; give a number from 1 to {dimension}, the state's size.")
        if not tolerance > 0:
            raise UsageError(f"tolerance is {tolerance}; give a positive number.")
        if limit is not None and limit < k:
            raise UsageError(f"max_steps is {limit}; give at least k, which is {k}.")
        self.k, self.dimension = k, dimension
        self.tolerance = max(tolerance, 100.0 * epsilon)
        self.limit = max(_MOST_STEPS, 8 * k) if limit is None else limit

    def run(self, space: Callable[..., _Round], key: PRNGKeyArray) -> dict[str, Any]:
        """The k largest values of all spaces together, and how they were found."""
        taken = (np.zeros((self.dimension, 0)),) * 2
        values = errors = np.zeros(0)
        steps, met = min(self.limit, max(_FIRST_STEPS, 2 * self.k + 20)), True
        # Nothing can be taken out, and so no repetition be seen, before it has converged.
        while met and (room := self.dimension - taken[1].shape[1]) > 0:
            key, key_start = jax.random.split(key)
            start = _start(key_start, taken[1])
            padded = tuple(map(self._padded, taken))
            while True:
                depth = min(steps, room)
                found = space(padded, start, depth, float(np.abs(values[:1]).sum()))
                count = self._news(values, found.values)
                scale = np.abs(np.concatenate([values, found.values])).max()
                met = bool(np.all(found.errors[:count] <= self.tolerance * scale))
                if met or depth in (room, self.limit):
                    break
                steps = min(2 * steps, self.limit)
            if count == 0:
                break
            pairs = zip(taken, found.basis(count), strict=True)
            taken = tuple(np.hstack([old, _without(old, new)]) for old, new in pairs)
            values = np.concatenate([values, found.values[:count]])
            errors = np.concatenate([errors, found.errors[:count]])
            order = _order(values)
            values, errors = values[order], errors[order]
        return _fields(values[: self.k], errors[: self.k], "krylov", steps, met)

    def _news(self, known: np.ndarray, found: np.ndarray) -> int:
        """How many of the values found, largest first, belong to the k largest of all."""
        missing = min(max(self.k - len(known), 0), len(found))
        if len(known) == 0:
            return missing
        # Ties with what is known bring nothing new, and rounding must not make them news.
        kth = np.abs(known[min(self.k, len(known)) - 1])
        larger = np.abs(found) > kth + self.tolerance * np.abs(known[0])
        return max(missing, min(int(np.sum(larger)), self.k))

    def _padded(self, columns: np.ndarray) -> np.ndarray:
        """Columns of zeros added, so that few different shapes are compiled."""
        width = 2 * self.k + 2
        missing = width - columns.shape[1] % width
        return np.hstack([columns, np.zeros((self.dimension, missing))])


def _start(key: PRNGKeyArray, right: np.ndarray) -> np.ndarray:
    """A random direction orthogonal to the columns."""
    vector = _without(right, np.asarray(jax.random.normal(key, right.shape[:1]), np.float64))
    return vector / np.linalg.norm(vector)


def _without(columns: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """What is orthogonal to the columns; twice, because the first leaves rounding of its size."""
    for _ in range(2):
        vectors = vectors - columns @ (columns.T @ vectors)
    return vectors


def _golub_kahan(
    mapped: VectorMap, h: Numbers, root: Numbers, taken, start, steps: int, scale: float
) -> _Round:
    with differentiating(), jax.enable_x64(True):
        outputs = _bidiagonalise(mapped, h, root, taken[0], taken[1], start, steps)
    u, v, matrix, residual = map(np.array, outputs)
    # At an exact 0 the last direction, and with it 0 times it, is NaN; a NaN of J shows before.
    final = np.nan_to_num(np.linalg.norm(residual))
    alphas, betas = np.diagonal(matrix), np.append(np.diagonal(matrix, 1), final)
    tiny = _tiny(matrix, scale, mapped)
    count = _usable(np.minimum(alphas, betas) > tiny)
    beta = betas[count - 1]
    if (
        alphas[count - 1] <= tiny[count - 1]
    ):  # J maps the last vector into the space of those before it
        matrix[count - 1], u[count - 1], beta = 0.0, 0.0, 0.0
    u, v, matrix = u[:count], v[:count], matrix[:count, :count]
    _check_finite(np.append(matrix, beta))
    p, values, qt = np.linalg.svd(matrix)
    return _Round(
        values=values,
        errors=beta * np.abs(p[-1]),
        basis=lambda number: (u.T @ p[:, :number], v.T @ qt[:number].T),
    )


@eqx.filter_jit
def _bidiagonalise(
    mapped: VectorMap, h: Numbers, root: Numbers, left: Numbers, right: Numbers, start, steps: int
):
    """U and V of shape (steps, n), the bidiagonal matrix, and the vector that is left over."""
    tangent = jax.linearize(mapped, h)[1]

    def product(x):
        x = x - right @ (right.T @ x)
        y = root * tangent(x / root)
        return y - left @ (left.T @ y)

    (u, v), *others = decomp.bidiag(steps)(product, start)
    return u, v, *others[:2]


def _arnoldi(mapped: VectorMap, h: Numbers, taken, start, steps: int, scale: float) -> _Round:
    with differentiating(), jax.enable_x64(True):
        outputs = _hessenberg(mapped, h, taken[1], start, steps)
    q, matrix, residual = map(np.array, outputs)
    lengths = np.append(np.diagonal(matrix, -1), np.linalg.norm(residual))
    count = _usable(lengths > _tiny(matrix, scale, mapped))
    q, matrix, beta = q[:count], matrix[:count, :count], lengths[count - 1]
    _check_finite(np.append(matrix, beta))
    values, vectors = np.linalg.eig(matrix)
    order = _order(values)
    values, errors = values[order].astype(complex), beta * np.abs(vectors[-1])[order]

    def basis(number: int) -> tuple[np.ndarray, np.ndarray]:
        # An ordered Schur form, because eigenvectors can be parallel. Its eigenvalues differ from
        # those above by rounding, which is magnified where they are.
        for slack in (1e-12, 1e-8, 1e-4, 1e-2, 1.0):
            limit = (1.0 - slack) * np.abs(values[number - 1])
            form = scipy.linalg.schur(matrix, sort=lambda re, im, at=limit: np.hypot(re, im) >= at)
            schur, chosen = form[1:]  # pyright: ignore[reportAssignmentType] -- sorted: three
            if chosen >= number:
                break
        return (q.T @ schur[:, :chosen],) * 2

    return _Round(values, errors, basis)


@eqx.filter_jit
def _hessenberg(mapped: VectorMap, h: Numbers, right: Numbers, start, steps: int):
    """Q of shape (steps, n), the Hessenberg matrix, and the vector that is left over."""
    tangent = jax.linearize(mapped, h)[1]

    def product(x):
        y = tangent(x - right @ (right.T @ x))
        return y - right @ (right.T @ y)

    return decomp.hessenberg(steps, reortho="full", custom_vjp=False)(product, start)[:3]


@eqx.filter_jit
def _jacobian(mapped: VectorMap, h: Numbers) -> Array:
    return jax.jacfwd(mapped)(h)


def _dense(mapped: VectorMap, h: np.ndarray) -> np.ndarray:
    with differentiating(), jax.enable_x64(True):
        jacobian = np.asarray(_jacobian(mapped, h))
    _check_finite(jacobian)
    return jacobian


def _fields(*of_spectrum: object) -> dict[str, Any]:
    """Fields that both kinds of spectrum share."""
    return dict(zip(("values", "errors", "method", "steps", "converged"), of_spectrum, strict=True))


def _usable(goes_on: np.ndarray) -> int:
    """How many Krylov vectors come before one that is nothing but rounding."""
    return len(goes_on) if goes_on.all() else int(np.argmin(goes_on)) + 1


def _tiny(matrix: np.ndarray, scale: float, mapped: VectorMap) -> np.ndarray:
    """Length below which the next Krylov vector is rounding, beside the largest number so far."""
    largest = np.maximum.accumulate(np.abs(matrix).max(axis=0, initial=scale))
    return _BREAKDOWN * mapped.epsilon * largest


def _check_finite(matrix: np.ndarray) -> None:
    if not np.all(np.isfinite(matrix)):
        raise UsageError(
            "The Jacobian at this state has NaN or infinite entries; check the weights and the "
            "state."
        )


def _order(values: np.ndarray) -> np.ndarray:
    """Indices by falling modulus, and of equal moduli the larger imaginary part first."""
    return np.lexsort((-np.imag(values), -np.abs(values)))


def _is_dense(method: str, dimension: int) -> bool:
    if method not in METHODS:
        raise UsageError(f"method is {method!r}; choose one of {', '.join(METHODS)}.")
    return method == "dense" or (method == "auto" and dimension <= DENSE_LIMIT)


def _roots(weights: Numbers | None, shape: tuple[int, ...]) -> np.ndarray:
    """√p as a vector; ones without weights."""
    if weights is None:
        return np.ones(int(np.prod(shape)))
    p = np.asarray(weights, np.float64)
    if p.shape != shape or not np.all((p > 0) & np.isfinite(p)):
        raise UsageError(
            f"The weights have shape {p.shape} for a state of shape {shape}, or entries that are "
            "not positive; give one positive number per entry."
        )
    return np.sqrt(p).reshape(-1)
