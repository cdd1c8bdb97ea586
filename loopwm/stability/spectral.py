"""Upper bounds of the spectral norm, for training (Gram iteration) and for certificates (SVD)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from loopwm.errors import UsageError
from loopwm.stability.bounds import UpperBound
from loopwm.stability.checks import check_real

# Logarithms, roots and the last exponential of six steps err by less than 120 units of 2⁻²⁴.
_FLOAT32_MARGIN = 1e-5


def gram_bound(
    weight: Float[Array, "rows columns"] | Float[np.ndarray, "rows columns"], iterations: int = 6
) -> UpperBound:
    r"""Differentiable upper bound of the spectral norm by Gram iteration.

    With $G_1 = W^\top W$ and $G_{n+1} = G_n^\top G_n$,

    $$\|W\|_2 \le \hat\sigma_n = \|G_n\|_F^{2^{-n}},$$

    because the largest eigenvalue of $G_n$ is $\|W\|_2^{2^n}$ and the Frobenius norm is never
    below it. Each iterate is rescaled to Frobenius norm 1 and the scale kept as a logarithm, so
    nothing overflows. Unlike power iteration, which approaches the norm from below, every
    iterate is an upper bound.

    Rounding, with unit u: a product $G^\top G$ of inner size k errs in the 2-norm by at most
    $s = (k + 8)u\|G\|_F^2$, in whatever order it is summed, so $\|\cdot\|_2$ of the computed
    one plus $sI$ is not below the true one; s is added at every step, before the scale is taken
    out, so a matrix pays for its own stable rank alone. What is left, a few logarithms and the sum
    of squares at the end, has a relative margin of 1e-5 and $2^{-n} r^2 u$ for $r \times r$
    iterates. This holds for up to 2²² entries; the scales themselves need no margin, as the same
    number is taken out and put back.

    Args:
        weight: the matrix W, shape (rows, columns); less than float32 is taken as float32.
        iterations: number of Gram steps n, at least 1. The bound is at most r^(2^-(n+1)) times
            the norm of a matrix of rank r, which 6 steps make 1.03 at r = 48 when all singular
            values are equal; Gaussian matrices stay within 1 %.

    Returns:
        The bound, a scalar in the 2-norm; exactly 0 for a zero matrix, with zero gradient.

    Raises:
        UsageError: the matrix is complex, or has another number of axes.

    Source: Delattre et al. 2023, "Efficient Bound of Lipschitz Constant for Convolutional Layers
        by Gram Iteration" (arXiv 2305.16173), theorem 1.
    """
    check_real(weight, "The matrix")
    weight = jnp.asarray(weight)
    _check_matrix(weight)
    # The margins are those of float32; in half of it they would be larger than the norm.
    weight = weight.astype(jnp.promote_types(weight.dtype, jnp.float32))
    # A power of two near the largest entry is taken out first, exactly and without a gradient
    # (the bound is homogeneous), so that squares neither overflow nor vanish.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(weight), initial=0.0))
    # Beyond 2^126 the reciprocal of the power would vanish, and the whole matrix with it.
    exponent = jnp.clip(jnp.frexp(largest)[1] - 1, -126, 126)
    unit = jnp.ldexp(jnp.ones((), weight.dtype), exponent)
    matrix = weight / unit
    tall = matrix.shape[0] >= matrix.shape[1]
    gram = _product(matrix.T, matrix) if tall else _product(matrix, matrix.T)
    squared = jnp.sum(matrix * matrix)
    nonzero = squared != 0  # NaN counts as nonzero and comes out as NaN
    safe = jnp.where(nonzero, squared, 1.0)
    # trace(G_1) = ||W||_F^2 is a scale that is cheap and never zero here.
    unit_roundoff = float(jnp.finfo(gram.dtype).eps) / 2
    gram = _raised(gram / safe, max(matrix.shape), matrix.size)
    gram = jnp.where(nonzero, gram, jnp.eye(len(gram), dtype=gram.dtype))
    # The logarithm is that of the factor taken out of G_n.
    start, log_scale = _scaled(gram, jnp.log(safe))

    # Each doubling ends with ||current||_F = 1, so the bound is exp(scale / 2^n) at the end.
    (current, log_scale), _ = jax.lax.scan(_double, (start, log_scale), None, iterations - 1)
    tail = jnp.sum(current * current)
    exponent = (log_scale + 0.5 * jnp.log(tail)) / 2.0**iterations
    margin = 1.0 + _FLOAT32_MARGIN + unit_roundoff * gram.size / 2.0**iterations
    return UpperBound(jnp.where(nonzero, unit * jnp.exp(exponent) * margin, 0.0))


def _check_matrix(weight: Array | np.ndarray) -> None:
    if weight.ndim != 2:
        raise UsageError(
            f"A weight of shape {weight.shape} is no matrix; pass the matrices of a stack of "
            "layers one at a time."
        )


def _double(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
    """G_{n+1} = G_nᵀG_n brought to Frobenius norm 1, and the logarithm of what was taken out."""
    # Here and not inside gram_bound, so that calls outside jit compile the scan once.
    gram, log_scale = carry
    gram = _raised(_product(gram.T, gram), len(gram), gram.size)
    return _scaled(gram, 2.0 * log_scale), None


def _scaled(gram: Array, log_scale: Array) -> tuple[Array, Array]:
    """A matrix at Frobenius norm 1, and the logarithm with what was taken out added."""
    norm = jnp.sqrt(jnp.sum(gram * gram))
    return gram / norm, log_scale + jnp.log(norm)


def _raised(gram: Float[Array, "n n"], terms: int, entries: int) -> Float[Array, "n n"]:
    """A computed Gram matrix plus a bound of its error, of factors of Frobenius norm 1.

    Args:
        gram: the matrix.
        terms: k, the inner size of the product that it is.
        entries: entries of a factor, over which its Frobenius norm was summed.
    """
    unit = float(jnp.finfo(gram.dtype).eps) / 2
    # The computed Frobenius norm may be off by a unit for each entry.
    return gram + (terms + 8) * unit * (1.0 + 4.0 * entries * unit) * jnp.eye(
        len(gram), dtype=gram.dtype
    )


def _product(left: Float[Array, "n k"], right: Float[Array, "k m"]) -> Float[Array, "n m"]:
    """Matrix product in full float32: TF32, the default on GPU, is coarser than the margin."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def exact_norm(weight: np.ndarray) -> UpperBound:
    r"""Spectral norm $\|W\|_2$ by singular values in float64, rounded up.

    LAPACK's singular values carry a relative error of at most a small multiple of
    max(rows, columns) · 2⁻⁵³; that multiple (16) is added so that the value is an upper bound.

    Args:
        weight: the matrix, shape (rows, columns), any float type; cast to float64.

    Returns:
        The upper bound of the largest singular value, in the 2-norm.

    Raises:
        UsageError: the matrix is complex, or has another number of axes.
        ValueError: the matrix has NaN or infinite entries.
    """
    check_real(weight, "The matrix")
    matrix = np.asarray(weight, dtype=np.float64)
    _check_matrix(matrix)
    if not np.all(np.isfinite(matrix)):
        raise ValueError(
            "The matrix has NaN or infinite entries, so it has no spectral norm; restore the "
            "weights from an earlier checkpoint."
        )
    if matrix.size == 0 or not matrix.any():
        return UpperBound(0.0)
    largest = float(np.linalg.svd(matrix, compute_uv=False)[0])
    return UpperBound(largest * (1.0 + 16 * max(matrix.shape) * float(np.finfo(np.float64).eps)))
