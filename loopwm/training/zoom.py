"""How far the range of values is zoomed in on the returns that there are."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from loopwm.training.learner import LearnerState, start_values, zoomed
from loopwm.training.replay import History, Replay
from loopwm.training.reward_error import FLAT

EVERY = 500
"""Env steps between two looks at the returns."""
NEWEST = 5_000
"""Records of each environment that are looked at."""
MARGIN = 1.25
"""Room for returns beyond those seen."""
STEEPEST = 5.0
"""Largest curvature of the reward's loss."""
LARGEST = 10
"""Largest zoom, a factor of 1,024."""
USUAL = 0.95
"""Share of the positive rewards that may be had again at every step; larger ones come once."""


def fitted(
    learner: LearnerState, replay: Replay, discount: float, reward_scale: float
) -> LearnerState:
    """The learner with values in units that fit the newest returns.

    Before the first update any zoom may be chosen, and values start at the mean reward; after it,
    a smaller zoom is, if returns have outgrown the range.

    Args:
        learner: its state.
        replay: all steps made.
        discount: γ.
        reward_scale: r_max, largest absolute reward seen, positive.

    Returns:
        The state, the very same object where nothing changes.
    """
    history, now = replay.history(NEWEST), int(learner.networks.critic.zoom)
    zoom = zoom_for(history, discount, reward_scale)
    bend = jnp.asarray(np.float32(curvature_for(history)))
    learner = dataclasses.replace(learner, curvature=bend)
    if int(learner.updates) == 0:
        mean = float(history.reward[history.made].mean(dtype=np.float64))
        return start_values(zoomed(learner, zoom), mean / reward_scale)
    return zoomed(learner, zoom) if zoom < now else learner


def curvature_for(history: History) -> float:
    r"""A of the reward's loss: $\operatorname{asinh}(r_{max}/m) - \operatorname{asinh}(1)$.

    m is the median of the absolute rewards that are not 0, r_max the largest; both of the steps
    seen. No less than 0.1, and no more than 5.
    """
    rewards = np.abs(history.reward[history.made].astype(np.float64))
    there = rewards[rewards > 0.0]
    if there.size == 0:
        return FLAT
    bend = np.arcsinh(there.max() / np.median(there)) - np.arcsinh(1.0)
    return float(np.clip(bend, FLAT, STEEPEST))


def zoom_for(history: History, discount: float, reward_scale: float) -> int:
    r"""The largest zoom whose range holds the returns seen, and those that learning may find.

    Values are $V' = 2^n (1 - \gamma) V / r_{max}$. Without zoom every return fits, but where
    rewards are rare, or a few of them much larger than the others, all of them lie within a bin or
    two. Of the returns to go G, an unfinished episode taken to go on at the mean reward, and of the
    rewards

    $$b = \max\Big(\max_t |G_t|,\ \max_{t \text{ last}} r_t,\
      \frac{q}{1 - \gamma}\Big), \qquad
      n = \lfloor -\log_2 (1.25\,(1 - \gamma)\, b / r_{max}) \rfloor,$$

    with q the 95 % quantile of the positive rewards that do not end the task, since learning raises
    returns, up to what a good reward is worth when it is had at every step. Not the largest: a
    bonus that is paid once in an episode among many small rewards (LunarLander's first contact
    with the ground) would be taken for a hundred of them. Only positive rewards count, so that a
    goal that was seen once among zeros and costs, and may be held, has all its room.

    Args:
        history: steps in the order in which they were made.
        discount: γ.
        reward_scale: r_max, largest absolute reward seen, positive.

    Returns:
        n, from 0 to 10.
    """
    made = history.made
    if not made.any():
        return 0
    reward, unit = history.reward.astype(np.float64), 1.0 - discount
    returns = _returns_to_go(history, discount)
    ends, goes_on = reward[made & history.terminated], reward[made & ~history.terminated]
    good = goes_on[goes_on > 0.0]
    # The next larger reward seen, so that of 20 or fewer the largest counts.
    usual = np.quantile(good, USUAL, method="higher") if good.size else 0.0
    bound = max(np.abs(returns[made]).max(), ends.max(initial=0.0), float(usual) / unit)
    share = MARGIN * unit * float(bound) / reward_scale
    return LARGEST if share <= 0.0 else int(np.clip(math.floor(-math.log2(share)), 0, LARGEST))


def _returns_to_go(history: History, discount: float) -> Float[np.ndarray, "envs steps"]:
    reward, made = history.reward.astype(np.float64), history.made
    onwards = reward[made].mean() / (1.0 - discount)
    returns, following = np.zeros_like(reward), np.full(len(reward), onwards)
    for t in reversed(range(reward.shape[1])):
        cut: Bool[np.ndarray, " envs"] = history.ended[:, t] & ~history.terminated[:, t]
        ahead = np.where(history.terminated[:, t], 0.0, np.where(cut, onwards, following))
        returns[:, t] = reward[:, t] + discount * ahead
        # A slot in which no step was made lies between two episodes.
        following = np.where(made[:, t], returns[:, t], onwards)
    return returns
