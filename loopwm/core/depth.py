"""Depth rules: how many loops a state gets."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from loopwm.errors import UsageError


class AbstractDepthRule(eqx.Module):
    """Decides after each loop whether a state has had enough."""

    max_depth: eqx.AbstractVar[int]
    """Loops after which everything stops, at least 1."""
    forward_only: eqx.AbstractClassVar[bool]
    """Whether it runs as a while loop, which stops early but has no reverse-mode gradient."""

    @abc.abstractmethod
    def terminate(
        self,
        loops: Int[Array, ""],
        residual: Float[Array, ""],
        error_bound: Float[Array, ""],
    ) -> Bool[Array, ""]:
        """Whether to stop.

        Args:
            loops: loops done so far, scalar, at least 1.
            residual: ‖h_t − h_{t−1}‖ in the certified norm, scalar.
            error_bound: certified bound of ‖h_t − h*‖ in that norm, scalar.

        Returns:
            True once the state is to be kept as it is.
        """


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise UsageError(f"depth is {depth}; give at least 1 loop.")


def _check_tolerance(tolerance: float) -> None:
    if not tolerance > 0:
        raise UsageError(f"tolerance is {tolerance}; give a positive number.")


class FixedDepth(AbstractDepthRule):
    """The same number of loops for every state."""

    max_depth: int = eqx.field(static=True)
    forward_only: ClassVar[bool] = False

    def __check_init__(self):
        """Refuses a depth below 1."""
        _check_depth(self.max_depth)

    def terminate(self, loops, residual, error_bound):
        """Stops at the depth."""
        return loops >= self.max_depth


class SampledDepth(AbstractDepthRule):
    """A number of loops drawn beforehand, one per sequence; a batch may mix depths."""

    depth: Int[Array, ""]
    """Loops of this sequence, scalar in 1..max_depth."""
    max_depth: int = eqx.field(static=True)
    forward_only: ClassVar[bool] = False

    def __check_init__(self):
        """Refuses a limit below 1."""
        _check_depth(self.max_depth)

    def terminate(self, loops, residual, error_bound):
        """Stops at the drawn depth."""
        return loops >= self.depth


class ResidualHalting(AbstractDepthRule):
    """Stops when the residual is at most the tolerance; says nothing about the error by itself."""

    tolerance: float = eqx.field(static=True)
    max_depth: int = eqx.field(static=True, default=64)
    forward_only: ClassVar[bool] = True

    def __check_init__(self):
        """Refuses a limit below 1 and a tolerance that is not positive."""
        _check_depth(self.max_depth)
        _check_tolerance(self.tolerance)

    def terminate(self, loops, residual, error_bound):
        """Stops on a small residual."""
        return residual <= self.tolerance


class CertifiedHalting(AbstractDepthRule):
    """Stops when the certified bound of the distance to the fixed point is small enough."""

    tolerance: float = eqx.field(static=True)
    max_depth: int = eqx.field(static=True, default=256)
    forward_only: ClassVar[bool] = True

    def __check_init__(self):
        """Refuses a limit below 1 and a tolerance that is not positive."""
        _check_depth(self.max_depth)
        _check_tolerance(self.tolerance)

    def terminate(self, loops, residual, error_bound):
        """Stops on a small error bound."""
        return error_bound <= self.tolerance


def poisson_depth(
    key: PRNGKeyArray, mean: float, max_depth: int, shape: tuple[int, ...] = ()
) -> Int[Array, " *shape"]:
    """Depths T ~ Poisson(mean), clamped to 1..max_depth, one per sequence.

    Args:
        key: PRNG key.
        mean: μ of the distribution before clamping, positive.
        max_depth: largest depth.
        shape: shape of the result.

    Returns:
        Integers of that shape.

    Source: LoopWM (arXiv 2606.18208), training depth.
    """
    return jnp.clip(jax.random.poisson(key, mean, shape), 1, max_depth)
