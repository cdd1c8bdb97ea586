"""The examples and the README do what they say."""

import functools
import pathlib
import re
import shlex
import sys

import gymnasium as gym
import pytest
from run_fixtures import ROOT

import loopwm
from loopwm.cli.main import main

EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def fences(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_train_cartpole(cartpole_run, run_python, tmp_path):
    script = EXAMPLES / "train_cartpole.py"
    done = run_python(script, "run", "--config", "debug", "--steps", "56", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"    48 env steps: mean return \d+\.\d", lines[0])
    assert re.fullmatch(r"The inner loop contracts at 0\.\d+ \(global\)", lines[1])
    assert (tmp_path / "run" / "summary.json").is_file()


def test_load_and_act(pendulum_run, run_python, tmp_path):
    script = EXAMPLES / "load_and_act.py"
    done = run_python(script, pendulum_run.path, "--episodes", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"episode 0: return -\d+\.\d\nepisode 1: return -\d+\.\d\n", done.stdout)


def test_certify_your_own(run_python, tmp_path):
    done = run_python(EXAMPLES / "certify_your_own.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "0.9000" in lines[0] and "'global'" in lines[0] and "P-norm" in lines[1]
    assert "'ball'" in lines[3] and "'empirical'" in lines[4]


def test_custom_env(run_python, tmp_path):
    script = EXAMPLES / "custom_env.py"
    done = run_python(script, "run", "--config", "debug", "--steps", "56", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert not [line for line in lines if line.startswith(("error", "warning"))]
    assert any(re.fullmatch(r"    48 env steps: mean return -\d+\.\d", line) for line in lines)
    assert len(lines[-1]) == 21 and lines[-1].count("S") == 1


def test_the_commands_of_the_custom_environments_guide(in_tmp, capsys, monkeypatch):
    guide = (ROOT / "docs" / "custom_environments.md").read_text(encoding="utf-8")
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", list(sys.path))
    short = ["--config", "debug", "--steps", "40"]
    commands = set()
    for fence in re.findall(r"```bash\n(.*?)```", guide, re.DOTALL):
        for line in fence.splitlines():
            words = shlex.split(line)
            if words[0] != "loopwm":
                continue
            words = [word.replace("../runs", str(in_tmp)) for word in words[1:]]
            if words[0] == "train":
                words += ["--steps", "44"] if "--resume" in words else short
            commands.add(words[0])
            assert main(words) == 0, (line, capsys.readouterr().err)
    assert "return" in capsys.readouterr().out
    assert commands == {"check-env", "train", "evaluate", "export"}


def test_the_python_of_the_custom_environments_guide(in_tmp, capsys, monkeypatch):
    guide = (ROOT / "docs" / "custom_environments.md").read_text(encoding="utf-8")
    monkeypatch.syspath_prepend(EXAMPLES)
    import custom_env

    names = {"gym": gym, "loopwm": loopwm, "Docking": custom_env.Docking}
    names["observation"] = custom_env.Docking().reset(seed=0)[0]
    short = functools.partial(loopwm.train, config="debug", quiet=True)
    monkeypatch.setattr(loopwm, "train", short)
    code = "\n".join(re.findall(r"```python\n((?:def|from).*?)```", guide, re.DOTALL))
    code = code.replace("2500", "20").replace("3000", "24").replace("episodes=10", "episodes=1")
    exec(compile(code, "docs/custom_environments.md", "exec"), names)
    assert float(capsys.readouterr().out) < 0.0
    observation, _ = names["env"].reset(seed=0)
    action, _ = names["agent"].act(observation)
    assert names["env"].action_space.contains(action)


def test_the_stability_guide_runs(capsys):
    guide = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", guide, re.DOTALL))
    exec(compile(code, "docs/stability.md", "exec"), {"__name__": "guide"})
    assert "'ball'" in capsys.readouterr().out


def test_every_example_is_tested():
    for path in EXAMPLES.glob("*.py"):
        assert f"test_{path.stem}" in globals()


def test_the_tour_in_python_runs(cartpole_run, in_tmp, capsys):
    (tour,) = fences("python")
    assert len(tour.strip().splitlines()) <= 30
    exec(compile(tour, "README.md", "exec"), {"__name__": "tour"})
    assert "loops" in capsys.readouterr().out


def test_the_commands_run(cartpole_run, in_tmp, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    commands = 0
    for fence in fences("bash"):
        for name, text in re.findall(r"cat > (\S+) <<'EOF'\n(.*?)\nEOF\n", fence, re.DOTALL):
            pathlib.Path(name).write_text(text)
        outside = re.sub(r"<<'EOF'\n.*?\nEOF\n", "\n", fence, flags=re.DOTALL)
        for line in outside.splitlines():
            if line.startswith("loopwm "):
                words = shlex.split(line, comments=True)[1:]
                if words[0] == "train":
                    words += ["--steps", "20"]
                    words += [] if "--config" in words else ["--config", "debug"]
                assert main(words) == 0, (line, capsys.readouterr().err)
                commands += 1
    assert commands >= 2


@pytest.mark.parametrize("target", ["train", "test"])
def test_the_make_commands_exist(target):
    assert any(f"make {target}" in fence for fence in fences("bash"))
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
