"""Errors of open-loop predictions against numbers worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.evaluation.compare.logged import Sequences
from loopwm.evaluation.compare.measures import nrmse, nrmse_at, open_loop_measures
from loopwm.evaluation.compare.outcome_model import outcome_loss


def test_nrmse_of_exact_mean_and_missed():
    target = np.array([[0.0], [2.0], [4.0]])
    assert nrmse(target, target) == 0.0
    assert nrmse(np.full((3, 1), 2.0), target) == 1.0
    # Missed by 1 each: sqrt(3 / (4 + 0 + 4)).
    np.testing.assert_allclose(nrmse(target + 1.0, target), np.sqrt(3 / 8))


def test_entries_are_pooled_not_averaged():
    target = np.array([[0.0, 0.0], [2.0, 20.0]])
    predicted = np.array([[1.0, 0.0], [1.0, 20.0]])
    np.testing.assert_allclose(nrmse(predicted, target), np.sqrt(2 / (2 + 200)))


def test_targets_that_do_not_vary():
    same = np.ones((3, 2))
    assert nrmse(same, same) == 0.0 and nrmse(same + 1.0, same) == float("inf")


def test_targets_that_do_not_vary_count_for_no_model(rng):
    target = rng.normal(size=(10, 2, 3))
    target[:, 1] = 0.5
    valid = np.ones((10, 2), bool)
    # Else an exact prediction would have an error there, and a family that misses none.
    for predicted in (target, target + 1.0):
        assert nrmse_at(predicted, target, valid, 2) is None
        assert nrmse_at(predicted, target, valid, 1) is not None


def test_only_sequences_that_are_long_enough_count():
    target = np.zeros((10, 2, 1))
    target[:, :, 0] = np.arange(10.0)[:, None]
    predicted = target.copy()
    predicted[8:, 1] += 50.0
    valid = np.ones((10, 2), bool)
    valid[8:, 1] = False
    assert nrmse_at(predicted, target, valid, 2) == 0.0
    valid[2:, 1] = False
    assert nrmse_at(predicted, target, valid, 2) is None


def test_reward_and_continuation_of_valid_steps(rng):
    count, steps = 12, 3
    observation = rng.normal(size=(count, steps + 1, 2)).astype(np.float32)
    valid = np.ones((count, steps), bool)
    valid[0, 1:] = False
    goes_on = np.ones((count, steps), np.float32)
    goes_on[0, 0] = 0.0
    reward = np.zeros((count, steps), np.float32)
    real = Sequences(observation, np.zeros((count, steps, 1), np.float32), reward, goes_on, valid)
    predicted = np.zeros((count, steps, 4), np.float32)
    predicted[..., :2] = observation[:, 1:]
    predicted[..., 2] = 0.5  # every reward is missed by a half
    predicted[0, 1:] = 77.0  # not valid, so it does not count
    found = open_loop_measures(predicted, real, observation[:, 1:], reward, (1, 2, 50))
    # A logit of 0 is a probability of a half: missed by a half everywhere.
    assert (found["reward_rmse"], found["continuation_brier"]) == (0.5, 0.25)
    assert found["nrmse"]["1"] == found["nrmse"]["2"] == 0.0


def test_error_is_the_geometric_mean_of_the_first_twenty_steps(rng):
    target = rng.normal(size=(200, 50, 1)).astype(np.float32)
    target -= target.mean(axis=0)
    predicted = np.zeros((200, 50, 3), np.float32)  # predicting the mean
    predicted[:, 0, :1] = 0.75 * target[:, 0]
    real = Sequences(
        np.concatenate([target[:, :1], target], axis=1),
        np.zeros((200, 50, 1), np.float32),
        np.zeros((200, 50), np.float32),
        np.ones((200, 50), np.float32),
        np.ones((200, 50), bool),
    )
    found = open_loop_measures(predicted, real, target, real.reward, (1, 5, 20, 50))
    assert found["nrmse"]["50"] == pytest.approx(1.0, abs=1e-6)
    assert found["nrmse"]["1"] == pytest.approx(0.25, rel=1e-5)
    assert found["error"] == pytest.approx(0.25 ** (1 / 3), rel=1e-5)


def test_loss_of_one_prediction():
    found = jnp.array([1.0, 3.0, 0.5, 0.0])
    seen = jnp.array([1.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose(outcome_loss(found, seen), 2.0 + 0.25 + np.log(2.0), rtol=1e-6)
