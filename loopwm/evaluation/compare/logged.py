"""Logged data of a task: episodes of random and hand-written actions, split by episode."""

import dataclasses
import io
import os
import pathlib
import zipfile
import zlib

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float, Int64

from loopwm.actions import held_steps
from loopwm.envs import Spaces, make
from loopwm.errors import RunFailure
from loopwm.evaluation.compare.protocol import DynamicsProtocol
from loopwm.evaluation.compare.tasks import DRIVERS, Task

_HOLD = (1, 16)
"""Shortest and longest hold of a random action, log-uniform between."""
_RANDOM = 0.3
"""Share of random actions among those of a hand-written rule."""


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode, encoded but not normalised."""

    observation: Float[np.ndarray, "steps_plus_one observation"]
    """o_0 … o_L."""
    action: Float[np.ndarray, "steps action"]
    """u_0 … u_{L−1}."""
    reward: Float[np.ndarray, " steps"]
    """r_0 … r_{L−1}."""
    terminated: bool
    """Whether the task ended with the last step."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Episodes for training, for choosing among trials, and for the numbers that are reported."""

    train: list[Episode]
    validation: list[Episode]
    test: list[Episode]


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Sequences of one length from episodes; steps after an episode's end are not valid."""

    observation: Float[np.ndarray, "count steps_plus_one observation"]
    action: Float[np.ndarray, "count steps action"]
    reward: Float[np.ndarray, "count steps"]
    goes_on: Float[np.ndarray, "count steps"]
    """1 where the task went on after the step, 0 where it ended."""
    valid: Bool[np.ndarray, "count steps"]


def log_episodes(task: Task, protocol: DynamicsProtocol, *, seed: int) -> list[Episode]:
    """Plays episodes.

    Half of the env steps have random actions that are held for 1 to 16 steps; the other half a
    hand-written rule with three random actions in ten, or where the task has none a new random
    action every step.

    Args:
        task: the environment.
        protocol: how many env steps, and when an episode is cut.
        seed: seed of environment and actions.

    Returns:
        The episodes, in the order played.

    Raises:
        UsageError: the environment cannot be made, or its spaces are not supported.
        RunFailure: it failed.
    """
    env = make(task.env)
    try:
        spaces = Spaces.of(env)
        actions, rng = env.action_space, np.random.default_rng(seed)
        actions.seed(seed)  # kept, since an environment may make another one when asked again
        episodes: list[Episode] = []
        for half in range(2):
            made, goal = 0, protocol.env_steps // 2
            while made < goal:
                actor = _Held(actions, rng) if half == 0 else _Driven(actions, rng, task)
                first = seed if not episodes else None
                episodes.append(_play(env, spaces, actor, protocol.longest, first))
                made += len(episodes[-1].action)
    finally:
        env.close()
    return episodes


class _Held:
    """Random actions, each held for a log-uniform number of steps."""

    def __init__(self, actions: gym.Space, rng: np.random.Generator):
        self.actions, self.rng, self.left = actions, rng, 0
        self.action = None

    def __call__(self, observation: object) -> object:
        del observation
        if self.left == 0:
            self.left = int(held_steps(self.rng.uniform(size=1), _HOLD)[0])
            self.action = self.actions.sample()
        self.left -= 1
        return self.action


class _Driven:
    """A hand-written rule with random actions among its own; random ones alone without a rule."""

    def __init__(self, actions: gym.Space, rng: np.random.Generator, task: Task):
        self.actions, self.rng = actions, rng
        self.rule = None if task.driver is None else DRIVERS[task.driver]

    def __call__(self, observation: object) -> object:
        if self.rule is None or self.rng.uniform() < _RANDOM:
            return self.actions.sample()
        assert isinstance(observation, np.ndarray)
        return self.rule(observation)


