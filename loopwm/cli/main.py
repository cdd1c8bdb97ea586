"""The `loopwm` command."""

import contextlib
import functools
import io
import itertools
import operator
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from loopwm.cli.check_env import check_env
from loopwm.cli.compare import compare
from loopwm.cli.envs import envs
from loopwm.cli.evaluate import evaluate
from loopwm.cli.export import export
from loopwm.cli.stability import stability
from loopwm.cli.train import train
from loopwm.errors import RunFailure, UsageError, after_colon, as_clause

COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "stability": stability,
    "compare": compare,
    "export": export,
    "check-env": check_env,
    "envs": envs,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and gives its exit status: 0 done, 1 failed run, 2 bad arguments.

    Args:
        arguments: words after the program's name; the process's own when left out.

    Returns:
        The exit status.
    """
    # `module:Id` is looked for in the current folder too, as `python -m` does.
    with contextlib.suppress(OSError):  # the folder may have been removed
        if os.getcwd() not in sys.path and "" not in sys.path:
            sys.path.insert(0, os.getcwd())
    if arguments is None and isinstance(sys.stdout, io.TextIOWrapper):
        # A result is not lost because a terminal has no sign for it.
        sys.stdout.reconfigure(errors="replace")
    status = _status(arguments)
    if status and arguments is None and _is_compiling():
        # Python would wait for a program that nobody needs any more.
        _drop_output()
        sys.stderr.flush()
        os._exit(status)
    return status


def _status(arguments: Sequence[str] | None) -> int:
    """Runs a command, says in one sentence what went wrong, and gives the exit status."""
    try:
        status = _parsed(sys.argv[1:] if arguments is None else arguments)()
        sys.stdout.flush()
    except (UsageError, RunFailure) as error:
        return _failed(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _failed("Interrupted before it could save; give the command again.")
    except BrokenPipeError:
        _drop_output()
        return RunFailure.exit_status
    except OSError as error:
        _drop_output()
        return _failed(
            f"A file or the output cannot be read or written ({as_clause(error)}); check the path "
            "and the space that is left there."
        )
    except (MemoryError, RuntimeError) as error:  # JAX's own is one of these
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        # NumPy writes 715. GiB, which looks like the end of a sentence.
        text = after_colon(str(error).replace(". ", " "))
        return _failed(
            f"There is not enough memory{text}; lower learner.batch_size, the sizes "
            "of the model, or the number of episodes or environments."
        )
    return 0 if status is None else status


def _parsed(arguments: Sequence[str]) -> Callable[[], int | None]:
    """The command that the arguments ask for, still to be run.

    Raises:
        SystemExit: with 0 after the help, with 2 after a sentence about arguments that do not fit.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                {name: _later(command) for name, command in COMMANDS.items()},
                prog="loopwm",
                description="Train, evaluate and certify agents that plan with a looped world "
                "model.",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as left:
        if left.code == 2:
            _failed(_one_sentence(said.getvalue(), arguments))
        raise


def _later(command: Callable[..., int | None]) -> Callable[..., Callable[[], int | None]]:
    """The same command with the same arguments, which are looked at before it is run."""

    @functools.wraps(command)
    def later(*given: Any, **named: Any) -> Callable[[], int | None]:
        return functools.partial(command, *given, **named)

    return later


def _one_sentence(box: str, arguments: Sequence[str]) -> str:
    """What the parser says in the first paragraph of its box, and where more is to be read."""
    lines = [line.strip(" │╭╮╰╯─") for line in box.splitlines()[1:]]
    first = itertools.takewhile(bool, itertools.dropwhile(operator.not_, lines))
    command = [word for word in arguments[:1] if word in COMMANDS]
    known = " ".join(["loopwm", *command, "--help"])
    return f"{as_clause(' '.join(first))}; check the arguments with `{known}`."


def _failed(sentence: str, status: int = RunFailure.exit_status) -> int:
    print(f"loopwm: {sentence}", file=sys.stderr)
    return status


def _drop_output() -> None:
    """Writes what is left, or forgets it: Python would try again at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_compiling() -> bool:
    """Whether a session's program is still being compiled; a session is not imported for that."""
    session = sys.modules.get("loopwm.session")
    names = {thread.name for thread in threading.enumerate()}
    return session is not None and session.COMPILING in names


if __name__ == "__main__":
    sys.exit(main())
