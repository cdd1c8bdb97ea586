"""Codecs of observations."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from loopwm.envs.codec import (
    AbstractObservationCodec,
    Encoded,
    Scaling,
    has_parts,
    one_line,
    parts_of,
    unsupported,
)
from loopwm.errors import UsageError

# Grids with entries in a wider range are normalised by what is seen of it.
_WIDEST, _WIDEST_INTEGER = 2.0, 255.0

MOST_VALUES = 8192
"""Discrete spaces of more values, over all entries, are refused: observations are kept one-hot."""
_SMALLEST_SIDE, _MOST_FRAMES = 8, 16


def _is_batch(observation: Any, shape: tuple[int, ...]) -> bool:
    """By rank: the space's shape is one observation, one more axis is a batch."""
    array = np.asarray(observation)
    given = array.shape
    if array.dtype.kind not in "biuf":
        raise UsageError(
            f"The observation is of {array.dtype}, which holds no numbers; pass one of numbers."
        )
    if given == shape:
        return False
    if given[1:] == shape and len(given) == len(shape) + 1 and given[0] > 0:
        return True
    raise UsageError(
        f"The observation has shape {given}, but the agent was made for {shape}; pass one "
        "observation of that shape or a batch of them."
    )


@dataclasses.dataclass(frozen=True, eq=False)
class BoxObservation(AbstractObservationCodec):
    """Box observations of any rank, flattened.

    Vectors are normalised by running statistics. Those of rank 2 or more are grids or images,
    whose cells a model treats alike: they are scaled to [0, 1] by the bounds of the box, unless
    these are wide (over 2, over 255 for integers). Those of uint8 stay so until a model sees them.

    Images are uint8 of (height, width, channels). Frames in grey, stacks of frames and channels in
    front are brought into that order, with the frames among the channels: shapes (height, width)
    from 16 pixels on, (frames, height, width) and (frames, height, width, channels).
    """

    space: gym.spaces.Box

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.space.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the space, or (height, width, channels)."""
        order, shape = self._order, self.space.shape
        if order is None:
            return shape
        height, width, *rest = (shape[axis] for axis in order)
        return height, width, math.prod(rest)

    @property
    def image(self) -> bool:
        """Whether it holds (height, width, channels) of uint8."""
        return self._order is not None

    @functools.cached_property
    def _order(self) -> tuple[int, ...] | None:
        """Axes in the order height, width, and all others, where it is an image."""
        return _image_order(self.space.shape) if self.space.dtype == np.uint8 else None

    def _flat(self, batch: np.ndarray) -> np.ndarray:
        """Rows with the entries in the order of `shape`."""
        order = self._order
        if order is not None and order != tuple(range(len(order))):
            batch = np.transpose(batch, (0, *(1 + axis for axis in order)))
        return batch.reshape(batch.shape[0], -1)

    @property
    def dtype(self) -> type[np.float32] | type[np.uint8]:
        """uint8 for grids and images of it."""
        return np.uint8 if self._is_grid() and self.space.dtype == np.uint8 else np.float32

    def _is_grid(self) -> bool:
        return len(self.space.shape) >= 2

    def scaling(self) -> Scaling:
        """By running statistics, or by the bounds of a grid."""
        low, high = self._flat(np.stack([self.space.low, self.space.high])).astype(np.float64)
        with np.errstate(over="ignore"):
            width = high - low
        integer = np.issubdtype(self.space.dtype, np.integer)
        widest = _WIDEST_INTEGER if integer else _WIDEST
        if not self._is_grid() or not np.all(width <= widest):
            return Scaling.plain(self.size, running=True)
        return Scaling(np.zeros(self.size, bool), low, np.where(width > 0, width, 1.0))

    def batch(self, observations: Sequence[Any]) -> np.ndarray:
        """Stacks them."""
        return np.stack([np.asarray(one) for one in observations])

    def is_batch(self, observation: Any) -> bool:
        """By rank: the space's shape is one observation, one more axis is a batch."""
        return _is_batch(observation, self.space.shape)

    def encode(self, batch: Any) -> Encoded:
        """Flattens; to float32 unless the entries are kept in uint8."""
        array = np.asarray(batch)
        if self.dtype is np.uint8 and array.dtype != np.uint8:
            if array.size and not np.array_equal(array, np.clip(np.rint(array), 0, 255)):
                raise UsageError(
                    f"The observation holds numbers that are none of 0 to 255, but the space is "
                    f"{one_line(self.space)}; pass observations of that space, not scaled."
                )
        return self._flat(array).astype(self.dtype)


