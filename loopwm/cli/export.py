"""`loopwm export`."""

import pathlib
from typing import Annotated

import tyro


def export(
    run: Annotated[tyro.conf.Positional[pathlib.Path], tyro.conf.arg(metavar="RUN")],
    file: Annotated[tyro.conf.Positional[pathlib.Path], tyro.conf.arg(metavar="FILE")],
    /,
) -> None:
    """Write a trained agent into one file that can be shared and loaded.

    Args:
        run: folder of the run.
        file: the file, say agent.npz; it must not exist yet.
    """
    from loopwm import run as runs

    runs.export(run, file)
    print(f"{file} holds the agent; try: loopwm evaluate {file}")
