r"""Operator norms of convolutions in the 2-norm: of the operator, not of the reshaped kernel.

A kernel W of shape (outputs, inputs, \*window) acts on a state of shape (\*grid, inputs) by

$$y_p = \sum_k W_k\, x_{p + k - c}, \qquad c = \lfloor (w-1)/2 \rfloor,$$

with $W_k$ the (outputs, inputs) matrix of tap k, along each axis of window w: what JAX and Equinox
call a convolution. Its *symbol* is the trigonometric polynomial of matrices
$M(\theta) = \sum_k W_k e^{i k\cdot\theta}$.

**Circular padding, known grid: exact.** A state $v e^{i\theta\cdot p}$ whose angles are multiples
of $2\pi/n$ is periodic and is mapped to $e^{-i\theta\cdot c} M(\theta) v\, e^{i\theta\cdot p}$.
These states are an orthogonal basis, so the norm is $\max_\theta \|M(\theta)\|_2$ over the grid's
frequencies. W is real, so $M(-\theta) = \overline{M(\theta)}$ has the same singular values and half
of the frequencies along one axis is enough.

**Zero padding, known grid: an upper bound.** Let $N_a \ge n_a + \lfloor w_a/2 \rfloor$ on each axis
a, and let φ be any vector of phases. Continue a state on the n-grid by zeros to the N-grid and from
there to all integers by $x_{p + N_a u_a} = e^{i\varphi_a} x_p$, with $u_a$ the step along axis a.
An output in the n-grid reads at most $\lfloor w_a/2 \rfloor$ cells beyond either end, where the
continued state is 0, so there it is the zero-padded output. On one period, the convolution of such
states is diagonal in the same way, with angles $(2\pi f + \varphi_a)/N_a$. So the zero-padded norm
is at most $\max_f \|M\|_2$, for every N and φ: the smallest over $\varphi_a \in \{0, \pi\}$ and the
smallest N is taken. (For the window (1, 1, 1) it is exact: $1 + 2\cos(\pi/(n+1))$.)

**Every grid, either padding: an upper bound.** The angles above are some of all angles, so
$\sup_\theta \|M(\theta)\|_2$ bounds both norms on every grid. (It is the norm on the infinite grid,
the limit of either as n grows.) It is found from N samples along each axis: fix a unit vector v and
all angles but one. $q(\theta) = \|M(\theta)v\|^2$ is a real trigonometric polynomial of degree
$d = w - 1$ with values in [0, Q], Q being its maximum, attained at θ*. With $T = q - Q/2$ the
inequality of Bernstein and Szegő, $T'^2 + d^2 T^2 \le d^2 (Q/2)^2$, says that $T = (Q/2)\cos\psi$
with $|\psi'| \le d$, so $T(\theta) \ge (Q/2)\cos(d|\theta-\theta^*|)$ while
$d|\theta-\theta^*| \le \pi$, that is $q(\theta) \ge Q\cos^2(d(\theta-\theta^*)/2)$. One of the
samples lies within $\pi/N$ of θ*, so for N > d, one axis after the other,

$$\sup_\theta \|M(\theta)\|_2
\le \max_{\text{samples}} \|M\|_2 \prod_a \Big(\cos\frac{\pi d_a}{2N_a}\Big)^{-1}.$$

Source: Sedghi, Gupta and Long 2018, "The Singular Values of Convolutional Layers" (arXiv
1805.10408), for circular padding; Delattre et al. 2023 (arXiv 2305.16173) for Gram iteration at
each frequency. The other two bounds are proven above.
"""

import dataclasses
import enum
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from loopwm.choices import member
from loopwm.errors import UsageError
from loopwm.stability.bounds import UpperBound
from loopwm.stability.checks import check_real

Grid = tuple[int, ...]


class Padding(enum.StrEnum):
    """What a convolution reads beyond the edge of the grid."""

    CIRCULAR = "circular"
    """The other side of the grid."""
    ZEROS = "zeros"
    """Zeros."""


