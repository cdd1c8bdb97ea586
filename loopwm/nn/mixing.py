"""What all attention layers share: softmax with masks, caps of projections, rounding."""

import abc
import functools
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from loopwm.errors import UsageError
from loopwm.nn.lipschitz import SoftNorm, dot_rounding
from loopwm.stability import UpperBound, exact_norm, gram_bound

STEEPEST = 1e4
"""No projection has a larger spectral norm, so that huge weights overflow nowhere."""

# Rounding of the exponential in units of u; XLA's is within a few.
_EXP_ROUNDING = 16

# TF32, the default on GPU, is coarser than what `rounding` assumes.
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class AbstractAttention(eqx.Module):
    """Attention over tokens whose Lipschitz constant in h is known."""

    @abc.abstractmethod
    def __call__(self, h, injected) -> Float[Array, "tokens width"]:
        """One layer: h of shape (tokens, width) and the result of `inject` to the same shape."""

    @abc.abstractmethod
    def attention_weights(self, h, injected) -> Float[Array, "heads tokens sources"]:
        """How much each token takes from each source, shape (heads, tokens, sources).

        Rows sum to 1; to 0 where the mask allows no source.
        """

    @abc.abstractmethod
    def constant(self, injected) -> Float[Array, ""]:
        """Upper bound of the constant in h for this input, in working precision, rounded up.

        In the norm of `lipschitz`, of which it is a tighter sibling where the input decides.
        """

    @abc.abstractmethod
    def rounding(self, h, injected) -> Float[Array, ""]:
        """Upper bound of the rounding error of one call at h, in the norm of `lipschitz`.

        It takes the exponential to be accurate to 16 units of rounding.
        """

    @abc.abstractmethod
    def lipschitz(self) -> UpperBound:
        """Upper bound of the constant in h for the weights as they are, from float64.

        It holds for every input, mask and bias, and for any number of tokens.
        """


def temperature(size: int) -> float:
    """β = 1/√(head width), as the float32 number that the layers compute with."""
    return float(np.float32(1.0 / np.sqrt(size)))


