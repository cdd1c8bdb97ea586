"""What codecs of observations are: between Gymnasium spaces and the vectors of models."""

import abc
import dataclasses
import re
from collections.abc import Mapping, Sequence
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


def unsupported(what: str, codecs: Mapping[type[gym.Space], object]) -> UsageError:
    """The sentence that refuses a space, and names those that are supported."""
    *names, last = (kind.__name__ for kind in codecs)
    return UsageError(
        f"{what} is not supported; supported are {', '.join(names)} and {last}: use a wrapper that "
        "turns it into one of these (see gymnasium.wrappers)."
    )


def parts_of(space: gym.Space) -> dict[Any, gym.Space]:
    """The parts of a Dict or Tuple space by key or place."""
    inside: Any = getattr(space, "spaces", ())
    return dict(inside) if isinstance(inside, Mapping) else dict(enumerate(inside))


def has_parts(space: gym.Space, observation: Any) -> bool:
    """Whether an observation of a Dict or Tuple space has exactly its parts, whatever they hold.

    As Gymnasium does, those of a Tuple are taken from lists and arrays as well.
    """
    parts = parts_of(space)
    if isinstance(space, gym.spaces.Dict):
        return isinstance(observation, Mapping) and set(observation) == set(parts)
    if isinstance(observation, np.ndarray):
        return observation.shape[:1] == (len(parts),)
    return isinstance(observation, Sequence) and len(observation) == len(parts)


def one_line(value: Any) -> str:
    """A space or an observation in at most 100 characters, for messages."""
    text = " ".join(str(value).split()).replace("...", "…")
    # NumPy writes 9.0 as "9.", which would look like the end of a sentence.
    text = re.sub(r"(?<=\d)\.(?=\s|$)", "", text)
    return text if len(text) <= 100 else f"{text[:99]}…"
