r"""How alike the representations of different loops are: linear CKA, and drift of attention.

Numbers about the samples at hand, level `empirical`. A similarity of 1 between two loops says that
their representations agree up to rotation and scale on these samples, not that the loop is at rest.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from loopwm.errors import UsageError
from loopwm.stability.bounds import Level

DISTANCES = ("total_variation", "jensen_shannon")
"""How two rows of attention weights can be compared."""


@dataclasses.dataclass(frozen=True)
class Similarity:
    """Linear CKA of two sets of representations; level `empirical`."""

    value: float
    """1 for the same up to rotation and scale; from 0 on, or somewhat below when debiased."""
    samples: int
    """Number of samples it rests on."""
    debiased: bool
    """Whether the estimator without the bias of few samples was used."""
    level: Level = Level.EMPIRICAL
    """Always `empirical`."""


@dataclasses.dataclass(frozen=True)
class LoopSimilarity:
    """Linear CKA between all pairs of loops; level `empirical`."""

    values: Float[np.ndarray, "loops loops"]
    """Shape (loops, loops), symmetric; NaN in the rows and columns named in `degenerate`."""
    degenerate: tuple[int, ...]
    """Loops whose states are the same for all samples, such as a common h_0, or whose variation
    the debiased estimator takes for chance: they have no similarity with anything."""
    samples: int
    """Number of samples it rests on."""
    debiased: bool
    """Whether the estimator without the bias of few samples was used."""
    level: Level = Level.EMPIRICAL
    """Always `empirical`."""


@dataclasses.dataclass(frozen=True)
class AttentionDrift:
    """How far attention rows move from loop to loop, averaged over queries; `empirical`."""

    consecutive: Float[np.ndarray, " steps"]
    """Mean distance of loop t + 1 from loop t, shape (loops − 1,), in [0, 1]."""
    to_last: Float[np.ndarray, " loops"]
    """Mean distance of loop t from the last, shape (loops,), in [0, 1]."""
    heads: Float[np.ndarray, "steps heads"]
    """`consecutive` for each head, shape (loops − 1, heads)."""
    distance: str
    """`total_variation` or `jensen_shannon`."""
    level: Level = Level.EMPIRICAL
    """Always `empirical`."""


def linear_cka(
    first: Array | np.ndarray, second: Array | np.ndarray, *, debiased: bool = False
) -> Similarity:
    r"""Linear centred kernel alignment of two representations of the same samples.

    With centred columns, $\|Y^\top X\|_F^2 / (\|X^\top X\|_F \|Y^\top Y\|_F)$, in [0, 1]. It grows
    with the number of features over samples; the debiased form,
    $\mathrm{HSIC}_1(K,L)/\sqrt{\mathrm{HSIC}_1(K,K)\,\mathrm{HSIC}_1(L,L)}$ with an unbiased
    estimator, is near 0 for independent representations of any width.

    Args:
        first: X, shape (samples, features).
        second: Y, shape (samples, other features).
        debiased: uses the unbiased estimator of HSIC; needs at least 4 samples.

    Returns:
        The similarity.

    Raises:
        UsageError: the shapes do not fit, an entry is NaN or infinite, or a representation is the
            same for all samples, so that no similarity is defined.

    Source: Kornblith, Norouzi, Lee and Hinton (2019), arXiv 1905.00414, section 3; unbiased
        estimator as in Nguyen, Raghu and Kornblith (2021), arXiv 2010.15327.
    """
    if np.ndim(first) != 2 or np.ndim(second) != 2 or len(first) != len(second):
        raise UsageError(
            f"The representations have shapes {np.shape(first)} and {np.shape(second)}; pass two"
            " of (samples, features) for the same samples."
        )
    _check_samples(len(first), debiased)
    left, right = _prepared(first, debiased), _prepared(second, debiased)
    for name, one in (("first", left), ("second", right)):
        if one is None:
            raise UsageError(
                f"The {name} representation does not vary over the samples beyond rounding (or, "
                "debiased, beyond chance), so its similarity with anything is undefined; pass "
                "samples that differ."
            )
    return Similarity(_cka(left, right, debiased), len(first), debiased)


def cka_between_loops(states: Array | np.ndarray, *, debiased: bool = False) -> LoopSimilarity:
    """Linear CKA between the states after each loop; see `linear_cka`.

    Args:
        states: h_t of many samples, shape (loops, samples, features).
        debiased: uses the unbiased estimator of HSIC; needs at least 4 samples.

    Returns:
        The matrix of similarities, NaN for loops that do not vary over the samples.

    Raises:
        UsageError: the shape is another, or an entry is NaN or infinite.
    """
    if np.ndim(states) != 3 or len(states) == 0:
        raise UsageError(
            f"The states have shape {np.shape(states)}; pass (loops, samples, features)."
        )
    _check_samples(np.shape(states)[1], debiased)
    prepared = [_prepared(h, debiased) for h in states]
    values = np.full((len(prepared),) * 2, np.nan)
    for i, left in enumerate(prepared):
        for j, right in enumerate(prepared[: i + 1]):
            values[i, j] = values[j, i] = _cka(left, right, debiased)
    return LoopSimilarity(
        values=values,
        degenerate=tuple(i for i, one in enumerate(prepared) if one is None),
        samples=np.shape(states)[1],
        debiased=debiased,
    )


def attention_drift(
    weights: Array | np.ndarray, *, distance: str = "total_variation"
) -> AttentionDrift:
    r"""How far the attention of each loop is from that of the loop before, and of the last.

    Of two rows p and q over the keys: total variation $\frac12 \sum_k |p_k - q_k|$, or the
    Jensen-Shannon distance, the root of
    $\frac12 \mathrm{KL}(p\|m) + \frac12 \mathrm{KL}(q\|m)$, $m = (p+q)/2$, in bits. Both are
    metrics in [0, 1]; the mean is over heads and queries.

    Args:
        weights: attention weights, shape (loops, heads, queries, keys); rows sum to 1.
        distance: `total_variation` or `jensen_shannon`.

    Returns:
        The drift.

    Raises:
        UsageError: the shape is another, there are fewer than 2 loops, the distance is unknown, or
            a row is no distribution.
    """
    if np.ndim(weights) != 4 or 0 in np.shape(weights) or len(weights) < 2:
        raise UsageError(
            f"The weights have shape {np.shape(weights)}; pass (loops, heads, queries, keys) with"
            " at least 2 loops."
        )
    if distance not in DISTANCES:
        raise UsageError(f"distance is {distance!r}; choose one of {', '.join(DISTANCES)}.")
    rows = np.asarray(weights, np.float64)
    # Rows of bfloat16 sum to 1 within 2⁻⁸.
    if not (np.all(rows >= 0) and np.all(np.abs(rows.sum(axis=-1) - 1.0) <= 1e-2)):
        raise UsageError(
            "The weights have rows that are negative, NaN or do not sum to 1; pass attention after "
            "its softmax, without rows that are masked out entirely."
        )
    measure = _total_variation if distance == "total_variation" else _jensen_shannon
    heads = measure(rows[1:], rows[:-1]).mean(axis=-1)
    to_last = measure(rows, np.broadcast_to(rows[-1], rows.shape))
    return AttentionDrift(
        consecutive=heads.mean(axis=-1),
        to_last=to_last.mean(axis=(-2, -1)),
        heads=heads,
        distance=distance,
    )


def _check_samples(samples: int, debiased: bool) -> None:
    least = 4 if debiased else 2
    if samples < least:
        raise UsageError(f"There are {samples} samples; pass at least {least}.")


class _Prepared(NamedTuple):
    x: np.ndarray
    """Centred representation, its largest entry 1."""
    own: float
    """HSIC with itself, up to a factor that all share."""


def _prepared(representation: Array | np.ndarray, debiased: bool) -> _Prepared | None:
    """The representation ready to be compared; None if nothing varies."""
    given = np.asarray(representation)
    if not np.issubdtype(given.dtype, np.floating) or not np.all(np.isfinite(given)):
        raise UsageError(
            f"A representation is of type {given.dtype} or has NaN or infinite entries; pass"
            " finite float32 or float64 numbers."
        )
    x = given.astype(np.float64)
    rounding = 4.0 * float(np.finfo(given.dtype).eps) * np.abs(x).max(initial=0.0)
    x = x - x.mean(axis=0)
    largest = np.abs(x).max(initial=0.0)
    if largest <= rounding:
        return None
    x = x / largest  # so that fourth powers neither overflow nor vanish
    own = _hsic(x, x, debiased)
    return _Prepared(x, own) if own > 1e-12 * _hsic(x, x, False) else None


def _cka(left: _Prepared | None, right: _Prepared | None, debiased: bool) -> float:
    if left is None or right is None:
        return float("nan")
    return _hsic(left.x, right.x, debiased) / float(np.sqrt(left.own * right.own))


def _hsic(x: np.ndarray, y: np.ndarray, debiased: bool) -> float:
    r"""HSIC of centred representations, up to a factor that depends on n alone.

    Biased: $\|Y^\top X\|_F^2$. Unbiased, with $d_i = \|x_i\|^2$ and $e_i = \|y_i\|^2$ (row sums
    of a kernel without its diagonal are $-d_i$, because columns are centred):
    $\|Y^\top X\|_F^2 - \frac{n}{n-2} \sum_i d_i e_i + \frac{\sum_i d_i \sum_i e_i}{(n-1)(n-2)}$.
    """
    n, features = len(x), max(x.shape[1], y.shape[1])
    # The smaller of the two ways to write the same number.
    cross = np.sum((y.T @ x) ** 2) if features < n else np.sum((x @ x.T) * (y @ y.T))
    if not debiased:
        return float(cross)
    d, e = np.sum(x * x, axis=1), np.sum(y * y, axis=1)
    return float(cross - n / (n - 2) * (d @ e) + d.sum() * e.sum() / ((n - 1) * (n - 2)))


def _total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return 0.5 * np.abs(p - q).sum(axis=-1)


def _jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    middle = 0.5 * (p + q)

    def divergence(x: np.ndarray) -> np.ndarray:
        share = np.divide(x, middle, out=np.ones_like(x), where=x > 0)  # 0 log 0 is 0
        return (x * np.log2(share)).sum(axis=-1)

    return np.sqrt(np.maximum(0.5 * (divergence(p) + divergence(q)), 0.0))
