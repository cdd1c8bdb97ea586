"""`loopwm stability`, called in this process."""

import functools
import json
import pathlib
import shutil

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.cli.main import main
from loopwm.envs import Spaces
from loopwm.evaluation import StudyConfig
from loopwm.evaluation.rollouts import visit

HELPERS = pathlib.Path(__file__).parents[1] / "helpers"
KEYS = [
    "run",
    "env",
    "seed",
    "params",
    "certificate",
    "transition",
    "empirical",
    "bounds_hold",
    "report",
]
EMPIRICAL = ["max_ratio", "spectral_norm", "spectral_radius", "lyapunov_inner", "lyapunov_outer"]


@pytest.fixture(scope="module", autouse=True)
def few_measurements():
    """The command as it is, with a smaller study."""
    small = functools.partial(
        StudyConfig,
        episode_steps=12,
        visited=2,
        drawn=1,
        loops=20,
        attacked=1,
        attack_starts=8,
        attack_steps=20,
        rollouts=2,
        horizon=50,
        exponent_steps=20,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loopwm.study.StudyConfig", small)
        yield


@pytest.fixture(scope="module")
def studied(cartpole_run, tmp_path_factory):
    """A copy of the CartPole run, and what the command said about it."""
    path = shutil.copytree(cartpole_run.path, tmp_path_factory.mktemp("studied") / "run")
    before = {p.relative_to(path) for p in path.rglob("*")}
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("builtins.print", lambda text, **_: said.append(text))
        assert main(["stability", str(path), "--json"]) == 0
    (text,) = said
    after = {p.relative_to(path) for p in path.rglob("*")}
    return path, json.loads(text), {str(p) for p in after - before}


def test_json(studied, cartpole_run):
    path, record, _ = studied
    assert list(record) == KEYS and list(record["empirical"]) == EMPIRICAL
    assert (record["run"], record["env"], record["seed"]) == (str(path), "CartPole-v1", 0)
    assert record["params"] == cartpole_run.summary["params"]
    assert record["certificate"] == cartpole_run.summary["certificate"]
    assert record["transition"]["level"] == "ball" and record["transition"]["norm"] == "2"
    assert 8**0.5 <= record["transition"]["radius"] < 8**0.5 * 1.001
    assert record["bounds_hold"] is True


def test_what_is_seen_is_close_to_what_is_proven(studied):
    _, record, _ = studied
    seen, rate = record["empirical"], record["certificate"]["rate"]
    assert 0.8 * rate < seen["max_ratio"] <= rate
    assert 0.0 < seen["spectral_radius"] <= seen["spectral_norm"] <= seen["max_ratio"]
    assert seen["lyapunov_inner"] < 0.0 and np.isfinite(seen["lyapunov_outer"])


def test_the_report_is_written_into_the_run(studied):
    path, record, made = studied
    assert made == {"stability", "stability/report.html", "stability/stability.json"}
    assert record["report"] == str(path / "stability" / "report.html")
    assert json.loads((path / "stability" / "stability.json").read_text()) == record
    page = pathlib.Path(record["report"]).read_text(encoding="utf-8")
    assert "for every state and every input" in page and page.count("<picture>") == 4
    assert "the model stops" not in page  # that is in the figure


def test_visits_are_the_episode_that_is_played(cartpole_run):
    agent, spaces = cartpole_run.agent, Spaces.of_source("CartPole-v1")
    visits = visit(agent, "CartPole-v1", spaces, steps=5, seed=7)
    env = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=7)
    state = agent.initial_state(seed=7, batch=1)
    for z, u in zip(visits.z, visits.u, strict=True):
        expected = agent.world_model.encode(agent.normalizer(jnp.asarray(observation)))
        np.testing.assert_allclose(z, expected, rtol=1e-5, atol=1e-6)
        actions, state = agent.act(observation[None], state)
        assert np.argmax(u) == actions[0] and np.sum(u) == 1.0
        observation, *_ = env.step(actions[0])
    assert len(visits.z) == 5


@pytest.fixture
def own(monkeypatch):
    monkeypatch.chdir(HELPERS)


def test_a_module_of_ones_own(own, capsys, tmp_path):
    out = tmp_path / "out"
    assert main(["stability", "own_updates:certified", "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert list(record) == KEYS and record["run"] == "own_updates:certified"
    assert record["certificate"] == {"level": "global", "rate": 0.5, "norm": "2"}
    assert record["empirical"]["max_ratio"] == pytest.approx(0.5, rel=1e-6)
    assert record["empirical"]["lyapunov_inner"] == pytest.approx(np.log(0.5))
    assert record["bounds_hold"] is True and record["transition"] is None
    assert record["params"] == {"total": 1, "world_model": None, "core": 1}
    assert record["report"] == str(out / "report.html") and (out / "report.html").is_file()


def test_a_table_for_people(own, capsys):
    assert main(["stability", "own_updates:uncertified"]) == 0
    shown = capsys.readouterr()
    text = " ".join(shown.out.split())
    assert shown.err == "" and "No certificate: No Lipschitz bound of" in text
    # sin is 1-Lipschitz, so the whole map contracts, but only a ball around the point is proven.
    assert "Around a found state: On the ball of radius 1 " in text
    assert "largest ratio in the verified ball" in text and "kept" in text
    assert "Only observed: A search over 8 pairs" in text and "give --out" in text.lower()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no_such_module:factory", "could not be imported"),
        ("own_updates:no_such_factory", "could not be found"),
        ("own_updates:state", "returns an update and a state"),
        ("own_updates:raises", "no weights here; None at all"),
        ("own_updates:nothing", "NoneType"),
        ("own_updates:no_state", "returned a Half"),
        ("own_updates:words", "use an array"),
        ("own_updates:dropout", "dropout"),
        ("own_updates:stateful", "state"),
        ("own_updates:nonsquare", "cannot be repeated"),
        ("own_updates:nan", "NaN"),
        ("own_updates:integers", "int32 weights"),
        ("own_updates:integer_state", "float32 or float64"),
        ("own_updates:low_precision", "bfloat16"),
        ("own_updates:changes_type", "cannot be repeated"),
        ("own_updates:random", "random numbers"),
        ("own_updates:bad_bound", "not today"),
        (":factory", "could not be"),
        ("own_updates:", "could not be"),
        ("no_such_run", "holds no loopwm run"),
    ],
)
def test_what_cannot_be_studied_is_refused(own, capsys, target, said, assert_helpful, tmp_path):
    assert main(["stability", target, "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("loopwm: ") and shown.err.count("\n") == 1 and said in shown.err
    assert shown.out == "" and not (tmp_path / "out").exists()
    assert_helpful(shown.err.removeprefix("loopwm: ").strip())


def test_foreign_folders_are_left_alone(tmp_path, capsys):
    (tmp_path / "config.txt").write_text("mine")
    assert main(["stability", str(tmp_path)]) == 2
    assert "holds no loopwm run" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["config.txt"]


def test_a_run_without_checkpoint(cartpole_copy, capsys):
    shutil.rmtree(cartpole_copy / "checkpoints")
    assert main(["stability", str(cartpole_copy)]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and not (cartpole_copy / "stability").exists()


def test_an_out_that_is_a_file(own, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["stability", "own_updates:raises", "--out", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err  # before the factory is called
