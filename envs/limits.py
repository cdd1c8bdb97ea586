"""How long episodes may last."""

import gymnasium as gym

from loopwm.envs.action_repeat import ActionRepeat


def time_limit(env: gym.Env) -> int | None:
    """Steps after which an environment's time limit truncates an episode; None without one.

    Where `ActionRepeat` wraps the limit, a step is all repeats of an action. A limit that the
    environment keeps by itself, without saying so in its spec, is not known here.
    """
    given, times = None if env.spec is None else env.spec.max_episode_steps, 1
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
