"""Records episodes with Gymnasium's recorder."""

import pathlib
import warnings

import gymnasium as gym

from loopwm.envs import EnvSource, make
from loopwm.errors import UsageError
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
        UsageError: the environment cannot render, or a package is missing.
    """
    env = make(source, render_mode="rgb_array")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that a folder exists already
            recorder = gym.wrappers.RecordVideo(
                env, str(folder), episode_trigger=lambda _: True, name_prefix=f"seed{seed}"
            )
        observation, _ = recorder.reset(seed=seed)
        state = actor.initial_state(seed=seed, batch=1)
        for _ in range(max_steps):
            action, state = actor.act(observation, state, explore=False)
            observation, _, terminated, truncated, _ = recorder.step(action)
            if terminated or truncated:
                break
        recorder.close()
    except gym.error.DependencyNotInstalled as error:
        raise UsageError(
            f'Videos need packages that are not installed ({error}); pip install "loopwm[video]".'
        ) from error
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written ({error.strerror}); give another --video."
        ) from error
    finally:
        env.close()
    return sorted(folder.glob(f"seed{seed}*.mp4"))[-1]
