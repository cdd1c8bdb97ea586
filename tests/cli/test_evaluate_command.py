"""`loopwm evaluate`, called in this process."""

import json

import pytest

from loopwm.cli.main import main
from loopwm.core import parse_depth
from loopwm.errors import UsageError

KEYS = [
    "env",
    "env_steps",
    "return_mean",
    "return_std",
    "returns",
    "episodes",
    "loops_mean",
    "bound_max",
    "decision_ms",
    "certificate",
    "depth",
]


def evaluate(path, capsys, *arguments):
    assert main(["evaluate", str(path), "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)  # nothing but one JSON object on stdout


def test_json(cartpole_run, capsys):
    record = evaluate(cartpole_run.path, capsys, "--episodes", "2", "--seed", "5")
    assert list(record) == KEYS
    assert (record["env"], record["env_steps"], record["episodes"]) == ("CartPole-v1", 96, 2)
    assert len(record["returns"]) == 2
    assert record["return_mean"] == pytest.approx(sum(record["returns"]) / 2)
    assert record["loops_mean"] == 2.0 and record["decision_ms"] > 0 and record["bound_max"] > 0
    assert record["certificate"] == cartpole_run.summary["certificate"]
    again = evaluate(cartpole_run.path, capsys, "--episodes", "2", "--seed", "5")
    assert again["returns"] == record["returns"]


def test_a_line_for_people(pendulum_run, capsys):
    assert main(["evaluate", str(pendulum_run.path), "--episodes", "2"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("Pendulum-v1: return -") and shown.out.count("\n") == 2
    assert "Each imagined transition uses 2 loop(s), after which" in shown.out
    assert "of its fixed point, " in shown.out
    assert "2 episodes" in shown.out and "2.0 loops" in shown.out and shown.err == ""


def test_the_policy_alone(cartpole_run, capsys):
    record = evaluate(cartpole_run.path, capsys, "--episodes", "2", "--planner", "policy")
    assert record["loops_mean"] == 0.0 and record["bound_max"] is None
    named = evaluate(cartpole_run.path, capsys, "--episodes", "2", "--planner", "categorical_cem")
    assert named["loops_mean"] == 2.0


def test_another_planner(cartpole_run, pendulum_run, capsys):
    tree = evaluate(cartpole_run.path, capsys, "--episodes", "1", "--planner", "gumbel_muzero")
    assert tree["loops_mean"] == 2.0 and tree["bound_max"] > 0.0
    box = ("--planner", "gradient", "--depth", "certified:1e-1")
    refined = evaluate(pendulum_run.path, capsys, "--episodes", "1", *box)
    assert refined["loops_mean"] > 0.0
    assert main(["evaluate", str(pendulum_run.path), "--planner", "gumbel_muzero"]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and "use mppi, icem, gradient or" in shown.err


@pytest.mark.parametrize(
    ("depth", "loops", "said"),
    [
        ("1", (1, 1), "uses 1 loop(s), after which at most"),
        ("certified:1e-2", (2, 256), "is within 0.01 of its fixed point in the P-norm"),
        ("residual:1e-2", (1, 64), "residual is at most 0.01"),
        ("second_difference:1e-2", (2, 64), "promises nothing"),
    ],
)
def test_another_depth(cartpole_run, capsys, depth, loops, said):
    record = evaluate(cartpole_run.path, capsys, "--episodes", "1", "--depth", depth)
    assert loops[0] <= record["loops_mean"] <= loops[1]
    assert said in record["depth"]
    if depth.startswith("certified"):
        assert record["bound_max"] <= 1e-2
    assert ("level 'global'" in record["depth"]) != ("promises nothing" in record["depth"])


def test_a_video(cartpole_run, capsys, tmp_path):
    folder = tmp_path / "videos"
    record = evaluate(cartpole_run.path, capsys, "--episodes", "2", "--video", str(folder))
    assert list(record) == [*KEYS, "video"]
    (video,) = folder.glob("*.mp4")
    assert record["video"] == str(video)


@pytest.mark.parametrize(
    "text",
    ["", "two", "1.5", "0", "-1", "certified", "certified:", "certified:x", "certified:0"]
    + ["certified:-1", "certified:nan", "residual:nan", "gate:1", "1e3", "3:4"],
)
def test_depths_that_mean_nothing_are_refused(text, assert_helpful):
    with pytest.raises(UsageError) as raised:
        parse_depth(text)
    assert_helpful(raised)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--planner", "mppi"), "categorical_cem"),
        (("--planner", "mcts"), "categorical_cem"),
        (("--episodes", "0"), "--episodes"),
        (("--seed", "-1"), "--seed"),
        (("--seed", str(2**64)), "--seed"),
        (("--depth", "deep"), "--depth"),
        (("--depth", "0"), "depth is 0"),
        (("--depth", "gate:0.5"), "model.core.gate=true"),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, tuple) else None,
)
def test_what_cannot_be_evaluated_is_refused(cartpole_run, capsys, arguments, said):
    assert main(["evaluate", str(cartpole_run.path), *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("loopwm: ") and shown.err.count("\n") == 1 and said in shown.err
    assert shown.out == ""
