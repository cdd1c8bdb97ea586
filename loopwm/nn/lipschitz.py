"""Layers that declare a Lipschitz constant."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from loopwm.nn.parametrization import (
    AbstractParametrization,
    SpectralCap,
    array_of,
    spectral_norm_of,
)
from loopwm.stability import UpperBound


def _product(matrix: Float[Array, "m n"], x: Float[Array, " n"]) -> Float[Array, " m"]:
    """Matrix times vector in full float32: TF32, the default on GPU, would void `rounding`."""
    return jnp.matmul(matrix, x, precision=jax.lax.Precision.HIGHEST)


def dot_rounding(length: int, dtype: DTypeLike) -> float:
    """γ_n = nu/(1 − nu), the relative rounding of a dot product of n terms in a float type.

    Infinite from n = 1/u terms on, of which low precision has few: 512 in bfloat16's.
    """
    spread = 0.5 * length * float(jnp.finfo(dtype).eps)
    return spread / (1.0 - spread) if spread < 1.0 else float("inf")


class AbstractLipschitz(eqx.Module):
    """A layer whose Lipschitz constant in its first argument is known, in the 2-norm."""

    @abc.abstractmethod
    def lipschitz(self) -> UpperBound:
        """An upper bound of the constant for the weights as they are, from float64 SVD."""


class AbstractInjected(AbstractLipschitz):
    """A layer y⁺ = f(y, e) of a looped block: constant in y at most `lipschitz` for every e.

    States are of any shape that the layer knows: (width,), (*cells, channels) or (tokens, width).
    The norm is the 2-norm of all entries, or the one that the layer has as `norm`.
    """

    @abc.abstractmethod
    def inject(self, e: Float[Array, "*input"]) -> PyTree:
        """What the layer needs of the input e: constant inside the loop, so computed once."""

    @abc.abstractmethod
    def __call__(self, y: Float[Array, "*state"], injected: PyTree) -> Float[Array, "*state"]:
        """One layer: y and the result of `inject` to y⁺ of y's shape."""

    @abc.abstractmethod
    def rounding(self, y: Float[Array, "*state"], injected: PyTree) -> Float[Array, ""]:
        """Upper bound in its norm of the rounding error of one call, in working precision."""


