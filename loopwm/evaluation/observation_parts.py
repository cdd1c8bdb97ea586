"""Encoded observations as people look at them: numbers over time, and frames."""

import colorsys
import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Real

from loopwm.envs import AbstractObservationCodec
from loopwm.envs.observations import (
    CompositeObservation,
    DiscreteObservation,
    MultiDiscreteObservation,
)

Rows = Real[np.ndarray, "steps size"]


@dataclasses.dataclass(frozen=True)
class Series:
    """A number over time."""

    name: str
    """Where it is found in an observation, such as o[2] or o['speed'][0]."""
    real: Float[np.ndarray, " steps"]
    """As it was, shape (steps,)."""
    imagined: Float[np.ndarray, " steps"]
    """As it was imagined, shape (steps,)."""


@dataclasses.dataclass(frozen=True)
class Frames:
    """An image or a grid over time, in red, green and blue from 0 to 1."""

    name: str
    """Where it is found in an observation."""
    real: Float[np.ndarray, "steps height width 3"]
    """As it was, shape (steps, height, width, 3)."""
    imagined: Float[np.ndarray, "steps height width 3"]
    """As it was imagined, shape (steps, height, width, 3)."""


def split(codec: AbstractObservationCodec, real: Rows, imagined: Rows) -> list[Series | Frames]:
    """Cuts encoded observations into what can be looked at.

    Images and grids become frames, everything else a series an entry; of one-hot entries it is the
    value, where imagined that with the largest entry. Dict and Tuple are cut into their parts.

    Args:
        codec: of the observations.
        real: encoded observations, shape (steps, size).
        imagined: the same as they were imagined.

    Returns:
        The series and frames in the order of the entries.
    """
    return [piece for piece in _pieces(codec, np.stack([real, imagined]).astype(np.float32), "o")]


def _pieces(
    codec: AbstractObservationCodec, rows: Float[np.ndarray, "2 steps size"], name: str
) -> Iterator[Series | Frames]:
    if isinstance(codec, CompositeObservation):
        ends = np.cumsum([part.size for part in codec.parts])[:-1]
        inside = zip(codec.names, codec.parts, np.split(rows, ends, axis=2), strict=True)
        for key, part, columns in inside:
            yield from _pieces(part, columns, f"{name}[{key!a}]")
        return
    grid, low, width = _grid(codec, rows)
    if grid.ndim in (4, 5) and min(grid.shape[2:4]) > 1:
        yield Frames(name, *_coloured(grid, low, width, image=codec.image))
        return
    for place in np.ndindex(grid.shape[2:]):
        index = "".join(f"[{i}]" for i in place)
        yield Series(f"{name}{index}", *grid[(slice(None), slice(None), *place)])


def _grid(
    codec: AbstractObservationCodec, rows: Float[np.ndarray, "2 steps size"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of shape (2, steps, *shape), and where they begin and how far they go."""
    if isinstance(codec, DiscreteObservation):
        values = codec.space.start + rows.argmax(axis=2).astype(np.float32)
        return values, np.zeros(()), np.ones(())
    if isinstance(codec, MultiDiscreteObservation):
        counts = codec.space.nvec.ravel()
        groups = np.split(rows, np.cumsum(counts)[:-1], axis=2)
        index = np.stack([group.argmax(axis=2) for group in groups], axis=2).astype(np.float32)
        shape, start = codec.space.shape, codec.space.start
        return index.reshape(*rows.shape[:2], *shape) + start, start, codec.space.nvec - 1.0
    shape = (rows.shape[2],) if codec.shape is None else codec.shape
    grid, scaling = rows.reshape(*rows.shape[:2], *shape), codec.scaling()
    if not scaling.running.any():
        return grid, scaling.offset.reshape(shape), scaling.width.reshape(shape)
    # Without narrow bounds the colours span what was seen.
    low = grid[0].min()
    return grid, np.full(shape, low), np.full(shape, grid[0].max() - low)


def _coloured(
    grid: Float[np.ndarray, "2 steps *shape"], low: np.ndarray, width: np.ndarray, *, image: bool
) -> Float[np.ndarray, "2 steps height width 3"]:
    """Grey for one channel, the colours of an image, and a hue for each channel of a grid.

    Of stacked frames the last one is shown.
    """
    with np.errstate(over="ignore"):
        shares = (grid - low) / np.where(width > 0, width, 1.0)
    shares = np.clip(np.nan_to_num(shares, nan=0.0), 0.0, 1.0).astype(np.float32)
    if shares.ndim == 4:
        shares = shares[..., None]
    channels = shares.shape[-1]
    if image and channels > 1:
        shares = shares[..., -3:] if channels % 3 == 0 else shares[..., -1:]
    elif channels > 1:
        hues = np.asarray([colorsys.hsv_to_rgb(i / channels, 1.0, 1.0) for i in range(channels)])
        shares = np.clip(shares @ hues, 0.0, 1.0)
    return np.broadcast_to(shares, (*shares.shape[:-1], 3)).copy()