def head_width(width: int, heads: int, size: int | None) -> int:
    """Size of a head: the one given, or width / heads.

    Raises:
        UsageError: a number is below 1, or the heads do not divide the width.
    """
    for name, value in (("width", width), ("heads", heads), ("head_width", size)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; give at least 1.")
    if size is None and width % heads:
        raise UsageError(
            f"A state of width {width} does not divide into {heads} heads; give a number of heads "
            "that divides it, or a head_width."
        )
    return size or width // heads


def radii(size: int, *given: float | None) -> tuple[float, ...]:
    """The radii given, √(head width) in place of None, as float32 numbers.

    Raises:
        UsageError: one is not positive and finite.
    """
    found = [float(np.float32(np.sqrt(size) if radius is None else radius)) for radius in given]
    for radius in found:
        check_positive("A radius", radius)
    return tuple(found)


def check_positive(name: str, value: float) -> None:
    """Raises UsageError for a number that is not positive and finite."""
    if not 0.0 < value < float("inf"):
        raise UsageError(f"{name} is {value}; give a positive, finite number.")


def into_ball(x: Float[Array, "heads tokens size"], radius: float) -> Float[Array, "..."]:
    """The soft norm of every row, same shape."""
    return jax.vmap(jax.vmap(SoftNorm(radius)))(x)


def offset(
    mask: Bool[Array, "tokens sources"] | None,
    bias: Float[Array, "heads tokens sources"] | None,
) -> Float[Array, "_ tokens sources"] | None:
    """Logits to be added: the bias, and −∞ where the mask is False; None when there are none."""
    if mask is None:
        return bias
    forbidden = jnp.where(mask, 0.0, -jnp.inf)[None]
    return forbidden if bias is None else forbidden + bias


def softmax(
    logits: Float[Array, "heads tokens sources"],
    added: Float[Array, "_ tokens sources"] | None,
) -> Float[Array, "heads tokens sources"]:
    """Softmax over sources of logits + added; all 0 for a token that may look at no source."""
    if added is not None:
        logits = logits + added
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    powers = jnp.exp(logits - jnp.where(top == -jnp.inf, 0.0, top))
    total = jnp.sum(powers, axis=-1, keepdims=True)
    return powers / jnp.where(total == 0, 1.0, total)  # a NaN is no 0 and stays


def stacked_bound(weight: Float[Array, "heads size width"]) -> Float[Array, ""]:
    """Upper bound of the spectral norm of the heads' matrices one above the other."""
    return jnp.asarray(gram_bound(weight.reshape(-1, weight.shape[-1])).value)


def stacked_norm(weight: Float[np.ndarray, "heads size width"]) -> UpperBound:
    """The same from float64 singular values."""
    return exact_norm(weight.reshape(-1, weight.shape[-1]))


def capped(
    weight: Float[Array, "*shape"], bound: Float[Array, "*_"], cap: float
) -> tuple[Float[Array, "*shape"], Float[Array, "*_"]]:
    """Matrices multiplied by min(1, cap/bound), and their bounds after that."""
    over = bound > cap
    factor = jnp.where(over, cap / jnp.where(over, bound, 1.0), 1.0)
    return weight * factor, jnp.where(over, cap, bound)


def capped_output(
    output: Float[Array, "heads size width"], inner: Float[Array, ""], cap: float
) -> Float[Array, "heads size width"]:
    """W_Oᵀ with inner · ‖W_O‖₂ ≤ cap and ‖W_O‖₂ ≤ 1e4; `inner` bounds what comes before it."""
    output, size = capped(output, stacked_bound(output), STEEPEST)
    return capped(output, inner * size, cap)[0]


def balances(
    output: Float[np.ndarray, "heads size width"], inner: Float[np.ndarray, " heads"]
) -> Iterator[Float[np.ndarray, "heads 1 1"]]:
    """Factors d of the heads to be tried in a bound ‖W_O D⁻¹‖ · (size of D · inner).

    Ones, and √(‖W_O^a‖_F / inner_a), with which both parts carry a head to the same degree.
    """
    outer = np.linalg.norm(output, axis=(1, 2))
    alive = (outer > 0) & (inner > 0)
    balanced = np.sqrt(np.where(alive, outer, 1.0) / np.where(alive, inner, 1.0))
    for factors in (np.ones_like(inner), balanced):
        yield factors[:, None, None]


def spread(rows: Float[Array, "heads sources size"]) -> Float[Array, " heads"]:
    """Radius of a ball around the rows of each head, centred at their mean, rounded up."""
    unit = 0.5 * float(jnp.finfo(rows.dtype).eps)
    away = jnp.max(lengths(rows - jnp.mean(rows, axis=1, keepdims=True)), axis=1)
    return away + (rows.shape[2] + 8) * unit * (away + jnp.max(lengths(rows), axis=1))


def soft_rounding(size: int, dtype: DTypeLike) -> float:
    """Relative error of a computed soft norm of a vector of this size, in the 2-norm.

    Half that of the sum of squares, and some for the division, the root and the product.
    """
    return (size + 16) * 0.5 * float(jnp.finfo(dtype).eps)


def lengths(x: Float[Array, "*rows size"]) -> Float[Array, "*rows"]:
    """Upper bounds of the 2-norms of rows, with what vanishing squares may hide."""
    lost = float(np.sqrt(x.shape[-1] * float(jnp.finfo(x.dtype).tiny)))
    return jnp.linalg.norm(x, axis=-1) + lost


def frobenius(weight: Float[Array, "*heads size width"]) -> Float[Array, "*heads"]:
    """Upper bounds of the Frobenius norms of the heads' matrices."""
    return lengths(weight.reshape(*weight.shape[:-2], -1))


def mixing_rounding(
    sizes: Float[Array, "heads tokens"],
    errors: Float[Array, "heads tokens"],
    added: Float[Array, "_ tokens sources"] | None,
    sources: int,
) -> Float[Array, "heads tokens"]:
    r"""Error of a computed $\sum_m p_m v_m$ in units of the largest $\|v_m\|$.

    Computed weights are the softmax of logits that are off by some ε, each with a relative error
    of its own. Along a path of logits the mean moves by $\mathrm{Cov}_p(v, \varepsilon) \le
    \max|\varepsilon| \max\|v\|$, and never by more than twice the largest value.

    Args:
        sizes: bound of the products βqᵀk, shape (heads, tokens).
        errors: bound of their rounding errors, same shape.
        added: logits added to them, or None.
        sources: how many there are.

    Returns:
        The bound, shape (heads, tokens).
    """
    finfo = jnp.finfo(sizes.dtype)
    unit = 0.5 * float(finfo.eps)
    if added is not None:
        sizes = sizes + jnp.max(jnp.where(added == -jnp.inf, 0.0, jnp.abs(added)), axis=-1)
    # The sum, the subtraction of the largest logit, and the exponential.
    moved = errors + 5.0 * unit * sizes + _EXP_ROUNDING * unit
    vanished = sources * float(finfo.tiny)
    return jnp.minimum(moved, 2.0) + 1.01 * dot_rounding(2 * sources + 8, sizes.dtype) + vanished


def readout_rounding(
    output: Float[Array, "heads size width"],
    bias: Float[Array, " width"],
    sizes: Float[Array, "heads #tokens"],
    errors: Float[Array, "heads tokens"],
) -> Float[Array, " tokens"]:
    """Error of W_O o + b for each token, from bounds of the heads' sizes and errors."""
    weight = lengths(output.reshape(-1))
    gamma = dot_rounding(output.shape[0] * output.shape[1] + 2, errors.dtype)
    size = weight * jnp.linalg.norm(1.01 * sizes + errors, axis=0) + lengths(bias)
    return 1.01 * (weight * jnp.linalg.norm(errors, axis=0) + gamma * size)
