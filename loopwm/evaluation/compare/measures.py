"""What is measured of a trained model's open-loop predictions."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from loopwm.evaluation.compare.logged import Sequences

LEAST_SEQUENCES = 8
"""Fewer valid test sequences at a step give no number."""
OUTCOME_STEPS = 20
"""Imagined steps over which reward and continuation are judged."""


def nrmse(
    predicted: Float[np.ndarray, "count observation"],
    target: Float[np.ndarray, "count observation"],
) -> float:
    r"""Root mean square error over the target's standard deviation.

    $$\sqrt{\frac{\sum_{n,e} (\hat o_{n,e} - o_{n,e})^2}{\sum_{n,e} (o_{n,e} - \bar o_e)^2}}$$

    over test sequences n and entries e of the observation, both normalised by the training data.
    0 is exact, 1 is as good as the mean of the targets.

    Args:
        predicted: shape (count, observation).
        target: shape (count, observation), not all the same.

    Returns:
        The number; infinite where the targets do not vary and the prediction misses them.
    """
    missed = np.sum((predicted.astype(np.float64) - target) ** 2)
    spread = np.sum((target - target.mean(axis=0, dtype=np.float64)) ** 2)
    if spread == 0.0:
        return 0.0 if missed == 0.0 else float("inf")
    return float(np.sqrt(missed / spread))


def nrmse_at(
    predicted: Float[np.ndarray, "count steps observation"],
    target: Float[np.ndarray, "count steps observation"],
    valid: Bool[np.ndarray, "count steps"],
    step: int,
) -> float | None:
    """NRMSE after `step` imagined steps, of the sequences that are as long.

    None for too few of them, and where they all end in the same observation: there is no spread
    then that an error could be measured by. So it is for every model, whatever it predicts.
    """
    if step > valid.shape[1]:
        return None
    rows = valid[:, step - 1]
    if rows.sum() < LEAST_SEQUENCES:
        return None
    wanted = target[rows, step - 1]
    if np.all(wanted == wanted[0]):
        return None
    found = nrmse(predicted[rows, step - 1], wanted)
    return found if np.isfinite(found) else None


def open_loop_measures(
    predicted: Float[np.ndarray, "count steps joined"],
    real: Sequences,
    observation: Float[np.ndarray, "count steps observation"],
    reward: Float[np.ndarray, "count steps"],
    steps: tuple[int, ...],
) -> dict[str, Any]:
    """Errors of observation, reward and continuation.

    Args:
        predicted: observations, reward and logit of the continuation of each imagined step.
        real: the test sequences.
        observation: o_1 … o_K of the same, normalised.
        reward: their rewards over the largest absolute one of the training data.
        steps: steps at which NRMSE is given.

    Returns:
        `nrmse` by step; `error`, the geometric mean of those with a number up to 20 steps;
        `reward_rmse` over the first 20 imagined steps, in units of the largest absolute reward;
        `continuation_brier`, the mean squared error of the predicted probability over the same.
    """
    errors = {
        str(step): nrmse_at(predicted[..., :-2], observation, real.valid, step) for step in steps
    }
    counted = [e for step, e in errors.items() if e is not None and int(step) <= OUTCOME_STEPS]
    near = np.arange(real.valid.shape[1]) < OUTCOME_STEPS
    rows = real.valid & near
    probability = 1.0 / (1.0 + np.exp(-np.clip(predicted[..., -1].astype(np.float64), -60, 60)))
    return {
        "nrmse": errors,
        "error": float(np.exp(np.mean(np.log(np.maximum(counted, 1e-12))))) if counted else None,
        "reward_rmse": float(np.sqrt(np.mean((predicted[..., -2] - reward)[rows] ** 2))),
        "continuation_brier": float(np.mean((probability - real.goes_on)[rows] ** 2)),
    }
