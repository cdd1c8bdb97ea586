"""Settings: typed, and a wrong one is named with the nearest valid one."""

import dataclasses

import numpy as np
import pytest
import yaml

from loopwm import configs, settings
from loopwm.envs import RepeatedSource
from loopwm.errors import UsageError
from loopwm.models import WORLD_MODELS
from loopwm.run import resolve_config
from loopwm.training import RunConfig


def build(*pairs, config="debug"):
    return resolve_config("CartPole-v1", config=config, overrides=settings.parse_overrides(pairs))


def test_another_environment_among_the_overrides_is_refused(assert_helpful):
    assert resolve_config("CartPole-v1", overrides={"env": "CartPole-v1"}).env == "CartPole-v1"
    with pytest.raises(UsageError, match="Pendulum-v1.*CartPole-v1") as raised:
        resolve_config("CartPole-v1", overrides={"env": "Pendulum-v1"})
    assert_helpful(raised)


def test_overrides_reach_every_level():
    config = build(
        "steps=7",
        "learner.batch_size=3",
        "model.core.width=5",
        "model.depth=9",
        "learner.learning_rate=1e-4",
        "learner.discount=0.5",
        "collection.same_step_reset=true",
        "evaluation.threshold=12",
        "planning.mppi.horizon=4",
    )
    assert (config.steps, config.learner.batch_size, config.model.core.width) == (7, 3, 5)
    assert (config.model.depth, config.learner.learning_rate) == (9, 1e-4)
    assert config.collection.same_step_reset is True
    assert config.evaluation.threshold == 12.0 and isinstance(config.evaluation.threshold, float)
    assert config.planning.mppi.horizon == 4
    assert build("planning.planner=icem").planning.planner == "icem"
    # What was not named keeps the preset's value.
    assert config.model.latent == build().model.latent
    assert build("evaluation.threshold=null").evaluation.threshold is None


def test_a_later_override_wins():
    assert build("steps=7", "steps=8").steps == 8
    assert resolve_config("CartPole-v1", config="debug", overrides={"steps": 7}, steps=9).steps == 9


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("learner.batchsize=3", "'learner.batch_size'"),
        ("lerner.batch_size=3", "'learner'"),
        ("model.dept=3", "'model.depth'"),
        ("model.core.widht=3", "'model.core.width'"),
        ("planning.mpi.horizon=3", "'planning.mppi'"),
        ("planning.icem.bta=3", "'planning.icem.beta'"),
        ("planning.settings=3", "'planning."),
        ("model.name=lopped", "'model.name=looped'"),
        ("stepps=3", "'steps'"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(pair, said):
    with pytest.raises(UsageError) as raised:
        build(pair)
    message = str(raised.value)
    assert f"did you mean {said}" in message
    assert pair.split("=")[0].split(".")[0] in message and "\n" not in message


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("learner.batch_size=many", "learner.batch_size is 'many', but it needs an integer"),
        ("learner.batch_size=1.5", "needs an integer"),
        ("learner.batch_size=true", "needs an integer"),
        ("learner.batch_size=", "needs an integer"),
        ("learner.batch_size=[1]", "needs an integer"),
        ("learner.discount=high", "needs a number"),
        ("collection.same_step_reset=1", "needs true or false"),
        ("evaluation.threshold=high", "needs a number or nothing"),
        ("learner=5", "learner is 5, but it needs a mapping"),
        ("model=looped", "model is 'looped', but it needs a mapping"),
        ("model=", "model is None, but it needs a mapping"),
        ("model.core=5", "model.core is 5, but it needs a mapping"),
        ("steps=0", "steps is 0"),
        ("seed=-1", "seed is -1"),
        ("learner.discount=1.5", "learner.discount is 1.5"),
        ("learner.discount=.nan", "learner.discount is nan"),
        ("learner.reward_weight=.nan", "learner.reward_weight is nan, but it needs a number"),
        ("learner.reward_weight=nan", "learner.reward_weight is 'nan', but it needs a number"),
        (f"learner.reward_weight={10**400}", "but it needs a number"),
        ("learner.batch_size=2026-13-45", "quote it"),
        (f"steps={'9' * 5000}", "quote it"),
        ("learner.learning_rate=0", "learner.learning_rate is 0"),
        ("learner.ends=1.0", "learner.ends is 1.0"),
        ("collection.envs=0", "collection.envs"),
        ("evaluation.episodes=0", "evaluation.every, episodes"),
        ("model.depth=0", "model.depth is 0"),
        ("planning.categorical_cem.elites=1000", "elites"),
    ],
)
def test_a_wrong_value_is_refused_by_name(pair, said, assert_helpful):
    with pytest.raises(UsageError) as raised:
        build(pair)
    assert said in str(raised.value)
    assert_helpful(raised)


def test_numbers_may_be_numpys():
    given = {"learner": {"batch_size": np.int64(3), "learning_rate": np.float32(0.5)}}
    config = resolve_config(
        "CartPole-v1", overrides=given | {"seed": np.int32(4), "steps": np.uint8(7)}
    )
    assert (config.seed, config.steps, config.learner.batch_size) == (4, 7, 3)
    assert config.learner.learning_rate == 0.5
    assert yaml.safe_load(yaml.safe_dump(settings.dump(config))) == settings.dump(config)


@pytest.mark.parametrize("given", [{"learner.batch_size": 3}, {"learner": {"depth.law": "fixed"}}])
def test_a_key_with_dots_is_told_apart_from_an_unknown_one(given, assert_helpful):
    with pytest.raises(UsageError, match="use one mapping in another, .*: {.*: …}") as raised:
        resolve_config("CartPole-v1", overrides=given)
    assert_helpful(raised)


