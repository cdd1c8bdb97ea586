"""Depth rules: how many loops a state gets."""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from loopwm.core.view import LoopView
from loopwm.errors import UsageError


class AbstractDepthRule(eqx.Module):
    """Decides after each loop whether a state has had enough."""

    max_depth: eqx.AbstractVar[int]
    """Loops after which everything stops, at least 1."""
    patience: eqx.AbstractVar[int]
    """Consecutive loops at which the condition has to hold, at least 1."""
    forward_only: eqx.AbstractClassVar[bool]
    """Whether it runs as a while loop, which stops early but cannot be differentiated in reverse
    loop by loop."""

    @abc.abstractmethod
    def terminate(self, view: LoopView) -> Bool[Array, ""]:
        """Whether the condition for stopping holds at this loop.

        Args:
            view: the state after the loop and what can be measured of it.

        Returns:
            True where it does; with it true for `patience` loops, the state is kept as it is.
        """


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise UsageError(f"depth is {depth}; give at least 1 loop.")


def _check_tolerance(tolerance: float) -> None:
    if not 0 < tolerance < math.inf:
        raise UsageError(f"tolerance is {tolerance}; give a positive number.")


def _check_patience(patience: int) -> None:
    if patience < 1:
        raise UsageError(f"patience is {patience}; give at least 1 loop.")


class FixedDepth(AbstractDepthRule):
    """The same number of loops for every state."""

    max_depth: int = eqx.field(static=True)
    patience: ClassVar[int] = 1
    forward_only: ClassVar[bool] = False

    def __check_init__(self):
        """Refuses a depth below 1."""
        _check_depth(self.max_depth)

    def terminate(self, view):
        """Stops at the depth."""
        return view.loops >= self.max_depth


class SampledDepth(AbstractDepthRule):
    """A number of loops drawn beforehand, one per sequence; a batch may mix depths."""

    depth: Int[Array, ""]
    """Loops of this sequence, scalar in 1..max_depth."""
    max_depth: int = eqx.field(static=True)
    patience: ClassVar[int] = 1
    forward_only: ClassVar[bool] = False

    def __check_init__(self):
        """Refuses a limit below 1."""
        _check_depth(self.max_depth)

    def terminate(self, view):
        """Stops at the drawn depth."""
        return view.loops >= self.depth


class ResidualHalting(AbstractDepthRule):
    """Stops when the residual is at most the tolerance; says nothing about the error by itself."""

    tolerance: float = eqx.field(static=True)
    """Largest residual ‖h_t − h_{t−1}‖ in the update's norm, positive."""
    max_depth: int = eqx.field(static=True, default=64)
    patience: int = eqx.field(static=True, default=1)
    forward_only: ClassVar[bool] = True

    def __check_init__(self):
        """Refuses limits below 1 and a tolerance that is not positive."""
        _check_depth(self.max_depth)
        _check_patience(self.patience)
        _check_tolerance(self.tolerance)

    def terminate(self, view):
        """Stops on a small residual."""
        return view.residual <= self.tolerance


class CertifiedHalting(AbstractDepthRule):
    """Stops when the certified bound of the distance to the fixed point is small enough.

    It never does where the update is not certified to contract: the bound is infinite there.
    """

    tolerance: float = eqx.field(static=True)
    """Largest certified bound of ‖h_t − h*‖ in the update's norm, positive."""
    max_depth: int = eqx.field(static=True, default=256)
    patience: ClassVar[int] = 1
    forward_only: ClassVar[bool] = True

    def __check_init__(self):
        """Refuses a limit below 1 and a tolerance that is not positive."""
        _check_depth(self.max_depth)
        _check_tolerance(self.tolerance)

    def terminate(self, view):
        """Stops on a small error bound."""
        return view.error_bound <= self.tolerance


class SecondDifferenceHalting(AbstractDepthRule):
    r"""Stops when the state moves on in equal steps: $\|h_t - 2h_{t-1} + h_{t-2}\| \le$ tolerance.

    It says nothing about the error: a state that moves at constant speed meets it too.

    Source: LoopWM (arXiv 2606.18208), the exit criterion without weights.
    """

    tolerance: float = eqx.field(static=True)
    """Largest second difference in the update's norm, positive; there is none before loop 2."""
    max_depth: int = eqx.field(static=True, default=64)
    patience: int = eqx.field(static=True, default=1)
    forward_only: ClassVar[bool] = True

    def __check_init__(self):
        """Refuses limits below 1 and a tolerance that is not positive."""
        _check_depth(self.max_depth)
        _check_patience(self.patience)
        _check_tolerance(self.tolerance)

    def terminate(self, view):
        """Stops on a small second difference."""
        return view.second_difference <= self.tolerance


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
