"""Codecs between Gymnasium spaces and the vectors that models see."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from loopwm.errors import UsageError


class AbstractObservationCodec(abc.ABC):
    """Turns raw observations into float32 vectors."""

    size: int
    """Length of the vector."""
    normalise: bool
    """Whether running normalisation makes sense for the entries."""

    @abc.abstractmethod
    def is_batch(self, observation: Any) -> bool:
        """Whether it is a batch of observations; a `UsageError` says so where it is neither."""

    @abc.abstractmethod
    def encode(self, batch: Any) -> Float[np.ndarray, "batch size"]:
        """Encodes a batch of raw observations to shape (batch, size)."""


class AbstractActionCodec(abc.ABC):
    """Turns encoded actions into raw ones and back."""

    size: int
    """Length of an encoded action u."""
    discrete: bool
    """Whether u is one-hot; otherwise u is in [−1, 1]."""

    @abc.abstractmethod
    def encode(self, batch: Any) -> Float[np.ndarray, "batch size"]:
        """Encodes a batch of raw actions to shape (batch, size)."""

    @abc.abstractmethod
    def decode(self, batch: Float[np.ndarray, "batch size"]) -> np.ndarray:
        """Raw actions of a batch of encoded ones, in the dtype of the space."""


@dataclasses.dataclass(frozen=True, eq=False)
class BoxObservation(AbstractObservationCodec):
    """Box observations of any rank, flattened."""

    space: gym.spaces.Box
    normalise: bool = True

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.space.shape))

    def is_batch(self, observation: Any) -> bool:
        """By rank: the space's shape is one observation, one more axis is a batch."""
        shape = np.shape(observation)
        if shape == self.space.shape:
            return False
        if shape[1:] == self.space.shape and len(shape) == len(self.space.shape) + 1:
            return True
        raise UsageError(
            f"The observation has shape {shape}, but the agent was made for {self.space.shape}; "
            "pass one observation of that shape or a batch of them."
        )

    def encode(self, batch: Any) -> Float[np.ndarray, "batch size"]:
        """Flattens to float32."""
        array = np.asarray(batch)
        return array.reshape(array.shape[0], -1).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class DiscreteObservation(AbstractObservationCodec):
    """Discrete observations, one-hot."""

    space: gym.spaces.Discrete
    normalise: bool = False

    @property
    def size(self) -> int:
        """Number of values."""
        return int(self.space.n)

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
            raise UsageError(
                f"An observation lies outside {self.space}; correct the environment's "
                "observation_space."
            )
        return np.eye(self.size, dtype=np.float32)[index]


@dataclasses.dataclass(frozen=True, eq=False)
class BoxAction(AbstractActionCodec):
    """Box actions with finite bounds, mapped from [−1, 1] entry by entry."""

    space: gym.spaces.Box
    discrete: bool = False

    def __post_init__(self):
        """Refuses bounds that are not finite."""
        if not self.space.is_bounded("both"):
            raise UsageError(
                f"The action space {_one_line(self.space)} has infinite bounds, which cannot be "
                "scaled, and only Box with finite bounds and Discrete are supported: give it "
                "finite bounds with gymnasium.wrappers.TransformAction."
            )

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.space.shape))

    def _range(self) -> tuple[np.ndarray, np.ndarray]:
        low = self.space.low.astype(np.float64).reshape(-1)
        high = self.space.high.astype(np.float64).reshape(-1)
        return low, high

    def encode(self, batch: Any) -> Float[np.ndarray, "batch size"]:
        """Maps [low, high] to [−1, 1]; an entry whose bounds coincide becomes 0."""
        low, high = self._range()
        array = np.asarray(batch, np.float64).reshape(len(batch), -1)
        middle, half = 0.5 * low + 0.5 * high, 0.5 * high - 0.5 * low
        return ((array - middle) / np.where(half > 0, half, 1.0)).astype(np.float32)

    def decode(self, batch: Float[np.ndarray, "batch size"]) -> np.ndarray:
        """Maps [−1, 1] to [low, high]; integer boxes are rounded."""
        low, high = self._range()
        share = 0.5 + 0.5 * np.clip(batch, -1.0, 1.0).astype(np.float64)
        raw = (1.0 - share) * low + share * high
        if np.issubdtype(self.space.dtype, np.integer):
            raw = np.rint(raw)
        # The bounds themselves are taken from the space: large integers do not survive float64.
        bounds = (self.space.low.reshape(-1), self.space.high.reshape(-1))
        result = np.where(share > 0.5, bounds[1], bounds[0])
        inside = (raw > low) & (raw < high)
        result[inside] = raw[inside].astype(self.space.dtype)
        return result.reshape(len(batch), *self.space.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class DiscreteAction(AbstractActionCodec):
    """Discrete actions, one-hot."""

    space: gym.spaces.Discrete
    discrete: bool = True

    @property
    def size(self) -> int:
        """Number of actions."""
        return int(self.space.n)

    def encode(self, batch: Any) -> Float[np.ndarray, "batch size"]:
        """One-hot rows."""
        return np.eye(self.size, dtype=np.float32)[np.asarray(batch) - int(self.space.start)]

    def decode(self, batch: Float[np.ndarray, "batch size"]) -> np.ndarray:
        """The largest entry's action."""
        return (np.argmax(batch, axis=-1) + int(self.space.start)).astype(self.space.dtype)


OBSERVATION_CODECS: dict[type[gym.Space], Callable[[Any], AbstractObservationCodec]] = {
    gym.spaces.Box: BoxObservation,
    gym.spaces.Discrete: DiscreteObservation,
}
"""Codec of each supported observation space; a further one is a class and a line here."""

ACTION_CODECS: dict[type[gym.Space], Callable[[Any], AbstractActionCodec]] = {
    gym.spaces.Box: BoxAction,
    gym.spaces.Discrete: DiscreteAction,
}
"""Codec of each supported action space."""


def observation_codec(space: gym.Space) -> AbstractObservationCodec:
    """The codec of an observation space; a `UsageError` names a space that has none."""
    return _look_up(space, OBSERVATION_CODECS, "observation")


def action_codec(space: gym.Space) -> AbstractActionCodec:
    """The codec of an action space; a `UsageError` names a space that has none."""
    return _look_up(space, ACTION_CODECS, "action")


def _look_up(space: gym.Space, codecs: dict, role: str) -> Any:
    for kind, codec in codecs.items():
        if isinstance(space, kind):
            return codec(space)
    supported = " and ".join(kind.__name__ for kind in codecs)
    raise UsageError(
        f"The {role} space {_one_line(space)} is not supported; supported are {supported}: use a "
        "wrapper that turns it into one of these (see gymnasium.wrappers)."
    )


def _one_line(space: gym.Space) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= 100 else f"{text[:99]}…"
