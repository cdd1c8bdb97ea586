"""What `train` and `resume` do with a run's folder before and after the session."""

import pathlib
import re
import threading

import pytest
import toy_envs

import loopwm
from loopwm import run, session
from loopwm.cli.main import main
from loopwm.envs import RepeatedSource
from loopwm.errors import RunFailure, UsageError
from loopwm.run import Interrupted, evaluate_run, resolve_config
from loopwm.session import Session
from loopwm.study import study_run
from loopwm.training import RunFolder


class Done(Exception):
    """The session was reached."""


@pytest.fixture
def sessions(monkeypatch):
    """Sessions that are asked for: their sources and configurations; what they do can be set."""

    def reached(folder):
        raise Done

    class Sessions(list):
        act = staticmethod(reached)

    seen = Sessions()

    class Stub:
        def __init__(self, source, config):
            self.config = config
            seen.append((source, config))

        def run(self, folder, *, resume, quiet):
            seen.act(folder)

    monkeypatch.setattr(run, "Session", Stub)
    return seen


def saved_run(path, env):
    """A folder with a checkpoint of no contents."""
    folder = RunFolder.create(path, resolve_config(env, config="debug"))
    (folder.checkpoints / "96").mkdir()
    (folder.replay / "96").mkdir()
    return folder


CALLS = {
    "resume": loopwm.resume,
    "load": loopwm.load,
    "make_env": loopwm.make_env,
    "evaluate": evaluate_run,
    "study": study_run,
}


@pytest.mark.parametrize("call", CALLS)
def test_a_run_of_a_function_says_what_it_needs(call, in_tmp, monkeypatch, assert_helpful):
    """`Pendulum` is no id: the run of a class of that name is not gone on with in another one."""
    folder = saved_run("a run", "Pendulum")
    monkeypatch.setattr("loopwm.training.checkpoint.load", lambda _: ({}, {}))
    with pytest.raises(UsageError, match="'Pendulum'.* in Python as env=") as raised:
        CALLS[call](folder.path)
    assert str(folder.config_file) in str(raised.value)
    assert_helpful(str(raised.value).replace("config.yaml", "config"))


def test_the_command_says_it_too_and_takes_the_id_that_it_names(in_tmp, sessions, capsys):
    folder = saved_run("run", "Docking")
    assert main(["train", "--resume", "run"]) == 2
    assert "write module:Id as env into run/config.yaml" in capsys.readouterr().err
    with pytest.raises(Done):
        main(["train", "toy_envs:Corridor-v0", "--resume", "run"])
    [(source, config)] = sessions
    assert source == config.env == "toy_envs:Corridor-v0"  # written by a session that is real
    text = folder.config_file.read_text()
    folder.config_file.write_text(text.replace("env: Docking", "env: toy_envs:Corridor-v0"))
    with pytest.raises(Done):
        main(["train", "--resume", "run"])
    assert sessions[-1][0] == "toy_envs:Corridor-v0"


@pytest.mark.parametrize(
    ("own", "given", "kept"),
    [
        ("Corridor-v0", "toy_envs:Corridor-v0", "toy_envs:Corridor-v0"),
        ("toy_envs:Corridor-v0", "Corridor-v0", "toy_envs:Corridor-v0"),
        ("CartPole-v1", "CartPole-v1", "CartPole-v1"),
        ("<lambda>", "CartPole-v1", "CartPole-v1"),
        ("Corridor", toy_envs.Corridor, "Corridor"),
        ("other:Corridor-v0", "toy_envs:Corridor-v0", None),
        ("CartPole-v1", "Pendulum-v1", None),
        ("CartPole-v1", "CartPole-v0", None),
    ],
)
def test_an_id_may_be_given_with_its_module(own, given, kept, tmp_path, sessions, assert_helpful):
    folder = saved_run(tmp_path / "run", own)
    with pytest.raises(Done if kept else UsageError) as raised:
        loopwm.resume(folder.path, env=given, steps=100)
    if kept is None:
        assert_helpful(raised)
        return
    [(source, config)] = sessions
    assert (source, config.env, config.steps) == (given, kept, 100)


def test_the_repeats_of_a_run_are_kept(tmp_path, sessions):
    folder = RunFolder.create(
        tmp_path / "run", resolve_config("Corridor", overrides={"action_repeat": 2})
    )
    (folder.checkpoints / "96").mkdir()
    with pytest.raises(Done):
        loopwm.resume(folder.path, env=toy_envs.Corridor)
    assert sessions[0][0] == RepeatedSource(toy_envs.Corridor, 2)


