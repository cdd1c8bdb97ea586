"""`loopwm train` and `loopwm envs`, called in this process."""

import pytest
import yaml
from run_fixtures import read_evals

from loopwm.cli.main import main
from loopwm.training import RunFolder


def train(path, *arguments, env="CartPole-v1"):
    return main(["train", env, "--config", "debug", "--out", str(path), *arguments])


@pytest.mark.parametrize("command", [(), ("train",), ("evaluate",), ("check-env",), ("envs",)])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as raised:
        main([*command, "--help"])
    assert raised.value.code == 0
    shown = capsys.readouterr().out
    expected = {
        (): ("train", "evaluate", "check-env", "envs"),
        ("check-env",): ("ENV_ID", "--steps", "--seed", "--json"),
        ("train",): ("ENV_ID", "--config", "--seed", "--steps", "--out", "--resume", "--set"),
        ("evaluate",): ("RUN", "--episodes", "--depth", "--planner", "--video", "--json"),
        ("envs",): ("registered",),
    }
    assert all(word in shown for word in expected[command])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["trian"],
        ["train", "CartPole-v1", "--stepz", "3"],
        ["train", "CartPole-v1", "--steps", "many"],
        ["train", "CartPole-v1", "--steps"],
        ["train", "CartPole-v1", "Pendulum-v1"],
        ["evaluate"],
        ["evaluate", "run", "--episodes", "1.5"],
    ],
    ids=" ".join,
)
def test_arguments_that_do_not_parse_exit_with_2(arguments, capsys, in_tmp, assert_helpful):
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("loopwm: ") and said.count("\n") == 1 and "│" not in said
    assert_helpful(said.removeprefix("loopwm: ").strip())
    assert not list(in_tmp.iterdir())


def test_a_run_with_settings_from_everywhere(cartpole_run, tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    debug = yaml.safe_load(RunFolder.open(cartpole_run.path).config_file.read_text())
    file.write_text(yaml.safe_dump(debug | {"steps": 1000, "seed": 1}))
    path = tmp_path / "run"
    arguments = ["train", "CartPole-v1", "--config", str(file), "--steps", "56", "--out", str(path)]
    pairs = ["--set", "evaluation.every=40", "evaluation.threshold=1", "--set", "seed=5"]
    assert main([*arguments, *pairs]) == 0
    config = RunFolder.open(path).read_config()
    assert (config.steps, config.seed, config.evaluation.every) == (56, 5, 40)
    assert config.learner.batch_size == debug["learner"]["batch_size"]
    assert [record["env_steps"] for record in read_evals(path)] == [40]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "40 env steps" in shown.err and str(path / "report.html") in shown.err
    assert "MB" in shown.err  # how much memory the replay takes
    # Where nobody watches a terminal, each line stays a line.
    (line,) = [line for line in shown.err.splitlines() if "40 env steps" in line]
    assert "ms/decision" in line and "threshold 1" in line


def test_resume_goes_on(cartpole_copy, capsys):
    assert main(["train", "CartPole-v1", "--resume", str(cartpole_copy), "--steps", "100"]) == 0
    assert main(["train", "--resume", str(cartpole_copy), "--steps", "104"]) == 0
    assert RunFolder.open(cartpole_copy).read_config().steps == 104


@pytest.mark.parametrize(
    "arguments",
    [("--seed", "1"), ("--config", "debug"), ("--out", "x"), ("--set", "learner.batch_size=4")],
    ids=lambda a: a[0],
)
def test_what_a_resumed_run_has_already_is_refused(cartpole_copy, arguments, capsys):
    before = (cartpole_copy / "config.yaml").read_text()
    assert main(["train", "--resume", str(cartpole_copy), *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"loopwm: {arguments[0]} ") and message.count("\n") == 1
    assert (cartpole_copy / "config.yaml").read_text() == before


def test_envs_lists_what_is_registered(capsys):
    assert main(["envs"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert "CartPole-v1" in names and "Pendulum-v1" in names


def test_ctrl_c_before_a_run_began(monkeypatch, capsys, in_tmp):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("loopwm.run.train", interrupt)
    assert main(["train", "CartPole-v1"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("loopwm: ") and message.count("\n") == 1
