"""Codecs of actions: between Gymnasium's action spaces and the vectors of models."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from loopwm.actions import ActionLayout
from loopwm.envs.codec import one_line, parts_of, unsupported
from loopwm.errors import UsageError

MOST_CATEGORIES = 2048
"""Spaces of more categories, over all groups, are refused: actions are kept as one-hot groups."""


class AbstractActionCodec(abc.ABC):
    """Turns encoded actions into raw ones and back."""

    layout: ActionLayout
    """What kind of vector an encoded action u is."""

    @property
    def size(self) -> int:
        """Length of u."""
        return self.layout.size

    @abc.abstractmethod
    def encode(self, batch: Any) -> Float[np.ndarray, "batch size"]:
        """Encodes a batch of raw actions to shape (batch, size)."""

    @abc.abstractmethod
    def decode(self, batch: Float[np.ndarray, "batch size"]) -> np.ndarray:
        """Raw actions of a batch of encoded ones, in the dtype and shape of the space."""


@dataclasses.dataclass(frozen=True, eq=False)
class BoxAction(AbstractActionCodec):
    """Box actions with finite bounds, mapped from [−1, 1] entry by entry."""

    space: gym.spaces.Box

    def __post_init__(self):
        """Refuses bounds that are not finite, and spaces without an entry."""
        if not self.space.is_bounded("both"):
            raise UsageError(
                f"The action space {one_line(self.space)} has infinite bounds, which cannot be "
                "scaled: use gymnasium.wrappers.TransformAction(env, lambda a: 10.0 * a, "
                "gymnasium.spaces.Box(-1.0, 1.0, env.action_space.shape)), with the largest action "
                "that makes sense in place of 10."
            )
        if 0 in self.space.shape:
            raise _empty(self.space)

    @property
    def layout(self) -> ActionLayout:
        """A box with an entry for each of the space."""
        return ActionLayout.box(int(np.prod(self.space.shape)))

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
        """Maps [−1, 1] to [low, high]; boxes of integers and bools are rounded."""
        low, high = self._range()
        share = 0.5 + 0.5 * np.clip(batch, -1.0, 1.0).astype(np.float64)
        raw = (1.0 - share) * low + share * high
        if self.space.dtype.kind in "biu":
            raw = np.rint(raw)
        # The bounds themselves are taken from the space: large integers do not survive float64.
        bounds = (self.space.low.reshape(-1), self.space.high.reshape(-1))
        result = np.where(share > 0.5, bounds[1], bounds[0])
        inside = (raw > low) & (raw < high)
        result[inside] = raw[inside].astype(self.space.dtype)
        return result.reshape(len(batch), *self.space.shape)


class CategoricalAction(AbstractActionCodec):
    """Arrays of categories, one-hot, one entry behind the other in row-major order."""

    def __init__(self, space: gym.Space, counts: Any, start: Any = 0):
        """Builds the codec.

        Args:
            space: what raw actions lie in; its shape and dtype are restored.
            counts: categories of each entry, of the shape of the space.
            start: the smallest value of each entry, or of all.

        Raises:
            UsageError: there is no entry, or there are more than `MOST_CATEGORIES` categories.
        """
        groups = tuple(int(count) for count in np.ravel(counts))
        if not groups:
            raise _empty(space)
        if sum(groups) > MOST_CATEGORIES:
            raise UsageError(
                f"The action space {one_line(space)} has {sum(groups)} categories, more than the "
                f"{MOST_CATEGORIES} that are kept one-hot: use "
                "gymnasium.wrappers.TransformAction(env, f, space) with a smaller space and a "
                "function f from its actions to the environment's."
            )
        self.layout = ActionLayout.categorical(*groups)
        self._space = space
        self._counts = np.asarray(groups)
        self._first = np.cumsum(self._counts) - self._counts
        self._start = np.broadcast_to(np.asarray(start, np.int64), np.shape(counts)).reshape(-1)

    def encode(self, batch: Any) -> Float[np.ndarray, "batch size"]:
        """One-hot groups; an action outside the space is a `UsageError`."""
        index = np.asarray(batch, np.int64).reshape(len(batch), -1) - self._start
        if np.any((index < 0) | (index >= self._counts)):
            raise UsageError(
                f"An action lies outside {one_line(self._space)}; give one of that space."
            )
        encoded = np.zeros((len(batch), self.size), np.float32)
        np.put_along_axis(encoded, self._first + index, 1.0, axis=1)
        return encoded

    def decode(self, batch: Float[np.ndarray, "batch size"]) -> np.ndarray:
        """The category with the largest entry of each group."""
        parts = np.split(np.asarray(batch), self._first[1:], axis=1)
        index = np.stack([np.argmax(part, axis=1) for part in parts], axis=1) + self._start
        return index.astype(self._space.dtype).reshape(len(batch), *(self._space.shape or ()))


def discrete_action(space: gym.spaces.Discrete) -> CategoricalAction:
    """One group; values may begin at any number."""
    return CategoricalAction(space, space.n, space.start)


def multi_discrete_action(space: gym.spaces.MultiDiscrete) -> CategoricalAction:
    """A group for each entry, of any shape."""
    return CategoricalAction(space, space.nvec, space.start)


def multi_binary_action(space: gym.spaces.MultiBinary) -> CategoricalAction:
    """A group of two, off and on, for each entry."""
    return CategoricalAction(space, np.full(space.shape, 2))


ACTION_CODECS: dict[type[gym.Space], Callable[[Any], AbstractActionCodec]] = {
    gym.spaces.Box: BoxAction,
    gym.spaces.Discrete: discrete_action,
    gym.spaces.MultiDiscrete: multi_discrete_action,
    gym.spaces.MultiBinary: multi_binary_action,
}
"""Codec of each supported action space; a further one is a function or class and a line here."""


def action_codec(space: gym.Space) -> AbstractActionCodec:
    """The codec of an action space; a `UsageError` names a space that has none."""
    for kind, codec in ACTION_CODECS.items():
        if isinstance(space, kind):
            return codec(space)
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        raise _nested(space)
    raise unsupported(f"The action space {one_line(space)}", ACTION_CODECS)


def _nested(space: gym.Space) -> UsageError:
    """The sentence that refuses actions with parts, with the wrapper that joins them."""
    parts = parts_of(space).values()
    if parts and all(isinstance(part, gym.spaces.Box) for part in parts):
        call = (
            "gymnasium.wrappers.TransformAction(env, lambda a, space=env.action_space: "
            "gymnasium.spaces.unflatten(space, a), "
            "gymnasium.spaces.flatten_space(env.action_space)), which joins parts that are all Box"
        )
    else:
        call = (
            "gymnasium.wrappers.TransformAction(env, f, space), where space is one Box or "
            "MultiDiscrete with an entry for each choice, and f makes the parts of its actions"
        )
    return UsageError(
        f"The action space {one_line(space)} has parts, which is not supported: use {call}."
    )


def _empty(space: gym.Space) -> UsageError:
    return UsageError(
        f"The action space {one_line(space)} has no entries, so there is nothing to choose; give "
        "it at least one."
    )
