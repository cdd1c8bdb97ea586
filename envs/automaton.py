"""Elementary cellular automata on a ring: pairs of a row of cells and the row some steps later."""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from loopwm.errors import UsageError


@dataclasses.dataclass(frozen=True)
class AutomatonPairs:
    """Rows of cells and what becomes of them."""

    before: UInt8[np.ndarray, "count length"]
    """The rows, 0 or 1, shape (count, length)."""
    after: UInt8[np.ndarray, "count length"]
    """The rows after all steps, shape (count, length)."""


def advance(
    cells: UInt8[np.ndarray, "*batch length"], rule: int, steps: int = 1
) -> UInt8[np.ndarray, "*batch length"]:
    r"""Applies an elementary rule to rings of cells.

    $$x_i \leftarrow \text{bit } (4x_{i-1} + 2x_i + x_{i+1}) \text{ of the rule's number,}$$

    with indices modulo the length of the ring.

    Args:
        cells: rows of 0 and 1, shape (*batch, length).
        rule: number of the rule in Wolfram's code, 0 to 255.
        steps: how often it is applied, at least 0.

    Returns:
        The rows after that many steps, shape (*batch, length).

    Raises:
        UsageError: the rule or the number of steps is out of range, or a cell is neither 0 nor 1.

    Source: Wolfram 1983, "Statistical mechanics of cellular automata", Rev. Mod. Phys. 55, 601.
    """
    if not 0 <= rule <= 255:
        raise UsageError(f"The rule is {rule}; give a number from 0 to 255.")
    if steps < 0:
        raise UsageError(f"The number of steps is {steps}; give 0 or more.")
    if cells.size and cells.max() > 1:
        raise UsageError(f"A cell holds {cells.max()}; use 0 and 1 alone.")
    table = ((rule >> np.arange(8)) & 1).astype(np.uint8)
    for _ in range(steps):
        left, right = np.roll(cells, 1, axis=-1), np.roll(cells, -1, axis=-1)
        cells = table[4 * left + 2 * cells + right]
    return cells.copy() if steps == 0 else cells


def sample(
    rng: np.random.Generator, count: int, *, length: int = 24, rule: int = 110, steps: int = 4
) -> AutomatonPairs:
    """Draws rings of independent fair cells and advances them.

    Args:
        rng: where the cells are drawn from.
        count: number of pairs, at least 1.
        length: cells of a ring, at least 3.
        rule: number of the rule, 0 to 255.
        steps: how often it is applied, at least 0.

    Returns:
        The pairs.

    Raises:
        UsageError: a size, the rule or the number of steps is out of range.
    """
    if count < 1 or length < 3:
        raise UsageError(
            f"count is {count} and length {length}; give at least 1 pair and rings of at least 3 "
            "cells."
        )
    before = rng.integers(0, 2, size=(count, length), dtype=np.uint8)
    return AutomatonPairs(before=before, after=advance(before, rule, steps))
