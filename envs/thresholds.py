"""The mean return at which an environment counts as solved."""

import gymnasium as gym

from loopwm.envs.limits import spec_of

_CUSTOMARY = {"Pendulum-v1": -200.0}
"""Environments that Gymnasium gives no threshold, with the return customary in the literature."""


def reward_threshold(env: gym.Env) -> float | None:
    """Gymnasium's reward threshold, the customary one where it has none, or None."""
    spec = spec_of(env)
    if spec is None:
        return None
    if spec.reward_threshold is not None:
        return float(spec.reward_threshold)
    return _CUSTOMARY.get(spec.id)
