"""Both codecs of an environment together."""

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from loopwm.envs.actions import AbstractActionCodec, action_codec
from loopwm.envs.codec import AbstractObservationCodec, Encoded
from loopwm.envs.make import EnvSource, make, spaces_of
from loopwm.envs.observations import observation_codec


@dataclasses.dataclass(frozen=True, eq=False)
class Spaces:
    """How an environment's observations and actions are encoded."""

    observation: AbstractObservationCodec
    action: AbstractActionCodec
    raw: tuple[gym.Space, gym.Space] | None = None
    """The spaces themselves, of observations and of actions, where they are known."""

    @classmethod
    def of(cls, env: gym.Env) -> "Spaces":
        """The codecs of a single environment's spaces.

        Raises:
            UsageError: a space is not supported; the sentence names it.
        """
        observation, action = spaces_of(env)
        return cls(observation_codec(observation), action_codec(action), (observation, action))

    @classmethod
    def of_source(cls, source: EnvSource) -> "Spaces":
        """The codecs of an environment that is made just to read its spaces."""
        env = make(source)
        try:
            return cls.of(env)
        finally:
            env.close()

    def encode_observation(self, observation: Any) -> tuple[Encoded, bool]:
        """Encodes one observation or a batch.

        Args:
            observation: raw, one or a batch.

        Returns:
            Vectors of shape (batch, n), batch 1 for one observation; and whether it was a batch.
        """
        if self.observation.is_batch(observation):
            return self.observation.encode(observation), True
        return self.observation.encode(self.observation.batch([observation])), False

    def decode_action(self, u: Float[np.ndarray, "batch n"]) -> np.ndarray:
        """Raw actions of encoded ones of shape (batch, n)."""
        return self.action.decode(u)
