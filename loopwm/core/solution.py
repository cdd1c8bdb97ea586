"""What an iteration returns."""

from typing import Generic, TypeVar

import equinox as eqx
from jaxtyping import Array, Float, Int

Value = TypeVar("Value")


class RESULTS(eqx.Enumeration):
    """How an iteration ended; each value is a sentence."""

    successful = "The depth rule was met."
    max_depth_reached = (
        "The depth rule was not met within the largest depth; raise max_depth or the tolerance."
    )
    nonfinite = "The latent state became NaN or infinite inside the loop; check the inputs."


class LoopStats(eqx.Module):
    """Telemetry of one state's loops."""

    loops: Int[Array, ""]
    """Loops used, scalar."""
    residual: Float[Array, ""]
    """‖h_T − h_{T−1}‖ in the update's norm, scalar."""
    error_bound: Float[Array, ""]
    """Certified upper bound of ‖h_T − h*‖ in that norm, rounding included; inf if uncertified."""


class Solution(eqx.Module, Generic[Value]):
    """A value, how it came about, and how it went."""

    value: Value
    result: RESULTS
    stats: LoopStats
