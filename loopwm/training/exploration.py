"""When random actions have shown enough for learning to begin."""

import numpy as np
from jaxtyping import Float, Int

from loopwm.training.config import CollectionConfig
from loopwm.training.replay import Replay

EVERY = 50
"""Env steps between two looks at the rewards; with longer actions as many as their entries."""
SHARE = 1e-3
"""Share of the rewards' variance that the action has to leave for more than it to decide."""
ENOUGH = 1.5
"""Different actions a coefficient of the fit: of fewer it would explain whatever there is. So many
steps an action, too, are enough to tell by those that came again."""


def may_learn(replay: Replay, config: CollectionConfig, before: int, steps: int) -> bool:
    """Whether learning begins after a step.

    It does after `random_steps`, unless nothing has been seen yet that a plan could aim at (see
    `tells_of_states`); then random actions go on, for `search_steps` at most. Where there are other
    steps, those that an episode was cut after are left out: a repeated action may be cut short
    there, and its reward with it.

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
    if steps >= config.search_steps or replay.has_termination:
        return True
    every = max(EVERY, replay.action_size)
    if before >= config.random_steps and before // every == steps // every:
        return False
    action, reward, cut = replay.steps()
    kept = cut if cut.all() else ~cut
    return tells_of_states(action[kept], reward[kept])


def tells_of_states(
    action: Float[np.ndarray, "steps action"], reward: Float[np.ndarray, " steps"]
) -> bool:
    r"""Whether rewards depend on anything but the action.

    They do where equal actions had rewards that differ, or where the best fit
    $r \approx a_0 + \sum_i b_i u_i + c_i u_i^2$ leaves more than a thousandth of their variance (a
    step; as many are taken off as the fit has coefficients). Elsewhere they are constant, or the
    cost of acting, and the best plan for them is to do nothing. Where the different actions are too
    few for the fit, all b_i are one number and all c_i another, unless most actions came again.

    Args:
        action: encoded actions u, shape (steps, action).
        reward: rewards r, shape (steps,).

    Returns:
        Whether more than the action decides.
    """
    reward = reward.astype(np.float64)
    if np.ptp(reward) <= 1e-6 * np.abs(reward).max(initial=0.0):
        return False
    centred = reward - reward.mean()
    known: dict[bytes, int] = {}
    kind = np.array([known.setdefault(row.tobytes(), len(known)) for row in action])
    count, first = np.bincount(kind), np.unique(kind, return_index=True)[1]
    mean = np.bincount(kind, centred) / count
    least = SHARE * np.sum(centred**2)
    left = np.sum((centred - mean[kind]) ** 2)
    if left > least:
        return True
    distinct = action[first].astype(np.float64)
    # Squares of one-hot groups would be the same once more.
    squares = [] if np.all((distinct == 0.0) | (distinct == 1.0)) else [distinct**2]
    features = np.concatenate([np.ones((len(distinct), 1)), distinct, *squares], axis=1)
    fitted = len(features) >= ENOUGH * features.shape[1]
    if not fitted and len(reward) < ENOUGH * len(features):
        sums = [np.sum(distinct**power, axis=1, keepdims=True) for power in (0, 1, 2)]
        features, fitted = np.concatenate(sums, axis=1) / distinct.shape[1], True
    spare = len(reward) - min(features.shape)
    allowed = least * spare / (len(reward) - 1)
    if fitted:
        left += _unexplained(features, mean, count, allowed)
    return bool(left > allowed)


def _unexplained(
    features: Float[np.ndarray, "kinds features"],
    mean: Float[np.ndarray, " kinds"],
    count: Int[np.ndarray, " kinds"],
    enough: float,
) -> float:
    """What the best linear fit leaves of means of so many steps each, squared and summed.

    Fits are only as good as is `enough`: with thousands of features the best one takes minutes.
    """
    # Imported here: it takes a tenth of a second, which few runs need.
    from scipy.sparse.linalg import lsqr

    root = np.sqrt(count)
    wanted = mean * root
    size = float(np.linalg.norm(wanted))
    if size == 0.0:
        return 0.0
    share = 0.1 * np.sqrt(enough) / size
    fit = lsqr(features * root[:, None], wanted, atol=1e-9, btol=share, iter_lim=200)
    return float(fit[3] ** 2)  # the norm of what is left
