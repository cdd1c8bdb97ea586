"""loopwm: looped world models with a certificate, a planner, and honest evaluation."""

import importlib
from typing import TYPE_CHECKING, Any

import loopwm.envs as _envs  # noqa: F401 (registers loopwm/…-v0 with Gymnasium)

if TYPE_CHECKING:
    from loopwm.envs.checks import check_env as check_env
    from loopwm.run import export as export
    from loopwm.run import load as load
    from loopwm.run import make_env as make_env
    from loopwm.run import resume as resume
    from loopwm.run import train as train
    from loopwm.stability import certify as certify

__version__ = "0.1.0"

_HOMES = {
    "train": "loopwm.run",
    "resume": "loopwm.run",
    "load": "loopwm.run",
    "make_env": "loopwm.run",
    "export": "loopwm.run",
    "certify": "loopwm.stability",
    "check_env": "loopwm.envs.checks",
}
__all__ = ["__version__", "certify", "check_env", "export", "load", "make_env", "resume", "train"]


def __getattr__(name: str) -> Any:
    """Imports the public functions when they are first used."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'loopwm' has no attribute '{name}'")
