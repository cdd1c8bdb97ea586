"""How long episodes may last."""

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from loopwm.envs.action_repeat import ActionRepeat


def spec_of(env: gym.Env) -> EnvSpec | None:
    """What an environment was registered with; None where it was not, or calls something else so.

    That of the environment itself: a wrapper's is a copy, which some arguments do not allow.
    """
    spec = getattr(env.unwrapped, "spec", None)
    return spec if isinstance(spec, EnvSpec) else None


def time_limit(env: gym.Env) -> int | None:
    """Steps after which an environment's time limit truncates an episode; None without one.

    Where `ActionRepeat` wraps the limit, a step is all repeats of an action. A limit that the
    environment keeps by itself, without saying so in its spec, is not known here.
    """
    spec, times = spec_of(env), 1
    given = None if spec is None else spec.max_episode_steps
    limits: list[int] = []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, ActionRepeat):
            times *= env.times
        if isinstance(env, gym.wrappers.TimeLimit):
            limits.append(-(-env._max_episode_steps // times))
        env = env.env
    if given is not None:
        limits.append(-(-given // times))
    return min(limits, default=None)
