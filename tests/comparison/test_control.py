"""Cells of control: a whole run with the planner, at its smallest."""

import dataclasses
import itertools
import math
import types

import pytest
import yaml

from loopwm import configs
from loopwm.agents import PlanningAgent
from loopwm.comparison import control
from loopwm.comparison.control import _with_samples, measure_control, try_control
from loopwm.core import CoreConfig
from loopwm.envs import RepeatedSource
from loopwm.evaluation.compare import Cell, ControlProtocol, Search
from loopwm.models import GRUConfig, LoopedConfig, Sizes, parameters_of
from loopwm.planning import MPPIConfig
from loopwm.run import resolve_config
from loopwm.training import EvaluationResult

CELL = Cell("control", "Pendulum-v1", "looped", 500, 0)
PROTOCOL = ControlProtocol(
    env_steps=64,
    episodes=2,
    preset="debug",
    depths=(1, 2),
    samples=(0.5, 1.0),
    search=Search(rates=(1e-3,), shapes=1, share=0.75),
)


@pytest.fixture(scope="module")
def measured(compile_cache):
    builder = LoopedConfig(latent=8, hidden=8, depth=2, core=CoreConfig(width=8, layers=1))
    return builder, measure_control(builder, CELL, PROTOCOL, rate=1e-3)


def test_everything_is_measured(measured):
    builder, found = measured
    assert found["return"] == pytest.approx(sum(found["returns"]) / 2) and found["return"] < 0
    assert found["params"] == parameters_of(builder, Sizes(3, 1))
    assert found["params_core"] < found["params"] < found["params_total"]
    assert found["loops"] == 2.0
    for name in ("flops_transition", "us_transition", "flops_training", "seconds_training"):
        assert math.isfinite(found[name]) and found[name] > 0, name


def test_loops_and_samples_are_traded(measured):
    _, found = measured
    rows = found["trade"]
    # The debug preset draws 8 samples.
    assert [(row["loops"], row["samples"]) for row in rows] == [(1, 4), (2, 4), (1, 8), (2, 8)]
    # The model's own depth and the preset's samples are the evaluation itself.
    assert rows[-1]["return"] == pytest.approx(found["return"], rel=1e-4)


def test_a_trial_is_a_shorter_run(compile_cache):
    builder = GRUConfig(latent=6, hidden=8, width=5)
    cell = dataclasses.replace(CELL, family="gru")
    assert 0.0 < try_control(builder, cell, PROTOCOL, rate=1e-3) < 2_000.0


def test_a_trial_plays_as_it_was_trained(compile_cache, tmp_path, monkeypatch):
    preset = tmp_path / "repeating.yaml"
    preset.write_text(yaml.safe_dump({**configs.preset("debug"), "action_repeat": 4}))
    asked, original = [], control.run_episodes

    def watched(agent, source, *arguments, **kwargs):
        asked.append(source)
        return original(agent, source, *arguments, **kwargs)

    monkeypatch.setattr(control, "run_episodes", watched)
    protocol = dataclasses.replace(PROTOCOL, preset=str(preset), env_steps=160)
    cell = dataclasses.replace(CELL, family="gru")
    try_control(GRUConfig(latent=6, hidden=8, width=5), cell, protocol, rate=1e-3)
    assert asked == [RepeatedSource("Pendulum-v1", 4)]


def test_no_episode_judges_two_seeds_or_is_searched_on(monkeypatch):
    config, played = resolve_config("Pendulum-v1", config="debug"), []

    def noted(agent, source, spaces, *, episodes, seed, max_steps):
        played.append(range(seed, seed + episodes))
        assert max_steps == config.evaluation.max_episode_steps
        return EvaluationResult((1.0,), loops_mean=0.0, bound_max=math.inf, decision_ms=1.0)

    run, agent = types.SimpleNamespace(read_config=lambda: config), object.__new__(PlanningAgent)
    monkeypatch.setattr(control, "run_episodes", noted)
    monkeypatch.setattr(control, "_trained", lambda *_, **__: (agent, run))
    protocol = ControlProtocol(episodes=1_000)
    try_control(GRUConfig(), dataclasses.replace(CELL, seed=10_000), protocol, rate=1e-3)
    for seed in (0, 1, 2, 999):
        control._play(agent, config, protocol, seed=seed)
    assert len(set(itertools.chain(*played))) == sum(map(len, played)) == 5_000


def test_samples_are_never_fewer_than_elites_and_proposals():
    planner = MPPIConfig(population=48, elites=10, proposals=3)
    assert _with_samples(planner, 2.0).population == 96
    assert _with_samples(planner, 0.01).population == 10
    planner = dataclasses.replace(planner, proposals=12)
    assert _with_samples(planner, 0.01).population == 13