class CappedLinear(AbstractLipschitz):
    r"""$y = Wx + b$ with $\|W\|_2 \le c$ at every step of training."""

    weight: Array | AbstractParametrization
    """W, shape (outputs, inputs)."""
    bias: Float[Array, " outputs"]
    """b, shape (outputs,)."""

    def __init__(self, inputs: int, outputs: int, *, cap: float = 1.0, key: PRNGKeyArray):
        """Starts from Gaussian weights of variance 1/inputs and zero bias.

        Args:
            inputs: size of x.
            outputs: size of y.
            cap: c, the largest spectral norm allowed, positive.
            key: PRNG key.
        """
        free = jax.random.normal(key, (outputs, inputs)) / np.sqrt(inputs)
        self.weight = SpectralCap(free, cap)
        self.bias = jnp.zeros(outputs)

    def __call__(
        self, x: Float[Array, " inputs"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " outputs"]:
        """Maps x of shape (inputs,) to shape (outputs,); the key is for eqx.nn.Sequential alone."""
        del key
        return _product(array_of(self.weight), x) + self.bias

    def lipschitz(self) -> UpperBound:
        """‖W‖₂."""
        return spectral_norm_of(self.weight)


class ConvexPotential(AbstractInjected):
    r"""Residual MLP layer with constant 1 and input injection.

    $$y^+ = y - S^\top \varphi(S y + U e + b), \qquad \|S\|_2 \le \sqrt 2,$$

    with φ = ReLU. Its Jacobian in y is $I - S^\top D S$ with a diagonal $0 \le D \le 1$, whose
    eigenvalues lie in $[1 - \|S\|_2^2, 1] \subseteq [-1, 1]$, so the layer is 1-Lipschitz in y
    for every e. The injection U is free: it costs no contraction.

    Source: Meunier et al. 2022, "A Dynamical System Perspective for Lipschitz Neural Networks"
        (arXiv 2110.12690), theorem 1, with $S = \sqrt{2} W / \hat\sigma$.
    """

    weight: Array | AbstractParametrization
    """S, shape (hidden, width)."""
    injection: Float[Array, "hidden inputs"]
    """U, shape (hidden, inputs)."""
    bias: Float[Array, " hidden"]
    """b, shape (hidden,)."""

    def __init__(self, width: int, hidden: int, inputs: int, *, key: PRNGKeyArray):
        """Starts S near the cap, U Gaussian of variance 1/inputs, b at zero.

        Args:
            width: size of y.
            hidden: rows of S.
            inputs: size of e.
            key: PRNG key.
        """
        key_weight, key_injection = jax.random.split(key)
        free = jax.random.normal(key_weight, (hidden, width)) / np.sqrt(width)
        self.weight = SpectralCap(free, float(np.sqrt(2.0)))
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
        return y - _product(s.T, jax.nn.relu(_product(s, y) + injected))

    def rounding(
        self, y: Float[Array, " width"], injected: Float[Array, " hidden"]
    ) -> Float[Array, ""]:
        r"""Upper bound of the rounding error of one call in the 2-norm, in working precision.

        With $\gamma_n = nu/(1-nu)$ the usual dot-product constant (Higham, lemma 3.1), the
        pre-activation errs by at most $\gamma_{d+1}(\|S\|_F\|y\| + \|b\|)$, which passes through φ
        (slope at most 1) and Sᵀ; the second product and the subtraction add their own.
        """
        s = array_of(self.weight)
        unit = 0.5 * jnp.finfo(y.dtype).eps
        hidden, width = s.shape
        gamma_in, gamma_out = (dot_rounding(n + 1, y.dtype) for n in (width, hidden))
        frobenius = jnp.linalg.norm(s)
        size_y = jnp.linalg.norm(y)
        size_in = frobenius * size_y + jnp.linalg.norm(injected)
        error_in = gamma_in * size_in
        size_out = frobenius * (size_in + error_in)
        return frobenius * error_in + gamma_out * size_out + unit * (size_y + size_out)

    def lipschitz(self) -> UpperBound:
        """max(1, ‖S‖₂² − 1)."""
        squared = float(spectral_norm_of(self.weight)) ** 2
        return UpperBound(max(1.0, squared * (1.0 + 1e-15) - 1.0))


class SoftNorm(AbstractLipschitz):
    r"""Smooth projection into a ball: $x / \sqrt{1 + \|x\|^2 / R^2}$.

    1-Lipschitz (its Jacobian is a positive definite matrix with eigenvalues at most 1) and
    bounded by R, unlike RMS normalisation, whose constant is $1/\sqrt\varepsilon$ near 0.
    """

    radius: float = eqx.field(static=True)
    """R, positive."""

    def __call__(
        self, x: Float[Array, " width"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " width"]:
        """Maps x of shape (width,) into the ball; the key is for eqx.nn.Sequential alone."""
        del key
        # The result does not depend on this scale, so it needs no gradient; it keeps the squares
        # of huge entries from overflowing, which would send them to the centre.
        scale = jnp.maximum(self.radius, jax.lax.stop_gradient(jnp.max(jnp.abs(x))))
        unit = x / scale
        squared = (self.radius / scale) ** 2 + jnp.sum(unit * unit)
        return self.radius * unit * jax.lax.rsqrt(squared)

    def reach(self, size: int) -> float:
        """Upper bound of the 2-norm of a float32 result of that many entries, rounding included.

        The sum of squares errs by (size + 1)u relatively and halves it under the root; the root,
        the products and the scaling add a few u more, u = 2⁻²⁴.
        """
        return self.radius * (1.0 + (size + 16) * float(np.finfo(np.float32).eps) / 2)

    def lipschitz(self) -> UpperBound:
        """1."""
        return UpperBound(1.0)
