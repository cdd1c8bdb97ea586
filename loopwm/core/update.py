"""The inner update: one loop, and what is certified about it."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class AbstractUpdate(eqx.Module):
    """A map h → h⁺ with its input bound, and what is certified about it."""

    @abc.abstractmethod
    def __call__(self, h: Float[Array, "*state"]) -> Float[Array, "*state"]:
        """One loop: h to h⁺, arrays of the state's shape."""

    @abc.abstractmethod
    def start(self) -> Float[Array, "*state"]:
        """h_0, the state before the first loop."""

    @abc.abstractmethod
    def norm(self, x: Float[Array, "*state"]) -> Float[Array, ""]:
        """The norm in which the update contracts, of an array of the state's shape."""

    @abc.abstractmethod
    def rate(self) -> Float[Array, ""]:
        """ρ, a bound of the contraction rate in `norm`; 1 or more means uncertified."""

    @abc.abstractmethod
    def rounding(self, h: Float[Array, "*state"]) -> Float[Array, ""]:
        """η, a bound in `norm` of the rounding error made by one application at h."""

    def error_bound(self, residual: Float[Array, ""], eta: Float[Array, ""]) -> Float[Array, ""]:
        r"""A-posteriori bound of the distance to the fixed point.

        $$\|h_t - h^*\| \le \frac{\rho}{1-\rho}\|h_t - h_{t-1}\| + \frac{\eta}{1-\rho}.$$

        Args:
            residual: ‖h_t − h_{t−1}‖ in `norm`, scalar.
            eta: rounding of the last loop from `rounding(h_{t−1})`, scalar.

        Returns:
            The bound, scalar; infinite where the rate is not below 1.
        """
        rate = self.rate()
        gap = jnp.where(rate < 1.0, 1.0 - rate, 1.0)
        return jnp.where(rate < 1.0, (rate * residual + eta) / gap, jnp.inf)