def test_two_cannot_write_into_one_folder(tmp_path, sessions, assert_helpful):
    folder, said = saved_run(tmp_path / "run", "CartPole-v1"), []

    def again(folder):
        with pytest.raises(UsageError, match="Another process is at the run") as raised:
            loopwm.resume(folder.path)
        said.append(raised)
        raise Done

    sessions.act = again
    for _ in range(2):  # and the first one lets go of it
        with pytest.raises(Done):
            loopwm.resume(folder.path)
    assert len(said) == 2
    assert_helpful(said[0])

    def saves_first(folder):
        (folder.checkpoints / "1").mkdir()
        again(folder)

    sessions.act = saves_first
    with pytest.raises(Done):
        loopwm.train("CartPole-v1", config="debug", out=tmp_path / "new")
    assert len(said) == 3


def test_what_a_killed_process_left_is_removed(tmp_path, sessions):
    folder = saved_run(tmp_path / "run", "CartPole-v1")
    for half in (
        "replay/128",
        "replay/64.orbax-checkpoint-tmp",
        "checkpoints/9.orbax-checkpoint-tmp-7",
    ):
        (folder.path / half / "d").mkdir(parents=True)
    (folder.checkpoints / "my copy").mkdir()
    with pytest.raises(Done):
        loopwm.resume(folder.path)
    assert {p.name for p in folder.replay.iterdir()} == {"96"}
    assert {p.name for p in folder.checkpoints.iterdir()} == {"96", "my copy"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, UsageError])
def test_a_folder_without_anything_in_it_is_not_left_in_the_way(error, tmp_path, sessions):
    def fails(folder):
        raise error

    sessions.act = fails
    with pytest.raises(error):
        loopwm.train("CartPole-v1", config="debug", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [({"episodes": 0}, "episodes"), ({"seed": -1}, "seed"), ({"seed": 2**32}, "seed")],
)
def test_an_evaluation_in_python_is_checked_as_the_command_is(kwargs, said, assert_helpful):
    with pytest.raises(UsageError, match=said) as raised:
        evaluate_run("pretrained:cartpole", **kwargs)
    assert_helpful(raised)


class Stopped(toy_envs.Corridor):
    """Interrupts what no signal handler waits for, as a second Ctrl-C does."""

    at, steps = 12, 0

    def step(self, action):
        self.steps += 1
        if self.steps == self.at:
            raise KeyboardInterrupt
        return super().step(action)


def test_a_second_ctrl_c_says_what_is_left(tmp_path, monkeypatch, assert_helpful):
    def train(every, env=Stopped):
        overrides = {"checkpoint_every": every}
        with pytest.raises(Interrupted) as raised:
            loopwm.train(
                env, config="debug", steps=20, out=tmp_path / "run", overrides=overrides, quiet=True
            )
        return raised

    raised = train(1000)
    assert "before anything was saved" in str(raised.value)
    assert_helpful(raised)
    assert not (tmp_path / "run").exists()
    message = str(train(8).value)
    left = re.escape(str(pathlib.Path("run") / "checkpoints" / "8"))
    assert re.search(rf"could save what is new; .*{left}; go on with: loopwm\.resume\(", message)

    def stops(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "write_report", stops)
    with pytest.raises(Interrupted, match=r"before its report was written; .*20; go on with"):
        loopwm.resume(tmp_path / "run", env=toy_envs.Corridor, quiet=True)


def test_nobody_who_fails_waits_for_the_compiler(tmp_path, monkeypatch):
    goes_on = threading.Event()
    compiling = threading.Thread(target=goes_on.wait, args=(120,))
    compiling.start()
    monkeypatch.setattr(session, "_compile_ahead", lambda *_: compiling)
    config = resolve_config("Corridor", config="debug", steps=20)

    class Fails(toy_envs.Corridor):
        def reset(self, *, seed=None, options=None):
            raise OSError("no simulator")

    made = Session(Fails, config)
    try:
        with pytest.raises(RunFailure, match="no simulator"):
            made.run(RunFolder.create(tmp_path / "run", made.config), resume=False, quiet=True)
        assert compiling.is_alive()
    finally:
        goes_on.set()
        compiling.join()


def test_a_checkpoint_of_another_version_is_refused(tmp_path, monkeypatch, assert_helpful):
    folder = saved_run(tmp_path / "run", "Corridor")
    for error in (KeyError("rng"), TypeError("unexpected keyword 'updates_made'")):

        def restore(self, error=error):
            raise error

        monkeypatch.setattr("loopwm.training.trainer.Trainer.restore", restore)
        with pytest.raises(UsageError, match="not written by this version") as raised:
            loopwm.resume(folder.path, env=toy_envs.Corridor, quiet=True)
        assert_helpful(raised)
