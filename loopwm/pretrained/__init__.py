"""Trained agents that come with the package, made by `python docs/results/pretrained.py`."""

import difflib
import pathlib

from loopwm.errors import UsageError

PREFIX = "pretrained:"
NAMES = {"cartpole": "CartPole-v1", "pendulum": "Pendulum-v1", "acrobot": "Acrobot-v1"}
"""Agents by name, and the environment of each."""


def agent_file(name: str) -> pathlib.Path:
    """The file of an agent.

    Args:
        name: one of `NAMES`, without or with `pretrained:` before it.

    Returns:
        Where it is.

    Raises:
        UsageError: there is no such agent.
    """
    short = name.removeprefix(PREFIX)
    if short not in NAMES:
        near = difflib.get_close_matches(short, NAMES, n=1, cutoff=0.0)[0]
        raise UsageError(f"There is no agent {PREFIX}{short}; did you mean {PREFIX}{near}?")
    return pathlib.Path(__file__).with_name(f"{short}.npz")
