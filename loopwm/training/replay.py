"""Replay memory: bounded, stated in bytes, aware of where episodes end."""

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from loopwm.errors import UsageError

Observations = Float[np.ndarray, "envs observation"] | UInt8[np.ndarray, "envs observation"]
"""Encoded observations of all environments."""


@dataclasses.dataclass(frozen=True)
class SequenceBatch:
    """Sequences of consecutive steps; leading axes (updates, batch)."""

    observation: (
        Float[np.ndarray, "updates batch steps_plus_one observation"]
        | UInt8[np.ndarray, "updates batch steps_plus_one observation"]
    )
    """o_t … o_{t+H}, encoded, not normalised; repeated after the end of the episode."""
    action: Float[np.ndarray, "updates batch steps action"]
    """u_t … u_{t+H−1}."""
    reward: Float[np.ndarray, "updates batch steps"]
    """r_t … r_{t+H−1}."""
    terminated: Bool[np.ndarray, "updates batch steps"]
    """Whether the task ended with that step; truncation leaves it False."""
    valid: Bool[np.ndarray, "updates batch steps"]
    """Whether the step belongs to the episode that the sequence starts in."""


class History(NamedTuple):
    """Rewards in the order in which they were had, oldest first."""

    reward: Float[np.ndarray, "envs steps"]
    terminated: Bool[np.ndarray, "envs steps"]
    """Whether the task ended with that step."""
    ended: Bool[np.ndarray, "envs steps"]
    """Whether the episode did, or is not known to go on."""
    made: Bool[np.ndarray, "envs steps"]
    """Whether a step was made: not between episodes, nor before the first."""


