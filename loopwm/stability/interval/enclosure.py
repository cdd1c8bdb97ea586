r"""Interval evaluation of JAX programs: enclosures of values, of slopes, and Lipschitz bounds.

A function is traced once and its program evaluated on a box of states with every rounding
outwards, in float64 NumPy. Two things are enclosed: the values, and the *slopes*, matrices s with
f(x) − f(y) = s (x − y) for two states x, y of the box. Slopes contain all Jacobians on the box and,
where the function has kinks, Clarke's generalised Jacobian; what they bound is the function itself,
not the derivative that JAX reports, which a `stop_gradient`, a straight-through estimator or a jump
(`sign`, a discontinuous `where`) would falsify.

What is enclosed is the program in exact real arithmetic, with weights and constants as they are in
the trace; the rounding of the program's own float32 arithmetic is on top of it. Where it could give
NaN (a division by 0, a logarithm of a negative number), the enclosure is (−∞, ∞).

Cost: memory and time grow with the entries of the state times those of the largest intermediate
array, so this is for small modules.

Source: Moore 1966, "Interval Analysis"; the slopes are interval forward differentiation, with the
mean value theorem for Lipschitz functions of Clarke 1983, "Optimization and Nonsmooth Analysis".
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float

from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.stability.bounds import Level, UpperBound
from loopwm.stability.interval import arithmetic as ia
from loopwm.stability.interval.arithmetic import Interval as Interval
from loopwm.stability.interval.elementwise import Node
from loopwm.stability.interval.program import run, slopes, trace, values
from loopwm.stability.interval.region import Region, upper_norm
from loopwm.stability.norms import Norm
from loopwm.stability.spectral import exact_norm


def enclose(
    function: Callable[[Float[Array, "*state"]], Float[Array, "*out"]], box: Interval
) -> Interval:
    """Encloses all values f(x) of a function for x in a box.

    Args:
        function: a JAX function of one array, of shape (*state), that returns one array, of shape
            (*out). It is traced with float32, or with float64 where JAX has it switched on.
        box: the box of states, shape (*state).

    Returns:
        The interval, shape (*out).

    Raises:
        UsageError: the function cannot be traced, returns something else than one floating point
            array, has NaN weights, or uses a primitive without an interval rule.
    """
    return values(run(trace(function, box.shape), Region.from_box(box), slopes=False))


def jacobian_enclosure(
    function: Callable[[Float[Array, "*state"]], Float[Array, "*out"]], box: Interval
) -> Interval:
    """Encloses all slopes of a function on a box, Jacobians and Clarke's generalised ones included.

    For all x, y in the box, f(x) − f(y) = s (x − y) for an s inside.

    Args:
        function: as in `enclose`.
        box: the box of states, shape (*state).

    Returns:
        The interval, shape (*out, *state); (−∞, ∞) where the function may jump or be undefined.

    Raises:
        UsageError: as in `enclose`.
    """
    node = run(trace(function, box.shape), Region.from_box(box), slopes=True)
    return slopes(node, box.shape)[0]


def lipschitz_on(
    function: Callable[[Float[Array, "*state"]], Float[Array, "*out"]],
    box: Interval,
    norm: Norm = Norm.TWO,
    weights: Array | np.ndarray | None = None,
) -> UpperBound:
    r"""An upper bound of the Lipschitz constant of a function on a box.

    From the slopes, with midpoint M and radius R (entry by entry), in the 2-norm

    $$\|s\|_2 \le \min(\|M\|_2 + \|R\|_2,\ \||M| + R\|_2),$$

    in the P-norm the same for $\sqrt{p_i}\, s_{ij} / \sqrt{p_j}$, and in the norm of tokens the sum
    over the tokens of the state, largest over those of the result. Each entry's own constant
    $\rho_i = \sup |f_i(x) - f_i(y)| / \|x - y\|$ is bounded as well: $\max_i \rho_i$ is the bound
    in the ∞-norm, and $\|\rho\|$ is taken in the others where it is smaller.

    Args:
        function: as in `enclose`; for P it keeps the shape of the state, and for tokens of shape
            (*tokens, width) it returns tokens.
        box: the box of states, shape (*state).
        norm: the norm on both sides.
        weights: p of the P-norm, positive, shape (*state); for that norm alone.

    Returns:
        The bound, level `ball`; ∞ where the slopes are unbounded.

    Raises:
        UsageError: as in `enclose`, or the norm and the weights or shapes do not fit.
    """
    norm = member(Norm, norm, "norm")
    check_weights(norm, weights, box.shape)
    node = run(trace(function, box.shape), Region.from_box(box, norm, weights), slopes=True)
    return bound_of(node, box.shape, norm, weights)


def bound_of(
    node: Node, shape: tuple[int, ...], norm: Norm, weights: Array | np.ndarray | None = None
) -> UpperBound:
    """The bound of `lipschitz_on` from the node of a result, for states of a shape."""
    enclosed, ratio = slopes(node, shape)
    out, level = node.shape, Level.BALL
    if norm is Norm.P and out != shape:
        raise UsageError(
            f"The function maps shape {shape} to {out}, but the P-norm has one weight for each "
            "entry of both; pass a function that keeps the shape."
        )
    if norm is Norm.TOKENS and len(out) < 2:
        raise UsageError(f"The function returns shape {out}, no tokens; use another norm.")
    largest = upper_norm(Interval.exact(ratio), norm, weights)
    if norm is Norm.INFINITY or not enclosed.bounded.all():
        return UpperBound(largest, norm, level)
    rows, columns = int(np.prod(out)), int(np.prod(shape))
    matrix = Interval(enclosed.low.reshape(rows, columns), enclosed.high.reshape(rows, columns))
    if norm is Norm.TOKENS:
        return UpperBound(min(largest, _token_norm(matrix, out, shape)), norm, level)
    if norm is Norm.P:
        p = np.asarray(weights, np.float64).reshape(-1)
        quotient = ia.divide(Interval.exact(p[:, None]), Interval.exact(p[None, :]))
        matrix = ia.multiply(matrix, ia.increasing(np.sqrt, quotient))
    return UpperBound(min(largest, _spectral(matrix)), norm, level)


def check_weights(
    norm: Norm,
    weights: Array | np.ndarray | None,
    shape: tuple[int, ...],
) -> None:
    """Refuses weights that do not fit the norm or the state.

    Raises:
        UsageError: weights are missing for the P-norm, given for another one, of another shape
            than the state, or not positive and finite; or the state has no tokens for their norm.
    """
    if norm is Norm.TOKENS and len(shape) < 2:
        raise UsageError(
            f"A state of shape {shape} has no tokens; pass one of shape (*tokens, width), or use "
            "another norm."
        )
    if norm is not Norm.P:
        if weights is not None:
            raise UsageError(f"Weights do not belong to the {norm}-norm; use norm=Norm.P for them.")
        return
    if weights is None:
        raise UsageError("The P-norm needs weights; pass weights=p, one for each entry.")
    p = np.asarray(weights)
    if p.shape != shape:
        raise UsageError(
            f"The weights have shape {p.shape}, the state {shape}; pass one for each entry."
        )
    if not np.all((p > 0) & np.isfinite(p)):
        raise UsageError("A weight is not a positive finite number; pass positive weights.")


def _spectral(matrix: Interval) -> float:
    """An upper bound of the spectral norm of every matrix in the interval."""
    middle, radius = matrix.middle, matrix.radius
    split = float(exact_norm(middle)) + float(exact_norm(radius))
    largest = float(exact_norm(np.abs(middle) + radius))
    return min(split, largest) * (1.0 + 1e-14)


def _token_norm(matrix: Interval, out: tuple[int, ...], shape: tuple[int, ...]) -> float:
    """max over tokens of the output of Σ over tokens of the input of the blocks' norms."""
    middle, radius = (
        end.reshape(-1, out[-1], np.prod(shape[:-1], dtype=int), shape[-1]).swapaxes(1, 2)
        for end in (matrix.middle, matrix.radius)
    )
    sums = [
        sum(float(exact_norm(m)) + float(exact_norm(r)) for m, r in zip(ms, rs, strict=True))
        for ms, rs in zip(middle, radius, strict=True)
    ]
    return max(sums) * (1.0 + 1e-12)
