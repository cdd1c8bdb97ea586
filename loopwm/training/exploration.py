"""When random actions have shown enough for learning to begin."""

import numpy as np
from jaxtyping import Float

from loopwm.training.config import CollectionConfig
from loopwm.training.replay import Replay

EVERY = 50
"""Env steps between two looks at the rewards."""


def may_learn(replay: Replay, config: CollectionConfig, before: int, steps: int) -> bool:
    """Whether learning begins after a step.

    It does after `random_steps`, unless nothing has been seen yet that a plan could aim at (see
    `tells_of_states`); then random actions go on, for `search_steps` at most.

    Args:
        replay: all steps made so far.
        config: both numbers of steps.
        before: env steps before this one.
        steps: env steps with it.

    Returns:
        Whether to learn from now on.
    """
    if steps < config.random_steps:
        return False
    if steps >= config.search_steps:
        return True
    looked = before >= config.random_steps and before // EVERY == steps // EVERY
    action, reward, terminated = replay.steps()
    return bool(terminated.any()) or (not looked and tells_of_states(action, reward))


def tells_of_states(
    action: Float[np.ndarray, "steps action"], reward: Float[np.ndarray, " steps"]
) -> bool:
    r"""Whether rewards depend on anything but the action.

    They do not where the best fit $r \approx a_0 + \sum_i b_i u_i + c_i u_i^2$ leaves less than a
    thousandth of their variance: then they are constant, or the cost of acting, and the best plan
    for them is to do nothing.

    Args:
        action: encoded actions u, shape (steps, action).
        reward: rewards r, shape (steps,).

    Returns:
        Whether more than the action decides.
    """
    action, reward = action.astype(np.float64), reward.astype(np.float64)
    centred = reward - reward.mean()
    if np.ptp(reward) <= 1e-6 * np.abs(reward).max(initial=0.0):
        return False
    features = np.concatenate([np.ones((len(action), 1)), action, action**2], axis=1)
    fit = features @ np.linalg.lstsq(features, centred, rcond=None)[0]
    return bool(np.sum((centred - fit) ** 2) > 1e-3 * np.sum(centred**2))
