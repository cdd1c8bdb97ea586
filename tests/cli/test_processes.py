"""The command in processes of its own: the same run again, Ctrl-C, one line for a mistake."""

import os
import shlex
import signal
import subprocess
import sys
import time

import jax
import numpy as np
from run_fixtures import read_evals, without_times

from loopwm.cli.main import main
from loopwm.run import enable_compile_cache
from loopwm.training import RunFolder, checkpoint

COMMAND = ("-m", "loopwm.cli.main")


def test_the_same_seed_is_the_same_run_in_another_process(cartpole_run, run_python, tmp_path):
    arguments = ("train", "CartPole-v1", "--config", "debug", "--seed", "0", "--out", "run")
    done = run_python(*COMMAND, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    first, *evals, last = done.stderr.splitlines()  # and no warning among them
    assert first.startswith("Writing to run;") and last.startswith("run holds the run")
    assert [line.split()[0] for line in evals] == ["48", "96"]
    assert without_times(read_evals(tmp_path / "run")) == without_times(cartpole_run.evals)
    own, other = (checkpoint.load(RunFolder.open(p)) for p in (cartpole_run.path, tmp_path / "run"))
    for name, array in own[0].items():
        np.testing.assert_array_equal(array, other[0][name], err_msg=name)
    assert own[1]["rng"] == other[1]["rng"]


def test_ctrl_c_saves_and_says_how_to_go_on(subprocess_environment, tmp_path, monkeypatch, capsys):
    out = os.path.join("my runs", "a")
    arguments = ("train", "CartPole-v1", "--config", "debug", "--steps", "100000", "--out", out)
    process = subprocess.Popen(
        [sys.executable, *COMMAND, *arguments],
        cwd=tmp_path,
        env=subprocess_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 240
        folder = RunFolder(tmp_path / out)
        while not checkpoint.steps(folder):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1 and stdout == "" and "Traceback" not in stderr
    line = stderr.splitlines()[-1]
    made = checkpoint.steps(folder)[-1]
    assert line.startswith(f"loopwm: Stopped at env step {made} and saved; go on with: loopwm ")
    program, *words = shlex.split(line.split("go on with: ")[1])
    assert program == "loopwm"
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--steps", str(made + 10)]) == 0
    assert checkpoint.steps(folder)[-1] == made + 10
    assert "holds the run" in capsys.readouterr().err


def test_a_mistake_is_one_line(run_python, tmp_path):
    done = run_python(*COMMAND, "train", "CartPole-v9", "--out", "run", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("loopwm: There is no environment 'CartPole-v9'")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_compiled_programs_are_kept_in_the_users_cache_folder(monkeypatch, tmp_path):
    name, switch = "jax_compilation_cache_dir", "jax_enable_compilation_cache"
    before = {key: jax.config.values[key] for key in (name, switch)}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        jax.config.update(switch, True)
        jax.config.update(name, None)
        enable_compile_cache()
        assert jax.config.values[name] == str(tmp_path / "loopwm" / "jax")
        jax.config.update(name, "/elsewhere")  # a folder that the user chose stays
        enable_compile_cache()
        assert jax.config.values[name] == "/elsewhere"
    finally:
        for key, value in before.items():
            jax.config.update(key, value)
