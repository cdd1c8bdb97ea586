"""Records episodes with Gymnasium's recorder."""

import pathlib
import warnings
from typing import Any

import gymnasium as gym
import numpy as np

from loopwm.envs import EnvSource, env_id, env_name, make
from loopwm.errors import RunFailure, UsageError, after_colon, as_clause
from loopwm.training import Actor


def record_episode(
    actor: Actor, source: EnvSource, folder: pathlib.Path, *, seed: int, max_steps: int = 10_000
) -> pathlib.Path:
    """Plays one episode and writes it as a video.

    Args:
        actor: the agent.
        source: the environment; it needs the render mode `rgb_array`.
        folder: where the video goes; made if missing.
        seed: seed of environment and agent.
        max_steps: an episode that the environment does not end is cut here.

    Returns:
        The video's path.

    Raises:
        UsageError: the environment cannot render images, or a package is missing.
        RunFailure: the environment failed, or rendered something else.
    """
    env = _make_rendered(source)
    path = folder / f"seed{seed}-episode-0.mp4"
    # Gymnasium warns of folders that exist, and of the empty video that an error leaves.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _record(actor, Framed(env, env_name(source)), path, seed, max_steps)
        except gym.error.DependencyNotInstalled as error:
            raise UsageError(
                f"Videos need a package that is not installed ({as_clause(error)}); install "
                '"loopwm[video]" with pip.'
            ) from error
        except OSError as error:
            if error.errno is None:  # of the program that encodes
                raise _not_encoded(source, as_clause(error)) from error
            raise UsageError(
                f"{folder} cannot be written ({error.strerror}); give another --video."
            ) from error
    if not path.exists():
        raise _not_encoded(source, "nothing was written")
    return path


def _not_encoded(source: EnvSource, why: str) -> RunFailure:
    return RunFailure(
        f"What {env_name(source)} renders could not be made a video ({why}); correct the "
        "environment, or leave --video out."
    )


def _record(actor: Actor, env: gym.Env, path: pathlib.Path, seed: int, max_steps: int) -> None:
    """Plays an episode; closing the recorder is what writes it."""
    recorder = env
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of an earlier episode: it is not taken for this one
        recorder = gym.wrappers.RecordVideo(
            env, str(path.parent), episode_trigger=lambda _: True, name_prefix=f"seed{seed}"
        )
        _play(actor, recorder, seed, max_steps)
    except BaseException:
        recorder.close()
        path.unlink(missing_ok=True)  # half an episode
        raise
    recorder.close()


class Framed(gym.Wrapper):
    """An environment whose faults in rendering are one sentence."""

    def __init__(self, env: gym.Env, name: str):
        """Args: the environment, and its name for messages."""
        super().__init__(env)
        self._name = name
        self._shape: tuple[int, ...] | None = None

    def render(self) -> np.ndarray:
        """An image of (height, width, 3), or 4 with transparency; one of grey in three colours."""
        remedy = "correct the environment, or leave --video out"
        try:
            frame: Any = super().render()
        except (gym.error.DependencyNotInstalled, UsageError, RunFailure):
            raise
        except (Exception, SystemExit) as error:
            raise RunFailure(
                f"{self._name} raised {type(error).__name__} in render{after_colon(error)}; "
                f"{remedy}."
            ) from error
        shape = np.shape(frame) if isinstance(frame, np.ndarray) else None
        if shape is None or len(shape) != 3 or shape[2] not in (1, 3, 4):
            given = type(frame).__name__ if shape is None else f"an array of shape {shape}"
            raise RunFailure(
                f"{self._name} returned {given} in render, where an image is an array of (height, "
                f"width, 3); {remedy}."
            )
        if frame.dtype.kind not in "iu" or frame.size and not 0 <= frame.min() <= frame.max() < 256:
            raise RunFailure(
                f"{self._name} returned numbers of {frame.dtype} in render, where an image holds "
                f"integers from 0 to 255; {remedy}."
            )
        if self._shape not in (None, shape):
            raise RunFailure(
                f"{self._name} returned images of shapes {self._shape} and {shape} in render, "
                f"where those of an episode are alike; {remedy}."
            )
        self._shape = shape
        frame = frame.astype(np.uint8)
        return np.repeat(frame, 3, axis=2) if shape[2] == 1 else frame


def _make_rendered(source: EnvSource) -> gym.Env:
    refusal = UsageError(
        f"{env_name(source)} cannot be rendered as images; leave --video out, or give it the "
        "render mode rgb_array."
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium warns of what is refused here
        try:
            # A function's environment has the render mode that the function gives it.
            mode = None if env_id(source) is None else "rgb_array"
            env = make(source, render_mode=mode)
        except UsageError as error:
            if isinstance(error.__cause__, TypeError):
                raise refusal from error
            raise
    if env.render_mode != "rgb_array" or "rgb_array" not in env.metadata.get("render_modes", []):
        env.close()
        raise refusal
    return env


def _play(actor: Actor, env: gym.Env, seed: int, max_steps: int) -> None:
    observation, _ = env.reset(seed=seed)
    state = actor.initial_state(seed=seed, batch=1)
    for _ in range(max_steps):
        action, state = actor.act(observation, state, explore=False)
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break
