"""Ranges of settings that are numbers; what computes with them does so in float32."""

import numpy as np

from loopwm.errors import UsageError

_SMALLEST, _LARGEST = (float(getattr(np.finfo(np.float32), name)) for name in ("tiny", "max"))


def check_positive(section: str, config: object, *names: str) -> None:
    """Raises UsageError for a setting of these that is no positive number of float32.

    Args:
        section: dotted name of the configuration with a dot behind it, or nothing.
        config: the configuration.
        names: its settings.
    """
    for name in names:
        value = getattr(config, name)
        if not _SMALLEST <= value <= _LARGEST:
            raise UsageError(
                f"{section}{name} is {value}; give a positive number that float32 can hold."
            )


def check_not_negative(section: str, config: object, *names: str) -> None:
    """The same for settings that may be 0 as well."""
    for name in names:
        value = getattr(config, name)
        if not 0.0 <= value <= _LARGEST:
            raise UsageError(
                f"{section}{name} is {value}; give a number of at least 0 that float32 can hold."
            )
