"""A residual layer without a cap: for cores that are bounded, or guarantee nothing."""

import abc

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from loopwm.nn.lipschitz import AbstractLipschitz
from loopwm.stability import UpperBound, chain, exact_norm, residual


class AbstractResidual(AbstractLipschitz):
    """A layer y⁺ = y + f(y, e) without a cap."""

    @abc.abstractmethod
    def inject(self, e: Float[Array, "*input"]) -> Float[Array, "*hidden"]:
        """What the layer needs of the input e: constant inside the loop, so computed once."""

    @abc.abstractmethod
    def branch(
        self, y: Float[Array, "*state"], injected: Float[Array, "*hidden"]
    ) -> Float[Array, "*state"]:
        """f(y, e), of y's shape."""

    def __call__(
        self, y: Float[Array, "*state"], injected: Float[Array, "*hidden"]
    ) -> Float[Array, "*state"]:
        """y + f(y, e), of y's shape."""
        return y + self.branch(y, injected)


class ResidualLayer(AbstractResidual):
    r"""Residual MLP layer with input injection: $y^+ = y + V \varphi(W y + U e + b)$, φ = ReLU.

    Its constant is $1 + \|V\|_2 \|W\|_2$ at most, which training is free to raise.
    """

    weight: Float[Array, "hidden width"]
    """W, shape (hidden, width)."""
    readout: Float[Array, "width hidden"]
    """V, shape (width, hidden)."""
    injection: Float[Array, "hidden inputs"]
    """U, shape (hidden, inputs)."""
    bias: Float[Array, " hidden"]
    """b, shape (hidden,)."""

    def __init__(self, width: int, hidden: int, inputs: int, *, key: PRNGKeyArray):
        """Starts from Gaussian weights of variance 1/inputs of each matrix, b at zero.

        Args:
            width: size of y.
            hidden: rows of W.
            inputs: size of e.
            key: PRNG key.
        """
        key_weight, key_readout, key_injection = jax.random.split(key, 3)
        self.weight = jax.random.normal(key_weight, (hidden, width)) / np.sqrt(width)
        self.readout = jax.random.normal(key_readout, (width, hidden)) / np.sqrt(hidden)
        self.injection = jax.random.normal(key_injection, (hidden, inputs)) / np.sqrt(inputs)
        self.bias = jnp.zeros(hidden)

    def inject(self, e: Float[Array, " inputs"]) -> Float[Array, " hidden"]:
        """U e + b, shape (hidden,): constant inside the loop, so computed once."""
        return self.injection @ e + self.bias

    def branch(
        self, y: Float[Array, " width"], injected: Float[Array, " hidden"]
    ) -> Float[Array, " width"]:
        """V φ(W y + U e + b), shape (width,)."""
        return self.readout @ jax.nn.relu(self.weight @ y + injected)

    def lipschitz(self) -> UpperBound:
        """1 + ‖V‖₂‖W‖₂."""
        return residual(
            chain(exact_norm(np.asarray(self.weight)), exact_norm(np.asarray(self.readout)))
        )


def rms_normalised(
    y: Float[Array, "*cells width"], epsilon: float = 1e-6
) -> Float[Array, "*cells width"]:
    r"""$y / \sqrt{\mathrm{mean}(y^2) + \varepsilon}$ of each cell's channels.

    Its constant near 0 is $1/\sqrt\varepsilon$.

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization" (arXiv 1910.07467).
    """
    return y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + epsilon)
