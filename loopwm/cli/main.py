"""The `loopwm` command."""

import os
import sys
from collections.abc import Sequence

import tyro

from loopwm.cli.check_env import check_env
from loopwm.cli.compare import compare
from loopwm.cli.envs import envs
from loopwm.cli.evaluate import evaluate
from loopwm.cli.export import export
from loopwm.cli.stability import stability
from loopwm.cli.train import train
from loopwm.errors import RunFailure, UsageError

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
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        status = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="loopwm",
            description="Train, evaluate and certify agents that plan with a looped world model.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except (UsageError, RunFailure) as error:
        print(f"loopwm: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("loopwm: Interrupted before it could save; give the command again.", file=sys.stderr)
        return RunFailure.exit_status
    return 0 if status is None else status


if __name__ == "__main__":
    sys.exit(main())