def _play(
    env: gym.Env, spaces: Spaces, actor: _Held | _Driven, longest: int, seed: int | None
) -> Episode:
    observation, _ = env.reset(seed=seed)
    seen, taken, paid = [observation], [], []
    terminated = truncated = False
    while not (terminated or truncated) and len(taken) < longest:
        action = actor(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append(observation)
        taken.append(action)
        paid.append(float(reward))
    encoded = np.asarray(spaces.observation.encode(spaces.observation.batch(seen)), np.float32)
    if not np.all(np.isfinite(encoded)) or not np.all(np.isfinite(paid)):
        raise RunFailure("The environment gave values that are not finite; correct it.")
    return Episode(
        observation=encoded,
        action=np.asarray(spaces.action.encode(np.asarray(taken)), np.float32),
        reward=np.asarray(paid, np.float32),
        terminated=bool(terminated),
    )


def split(episodes: list[Episode], *, seed: int) -> Split:
    """A fifth for the test, a fifth for validation, the rest for training, whole episodes each.

    Args:
        episodes: at least three.
        seed: seed of the order.

    Raises:
        RunFailure: there are fewer than three episodes.
    """
    count = len(episodes)
    if count < 3:
        raise RunFailure(
            f"{count} episodes cannot be split; give more env steps or shorter episodes."
        )
    order = np.random.default_rng((seed, 1)).permutation(count)
    ends = np.cumsum([len(episodes[i].action) for i in order])
    first, second = np.searchsorted(ends, (ends[-1] / 5, 2 * ends[-1] / 5)) + 1
    first = int(np.clip(first, 1, count - 2))
    second = int(np.clip(second, first + 1, count - 1))
    shuffled = [episodes[i] for i in order]
    return Split(train=shuffled[second:], validation=shuffled[first:second], test=shuffled[:first])


def sequences(
    episodes: list[Episode], length: int, most: int, *, whole: bool, seed: int
) -> Sequences:
    """Sequences of `length` steps, drawn without replacement among all that begin in an episode.

    Args:
        episodes: where from.
        length: steps of each.
        most: sequences at most.
        whole: leave out those that an episode's end cuts short; else they are padded.
        seed: seed of the choice.

    Returns:
        The sequences; padding repeats the last observation and is not valid.

    Raises:
        RunFailure: no episode is long enough.
    """
    starts = [
        (number, start)
        for number, episode in enumerate(episodes)
        for start in range(len(episode.action) - (length - 1 if whole else 0))
    ]
    if not starts:
        raise RunFailure(
            f"No logged episode has {length} steps, which a sequence takes; choose a task with "
            "longer episodes."
        )
    order = np.random.default_rng((seed, 2)).permutation(len(starts))[:most]
    rows = [_cut(episodes[number], start, length) for number, start in (starts[i] for i in order)]
    return Sequences(*(np.stack(column) for column in zip(*rows, strict=True)))


def _cut(episode: Episode, start: int, length: int) -> tuple[np.ndarray, ...]:
    end = min(start + length, len(episode.action))
    count = end - start
    missing = length - count
    over = episode.terminated and end == len(episode.action)
    goes_on = np.ones(length, np.float32)
    goes_on[count - 1] = 0.0 if over else 1.0
    observation = episode.observation[start : end + 1]
    return (
        np.concatenate([observation, np.repeat(observation[-1:], missing, axis=0)]),
        np.pad(episode.action[start:end], ((0, missing), (0, 0))),
        np.pad(episode.reward[start:end], (0, missing)),
        goes_on,
        np.arange(length) < count,
    )


def load_or_log(
    folder: str | os.PathLike[str], task: Task, protocol: DynamicsProtocol, *, seed: int
) -> list[Episode]:
    """The logged episodes of a task and seed, from their file or played now.

    Several processes may do this at once. The first file stays and is what all of them give: every
    model has the same data even where the seed does not decide what an environment does.

    Args:
        folder: folder of such files; made if missing.
        task: the environment.
        protocol: how much is logged.
        seed: seed of environment and actions.
    """
    name = f"{task.slug}.{protocol.env_steps}.{protocol.longest}.seed{seed}.npz"
    path = pathlib.Path(folder) / name
    if (found := _read(path, task)) is not None:
        return found
    path.unlink(missing_ok=True)
    episodes = log_episodes(task, protocol, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, task=task.env, **_arrays(episodes))
    try:
        os.link(temporary, path)
    except FileExistsError:
        return _read(path, task) or episodes
    except OSError:  # a file system without links
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return episodes


def _arrays(episodes: list[Episode]) -> dict[str, np.ndarray]:
    lengths: Int64[np.ndarray, " episodes"] = np.array([len(e.action) for e in episodes])
    return {
        "lengths": lengths,
        "observation": np.concatenate([e.observation for e in episodes]),
        "action": np.concatenate([e.action for e in episodes]),
        "reward": np.concatenate([e.reward for e in episodes]),
        "terminated": np.array([e.terminated for e in episodes]),
    }


def _read(path: pathlib.Path, task: Task) -> list[Episode] | None:
    """The episodes of a file; None where it is missing, half-written, or of another task."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as file:
            arrays = {name: file[name] for name in file.files}
        if str(arrays["task"]) != task.env:
            return None  # both names make the same file's name
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, ValueError):
        return None
    lengths = arrays["lengths"]
    ends = np.cumsum(lengths)
    episodes = []
    for number, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        begin = end - length
        episodes.append(
            Episode(
                observation=arrays["observation"][begin + number : end + number + 1],
                action=arrays["action"][begin:end],
                reward=arrays["reward"][begin:end],
                terminated=bool(arrays["terminated"][number]),
            )
        )
    return episodes
