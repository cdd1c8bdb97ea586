"""Residual MLP layer with constant 1 whose rows are capped one by one (SLL)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.nn.lipschitz import AbstractInjected, dot_rounding
from loopwm.nn.parametrization import AbstractParametrization, array_of, numbers_of
from loopwm.stability import UpperBound, exact_norm

# Largest |log q|: keeps every ratio q_j/q_i below e^8, far from overflow.
_LOG_Q = 4.0


class DiagonalCap(AbstractParametrization):
    r"""A matrix held at $\|S\|_2 \le c$ by a factor of its own for each row.

    With rows $w_i$ of the free matrix W and any positive q,

    $$s_i = w_i \min\Big(1, \frac{c}{\sqrt{T_i}}\Big), \qquad
    T_i = \sum_j |w_i^\top w_j| \, q_j / q_i .$$

    Proof. By the inequality of the means, for every x
    $\|W^\top x\|^2 \le \sum_{ij} |w_i^\top w_j| \tfrac12 (x_i^2 q_j/q_i + x_j^2 q_i/q_j)
    = \sum_i T_i x_i^2$, and $S = \mathrm{diag}(d) W$ with $d_i^2 T_i \le c^2$, so that
    $\|S^\top x\|^2 \le \sum_i T_i d_i^2 x_i^2 \le c^2 \|x\|^2$.

    Rows that are orthogonal to all others do not shrink one another, which one factor for the
    whole matrix cannot offer; rows with $T_i \le c^2$ are left alone.

    Source: Araujo et al. 2023, "A Unified Algebraic Perspective on Lipschitz Neural Networks"
        (arXiv 2303.03169), SDP-based Lipschitz layers, with a cap where the paper normalises.
    """

    free: Float[Array, "rows columns"]
    """W: unconstrained matrix, shape (rows, columns)."""
    log_q: Float[Array, " rows"]
    """Free logarithm of q, shape (rows,), squashed into ±4."""
    cap: float = eqx.field(static=True)
    """c: the largest spectral norm allowed."""

    def value(self) -> Float[Array, "rows columns"]:
        """S, shape (rows, columns)."""
        rows, columns = self.free.shape
        finfo = jnp.finfo(self.free.dtype)
        unit = 0.5 * float(finfo.eps)
        # Powers of two near the largest entries come out exactly, so that no square overflows:
        # of each row for its length and direction, of the whole matrix for products of two rows.
        powers = _power_of_two(jnp.max(jnp.abs(self.free), axis=1, keepdims=True))
        whole = jnp.max(powers)
        scaled = self.free / powers
        squared = jnp.sum(scaled * scaled, axis=1, keepdims=True)
        nonzero = squared != 0  # NaN counts as nonzero and comes out as NaN
        length = jnp.sqrt(jnp.where(nonzero, squared, 1.0))
        direction = scaled / length
        ratio = jnp.where(nonzero, length, 0.0) * (powers / whole)
        # |w_i·w_j| in units of |w_i| and the largest row, with the rounding of a dot product.
        products = jnp.matmul(direction, (self.free / whole).T, precision=jax.lax.Precision.HIGHEST)
        products = jnp.abs(products) + (columns + 8) * unit * ratio.T
        products = jnp.where(jnp.eye(rows, dtype=bool), ratio, products)
        log_q = _LOG_Q * jnp.tanh(self.log_q / _LOG_Q)
        shares = jnp.exp(log_q[None, :] - log_q[:, None])
        lost = rows * float(np.exp(2.0 * _LOG_Q)) * float(finfo.tiny)  # by underflow
        sums = jnp.sum(products * shares, axis=1, keepdims=True) + lost
        margin = 1.0 + (rows + columns + 256) * unit
        positive = ratio != 0
        # As logarithms, whose derivatives do not overflow where both are tiny.
        log_ratio = jnp.log(jnp.where(positive, ratio, 1.0)) - jnp.log(sums)
        longest = jnp.where(positive, self.cap / margin * jnp.exp(0.5 * log_ratio), 0.0)
        over = nonzero & ~(powers * length <= longest)
        return jnp.where(over, longest * direction, self.free)


def _power_of_two(size: Float[Array, "..."]) -> Float[Array, "..."]:
    """The power of two at or just below a size, within the normal numbers; has no gradient."""
    tiny = float(jnp.finfo(size.dtype).tiny)
    size = jnp.clip(jax.lax.stop_gradient(size), tiny, 1.0 / tiny)  # so is its reciprocal
    return jnp.ldexp(jnp.ones_like(size), jnp.frexp(size)[1] - 1)


class SLL(AbstractInjected):
    r"""Residual MLP layer with constant 1 and input injection (SDP-based Lipschitz layer).

    $$y^+ = y - S^\top \varphi(S y + U e + b), \qquad \|S\|_2 \le \sqrt 2,$$

    with φ = ReLU and S capped row by row (`DiagonalCap`). A positive factor passes through a ReLU,
    so where the cap is active, $s_i = \sqrt{2/T_i}\, w_i$, this is the published
    $y - 2 W T^{-1} \varphi(W^\top y + b')$ with columns $w_i$ and $b'_i = \sqrt{T_i/2}\,(Ue+b)_i$.

    Constant 1. For two states with difference x and one e, let u = Sx. The ReLU's outputs differ
    by v with $v_i = \delta_i u_i$, $0 \le \delta_i \le 1$, so $u^\top v \ge \|v\|^2$ and
    $\|x - S^\top v\|^2 = \|x\|^2 - 2 u^\top v + \|S^\top v\|^2
    \le \|x\|^2 - (2 - \|S\|_2^2)\|v\|^2$.
    The input shifts both arguments of the ReLU alike and costs nothing.

    As functions, SLL and `ConvexPotential` are the same family; what differs is which S the
    capped free weights reach.

    Source: Araujo et al. 2023 (arXiv 2303.03169), SDP-based Lipschitz layers.
    """

    weight: Array | AbstractParametrization
    """S, shape (hidden, width)."""
    injection: Float[Array, "hidden inputs"]
    """U, shape (hidden, inputs)."""
    bias: Float[Array, " hidden"]
    """b, shape (hidden,)."""

    def __init__(self, width: int, hidden: int, inputs: int, *, key: PRNGKeyArray):
        """Starts S from capped Gaussian rows, q at 1, U Gaussian of variance 1/inputs, b at zero.

        Args:
            width: size of y.
            hidden: rows of S.
            inputs: size of e.
            key: PRNG key.
        """
        key_weight, key_injection = jax.random.split(key)
        free = jax.random.normal(key_weight, (hidden, width)) / np.sqrt(width)
        self.weight = DiagonalCap(free, jnp.zeros(hidden), float(np.sqrt(2.0)))
        self.injection = jax.random.normal(key_injection, (hidden, inputs)) / np.sqrt(inputs)
        self.bias = jnp.zeros(hidden)

    def inject(self, e: Float[Array, " inputs"]) -> Float[Array, " hidden"]:
        """U e + b, shape (hidden,): constant inside the loop, so computed once."""
        return self.injection @ e + self.bias

    def __call__(
        self, y: Float[Array, " width"], injected: Float[Array, " hidden"]
    ) -> Float[Array, " width"]:
        """One layer.

        Args:
            y: the state, shape (width,).
            injected: U e + b from `inject`, shape (hidden,).

        Returns:
            y⁺, shape (width,).
        """
        s = array_of(self.weight)
        return y - relu_branch(s, s, y, injected)

    def rounding(
        self, y: Float[Array, " width"], injected: Float[Array, " hidden"]
    ) -> Float[Array, ""]:
        """Upper bound of the rounding error of one call in the 2-norm: branch and subtraction."""
        s = array_of(self.weight)
        unit = 0.5 * jnp.finfo(y.dtype).eps
        error, size = branch_rounding(s, s, y, injected)
        return error + 1.01 * unit * (jnp.linalg.norm(y) + size)

    def lipschitz(self) -> UpperBound:
        """max(1, ‖S‖₂² − 1): the Jacobian I − SᵀDS has its eigenvalues in [1 − ‖S‖₂², 1]."""
        squared = float(exact_norm(numbers_of(self.weight))) ** 2
        return UpperBound(max(1.0, squared * (1.0 + 1e-15) - 1.0))


def relu_branch(
    outward: Float[Array, "hidden outputs"],
    inward: Float[Array, "hidden width"],
    y: Float[Array, " width"],
    injected: Float[Array, " hidden"],
) -> Float[Array, " outputs"]:
    """Pᵀ ReLU(Q y + injected) in full float32, as `branch_rounding` assumes.

    Args:
        outward: P, shape (hidden, outputs).
        inward: Q, shape (hidden, width).
        y: the state, shape (width,).
        injected: shape (hidden,).

    Returns:
        Shape (outputs,).
    """
    highest = jax.lax.Precision.HIGHEST
    active = jax.nn.relu(jnp.matmul(inward, y, precision=highest) + injected)
    return jnp.matmul(outward.T, active, precision=highest)


def branch_rounding(
    outward: Float[Array, "hidden outputs"],
    inward: Float[Array, "hidden width"],
    y: Float[Array, " width"],
    injected: Float[Array, " hidden"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""Rounding error of `relu_branch` in the 2-norm, and a bound of its size.

    With $\gamma_n = nu/(1-nu)$ (Higham, "Accuracy and Stability of Numerical Algorithms", lemma
    3.1) the pre-activation errs by at most $\gamma_{d+1}(\|Q\|_F\|y\| + \|b\|)$; that passes
    through the ReLU (slope at most 1) and Pᵀ, whose own product adds $\gamma_h \|P\|_F$ times the
    size of its argument.

    Args:
        outward: P, shape (hidden, outputs).
        inward: Q, shape (hidden, width).
        y: the state, shape (width,).
        injected: shape (hidden,).

    Returns:
        Upper bounds of the error and of the 2-norm of the computed branch.
    """
    finfo = jnp.finfo(y.dtype)
    hidden, width = inward.shape
    gamma_in, gamma_out = (dot_rounding(n + 1, y.dtype) for n in (width, hidden))
    # Squares of tiny entries vanish from a norm; this is the most that they can hide.
    lost = float(np.sqrt(max(hidden, width) * float(finfo.tiny)))
    into, out = jnp.linalg.norm(inward) + lost, jnp.linalg.norm(outward) + lost
    size_in = into * (jnp.linalg.norm(y) + lost) + jnp.linalg.norm(injected) + lost
    error_in = gamma_in * size_in
    size_out = out * (size_in + error_in) * (1.0 + gamma_out)
    # One per cent covers the rounding of this computation itself.
    return 1.01 * (out * error_in + gamma_out * size_out), 1.01 * size_out