def _image_order(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Axes of height, width and of what else there is; None where the shape is no image's."""
    rank = len(shape)
    if rank == 2:
        return (0, 1) if min(shape) >= 2 * _SMALLEST_SIDE else None
    if rank not in (3, 4):
        return None
    frames, side = shape[0], min(shape[1:3])
    framed = frames <= _MOST_FRAMES and frames < side and side >= _SMALLEST_SIDE
    if rank == 3:
        return (1, 2, 0) if framed else (0, 1, 2)
    return (1, 2, 0, 3) if framed and shape[3] <= 4 else None


@dataclasses.dataclass(frozen=True, eq=False)
class DiscreteObservation(AbstractObservationCodec):
    """Discrete observations, one-hot."""

    space: gym.spaces.Discrete

    @property
    def size(self) -> int:
        """Number of values."""
        return int(self.space.n)

    @property
    def shape(self) -> None:
        """None: values have no order."""
        return None

    def scaling(self) -> Scaling:
        """None is needed."""
        return Scaling.plain(self.size, running=False)

    def batch(self, observations: Sequence[Any]) -> np.ndarray:
        """Stacks them."""
        return np.stack([np.asarray(one) for one in observations])

    def is_batch(self, observation: Any) -> bool:
        """By rank: a scalar is one observation, a vector a batch."""
        array = np.asarray(observation)
        rank = array.ndim
        if rank > 1 or not np.issubdtype(array.dtype, np.integer):
            raise UsageError(
                f"The observation has {rank} axes of {array.dtype}, but the space is {self.space}; "
                "pass one integer or a vector of them."
            )
        return rank == 1

    def encode(self, batch: Any) -> Float[np.ndarray, "batch size"]:
        """One-hot rows; a value outside the space is a `UsageError`."""
        index = np.asarray(batch).astype(np.int64) - int(self.space.start)
        if np.any((index < 0) | (index >= self.size)):
            raise _outside(self.space)
        return (index[:, None] == np.arange(self.size)).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class MultiDiscreteObservation(AbstractObservationCodec):
    """Arrays of discrete values: each entry one-hot, one entry behind the other.

    Entries with the same number of values make a grid with that many channels.
    """

    space: gym.spaces.MultiDiscrete

    @property
    def size(self) -> int:
        """Numbers of values, summed."""
        return int(np.sum(self.space.nvec))

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The space's, and an axis of values; None where entries differ in their number."""
        counts = np.unique(self.space.nvec)
        return (*self.space.shape, int(counts[0])) if len(counts) == 1 else None

    def scaling(self) -> Scaling:
        """None is needed."""
        return Scaling.plain(self.size, running=False)

    def batch(self, observations: Sequence[Any]) -> np.ndarray:
        """Stacks them."""
        return np.stack([np.asarray(one) for one in observations])

    def is_batch(self, observation: Any) -> bool:
        """By rank: the space's shape is one observation, one more axis is a batch."""
        return _is_batch(observation, self.space.shape)

    def encode(self, batch: Any) -> Float[np.ndarray, "batch size"]:
        """One-hot entries; a value outside the space is a `UsageError`."""
        array = np.asarray(batch)
        counts = np.asarray(self.space.nvec, np.int64).reshape(-1)
        # NumPy makes floats of the difference of int64 and uint64.
        start = self.space.start.reshape(-1).astype(np.int64)
        index = array.reshape(len(array), -1).astype(np.int64) - start
        if np.any((index < 0) | (index >= counts)):
            raise _outside(self.space)
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        encoded = np.zeros((len(array), self.size), np.float32)
        np.put_along_axis(encoded, first + index, 1.0, axis=1)
        return encoded


@dataclasses.dataclass(frozen=True, eq=False)
class MultiBinaryObservation(AbstractObservationCodec):
    """Arrays of 0 and 1, flattened."""

    space: gym.spaces.MultiBinary

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.space.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the space."""
        return self.space.shape

    def scaling(self) -> Scaling:
        """None is needed."""
        return Scaling.plain(self.size, running=False)

    def batch(self, observations: Sequence[Any]) -> np.ndarray:
        """Stacks them."""
        return np.stack([np.asarray(one) for one in observations])

    def is_batch(self, observation: Any) -> bool:
        """By rank: the space's shape is one observation, one more axis is a batch."""
        return _is_batch(observation, self.space.shape)

    def encode(self, batch: Any) -> Float[np.ndarray, "batch size"]:
        """Flattens to float32; a value other than 0 and 1 is a `UsageError`."""
        array = np.asarray(batch)
        if not np.all((array == 0) | (array == 1)):
            raise _outside(self.space)
        return array.reshape(array.shape[0], -1).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class CompositeObservation(AbstractObservationCodec):
    """Dict and Tuple observations: the encoded parts, one behind the other."""

    space: gym.Space
    names: tuple[Any, ...]
    """Keys of the parts, or their places."""
    parts: tuple[AbstractObservationCodec, ...]
    """Their codecs, in the same order."""

    @property
    def size(self) -> int:
        """Sizes of the parts, summed."""
        return sum(part.size for part in self.parts)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """That of the only part; None where there are more."""
        return self.parts[0].shape if len(self.parts) == 1 else None

    @property
    def image(self) -> bool:
        """Whether the only part is an image."""
        return len(self.parts) == 1 and self.parts[0].image

    @property
    def dtype(self) -> type[np.float32] | type[np.uint8]:
        """uint8 if all parts are."""
        return np.uint8 if all(part.dtype is np.uint8 for part in self.parts) else np.float32

    def scaling(self) -> Scaling:
        """Those of the parts."""
        return Scaling.joined([part.scaling() for part in self.parts])

    def batch(self, observations: Sequence[Any]) -> dict[Any, Any] | tuple[Any, ...]:
        """Batches of the parts under their keys, or in their places."""
        batches = [
            part.batch([one[name] for one in observations])
            for name, part in zip(self.names, self.parts, strict=True)
        ]
        if isinstance(self.space, gym.spaces.Dict):
            return dict(zip(self.names, batches, strict=True))
        return tuple(batches)

    def is_batch(self, observation: Any) -> bool:
        """Whether all parts are batches; a `UsageError` where they disagree or one is missing."""
        keyed = isinstance(self.space, gym.spaces.Dict)
        if not has_parts(self.space, observation):
            expected = "a mapping with the keys" if keyed else "a tuple with the places"
            raise UsageError(
                f"The observation is not {expected} {', '.join(map(str, self.names))}; pass one of "
                "the environment's observation_space."
            )
        batched = {
            part.is_batch(observation[name])
            for name, part in zip(self.names, self.parts, strict=True)
        }
        if len(batched) > 1:
            raise UsageError(
                "Some parts of the observation are one observation and others a batch; pass one "
                "observation or a batch of them."
            )
        return batched.pop()

    def encode(self, batch: Any) -> Encoded:
        """The encoded parts side by side, shape (batch, size)."""
        parts = [
            part.encode(batch[name]) for name, part in zip(self.names, self.parts, strict=True)
        ]
        return np.concatenate(parts, axis=1)


OBSERVATION_CODECS: dict[type[gym.Space], Callable[[Any], AbstractObservationCodec]] = {
    gym.spaces.Box: BoxObservation,
    gym.spaces.Discrete: DiscreteObservation,
    gym.spaces.MultiDiscrete: MultiDiscreteObservation,
    gym.spaces.MultiBinary: MultiBinaryObservation,
}
"""Codec of each supported observation space without parts; a further one is a class and a line."""


def observation_codec(space: gym.Space, path: str = "") -> AbstractObservationCodec:
    """The codec of an observation space.

    Args:
        space: the space; the parts of Dict and Tuple are looked up in turn.
        path: where the space is found inside another one, for messages.

    Raises:
        UsageError: there is none; the sentence names the space, and where it is.
    """
    what = f"The observation space {one_line(space)}{f' at {path}' if path else ''}"
    values = space.n if isinstance(space, gym.spaces.Discrete) else 0
    if isinstance(space, gym.spaces.MultiDiscrete):
        values = np.sum(space.nvec, dtype=object)
    if values > MOST_VALUES:
        raise UsageError(
            f"{what} has {values} values, more than the {MOST_VALUES} that are kept one-hot; use "
            "gymnasium.wrappers.TransformObservation(env, f, space) with a smaller space or a Box."
        )
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        inside = parts_of(space)
        parts = tuple(observation_codec(part, f"{path}[{n!r}]") for n, part in inside.items())
        codec = CompositeObservation(space, tuple(inside), parts)
    else:
        made = (make for kind, make in OBSERVATION_CODECS.items() if isinstance(space, kind))
        make = next(made, None)
        if make is None:
            known = OBSERVATION_CODECS | {gym.spaces.Dict: None, gym.spaces.Tuple: None}
            raise unsupported(what, known)
        codec = make(space)
    if codec.size == 0:
        raise UsageError(f"{what} is empty, so there is nothing to see; give it an entry.")
    return codec


def _outside(space: gym.Space) -> UsageError:
    return UsageError(
        f"An observation lies outside {one_line(space)}; correct the environment's "
        "observation_space."
    )
