"""What a run leaves behind, and the Python contract; all with the `debug` preset."""

import dataclasses
import json
import os
import pathlib
import struct
import threading

import gymnasium as gym
import jax
import numpy as np
import pytest
import toy_envs
from run_fixtures import read_evals, without_times
from tensorboardX.proto.event_pb2 import Event

import loopwm
from loopwm.agents import PlanningAgent, PolicyAgent
from loopwm.core import FixedDepth
from loopwm.run import resolve_config
from loopwm.training import RunFolder, checkpoint, trainer

EVAL_KEYS = [
    "env_steps",
    "wall_seconds",
    "return_mean",
    "return_std",
    "episodes",
    "loops_mean",
    "decision_ms",
]
SUMMARY_KEYS = [
    "env",
    "seed",
    "env_steps",
    "wall_seconds",
    "compile_seconds",
    "threshold",
    "solved_at",
    "final_return_mean",
    "params",
    "certificate",
]
DEBUG = resolve_config("CartPole-v1", config="debug")


def train(path, env="CartPole-v1", **kwargs):
    """A debug run; overrides as keyword `collection={...}` and so on."""
    given = {key: kwargs.pop(key) for key in ("seed", "steps") if key in kwargs}
    agent = loopwm.train(env, config="debug", out=path, overrides=kwargs, quiet=True, **given)
    return agent, RunFolder.open(path)


