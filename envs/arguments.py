"""Checks of the numbers and choices that our own environments take."""

import numbers
from typing import Any

from loopwm.errors import UsageError, as_clause


def whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """A whole number of a range, its ends included.

    Args:
        name: what it is called in the message.
        value: what was given.
        low: smallest that is accepted.
        high: largest that is accepted; None for no limit.

    Returns:
        The number as a Python int.

    Raises:
        UsageError: it is no whole number, or out of range.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        number = int(value)
        if low <= number and (high is None or number <= high):
            return number
    wanted = f"of at least {low}" if high is None else f"from {low} to {high}"
    raise UsageError(f"{name} is {as_clause(value)}; give a whole number {wanted}.")


def real(name: str, value: Any, low: float, high: float) -> float:
    """A finite number of a range, its ends included.

    Args:
        name: what it is called in the message.
        value: what was given.
        low: smallest that is accepted.
        high: largest that is accepted.

    Returns:
        The number as a Python float.

    Raises:
        UsageError: it is no number, NaN, or out of range.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = float(value)
        if low <= number <= high:
            return number
    raise UsageError(f"{name} is {as_clause(value)}; give a number from {low:g} to {high:g}.")


def sides(size: Any) -> tuple[int, int]:
    """Height and width of a grid, at least 2 each.

    Args:
        size: one number for a square, or (height, width).

    Returns:
        Height and width.

    Raises:
        UsageError: it is neither, or a side is below 2.
    """
    if isinstance(size, tuple | list):
        if len(size) != 2:
            raise UsageError(
                f"size has {len(size)} entries; give one number for a square, or height and width."
            )
        return whole("The height", size[0], 2), whole("The width", size[1], 2)
    side = whole("size", size, 2)
    return side, side


def chosen(action: Any, count: int) -> int:
    """A discrete action, 0 to count − 1; anything else is a `UsageError`."""
    return whole("The action", action, 0, count - 1)


def drawn_as(mode: str | None, metadata: dict[str, Any]) -> str | None:
    """A render mode that the environment has, or None; anything else is a `UsageError`."""
    modes = metadata["render_modes"]
    if mode is not None and mode not in modes:
        raise UsageError(f"render_mode is {mode!r}; use {' or '.join(map(repr, modes))}, or None.")
    return mode
