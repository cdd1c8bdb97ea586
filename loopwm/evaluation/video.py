"""Records episodes with Gymnasium's recorder."""

import pathlib
import warnings

import gymnasium as gym

from loopwm.envs import EnvSource, env_name, make
from loopwm.errors import UsageError, as_clause
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
        RunFailure: the environment failed.
    """
    env = _make_rendered(source)
    recorder = env
    # Gymnasium warns of folders that exist, and of the empty video that an error leaves.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            recorder = gym.wrappers.RecordVideo(
                env, str(folder), episode_trigger=lambda _: True, name_prefix=f"seed{seed}"
            )
            _play(actor, recorder, seed, max_steps)
        except gym.error.DependencyNotInstalled as error:
            raise UsageError(
                f"Videos need a package that is not installed ({as_clause(error)}); install "
                '"loopwm[video]" with pip.'
            ) from error
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be written ({error.strerror}); give another --video."
            ) from error
        finally:
            recorder.close()
    return sorted(folder.glob(f"seed{seed}*.mp4"))[-1]


def _make_rendered(source: EnvSource) -> gym.Env:
    refusal = UsageError(
        f"{env_name(source)} cannot be rendered as images; leave --video out, or give it the "
        "render mode rgb_array."
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium warns of what is refused here
        try:
            env = make(source, render_mode="rgb_array")
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
