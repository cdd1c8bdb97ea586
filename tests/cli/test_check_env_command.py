"""`loopwm check-env`, called in this process."""

import json

import pytest
import toy_envs

from loopwm.cli.main import main


@pytest.mark.parametrize(
    ("env", "status"),
    [("CartPole-v1", 0), ("toy_envs:Corridor-v0", 0), ("broken_envs:NaN-v0", 1)],
)
def test_findings_as_lines_and_as_json(env, status, capsys):
    assert main(["check-env", env, "--steps", "300"]) == status
    lines = capsys.readouterr().out.splitlines()
    assert main(["check-env", env, "--steps", "300", "--json"]) == status
    record = json.loads(capsys.readouterr().out)
    assert list(record) == ["env", "findings", "errors", "warnings"] and record["env"] == env
    assert (record["errors"] > 0) == (status == 1)
    assert len(lines) == len(record["findings"]) + 1
    for line, finding in zip(lines, record["findings"], strict=False):
        assert list(finding) == ["name", "level", "message"]
        assert line.split()[0] == finding["level"] and finding["name"] in line
        assert finding["name"] == "cost" or line.endswith(finding["message"])
    assert lines[-1] == f"{env}: errors {record['errors']}, warnings {record['warnings']}"


def test_what_an_environment_prints_is_no_json(capsys, monkeypatch):
    reset = toy_envs.Corridor.reset

    def loud(self, *, seed=None, options=None):
        print("RESET")
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(toy_envs.Corridor, "reset", loud)
    assert main(["check-env", "toy_envs:Corridor-v0", "--steps", "300", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["errors"] == 0 and "RESET" in shown.err


@pytest.mark.parametrize(
    "arguments", [["Nope-v0"], ["no_such_module:Env-v0"], ["CartPole-v1", "--steps", "0"]]
)
def test_bad_input_exits_with_2(arguments, capsys):
    assert main(["check-env", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("loopwm: ") and shown.err.count("\n") == 1