def events(path):
    """The TensorBoard event files of a folder: {tag: {step: scalar, or the bytes of an image}}."""
    found = {}
    for file in sorted(path.glob("events.out.tfevents.*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])  # a record: length, checksum, event, checksum
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                image = value.HasField("image")
                shown = value.image.encoded_image_string if image else value.simple_value
                found.setdefault(value.tag, {})[event.step] = shown
    return found


def assert_same_state(one, two):
    """The newest checkpoints of two folders agree bit for bit, replay and generator included."""
    (arrays, meta), (others, other) = checkpoint.load(one), checkpoint.load(two)
    assert set(arrays) == set(others)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name, strict=True)
    assert meta["rng"] == other["rng"]
    own, its = checkpoint.load_replay(one), checkpoint.load_replay(two)
    for name, array in own.items():
        np.testing.assert_array_equal(array, its[name], err_msg=name, strict=True)


@pytest.mark.parametrize("name", ["cartpole_run", "pendulum_run"])
def test_the_folder_is_laid_out_as_promised(name, request):
    run = request.getfixturevalue(name)
    names = {p.name for p in run.path.iterdir()}
    logs = {n for n in names if n.startswith("events.out.tfevents.")}
    assert len(logs) == 1
    assert names - logs == {
        "config.yaml",
        "evals.jsonl",
        "best.npz",
        "summary.json",
        "checkpoints",
        "replay",
        "videos",
        "report.html",
    }
    folder = RunFolder.open(run.path)
    assert checkpoint.steps(folder)[-1] == DEBUG.steps
    replays = sorted(int(p.name) for p in folder.replay.iterdir())
    assert replays == checkpoint.steps(folder)
    assert not list(run.path.rglob("*.tmp"))
    env, discrete = {
        "cartpole_run": ("CartPole-v1", True),
        "pendulum_run": ("Pendulum-v1", False),
    }[name]
    given = resolve_config(env, config="debug", seed=0)
    # What was left open is filled in for the kind of actions.
    filled = dataclasses.replace(given, collection=given.collection.for_actions(discrete))
    assert folder.read_config() == filled != given


@pytest.mark.parametrize("name", ["cartpole_run", "pendulum_run"])
def test_evaluations_and_summary_have_exactly_their_keys(name, request):
    run = request.getfixturevalue(name)
    evals, summary = run.evals, run.summary
    assert [record["env_steps"] for record in evals] == [48, 96]
    for record in evals:
        assert list(record) == EVAL_KEYS
        assert record["episodes"] == DEBUG.evaluation.episodes
        assert record["loops_mean"] == DEBUG.model.depth
        assert record["decision_ms"] > 0 and record["return_std"] >= 0
    assert evals[0]["wall_seconds"] <= evals[1]["wall_seconds"] <= summary["wall_seconds"]
    assert list(summary) == SUMMARY_KEYS
    assert (summary["seed"], summary["env_steps"]) == (0, 96)
    assert summary["final_return_mean"] == evals[-1]["return_mean"]
    assert summary["threshold"] == {"cartpole_run": 475.0, "pendulum_run": -200.0}[name]
    assert 0 <= summary["compile_seconds"]
    params = summary["params"]
    assert list(params) == ["total", "world_model", "core"]
    assert params["total"] > params["world_model"] > params["core"] > 0
    certificate = summary["certificate"]
    assert list(certificate) == ["level", "rate", "norm"]
    assert certificate["level"] == "global" and certificate["norm"] == "P"
    assert 0 < certificate["rate"] < 1
    rate = loopwm.certify(run.agent.world_model.core).rate
    assert certificate["rate"] == pytest.approx(rate, rel=1e-3)


def test_compilation_is_counted_and_the_learner_compiled_once(cartpole_run, pendulum_run):
    for run in (cartpole_run, pendulum_run):
        assert run.summary["compile_seconds"] > 0
        assert run.traced["_updates"] == 1
        assert run.traced["_plan_batch"] == 2  # one environment to learn in, two to evaluate in


def test_tensorboard_can_read_the_events(cartpole_run):
    found = events(cartpole_run.path)
    means = {r["env_steps"]: r["return_mean"] for r in cartpole_run.evals}
    assert found["evaluation/return_mean"] == pytest.approx(means)
    losses = found["loss/total"]
    assert losses and all(32 <= step <= 96 for step in losses)
    assert np.all(np.isfinite(list(losses.values())))
    assert {"collect/return", "collect/decision_ms", "loss/consistency"} <= set(found)


def test_tensorboard_shows_imagination_and_candidates(cartpole_run, pendulum_run):
    ends = [f"planner/{n}_{at}" for n in ("best", "mean", "spread") for at in ("first", "last")]
    for run in (cartpole_run, pendulum_run):
        found = events(run.path)
        for tag in ("imagination/error_1", "imagination/error_5", *ends):
            assert list(found[tag]) == [48, 96] and np.all(np.isfinite(list(found[tag].values())))
        for tag in ("imagination/curves", "planner/candidates"):
            assert list(found[tag]) == [48, 96]
            assert all(image.startswith(b"\x89PNG") for image in found[tag].values())
        assert found["imagination/error_1"][48] > 0.0
        assert found["planner/best_last"][96] >= found["planner/mean_last"][96]
    assert list(events(pendulum_run.path)["imagination/error_20"]) == [48, 96]


def test_the_same_seed_is_the_same_run(cartpole_run, tmp_path):
    agent, folder = train(tmp_path / "again", seed=0)
    assert without_times(folder.read_evals()) == without_times(cartpole_run.evals)
    assert_same_state(RunFolder.open(cartpole_run.path), folder)
    observation = np.asarray([0.01, 0.02, -0.03, 0.04], np.float32)
    assert agent.act(observation)[0] == cartpole_run.agent.act(observation)[0]


def test_another_seed_is_another_run(cartpole_run, tmp_path):
    _, folder = train(tmp_path / "other", seed=1)
    own, other = checkpoint.load(RunFolder.open(cartpole_run.path))[0], checkpoint.load(folder)[0]
    name = next(n for n in own if "target_critic" in n and own[n].size > 10)
    assert not np.array_equal(own[name], other[name])
    assert not np.array_equal(own["normalizer.mean"], other["normalizer.mean"])


def test_evaluations_leave_training_as_it_is(cartpole_run, tmp_path):
    _, folder = train(tmp_path / "rarely", seed=0, evaluation={"every": 1000})
    assert folder.read_evals() == []
    assert_same_state(RunFolder.open(cartpole_run.path), folder)
    assert json.loads(folder.summary_file.read_text())["final_return_mean"] is None


@pytest.mark.parametrize("same_step", [False, True])
def test_several_environments(cartpole_run, tmp_path, same_step):
    collection = {"envs": 3, "same_step_reset": same_step}
    _, folder = train(tmp_path / "run", collection=collection)
    assert len(folder.read_evals()) == 2
    _, meta = checkpoint.load(folder)
    made = meta["counters"]["env_steps"]
    assert DEBUG.steps <= made < DEBUG.steps + 3
    # Nothing was overwritten yet: as many steps are stored as were counted.
    replay = checkpoint.load_replay(folder)
    assert int(np.sum(~replay["last"])) == made
    rewards = replay["reward"][~replay["last"]]
    np.testing.assert_array_equal(rewards, 1.0)  # CartPole pays 1 a step; a mere reset pays 0
    ends = int(replay["terminated"][~replay["last"]].sum())
    assert ends >= 2  # episodes ended under way, so that resets were among the calls


def test_discrete_observations_and_shifted_actions(cartpole_run, tmp_path, monkeypatch):
    given_back = []
    monkeypatch.setattr(trainer, "give_back_freed", lambda: given_back.append(True))
    agent, folder = train(tmp_path / "run", "toy_envs:Corridor-v0")
    assert len(folder.read_evals()) == 2
    assert len(given_back) == 4  # after two evaluations and two checkpoints
    action, _ = agent.act(3)
    assert action in (1, 2)
    arrays, _ = checkpoint.load(folder)
    np.testing.assert_array_equal(
        arrays["normalizer.mean"], 0.0
    )  # one-hot vectors stay as they are


def test_matrices_and_uneven_boxes(pendulum_run, tmp_path):
    agent, folder = train(tmp_path / "run", "toy_envs:Paddle-v0")
    assert len(folder.read_evals()) == 2
    action, _ = agent.act(np.zeros((3, 1)))
    assert action.shape == (1, 1) and action.dtype == np.float64 and -3.0 <= action[0, 0] <= 1.0


def test_memory_is_bounded(cartpole_run, tmp_path):
    """A ring that is written over many times, and no array left behind by a step."""
    alive = []

    class Watched(toy_envs.Corridor):
        def step(self, action):
            alive.append(len(jax.live_arrays()))
            return super().step(action)

    changes = {"collection": {"replay_capacity": 20}, "evaluation": {"every": 999}}
    agent, folder = train(tmp_path / "run", Watched, **changes)
    replay = checkpoint.load_replay(folder)
    records = 20 * (4 * (4 + 2 + 1) + 2)
    assert records <= sum(a.nbytes for a in replay.values()) <= records + 64
    # The depth analysis at the end plays on.
    assert len(alive) >= DEBUG.steps
    alive = alive[: DEBUG.steps]
    assert max(alive[-10:]) <= max(alive[45:60]) + 2
    assert isinstance(agent, PlanningAgent)


def test_solved_at_is_the_first_evaluation_at_or_over_the_threshold(cartpole_run, tmp_path):
    first, second = (record["return_mean"] for record in cartpole_run.evals)
    for name, threshold in (("at", first), ("under", first - 1), ("over", max(first, second) + 1)):
        _, folder = train(tmp_path / name, seed=0, evaluation={"threshold": threshold})
        summary = json.loads(folder.summary_file.read_text())
        assert summary["threshold"] == threshold
        assert summary["solved_at"] == (None if name == "over" else 48)


def test_a_run_may_end_once_solved(cartpole_run, tmp_path):
    evaluation = {"threshold": cartpole_run.evals[0]["return_mean"], "stop_when_solved": True}
    _, folder = train(tmp_path, seed=0, evaluation=evaluation)
    summary = json.loads(folder.summary_file.read_text())
    assert summary["solved_at"] == 48 and 48 <= summary["env_steps"] < DEBUG.steps
    assert folder.report_file.exists()


def test_a_short_time_limit_lowers_the_discount_of_loaded_agents_too(tmp_path, capsys):
    def short():
        return gym.make("CartPole-v1", max_episode_steps=40)

    made = loopwm.train(short, config="debug", out=tmp_path / "run", steps=48)
    assert "learner.discount is 0.95 here instead of 0.99" in capsys.readouterr().err
    loaded = loopwm.load(tmp_path / "run", env=short)
    assert made.discount == loaded.discount == pytest.approx(0.95)


def test_an_environment_may_be_a_function(cartpole_run, tmp_path):
    agent, folder = train(tmp_path / "run", toy_envs.Corridor, steps=40)
    assert folder.read_config().env == "Corridor"
    loaded = loopwm.load(folder.path, env=toy_envs.Corridor)
    assert loaded.act(4)[0] == agent.act(4)[0]
    with pytest.raises(loopwm.errors.UsageError, match="Corridor"):
        loopwm.load(folder.path)


def test_a_run_in_a_thread(cartpole_run, tmp_path):
    done = []
    thread = threading.Thread(target=lambda: done.append(train(tmp_path / "run", steps=40)))
    thread.start()
    thread.join(120)
    assert len(done) == 1


def test_the_python_contract(cartpole_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a run is loaded from anywhere
    agent = loopwm.load(os.path.relpath(cartpole_run.path))
    env = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    state = None
    for _ in range(3):
        action, state = agent.act(observation, state)
        assert env.action_space.contains(action)
        observation = env.step(action)[0]
    actions, _ = agent.act(np.stack([observation, observation]))
    assert actions.shape == (2,)
    certificate = loopwm.certify(agent.world_model.core)
    assert certificate.level == "global" and certificate.rate < 1
    assert isinstance(loopwm.load(str(cartpole_run.path), planner="policy"), PolicyAgent)
    shallow = loopwm.load(cartpole_run.path, rule=FixedDepth(1))
    _, state = shallow.act(observation)
    np.testing.assert_array_equal(np.asarray(state.stats.loops), 1.0)


def test_a_fresh_folder_is_named_and_numbered(cartpole_run, in_tmp):
    for expected in ("CartPole-v1-seed3", "CartPole-v1-seed3-2"):
        loopwm.train("CartPole-v1", config="debug", seed=3, steps=33, quiet=True)
        assert (pathlib.Path("runs") / expected / "summary.json").is_file()
    assert len(list(pathlib.Path("runs").iterdir())) == 2
    assert read_evals(pathlib.Path("runs/CartPole-v1-seed3")) == []  # it ended before the first


def test_a_run_in_one_of_our_own_environments(compile_cache, tmp_path):
    _, folder = train(tmp_path / "run", "loopwm/SlidingIce-v0")
    records = read_evals(folder.path)
    assert records[-1]["env_steps"] == DEBUG.steps
    assert all(0.0 <= record["return_mean"] <= 1.0 for record in records)
