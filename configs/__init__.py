"""Named run configurations, as YAML beside this file."""

import importlib.resources
from typing import Any

import yaml

from loopwm.errors import UsageError


def names() -> list[str]:
    """Names of the presets, sorted."""
    files = importlib.resources.files("loopwm.configs").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def preset(name: str) -> dict[str, Any]:
    """Settings of a preset, a nested mapping.

    Args:
        name: one of `names()`.

    Returns:
        The settings that differ from the defaults.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in names():
        raise UsageError(
            f"There is no configuration '{name}'; use {', '.join(names())}, or the path of a "
            ".yaml file."
        )
    text = (importlib.resources.files("loopwm.configs") / f"{name}.yaml").read_text(
        encoding="utf-8"
    )
    return yaml.safe_load(text) or {}
