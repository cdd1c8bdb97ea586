"""Whole runs on grids, images and spaces with parts, with the models made for them."""

import functools
import json

import numpy as np
import pytest
import toy_envs

import loopwm
from loopwm.cli.main import main
from loopwm.core import GateHalting
from loopwm.envs import Spaces
from loopwm.errors import UsageError
from loopwm.evaluation import StudyConfig
from loopwm.models import GridWorldModel, LoopedWorldModel, TokenWorldModel
from loopwm.stability import certify, certify_transition
from loopwm.training import RunFolder, checkpoint

SMALL = {"channels": 4, "inputs": 3, "readout": 4}
GRID = {
    "name": "grid",
    "channels": 3,
    "hidden": 4,
    "depth": 2,
    "core": {"name": "convolution", "hidden": 4, "layers": 1, "gate": True, **SMALL},
}
TOKENS = {
    "name": "tokens",
    "tokens": 3,
    "width": 4,
    "hidden": 8,
    "depth": 2,
    "core": {"name": "attention", "preset": "self", "heads": 2, **SMALL},
}


def _train(path, kind, model):
    overrides = {"collection": {"replay_capacity": 300}}
    if model is not None:
        overrides["model"] = model
    return loopwm.train(
        f"toy_envs:Marker-{kind}-v0",
        config="debug",
        overrides=overrides,
        out=path,
        steps=48,
        quiet=True,
    )


@pytest.fixture
def few_measurements(monkeypatch):
    """The command `loopwm stability` as it is, with a smaller study."""
    counts = ("visited", "drawn", "attacked", "rollouts", "attack_starts", "lookahead")
    few = dict.fromkeys(counts, 1) | {"episode_steps": 3, "loops": 8, "attack_steps": 4}
    few |= {"horizon": 8, "exponent_steps": 8, "candidates": 2, "eigenvalues": 4}
    monkeypatch.setattr("loopwm.study.StudyConfig", functools.partial(StudyConfig, **few))


@pytest.mark.parametrize(
    ("kind", "model", "expected"),
    [
        ("grid", GRID, GridWorldModel),
        pytest.param("picture", TOKENS, TokenWorldModel, marks=pytest.mark.slow),
        ("parts", None, LoopedWorldModel),
    ],
)
def test_a_run_trains_saves_loads_acts_and_is_studied(
    kind, model, expected, compile_cache, few_measurements, tmp_path, capsys
):
    agent = _train(tmp_path / "run", kind, model)
    assert isinstance(agent.world_model, expected)
    assert certify(agent.world_model.core).rate < 1.0
    assert certify_transition(agent.world_model).radius > 0.0
    folder = RunFolder.open(tmp_path / "run")
    assert folder.read_evals()[-1]["env_steps"] == 48
    spaces = Spaces.of_source(f"toy_envs:Marker-{kind}-v0")
    held = checkpoint.load_replay(folder)["observation"]
    assert held.dtype == spaces.observation.dtype
    if kind == "grid":
        # It starts at 0: what moved it is the loss of reading out after each loop.
        assert np.any(np.asarray(agent.world_model.core.gate.weight) != 0.0)
        loopwm.load(tmp_path / "run", rule=GateHalting(0.5))
    if kind == "picture":
        assert np.isin(held, (0, 255)).all() and held.any()
    env = toy_envs.Marker(kind)
    one, _ = env.reset(seed=5)
    other, _ = env.reset(seed=6)
    again = loopwm.load(tmp_path / "run")
    action, _ = agent.act(one)
    assert env.action_space.contains(action)
    assert again.act(one)[0] == action
    actions, state = agent.act(spaces.observation.batch([one, other]))
    assert actions.shape == (2,) and np.all(np.asarray(state.stats.finite))
    if model is not None:
        out = tmp_path / "study"
        assert main(["stability", str(tmp_path / "run"), "--json", "--out", str(out)]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["certificate"] == json.loads(folder.summary_file.read_text())["certificate"]
        assert record["certificate"]["norm"] == ("P" if kind == "grid" else "2,inf")
        assert record["bounds_hold"] is True and record["transition"]["level"] == "ball"
        assert record["report"] == str(out / "report.html") and (out / "report.html").is_file()


def test_a_grid_model_without_a_grid_is_refused_before_anything_is_written(
    tmp_path, assert_helpful
):
    overrides = {"model": {"name": "grid"}}
    with pytest.raises(UsageError, match="no such shape|the shape") as raised:
        loopwm.train(
            "CartPole-v1", config="debug", out=tmp_path / "run", overrides=overrides, quiet=True
        )
    assert_helpful(raised)
    assert not (tmp_path / "run").exists()