@pytest.mark.parametrize("pair", ["steps", "=3", "steps={", "steps=a: b: c"])
def test_what_is_no_pair_is_refused(pair, assert_helpful):
    with pytest.raises(UsageError) as raised:
        build(pair)
    assert "\n" not in str(raised.value)


def test_presets():
    assert {"debug", "classic_control", "box2d"} <= set(configs.names())
    for name in configs.names():
        assert isinstance(resolve_config("CartPole-v1", config=name), RunConfig)
    assert resolve_config("CartPole-v1") == resolve_config("CartPole-v1", config="classic_control")
    repeating = resolve_config("LunarLander-v3", config="box2d")
    assert repeating.source() == RepeatedSource("LunarLander-v3", 4)
    with pytest.raises(UsageError, match="debug") as raised:
        resolve_config("CartPole-v1", config="debugg")
    assert "classic_control" in str(raised.value) and "debugg" in str(raised.value)


def test_a_file_of_settings(tmp_path, assert_helpful):
    path = tmp_path / "mine.yaml"
    path.write_text("steps: 12\nlearner: {batch_size: 3}\n")
    config = resolve_config("Pendulum-v1", config=path, seed=4)
    assert (config.env, config.seed, config.steps) == ("Pendulum-v1", 4, 12)
    assert config.learner.batch_size == 3
    for text, said in (("steps: many", "steps"), ("- 1", "mapping"), ("{", "YAML")):
        path.write_text(text)
        with pytest.raises(UsageError, match=said) as raised:
            resolve_config("Pendulum-v1", config=path)
        assert_helpful(raised)
    with pytest.raises(UsageError, match="nowhere.yaml") as raised:
        resolve_config("Pendulum-v1", config=tmp_path / "nowhere.yaml")
    assert_helpful(raised)


def test_dump_and_build_are_inverse():
    for name in configs.names():
        config = resolve_config("CartPole-v1", config=name)
        values = settings.dump(config)
        assert settings.build(RunConfig, values) == config
        assert WORLD_MODELS[values["model"]["name"]] is type(config.model)
        assert set(values) == {field.name for field in dataclasses.fields(RunConfig)}


def test_another_model_does_not_keep_the_settings_of_the_one_before():
    base = {"model": {"name": "looped", "latent": 8, "core": {"width": 4}}, "steps": 3}
    assert settings.merge(base, {"model": {"name": "grid"}}) == {
        "model": {"name": "grid"},
        "steps": 3,
    }
    same = settings.merge(base, {"model": {"name": "looped", "depth": 2}})["model"]
    assert same == {"name": "looped", "latent": 8, "depth": 2, "core": {"width": 4}}
    unnamed = settings.merge({"model": {"latent": 8}}, {"model": {"name": "looped"}})["model"]
    assert unnamed == {"latent": 8, "name": "looped"}


@dataclasses.dataclass(frozen=True)
class Tuples:
    cells: tuple[int, ...] | None = None
    shares: tuple[float, ...] = (0.5,)
    pair: tuple[int, float] = (1, 2.0)


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("cells=8,8", (8, 8)),
        ("cells=[8, 8]", (8, 8)),
        ("cells=(8,8)", None),
        ("cells=24", (24,)),
        ("cells=24,", (24,)),
        ("cells=[]", ()),
        ("shares=0.5,1,1e-3", (0.5, 1.0, 1e-3)),
        ("shares=[1, 2e-2]", (1.0, 0.02)),
        ("pair=3,4", (3, 4.0)),
    ],
)
def test_a_tuple_is_read_from_a_list_or_from_entries_with_commas(pair, expected):
    name, _, _ = pair.partition("=")
    if expected is None:
        with pytest.raises(UsageError, match=name):
            settings.build(Tuples, settings.parse_overrides([pair]))
        return
    built = settings.build(Tuples, settings.parse_overrides([pair]))
    found = getattr(built, name)
    assert found == expected and [type(x) for x in found] == [type(x) for x in expected]
    # And back, through the text of a run's config.yaml.
    again = yaml.safe_load(yaml.safe_dump(settings.dump(built)))
    assert settings.build(Tuples, again) == built


def test_a_tuple_may_be_left_out_or_be_nothing():
    assert settings.build(Tuples, {"cells": None}) == Tuples()
    assert settings.dump(Tuples()) == {"cells": None, "shares": [0.5], "pair": [1, 2.0]}


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("cells=8,wide", "a list in which every entry is an integer or nothing (null)"),
        ("cells=[8, 1.5]", "cells is [8, 1.5], but it needs a list"),
        ("cells=8,true", "every entry is an integer"),
        ("cells=[[8]]", "every entry is an integer"),
        ("cells={a: 1}", "every entry is an integer"),
        ("cells=8,,8", "every entry is an integer"),
        ("shares=0.5,half", "every entry is a number"),
        ("shares=", "every entry is a number"),
        ("pair=3", "a list of an integer, a number"),
        ("pair=3.5,4", "a list of an integer, a number"),
        ("pair=3,4,5", "a list of an integer, a number"),
    ],
)
def test_a_wrong_tuple_is_refused_in_one_sentence(pair, said, assert_helpful):
    with pytest.raises(UsageError) as raised:
        settings.build(Tuples, settings.parse_overrides([pair]))
    assert said in str(raised.value)
    assert_helpful(raised)


def test_the_grid_of_a_convolutional_core_can_be_set():
    config = build("model.name=grid", "model.core.name=convolution", "model.core.grid=8,8")
    assert config.model.core.grid == (8, 8)
    assert settings.build(RunConfig, settings.dump(config)) == config
