"""What becomes of commands that fail, or whose output cannot be written."""

import sys

import pytest

from loopwm.cli import main as program


@pytest.fixture
def failing(monkeypatch):
    """Lets the command `envs` raise something, and gives its exit status."""

    def call(error):
        def envs() -> None:
            """Fails."""
            raise error

        monkeypatch.setitem(program.COMMANDS, "envs", envs)
        return program.main(["envs"])

    return call


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            MemoryError("Unable to allocate 715. GiB for an array"),
            "memory: Unable to allocate 715 GiB",
        ),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
            "not enough memory",
        ),
        (OSError(28, "No space left on device", "a file"), "No space left on device: 'a file'"),
        (KeyboardInterrupt(), "give the command again"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else None,
)
def test_what_is_no_bug_is_one_sentence(failing, capsys, assert_helpful, error, said):
    assert failing(error) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("loopwm: ") and said in shown.err
    assert_helpful(shown.err.strip())


def test_a_reader_that_has_gone_is_no_mistake(failing, capsys):
    assert failing(BrokenPipeError(32, "Broken pipe")) == 1
    assert capsys.readouterr().err == ""


def test_a_bug_is_shown_whole(failing):
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())


SCRIPT = """
import sys, threading, time, types
from loopwm.cli import main as program
from loopwm.errors import RunFailure

def envs() -> None:
    "Stands for the command."
    if {fails}:
        sys.modules["loopwm.session"] = types.SimpleNamespace(COMPILING="compiler")
        threading.Thread(target=time.sleep, args=(3600,), name="compiler").start()
        raise RunFailure("It failed; correct it.")
    print("±", "a" * 100_000)

program.COMMANDS["envs"] = envs
sys.argv = ["loopwm", "envs"]
sys.exit(program.main())
"""


def test_a_process_ends_at_once_and_without_complaint(subprocess_environment, tmp_path):
    import subprocess

    def run(fails, encoding="utf-8", **streams):
        environment = subprocess_environment | {"PYTHONIOENCODING": encoding}
        command = [sys.executable, "-c", SCRIPT.format(fails=fails)]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, timeout=300, **streams
        )

    done = run(True, stdout=subprocess.PIPE)  # the thread would take an hour
    assert done.returncode == 1 and done.stderr == b"loopwm: It failed; correct it.\n"
    done = run(False, "ascii", stdout=subprocess.PIPE)
    assert done.returncode == 0 and done.stderr == b"" and done.stdout.startswith(b"? aaa")
    with open("/dev/full", "wb") as full:
        done = run(False, stdout=full)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1
    assert b"No space left on device" in done.stderr
