"""Steps a vector environment and gives transitions, whatever its autoreset mode."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from loopwm.envs.codec import Encoded
from loopwm.envs.make import OTHER_SPACES
from loopwm.envs.spaces import Spaces
from loopwm.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Transitions:
    """One step of every environment; arrays with leading axis (envs,)."""

    reward: Float[np.ndarray, " envs"]
    """r_t."""
    terminated: Bool[np.ndarray, " envs"]
    """Whether the task ended."""
    truncated: Bool[np.ndarray, " envs"]
    """Whether time ran out."""
    next_observation: Float[np.ndarray, "envs observation"] | UInt8[np.ndarray, "envs observation"]
    """Encoded o_{t+1}; the final observation where the episode ended."""
    real: Bool[np.ndarray, " envs"]
    """False where the step was only a reset."""
    begun: Bool[np.ndarray, " envs"]
    """Where an episode begins with the stepper's current observation."""
    true_depth: Int64[np.ndarray, " envs"] | None = None
    """Sequential micro-steps that each simulator needed, meaningless where not real; None where
    the environments do not report them in `info`."""


class VectorStepper:
    """Steps a vector environment.

    Gymnasium's vector environments reset an ended episode in the next step (whose action is
    ignored), in the same step (the final observation is in `info`), or not at all (the caller
    resets). All three look alike from here.
    """

    def __init__(self, env: gym.vector.VectorEnv, spaces: Spaces):
        """Takes an environment over.

        Args:
            env: the vector environment.
            spaces: codecs of its single environments.

        Raises:
            UsageError: its environments have other spaces than those of the codecs.
        """
        if spaces.raw not in (None, (env.single_observation_space, env.single_action_space)):
            raise UsageError(f"The environment {OTHER_SPACES}.")
        self.env = env
        self.spaces = spaces
        default = gym.vector.AutoresetMode.NEXT_STEP
        self._mode = gym.vector.AutoresetMode(env.metadata.get("autoreset_mode", default))
        self._ended = np.zeros(env.num_envs, bool)
        self.raw: Any = None
        """Raw observations to act upon now, leading axis (envs,)."""
        self.observation: Encoded = np.zeros((0, 0), spaces.observation.dtype)
        """The same, encoded."""

    def reset(self, seed: int | None = None) -> None:
        """Begins an episode in every environment."""
        self.raw, _ = self.env.reset(seed=seed)
        self.observation = self.spaces.observation.encode(self.raw)
        self._ended[:] = False

    def step(self, action: np.ndarray) -> Transitions:
        """Steps every environment with raw actions, leading axis (envs,)."""
        mode = gym.vector.AutoresetMode
        raw, reward, terminated, truncated, info = self.env.step(action)
        # Vector environments may reuse their buffers: keep copies.
        encoded = np.array(self.spaces.observation.encode(raw))
        real = ~self._ended
        ended = (terminated | truncated) & real
        following, (depth, known) = encoded.copy(), _counted(info, len(encoded))
        begun = self._ended.copy()
        if self._mode == mode.SAME_STEP:
            if ended.any():
                final = self.spaces.observation.batch(list(info["final_obs"][ended]))
                following[ended] = self.spaces.observation.encode(final)
                # The rest of `info` is already of the next episode.
                final_depth, final_known = _counted(info["final_info"], len(encoded))
                depth = np.where(ended, final_depth, depth)
                known = np.where(ended, final_known, known)
            begun, self._ended = ended.copy(), np.zeros_like(ended)
        elif self._mode == mode.DISABLED:
            if ended.any():
                raw, _ = self.env.reset(options={"reset_mask": ended})
                encoded = np.array(self.spaces.observation.encode(raw))
            begun, self._ended = ended.copy(), np.zeros_like(ended)
        else:
            self._ended = ended.copy()
        self.raw, self.observation = raw, encoded
        return Transitions(
            reward=np.asarray(reward, np.float32),
            terminated=np.asarray(terminated & real),
            truncated=np.asarray(truncated & real),
            next_observation=following,
            real=real,
            begun=begun,
            true_depth=depth if known[real].all() and real.any() else None,
        )

    def close(self) -> None:
        """Closes the environments."""
        self.env.close()


def _counted(
    info: Mapping[str, Any], envs: int
) -> tuple[Int64[np.ndarray, " envs"], Bool[np.ndarray, " envs"]]:
    """`true_depth` in a vector environment's info, and where it is known to be a count."""
    given, known = info.get("true_depth"), info.get("_true_depth")
    if isinstance(given, np.ndarray) and given.dtype.kind in "iu" and given.ndim == 1:
        return given.astype(np.int64), np.asarray(known, bool)
    return np.zeros(envs, np.int64), np.zeros(envs, bool)
