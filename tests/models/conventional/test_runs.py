"""Whole runs with models that have no loop: training, evaluation, reports, and what is refused."""

import json

import pytest
from families import SMALL

import loopwm
from loopwm.cli.main import main
from loopwm.errors import UsageError
from loopwm.models import WORLD_MODELS, LatentMLPConfig
from loopwm.run import resolve_config
from loopwm.settings import dump


def _overrides(name):
    """Settings of a small model of a family."""
    named = next(key for key, kind in WORLD_MODELS.items() if kind is type(SMALL[name]))
    return {"model": {"name": named, **dump(SMALL[name])}}


@pytest.fixture(scope="module")
def run(compile_cache, tmp_path_factory):
    """A `debug` run of the model that has everything: memory, and a loss term of its own."""
    path = tmp_path_factory.mktemp("rssm") / "run"
    agent = loopwm.train(
        "CartPole-v1", config="debug", overrides=_overrides("rssm"), out=path, quiet=True
    )
    return agent, path


def test_summary_counts_the_dynamics_and_claims_nothing(run):
    agent, path = run
    summary = json.loads((path / "summary.json").read_text())
    # By hand, on 4 observations and 2 actions, s of 12, h and input of 5, hidden of 8.
    core = (14 * 5 + 5 + 10) + (3 * 5 * (5 + 5 + 1) + 5) + (5 * 8 + 8 + 16 + 8 * 12 + 12)
    encoder, posterior = 4 * 8 + 24 + 72, 13 * 8 + 24 + 8 * 12 + 12
    decoder, head = 17 * 8 + 24 + 36, 36 * 8 + 24 + 18
    assert summary["params"]["core"] == core
    assert summary["params"]["world_model"] == core + encoder + posterior + decoder + head
    assert summary["params"]["total"] > summary["params"]["world_model"]
    assert summary["certificate"] is None
    assert agent.world_model.depth == 1


def test_report_says_that_nothing_is_guaranteed(run):
    page = (run[1] / "report.html").read_text()
    assert "Nothing is guaranteed of this world model: it imagines in one pass" in page
    assert "Depth: what the loops are worth" not in page and "stable" not in page.lower()


def test_evaluation(run, capsys):
    assert main(["evaluate", str(run[1]), "--episodes", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["loops_mean"] == 1.0 and record["bound_max"] is None
    assert record["certificate"] is None
    assert record["depth"].startswith("Each imagined transition is one pass without loops")


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "RUN", "--depth", "2"],
        ["evaluate", "RUN", "--depth", "certified:1e-2"],
        ["stability", "RUN"],
    ],
    ids=" ".join,
)
def test_what_needs_loops_is_refused(run, arguments, capsys, assert_helpful):
    words = [str(run[1]) if word == "RUN" else word for word in arguments]
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    sentence = shown.err.replace(str(run[1]), "run").removeprefix("loopwm: ").strip()
    assert_helpful(sentence)
    assert "one pass" in sentence or "no inner loop" in sentence


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learner": {"depth": {"law": "poisson"}}}, "no loops whose number"),
        ({"planning": {"mppi": {"coarse": {"depth": 2}}}}, "no loops to save"),
        ({"planning": {"icem": {"coarse": {"depth": 2}}}}, "no loops to save"),
    ],
    ids=str,
)
def test_settings_of_loops_are_refused(settings, said, assert_helpful):
    with pytest.raises(UsageError, match=said) as raised:
        resolve_config("CartPole-v1", overrides={"model": {"name": "gru"}, **settings})
    assert_helpful(raised)


def test_the_preset_of_td_mpc2_is_the_published_size():
    config = resolve_config("Pendulum-v1", config="tdmpc2")
    assert config.model == LatentMLPConfig.tdmpc2()
    assert (config.heads.hidden, config.heads.bins, config.heads.members) == (512, 101, 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_family_trains(name, compile_cache, tmp_path, capsys):
    path = tmp_path / "run"
    agent = loopwm.train(
        "Pendulum-v1", config="debug", overrides=_overrides(name), out=path, quiet=True
    )
    summary = json.loads((path / "summary.json").read_text())
    assert summary["env_steps"] == 96 and summary["certificate"] is None
    assert 0 < summary["params"]["core"] < summary["params"]["world_model"]
    loaded = loopwm.load(path)
    assert type(loaded.world_model) is type(agent.world_model)
    assert main(["evaluate", str(path), "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loops_mean"] == 1.0
