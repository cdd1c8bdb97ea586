"""Pictures of environments: grids of tiles, and chains of rods, in colour or in characters."""

import dataclasses
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
from jaxtyping import Float, Int, UInt8

CELL = 16
"""Pixels on a side of a grid's cell."""
CANVAS = 256
"""Pixels on a side of a picture of rods."""
PAPER = (21, 41)
"""Lines and columns of a text picture of rods; a character is about twice as high as wide."""


@dataclasses.dataclass(frozen=True)
class Tile:
    """How one kind of cell looks."""

    glyph: str
    """One character."""
    colour: tuple[int, int, int]
    """Red, green and blue, 0 to 255."""


def draw_grid(
    mode: str | None, kinds: Int[np.ndarray, "height width"], tiles: Sequence[Tile]
) -> UInt8[np.ndarray, "rows columns 3"] | str | None:
    """Draws a grid of tiles.

    Args:
        mode: `rgb_array`, `ansi`, or None.
        kinds: which tile each cell shows, shape (height, width).
        tiles: the tiles.

    Returns:
        For `rgb_array` pixels of shape (16·height, 16·width, 3); for `ansi` one line of characters
        a row; for None nothing, with a warning that says how to ask for a picture.
    """
    if mode == "ansi":
        glyphs = np.array([tile.glyph for tile in tiles])
        return "\n".join("".join(row) for row in glyphs[kinds]) + "\n"
    if mode == "rgb_array":
        colours = np.array([tile.colour for tile in tiles], np.uint8)
        pixels = colours[kinds].repeat(CELL, axis=0).repeat(CELL, axis=1)
        pixels[CELL - 1 :: CELL] //= 2
        pixels[:, CELL - 1 :: CELL] //= 2
        return pixels
    return _nothing()


def draw_rods(
    mode: str | None, joints: Float[np.ndarray, "joints 2"]
) -> UInt8[np.ndarray, "rows columns 3"] | str | None:
    """Draws straight rods from joint to joint, and a bob at each joint but the first.

    Args:
        mode: `rgb_array`, `ansi`, or None.
        joints: places (right, up) in [−1, 1], shape (joints, 2).

    Returns:
        As `draw_grid`: 256×256 pixels, or 21 lines of 41 characters.
    """
    if mode is None:
        return _nothing()
    share = np.linspace(0.0, 1.0, 2 * CANVAS)[:, None]
    rods = np.concatenate(
        [(1 - share) * a + share * b for a, b in zip(joints[:-1], joints[1:], strict=True)]
    )
    if mode == "ansi":
        paper = np.full(PAPER, ".")
        paper[_places(rods, PAPER)] = "*"
        paper[_places(joints, PAPER)] = "O"
        paper[_places(joints[:1], PAPER)] = "+"
        return "\n".join("".join(row) for row in paper) + "\n"
    pixels = np.full((CANVAS, CANVAS, 3), 255, np.uint8)
    _stamp(pixels, rods, 2, (90, 90, 90))
    _stamp(pixels, joints, 6, (200, 60, 40))
    _stamp(pixels, joints[:1], 4, (0, 0, 0))
    return pixels


def _places(points: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each point; a margin of a twentieth stays free on every side."""
    right, up = 0.95 * points.T
    row = np.rint(0.5 * (1.0 - up) * (shape[0] - 1)).astype(int)
    return row, np.rint(0.5 * (1.0 + right) * (shape[1] - 1)).astype(int)


def _stamp(
    pixels: np.ndarray, points: np.ndarray, radius: int, colour: tuple[int, int, int]
) -> None:
    """Draws a disc around each point."""
    offset = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1)
    offset = offset[:, (offset**2).sum(axis=0) <= radius**2]
    row, column = _places(points, (CANVAS, CANVAS))
    rows = np.clip(row[:, None] + offset[0], 0, CANVAS - 1)
    pixels[rows, np.clip(column[:, None] + offset[1], 0, CANVAS - 1)] = colour


def _nothing() -> None:
    gym.logger.warn(
        "render() draws nothing without a render_mode; pass render_mode='rgb_array' or 'ansi' to "
        "gymnasium.make."
    )
