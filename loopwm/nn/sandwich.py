"""MLP layer with constant 1 and no identity path (sandwich layer)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.errors import UsageError
from loopwm.nn.lipschitz import AbstractInjected, dot_rounding
from loopwm.nn.parametrization import (
    AbstractParametrization,
    SpectralCap,
    array_of,
    in_every_program,
    numbers_of,
)
from loopwm.nn.sll import branch_rounding, relu_branch
from loopwm.stability import UpperBound, exact_norm

# Free matrices are capped here, so that the transform stays well conditioned whatever they are:
# ‖I + Z‖ ≤ 1 + 2·4 + 4² = 25 while ‖(I + Z)⁻¹‖ ≤ 1. It leaves rotations up to 166 degrees.
_FREE_CAP = 4.0


class CayleyRows(AbstractParametrization):
    r"""A wide matrix with orthogonal rows of length c, by the Cayley transform.

    With the free matrix split into a square X on top of Y, and $Z = X - X^\top + Y^\top Y$,

    $$M^\top = c \begin{bmatrix} (I-Z)(I+Z)^{-1} \\ -2Y(I+Z)^{-1} \end{bmatrix}, \qquad
    M M^\top = c^2 I .$$

    Proof: $(I-Z)^\top(I-Z) + 4Y^\top Y = I + Z + Z^\top + Z^\top Z = (I+Z)^\top(I+Z)$, because
    $Z + Z^\top = 2Y^\top Y$. I + Z is invertible, as its symmetric part is at least I. What
    rounding adds is measured and taken off again, so that $\|M\|_2 \le c$ holds for the float32
    matrix.

    Source: Trockman and Kolter 2021, "Orthogonalizing Convolutional Layers with the Cayley
        Transform" (arXiv 2104.07167), for rectangular matrices.
    """

    free: Float[Array, "columns rows"]
    """Unconstrained matrix, shape (columns, rows), columns ≥ rows."""
    cap: float = eqx.field(static=True)
    """c: the length of the rows."""

    def value(self) -> Float[Array, "rows columns"]:
        """M, shape (rows, columns)."""
        columns, rows = self.free.shape
        free = SpectralCap(self.free, _FREE_CAP).value()
        x, y = free[:rows], free[rows:]
        identity = jnp.eye(rows, dtype=free.dtype)
        highest = jax.lax.Precision.HIGHEST
        z = x - x.T + jnp.matmul(y.T, y, precision=highest)
        right = jnp.concatenate([(identity - z).T, -2.0 * y.T], axis=1)
        matrix = jnp.linalg.solve((identity + z).T, right)
        # ‖M‖₂² ≤ the largest absolute row sum of M Mᵀ, plus the rounding of that product.
        product = jnp.matmul(matrix, matrix.T, precision=highest)
        sums = jnp.sum(jnp.abs(product), axis=1) + 1.1 * rows * dot_rounding(columns, free.dtype)
        # No gradient: in exact arithmetic the factor is 1.
        squared = jax.lax.stop_gradient(jnp.max(sums)) * (1.0 + dot_rounding(rows + 8, free.dtype))
        return (self.cap * jax.lax.rsqrt(squared)) * matrix


class Sandwich(AbstractInjected):
    r"""MLP layer with constant 1, input injection and no identity path.

    $$y^+ = P^\top \varphi(Q y + U e + b), \qquad P P^\top + Q Q^\top = 2 I,$$

    with φ = ReLU. This is the published
    $\sqrt 2 A^\top \Psi \varphi(\sqrt 2 \Psi^{-1} B y + b')$, $A A^\top + B B^\top = I$, with
    $P = \sqrt 2 A$, $Q = \sqrt 2 B$ and $b' = \Psi^{-1}(Ue+b)$: the positive diagonal Ψ passes
    through a ReLU and cancels, so it would add nothing here.

    Constant 1. For two states with difference x and one e, let u = Qx. The ReLU's outputs differ
    by v with $v_i = \delta_i u_i$, $0 \le \delta_i \le 1$, so $\|v\|^2 \le u^\top v$. Then
    $\|P^\top v\|^2 = 2\|v\|^2 - \|Q^\top v\|^2 \le 2 x^\top Q^\top v - \|Q^\top v\|^2
    = \|x\|^2 - \|x - Q^\top v\|^2 \le \|x\|^2$. The input costs nothing, as it shifts both
    arguments of the ReLU alike. The proof needs $P P^\top + Q Q^\top \preceq 2I$ alone, so weights
    with $\|[P\,Q]\|_2^2 = 2k$ have the constant k.

    Source: Wang and Manchester 2023, "Direct Parameterization of Lipschitz-Bounded Deep Networks"
        (arXiv 2301.11526), sandwich layer.
    """

    weight: Array | AbstractParametrization
    """[P Q], shape (hidden, 2·width)."""
    injection: Float[Array, "hidden inputs"]
    """U, shape (hidden, inputs)."""
    bias: Float[Array, " hidden"]
    """b, shape (hidden,)."""

    def __init__(self, width: int, hidden: int, inputs: int, *, key: PRNGKeyArray):
        """Starts with P and Q of like size, U Gaussian of variance 1/inputs, b at zero.

        Args:
            width: size of y.
            hidden: rows of P and Q, at most twice the width.
            inputs: size of e.
            key: PRNG key.

        Raises:
            UsageError: more hidden units than orthogonal rows fit.
        """
        if hidden > 2 * width:
            raise UsageError(
                f"A sandwich layer of width {width} has room for {2 * width} hidden units, not "
                f"{hidden}; give at most twice the width."
            )
        key_x, key_y, key_injection = jax.random.split(key, 3)
        x = 0.5 * jax.random.normal(key_x, (hidden, hidden)) / np.sqrt(hidden)
        # With X = 0 and orthogonal columns of Y this length gives P and Q the same Frobenius norm.
        length = np.tan(0.5 * np.arcsin(np.sqrt(1.0 - 0.5 * hidden / width)))
        rest = 2 * width - hidden
        y = length * jax.random.normal(key_y, (rest, hidden)) / np.sqrt(max(rest, 1))
        self.weight = CayleyRows(jnp.concatenate([x, y]), float(np.sqrt(2.0)))
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
        return relu_branch(*self._matrices(), y, injected)

    def rounding(
        self, y: Float[Array, " width"], injected: Float[Array, " hidden"]
    ) -> Float[Array, ""]:
        """Upper bound of the rounding error of one call in the 2-norm, in working precision."""
        return branch_rounding(*self._matrices(), y, injected)[0]

    def lipschitz(self) -> UpperBound:
        r"""$\tfrac12\|[cP\;\,Q/c]\|_2^2$, the smaller of c = 1 and the c that balances P and Q.

        The Jacobian PᵀDQ is the same for every c > 0, so each of them gives a bound.
        """
        outward, inward = np.split(np.asarray(numbers_of(self.weight), np.float64), 2, axis=1)
        sizes = [float(exact_norm(m)) for m in (outward, inward)]
        if 0.0 in sizes:
            return UpperBound(0.0)
        balance = np.sqrt(sizes[1] / sizes[0])
        norms = [exact_norm(np.hstack([c * outward, inward / c])) for c in (1.0, balance)]
        bound = UpperBound(0.5 * (1.0 + 1e-15) * min(float(n) for n in norms) ** 2)
        if not isinstance(self.weight, CayleyRows):
            return bound
        # Another program may round the solution elsewhere: by its condition, 25 at most, times the
        # rounding of its columns, some growth, and both programs. All stay units below the cap.
        slack = 400.0 * dot_rounding(2 * outward.shape[1], np.float32)
        most = max(float(bound), 0.5 * self.weight.cap**2 * (1.0 - 2.0**-52))
        return UpperBound(min(float(in_every_program(bound, self.weight, slack)), most))

    def _matrices(self) -> tuple[Float[Array, "hidden width"], Float[Array, "hidden width"]]:
        """P and Q, each of shape (hidden, width)."""
        weight = array_of(self.weight)
        half = weight.shape[1] // 2
        return weight[:, :half], weight[:, half:]
