"""What codecs are, and those of actions: between Gymnasium spaces and the vectors of models."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float, UInt8

from loopwm.errors import UsageError

Encoded = Float[np.ndarray, "batch size"] | UInt8[np.ndarray, "batch size"]
"""Encoded observations, one a row: float32, or uint8 where the space holds no more."""


@dataclasses.dataclass(frozen=True, eq=False)
class Scaling:
    """How the entries of encoded observations are brought to the size of 1."""

    running: Bool[np.ndarray, " size"]
    """Which entries running mean and variance normalise."""
    offset: Float[np.ndarray, " size"]
    """What is subtracted from the others."""
    width: Float[np.ndarray, " size"]
    """What the others are then divided by, positive."""

    @classmethod
    def plain(cls, size: int, *, running: bool) -> "Scaling":
        """Running normalisation of all entries, or none of any."""
        return cls(np.full(size, running), np.zeros(size), np.ones(size))

    @classmethod
    def joined(cls, parts: Sequence["Scaling"]) -> "Scaling":
        """The scaling of observations one behind the other."""
        return cls(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in dataclasses.fields(cls)
            )
        )


class AbstractObservationCodec(abc.ABC):
    """Turns raw observations into vectors."""

    size: int
    """Length of the vector."""
    shape: tuple[int, ...] | None
    """Shape that the vector is flattened from, in row-major order; None where it has none."""
    image: bool = False
    """Whether `shape` is that of an image: height, width, channels."""
    dtype: type[np.float32] | type[np.uint8] = np.float32
    """Type of the entries, in which they are kept in replay."""

    @abc.abstractmethod
    def scaling(self) -> Scaling:
        """How the entries are brought to the size of 1 before a model sees them."""

    @abc.abstractmethod
    def batch(self, observations: Sequence[Any]) -> Any:
        """A batch of raw observations, as a vector environment gives it."""

    @abc.abstractmethod
    def is_batch(self, observation: Any) -> bool:
        """Whether it is a batch of observations; a `UsageError` says so where it is neither."""

    @abc.abstractmethod
    def encode(self, batch: Any) -> Encoded:
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
class BoxAction(AbstractActionCodec):
    """Box actions with finite bounds, mapped from [−1, 1] entry by entry."""

    space: gym.spaces.Box
    discrete: bool = False

    def __post_init__(self):
        """Refuses bounds that are not finite."""
        if not self.space.is_bounded("both"):
            raise UsageError(
                f"The action space {one_line(self.space)} has infinite bounds, which cannot be "
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


ACTION_CODECS: dict[type[gym.Space], Callable[[Any], AbstractActionCodec]] = {
    gym.spaces.Box: BoxAction,
    gym.spaces.Discrete: DiscreteAction,
}
"""Codec of each supported action space; a further one is a class and a line here."""


def action_codec(space: gym.Space) -> AbstractActionCodec:
    """The codec of an action space; a `UsageError` names a space that has none."""
    for kind, codec in ACTION_CODECS.items():
        if isinstance(space, kind):
            return codec(space)
    raise unsupported(f"The action space {one_line(space)}", ACTION_CODECS)


def unsupported(what: str, codecs: Mapping[type[gym.Space], object]) -> UsageError:
    """The sentence that refuses a space, and names those that are supported."""
    *names, last = (kind.__name__ for kind in codecs)
    return UsageError(
        f"{what} is not supported; supported are {', '.join(names)} and {last}: use a wrapper that "
        "turns it into one of these (see gymnasium.wrappers)."
    )


def one_line(space: gym.Space) -> str:
    """A space in at most 100 characters, for messages."""
    text = " ".join(str(space).split())
    return text if len(text) <= 100 else f"{text[:99]}…"