def _memory() -> float:
    """Bytes of this machine's memory; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return float("inf")


class Replay:
    """One ring of records per environment.

    A record holds an observation and what followed it: action, reward, termination. The newest
    record of a ring, and the last one of each episode, hold an observation that nothing followed;
    they are marked `last`, so a sequence that reaches one stops there. Observations are stored
    once.
    """

    def __init__(
        self,
        capacity: int,
        envs: int,
        observation: int,
        action: int,
        dtype: type[np.float32] | type[np.uint8] = np.float32,
    ):
        """Allocates the whole memory at once.

        Args:
            capacity: records over all environments, at least 3 per environment.
            envs: number of environments.
            observation: size of an encoded observation.
            action: size of an encoded action.
            dtype: type of the entries of an encoded observation.

        Raises:
            UsageError: the capacity is too small, or more than the machine's memory.
        """
        length = capacity // envs
        each = observation * np.dtype(dtype).itemsize + 4 * action + 6
        needed, there = envs * length * each / 1e9, _memory() / 1e9
        if needed > there:
            raise UsageError(
                f"collection.replay_capacity is {capacity}, which takes {needed:.0f} GB, more than "
                f"the {there:.0f} GB of memory that this machine has; lower it."
            )
        if length < 3:
            raise UsageError(
                f"collection.replay_capacity is {capacity} for {envs} environments; give at least "
                f"{3 * envs}."
            )
        try:
            self._observation = np.zeros((envs, length, observation), dtype)
            self._action = np.zeros((envs, length, action), np.float32)
            self._reward = np.zeros((envs, length), np.float32)
            self._terminated = np.zeros((envs, length), bool)
            self._last = np.ones((envs, length), bool)
        except MemoryError as error:
            raise UsageError(
                f"collection.replay_capacity is {capacity}, which does not fit into memory; lower "
                "it."
            ) from error
        self._position = np.zeros(envs, np.int64)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes; it never grows."""
        return sum(array.nbytes for array in self.state().values())

    def __len__(self) -> int:
        """Steps that a sequence can start at."""
        return int(np.sum(~self._last))

    @property
    def action_size(self) -> int:
        """Size of an encoded action."""
        return self._action.shape[-1]

    @property
    def has_termination(self) -> bool:
        """Whether the task ended with a step that is stored."""
        return bool(np.any(self._terminated & ~self._last))

    def steps(
        self,
    ) -> tuple[
        Float[np.ndarray, "steps action"], Float[np.ndarray, " steps"], Bool[np.ndarray, " steps"]
    ]:
        """Actions, rewards and whether the episode was cut after it, of all steps stored."""
        there = ~self._last
        cut = there & np.roll(self._last, -1, axis=1) & ~self._terminated
        cut[np.arange(len(cut)), self._position - 1] = False  # the newest step, not the last one
        return self._action[there], self._reward[there], cut[there]

    def history(self, steps: int) -> History:
        """The newest records of each environment, `steps` of them or all that there is room for."""
        length = self._last.shape[1]
        count = min(steps, length - 1)
        env = np.arange(len(self._last))[:, None]
        index = (self._position[:, None] - count + np.arange(count)) % length
        made = ~self._last[env, index]
        return History(
            reward=self._reward[env, index],
            terminated=self._terminated[env, index] & made,
            ended=self._last[env, (index + 1) % length] & made,
            made=made,
        )

    def begin(self, observation: Observations, mask: Bool[np.ndarray, " envs"]) -> None:
        """Starts an episode in the masked environments with their first observation o_0."""
        rows = np.flatnonzero(mask)
        at = self._position[rows]
        self._observation[rows, at] = observation[rows]
        self._last[rows, at] = True

    def add(
        self,
        action: Float[np.ndarray, "envs action"],
        reward: Float[np.ndarray, " envs"],
        terminated: Bool[np.ndarray, " envs"],
        truncated: Bool[np.ndarray, " envs"],
        next_observation: Observations,
        mask: Bool[np.ndarray, " envs"],
    ) -> None:
        """Adds one step of the masked environments.

        Args:
            action: u_t, shape (envs, action).
            reward: r_t, shape (envs,).
            terminated: whether the task ended, shape (envs,).
            truncated: whether time ran out, shape (envs,).
            next_observation: o_{t+1}, the final one where the episode ended.
            mask: environments that really made a step.
        """
        rows = np.flatnonzero(mask)
        length = self._last.shape[1]
        at = self._position[rows]
        self._action[rows, at] = action[rows]
        self._reward[rows, at] = reward[rows]
        self._terminated[rows, at] = terminated[rows]
        self._last[rows, at] = False
        at = (at + 1) % length
        self._observation[rows, at] = next_observation[rows]
        self._last[rows, at] = True
        ended = terminated[rows] | truncated[rows]
        self._position[rows] = np.where(ended, (at + 1) % length, at)
        # The slot after an ended episode holds the oldest record until `begin`; close it, so
        # that no sequence runs on from it into the ring's oldest episode.
        free = rows[ended]
        self._last[free, self._position[free]] = True

    def sample(
        self, updates: int, batch: int, steps: int, rng: np.random.Generator, ends: float = 0.0
    ) -> SequenceBatch:
        """Draws sequences uniformly over all steps stored, a share of them over the ends of tasks.

        Args:
            updates: number of batches U.
            batch: sequences a batch B.
            steps: transitions a sequence H.
            rng: source of randomness.
            ends: share of a batch that is drawn among the sequences that hold a termination,
                rounded; none while no task has ended.

        Returns:
            Arrays with leading axes (updates, batch).
        """
        starts = np.flatnonzero(~self._last)
        if starts.size == 0:
            raise UsageError("The replay is empty; collect at least one step first.")
        length = self._last.shape[1]
        flat = rng.choice(starts, size=(updates, batch))
        ending = np.flatnonzero(self._ending(steps)) if ends > 0.0 else starts[:0]
        if ending.size:
            chosen = round(ends * batch)
            flat[:, :chosen] = rng.choice(ending, size=(updates, chosen))
        env, start = flat // length, flat % length
        index = (start[..., None] + np.arange(steps + 1)) % length
        env = env[..., None]
        going = ~self._last[env, index[..., :-1]]
        valid = np.cumprod(going, axis=-1).astype(bool)
        # After the end, repeat the final observation: finite numbers for masked positions.
        reached = np.concatenate([np.ones_like(valid[..., :1]), valid], axis=-1)
        offset = np.cumsum(reached, axis=-1) - 1
        held = (start[..., None] + offset) % length
        inside = index[..., :-1]
        return SequenceBatch(
            observation=self._observation[env, held],
            action=self._action[env, inside] * valid[..., None],
            reward=self._reward[env, inside] * valid,
            terminated=self._terminated[env, inside] & valid,
            valid=valid,
        )

    def blank(self, updates: int, batch: int, steps: int) -> SequenceBatch:
        """What `sample` gives, full of zeros: the same shapes and types."""
        lead, (_, _, observation) = (updates, batch), self._observation.shape
        return SequenceBatch(
            observation=np.zeros((*lead, steps + 1, observation), self._observation.dtype),
            action=np.zeros((*lead, steps, self._action.shape[-1]), self._action.dtype),
            reward=np.zeros((*lead, steps), self._reward.dtype),
            terminated=np.zeros((*lead, steps), bool),
            valid=np.zeros((*lead, steps), bool),
        )

    def _ending(self, steps: int) -> Bool[np.ndarray, "envs length"]:
        """Where a sequence of so many transitions may begin that holds a termination."""
        begins = found = self._terminated & ~self._last
        for _ in range(steps - 1):
            begins = np.roll(begins, -1, axis=1) & ~self._last
            found = found | begins
        return found

    def state(self) -> dict[str, np.ndarray]:
        """All arrays, for a checkpoint."""
        return {
            "observation": self._observation,
            "action": self._action,
            "reward": self._reward,
            "terminated": self._terminated,
            "last": self._last,
            "position": self._position,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes over the arrays of a checkpoint; refuses other shapes."""
        for name, own in self.state().items():
            if np.shape(state[name]) != own.shape:
                raise UsageError(
                    f"The saved replay's {name} has shape {np.shape(state[name])}, not "
                    f"{own.shape}; resume with the configuration that the run was started with."
                )
            own[...] = state[name]

    def seal(self) -> None:
        """Ends the episode in progress everywhere: after a resume a new one begins."""
        length = self._last.shape[1]
        self._position = (self._position + 1) % length
        self._last[np.arange(len(self._position)), self._position] = True