def convolution_norm(
    kernel: Num[np.ndarray, "outputs inputs *window"],
    grid: Grid | None = None,
    padding: Padding = Padding.ZEROS,
    *,
    groups: int = 1,
    oversampling: int = 16,
) -> UpperBound:
    r"""Upper bound of a convolution's operator norm, from float64 singular values, rounded up.

    Equal to the norm for circular padding on a known grid; see the module's text for the other
    cases and the proofs. The result has the size of the input (stride 1, the window centred);
    it also holds when the output is cropped.

    Args:
        kernel: W, shape (outputs, inputs / groups, \*window), any number of window axes.
        grid: the size of the grid, one number for each window axis; None for every size.
        padding: what is read beyond the edge; of no consequence without a grid.
        groups: number of groups of channels that are convolved each by itself.
        oversampling: samples along an axis for each degree of the symbol, when `grid` is None;
            16 makes the bound at most 0.5 % larger than the supremum for each axis.

    Returns:
        The bound, in the 2-norm.

    Raises:
        UsageError: the kernel is complex, not finite or has no window, or the grid does not fit it.
    """
    check_real(kernel, "The kernel")
    array = np.asarray(kernel, dtype=np.float64)
    outputs = array.shape[0]
    samples = _samples(array.shape, grid, padding, oversampling)
    if not np.all(np.isfinite(array)):
        raise UsageError(
            "The kernel has NaN or infinite entries, so it has no norm; load an earlier checkpoint."
        )
    if groups < 1 or outputs % groups:
        raise UsageError(
            f"{outputs} output channels do not split into {groups} groups; give a number of groups "
            "that divides them."
        )
    parts = array.reshape(groups, outputs // groups, *array.shape[1:])
    return UpperBound(max(_largest(part, samples) for part in parts))


def convolution_gram_bound(
    kernel: Float[Array, "outputs inputs *window"],
    grid: Grid | None = None,
    padding: Padding = Padding.ZEROS,
    *,
    iterations: int = 6,
    oversampling: int = 16,
) -> UpperBound:
    r"""Differentiable upper bound of a convolution's operator norm, for training.

    As `convolution_norm`, with each $\|M(\theta)\|_2$ bounded by Gram iteration (see
    `gram_bound`): every iterate is an upper bound. The gradient is that of the frequency at which
    the bound is attained, so only that one is differentiated. A margin covers rounding in the
    kernel's precision: proven, not fitted.

    Args:
        kernel: W, shape (outputs, inputs, \*window), float32 or float64.
        grid: the size of the grid, one number for each window axis; None for every size.
        padding: what is read beyond the edge; of no consequence without a grid.
        iterations: number of Gram steps, at least 1.
        oversampling: as in `convolution_norm`.

    Returns:
        The bound, a scalar in the 2-norm; exactly 0 for a zero kernel, with zero gradient.

    Raises:
        UsageError: the kernel is complex or has no window, or the grid does not fit it.

    Source: Delattre et al. 2023, "Efficient Bound of Lipschitz Constant for Convolutional Layers
        by Gram Iteration" (arXiv 2305.16173), algorithm 3, for circular padding.
    """
    check_real(kernel, "The kernel")
    samples = _samples(kernel.shape, grid, padding, oversampling)
    kernel = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    # A power of two near the largest entry is taken out first, exactly and without a gradient
    # (the bound is homogeneous), so that squares neither overflow nor vanish.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(kernel)))
    unit = jnp.ldexp(jnp.ones((), kernel.dtype), jnp.frexp(largest)[1] - 1)
    taps = (kernel / unit).reshape(*kernel.shape[:2], -1)
    turns = samples.turns(kernel.shape[2:])
    cosines, sines = (jnp.asarray(f(2.0 * np.pi * turns), kernel.dtype) for f in (np.cos, np.sin))
    fixed = jax.lax.stop_gradient(taps)
    relative, absolute = _margins(kernel.shape, float(jnp.finfo(kernel.dtype).eps) / 2, iterations)
    absolute = absolute * jnp.sqrt(jnp.sum(jnp.sum(jnp.abs(fixed), axis=-1) ** 2))
    values = _gram_values(_symbol(fixed, cosines, sines), absolute**2, iterations)
    values = jax.lax.stop_gradient(values)
    peaks = [start + jnp.argmax(values[start:stop]) for start, stop in samples.sets]
    best = jnp.stack(peaks)[jnp.argmin(jnp.stack([values[peak] for peak in peaks]))]
    attained = _symbol(taps, cosines[best][None], sines[best][None])
    # The value is the one found above; the recomputed one lends its gradient.
    slope = _gram_values(attained, absolute**2, iterations)[0]
    value = values[best] + (slope - jax.lax.stop_gradient(slope))
    # Two absolute margins: rounding of the symbol, and frequencies dropped for being that small.
    value = value * (1.0 + relative) + 2.0 * absolute
    return UpperBound(unit * samples.factor * value)


def polyphase(
    kernel: Num[np.ndarray, "outputs inputs *window"], stride: Grid, dilation: Grid
) -> Num[np.ndarray, "outputs phases *shorter"]:
    r"""The kernel of stride 1 that a strided, dilated kernel amounts to on the infinite grid.

    The cells $s p + r$ of one residue r make a grid of their own, and sorting a state into these
    $s$ grids keeps its norm. With $k = s q + r$ the strided output is
    $y_p = \sum_r \sum_q W_{sq+r}\, x^{(r)}_{p+q}$: a convolution of stride 1 over the residues as
    channels. A zero-padded strided convolution is a part of it, so its norm on every grid is at
    most that one's `convolution_norm` without a grid.

    Args:
        kernel: W, shape (outputs, inputs, \*window).
        stride: s of each window axis, positive.
        dilation: cells between taps of each window axis, positive.

    Returns:
        The kernel, shape (outputs, inputs · residues, \*⌈dilated window / stride⌉).

    Raises:
        UsageError: the kernel is complex.
    """
    check_real(kernel, "The kernel")
    outputs, inputs, *window = kernel.shape
    spread = [d * (w - 1) + 1 for w, d in zip(window, dilation, strict=True)]
    short = [-(-w // s) for w, s in zip(spread, stride, strict=True)]
    full = np.zeros((outputs, inputs, *(n * s for n, s in zip(short, stride, strict=True))))
    places = tuple(slice(0, w, d) for w, d in zip(spread, dilation, strict=True))
    full[(slice(None), slice(None), *places)] = kernel
    split = full.reshape(outputs, inputs, *itertools.chain(*zip(short, stride, strict=True)))
    axes = len(window)
    residues = [3 + 2 * a for a in range(axes)]
    shifts = [2 + 2 * a for a in range(axes)]
    return split.transpose(0, 1, *residues, *shifts).reshape(outputs, -1, *short)


@dataclasses.dataclass(frozen=True)
class _Samples:
    """The frequencies at which a symbol is sampled, and how their maxima bound the norm."""

    numerators: np.ndarray
    """Angles as integer parts of a turn, shape (frequencies, axes)."""
    denominators: np.ndarray
    """Parts of a whole turn along each axis, shape (axes,)."""
    sets: tuple[tuple[int, int], ...]
    """Ranges of frequencies; the largest norm in any one range, times `factor`, is a bound."""
    factor: float
    """What the maximum over samples is multiplied with, at least 1."""

    def turns(self, window: Grid) -> np.ndarray:
        """k·θ/2π of every frequency and tap, shape (frequencies, taps), with exact fractions."""
        taps = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij"), -1)
        taps = taps.reshape(-1, len(window))
        parts = (self.numerators[:, None, :] * taps[None]) % self.denominators
        return np.sum(parts / self.denominators, axis=-1)


def _samples(shape: Grid, grid: Grid | None, padding: Padding, oversampling: int) -> _Samples:
    """The frequencies for a kernel of this shape, as the module's text derives them."""
    window = tuple(shape[2:])
    if not window or 0 in shape:
        raise UsageError(
            f"A kernel of shape {tuple(shape)} is no convolution; pass one of shape (outputs, "
            "inputs, *window) without an empty axis."
        )
    if grid is None:
        if oversampling < 2:
            raise UsageError(f"oversampling is {oversampling}; give 2 or more.")
        degrees = [w - 1 for w in window]
        # Powers of two share their samples: a finer sampling contains a coarser one.
        points = [2 ** math.ceil(math.log2(oversampling * d)) if d else 1 for d in degrees]
        cosines = [math.cos(math.pi * d / (2 * n)) for d, n in zip(degrees, points, strict=True)]
        return _sampled(points, [(0,) * len(window)], (1.0 + 1e-14) / math.prod(cosines))
    if len(grid) != len(window) or min(grid) < 1:
        raise UsageError(
            f"The grid {tuple(grid)} does not fit a window of shape {window}; give one positive "
            "size for each axis of the window."
        )
    if member(Padding, padding, "padding") is Padding.CIRCULAR:
        return _sampled(list(grid), [(0,) * len(window)], 1.0)
    points = [n + w // 2 for n, w in zip(grid, window, strict=True)]
    return _sampled(points, list(itertools.product((0, 1), repeat=len(window))), 1.0)


def _sampled(points: list[int], twists: list[tuple[int, ...]], factor: float) -> _Samples:
    """Angles 2π(f + t/2)/N of each twist t, f in 0..N−1, up to a common change of sign."""
    numerators, sets = [], []
    for twist in twists:
        ranges = [np.arange(n) for n in points]
        # ±θ have equal singular values: f and −f for t = 0, f and −1−f for t = 1. Half of the
        # last axis, together with all of the others, holds one of each pair.
        ranges[-1] = np.arange((points[-1] + 1) // 2 if twist[-1] else points[-1] // 2 + 1)
        grids = np.meshgrid(*(2 * f + t for f, t in zip(ranges, twist, strict=True)), indexing="ij")
        start = sum(map(len, numerators))
        numerators.append(np.stack(grids, -1).reshape(-1, len(points)))
        sets.append((start, start + len(numerators[-1])))
    return _Samples(np.concatenate(numerators), 2 * np.asarray(points), tuple(sets), factor)


def _largest(kernel: np.ndarray, samples: _Samples) -> float:
    """The bound of one group's kernel from singular values in float64, rounded up."""
    outputs, inputs = kernel.shape[:2]
    flat = kernel.reshape(outputs * inputs, -1)
    turns = samples.turns(kernel.shape[2:])
    norms = np.empty(len(turns))
    step = max(1, 2**20 // flat.shape[0])  # frequencies at a time, for the sake of memory
    for start in range(0, len(turns), step):
        phases = np.exp(2j * np.pi * turns[start : start + step])
        symbols = (phases @ flat.T).reshape(-1, outputs, inputs)
        norms[start : start + step] = np.linalg.svd(symbols, compute_uv=False)[:, 0]
    unit = float(np.finfo(np.float64).eps) / 2
    # Rounding of a sum of taps with rounded phases, entry by entry, and of LAPACK's values.
    symbol_error = 4.0 * (flat.shape[1] + 32) * unit
    symbol_error *= float(np.linalg.norm(np.sum(np.abs(flat), axis=1)))
    relative = 1.0 + 32.0 * max(outputs, inputs) * unit
    peaks = [float(np.max(norms[start:stop])) for start, stop in samples.sets]
    return samples.factor * (min(peaks) * relative + symbol_error) * (1.0 + 1e-14)


def _symbol(
    taps: Float[Array, "outputs inputs taps"],
    cosines: Float[Array, "frequencies taps"],
    sines: Float[Array, "frequencies taps"],
) -> Array:
    """M at each frequency, complex, shape (frequencies, outputs, inputs)."""
    # A product, not an FFT: few taps are cheaper so, and the rounding of a product has a bound.
    full = jax.lax.Precision.HIGHEST
    real = jnp.einsum("fk,oik->foi", cosines, taps, precision=full)
    return jax.lax.complex(real, jnp.einsum("fk,oik->foi", sines, taps, precision=full))


def _gram_values(symbol: Array, floor: Array, iterations: int) -> Float[Array, " frequencies"]:
    """Gram bound of each matrix; 0 where the squared Frobenius norm is at most `floor`."""
    if symbol.shape[1] < symbol.shape[2]:
        symbol = _adjoint(symbol)
    squared = _energy(symbol)
    nonzero = ~(squared <= floor)  # NaN counts as nonzero and comes out as NaN
    safe = jnp.where(nonzero, squared, 1.0)
    gram = _product(_adjoint(symbol), symbol) / safe
    start = jnp.where(nonzero, gram, jnp.eye(gram.shape[-1], dtype=gram.dtype)[None])
    carry = (start, jnp.log(safe))
    (current, log_scale), _ = jax.lax.scan(_double, carry, None, iterations - 1)
    exponent = (log_scale + 0.5 * jnp.log(_energy(current))) / 2.0**iterations
    return jnp.where(nonzero, jnp.exp(exponent), 0.0)[:, 0, 0]


def _double(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
    """Each G to GᴴG at Frobenius norm 1, and the logarithm of what was taken out."""
    gram, log_scale = carry
    gram = _product(_adjoint(gram), gram)
    norm = jnp.sqrt(_energy(gram))
    return (gram / norm, 2.0 * log_scale + jnp.log(norm)), None


def _product(left: Array, right: Array) -> Array:
    """Matrix products in full precision: TF32, the default on GPU, is coarser than the margin."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def _adjoint(matrices: Array) -> Array:
    return jnp.conj(jnp.swapaxes(matrices, -1, -2))


def _energy(matrices: Array) -> Array:
    """Squared Frobenius norm of each matrix, shape (frequencies, 1, 1)."""
    return jnp.sum(matrices.real**2 + matrices.imag**2, axis=(-2, -1), keepdims=True)


def _margins(shape: Grid, unit: float, iterations: int) -> tuple[float, float]:
    r"""Relative and absolute rounding margins of the Gram bound, u being the unit roundoff.

    Relative: a complex product $G^H G$ of inner size m errs by at most $4(m+4)u\|G\|_F^2$ in the
    Frobenius norm, and $\|G\|_F^2 \le r\|G\|_2^2$, so each step costs $4r(m+4)u$ at most, halved at
    every step before it reaches the root: all of them together cost that once. The Frobenius norm
    at the end is a sum of r² terms, and each logarithm adds less than 100 u.
    Absolute, in units of the Frobenius norm of $\sum_k |W_k|$: the symbol is a sum of K taps.
    """
    rank, inner = sorted(shape[:2])
    relative = unit * (4.0 * rank * (inner + 4) + rank**2 + 100.0 * iterations)
    return relative, 2.0 * (math.prod(shape[2:]) + 8) * unit
