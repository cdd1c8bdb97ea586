"""The retention ā: what a loop keeps of each entry of its state."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from loopwm.core.cells import each_cell
from loopwm.errors import UsageError

Retention = eqx.nn.Linear | Float[Array, " channels"]
"""Logits of ā: a linear map of the input at every cell, or one number for each channel."""


def gated(
    retention: Retention, e: Float[Array, "*cells inputs"], low: float, high: float
) -> Float[Array, "*cells channels"]:
    """ā in [low, high] at every cell and channel.

    Args:
        retention: the logits.
        e: input of shape (*cells, inputs); without cells for a vector.
        low: smallest ā.
        high: largest ā.

    Returns:
        ā of shape (*cells, channels).
    """
    if isinstance(retention, eqx.nn.Linear):
        logits = each_cell(retention, e)
    else:
        logits = jnp.broadcast_to(retention, (*e.shape[:-1], retention.size))
    kept = low + (high - low) * jax.nn.sigmoid(logits)
    return jnp.clip(kept, low, high)  # rounding may step over an end


def rounded_up(number: float) -> float:
    """The larger of a number and its float32 form: loops compute with either, by their type."""
    return max(number, float(np.float32(number)))


def rounded_down(number: float) -> float:
    """The smaller of a number and its float32 form."""
    return min(number, float(np.float32(number)))


def check_gamma(name: str, gamma: float) -> None:
    """Raises UsageError unless γ is between 0 and 1 as a float32 number, in which loops run."""
    # 1 − 1e-9 is 1 there.
    if not 0.0 < np.float32(gamma) < 1.0:
        raise UsageError(
            f"{name} is {gamma}; give a value between 0 and 1, as a contraction needs."
        )


def check_retention(names: str, low: float, high: float) -> None:
    """Raises UsageError unless the two are in order between 0 and 1, as float32 numbers."""
    if not 0.0 < np.float32(low) < np.float32(high) < 1.0:
        raise UsageError(
            f"{names} are {low} and {high}; give 0 < retention_min < retention_max < 1."
        )
