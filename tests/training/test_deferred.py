"""Deferred decoding: three terms by hand, the curriculum, and a run that uses it."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import loopwm
from loopwm.errors import UsageError
from loopwm.models import AbstractWorldModel
from loopwm.training import Curriculum, DeferredConfig, LearnerConfig
from loopwm.training.deferred import deferred_terms, movement_excess


class Doubling(AbstractWorldModel):
    """decode(z) = 2z."""

    latent: int = 1
    depth: int = 1
    core: None = None

    def encode(self, observation):
        raise NotImplementedError

    def transition(self, z, u, rule=None):
        raise NotImplementedError

    def decode(self, z):
        return 2.0 * z

    def outcome(self, z, u, z_next):
        raise NotImplementedError


OBSERVATION = jnp.asarray([[0.0], [2.0], [8.0], [0.0]])
ENCODED = jnp.asarray([[0.0], [1.0], [2.0], [9.0]])
AFTER = jnp.asarray([[1.0], [3.0], [4.0]])


@eqx.filter_jit
def terms(steps, valid, after=AFTER, encoded=ENCODED):
    return deferred_terms(Doubling(), OBSERVATION, encoded, after, valid, steps, 1.25)


@pytest.mark.parametrize(
    "steps, valid, expected",
    [
        # K = 2: (2·3 − 8)², (0 + 1)/2, and 1 + 2 − 2·1.25.
        (2, 3, (4.0, 0.5, 0.5)),
        # K = 1: (2·1 − 2)², 0, and 1 is less than 1.25.
        (1, 3, (0.0, 0.0, 0.0)),
        # K = 3: (8 − 0)², (0 + 1 + 25)/3, 1 + 2 + 1 − 3.75.
        (3, 3, (64.0, 26.0 / 3.0, 0.25)),
        # The episode ends after two of the three steps, or before the first.
        (3, 2, (4.0, 0.5, 0.5)),
        (3, 0, (0.0, 0.0, 0.0)),
    ],
)
def test_three_terms_by_hand(steps, valid, expected):
    found = terms(jnp.asarray(steps), jnp.arange(3) < valid)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-6)


def test_what_the_terms_teach():
    def gradients(which, steps=2):
        def chosen(after, encoded):
            found = terms(jnp.asarray(steps), jnp.ones(3, bool), after, encoded)
            return getattr(found, which)

        return [np.asarray(g).ravel() for g in jax.grad(chosen, (0, 1))(AFTER, ENCODED)]

    # Only the last state is decoded; what the encoder says of later observations is held fixed.
    after, encoded = gradients("terminal")
    np.testing.assert_allclose(after, [0.0, -8.0, 0.0])
    np.testing.assert_allclose(encoded, np.zeros(4))
    after, encoded = gradients("consistency")
    np.testing.assert_allclose(after, [0.0, 1.0, 0.0])
    np.testing.assert_allclose(encoded, np.zeros(4))
    after, encoded = gradients("movement")
    np.testing.assert_allclose(after, [0.0, 1.0, 0.0])
    np.testing.assert_allclose(encoded, [-1.0, 0.0, 0.0, 0.0])


def test_standing_still_has_a_gradient():
    found = jax.grad(lambda z: movement_excess(z, 3, 0.0))(jnp.ones((4, 2)))
    assert np.all(np.asarray(found) == 0.0)


def test_the_curriculum_gives_each_k_an_equal_share():
    config = DeferredConfig(steps=4, curriculum=Curriculum.LINEAR, first=2, ramp=6)
    found = [int(config.horizon(u)) for u in range(8)]
    assert found == [2, 2, 3, 3, 4, 4, 4, 4]
    assert int(jax.jit(config.horizon)(jnp.asarray(3))) == 3
    assert int(config.horizon(2**31 - 1)) == 4
    assert [int(DeferredConfig(steps=4).horizon(u)) for u in (0, 9)] == [4, 4]


def test_k_of_every_sequence_is_drawn_up_to_that_of_the_curriculum(key):
    config = DeferredConfig(steps=4, curriculum=Curriculum.LINEAR, first=2, ramp=6)
    assert config.horizons(3, 5, key=key).tolist() == [3] * 5
    drawn = dataclasses.replace(config, drawn=True)
    assert set(drawn.horizons(0, 50, key=key).tolist()) == {2}
    counts = np.bincount(np.asarray(drawn.horizons(6, 3000, key=key)), minlength=5)
    # Five standard deviations around a third of them.
    assert counts[:2].tolist() == [0, 0] and np.all(np.abs(counts[2:] - 1000) < 130)


@pytest.mark.parametrize(
    "change, name",
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2, "first": 3}, "first"),
        ({"steps": 2, "ramp": 0}, "ramp"),
        ({"movement_weight": -1.0}, "movement_weight"),
        ({"movement_limit": float("nan")}, "movement_limit"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(change, name, assert_helpful):
    with pytest.raises(UsageError, match=name) as raised:
        DeferredConfig(**change)
    assert_helpful(raised)


def test_k_beyond_the_sequence_and_k_of_nothing_are_refused(assert_helpful):
    with pytest.raises(UsageError, match=r"steps is 6, more than learner.sequence") as raised:
        LearnerConfig(sequence=5, deferred=DeferredConfig(steps=6))
    assert_helpful(raised)
    with pytest.raises(UsageError, match="null") as raised:
        DeferredConfig().horizon(0)
    assert_helpful(raised)


def test_a_run_with_deferred_decoding_and_coarse_planning(compile_cache, tmp_path):
    agent = loopwm.train(
        "toy_envs:Paddle-v0",
        config="debug",
        steps=64,
        out=tmp_path / "run",
        overrides={
            "learner": {"deferred": {"steps": 2, "curriculum": "linear", "ramp": 4, "drawn": True}},
            "planning": {"mppi": {"coarse": {"depth": 1, "rescoring": "last"}}},
            "evaluation": {"every": 32},
        },
        quiet=True,
    )
    lines = (tmp_path / "run" / "evals.jsonl").read_text().splitlines()
    # Iterations of 8 and, two proposals being known by then, 6 sequences with one loop, and the 4
    # elites of the last again with two.
    spent = [json.loads(line)["loops_mean"] for line in lines]
    assert spent == pytest.approx([(14 * 1 + 4 * 2) / 18] * 2)
    assert agent.planner.config.coarse.depth == 1
    loaded = loopwm.load(tmp_path / "run")
    assert loaded.planner.config == agent.planner.config
