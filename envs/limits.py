"""How long episodes may last."""

import gymnasium as gym


def time_limit(env: gym.Env) -> int | None:
    """Steps after which an environment's time limit truncates an episode; None without one.

    A limit that the environment keeps by itself, without saying so in its spec, is not known here.
    """
    limits = [None if env.spec is None else env.spec.max_episode_steps]
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            limits.append(env._max_episode_steps)
        env = env.env
    return min((limit for limit in limits if limit is not None), default=None)
