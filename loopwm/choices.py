"""Choices that settings name: an enumeration's member, as such or by its text."""

import enum
from typing import TypeVar

from loopwm.errors import UsageError

Choice = TypeVar("Choice", bound=enum.StrEnum)


def member(kind: type[Choice], given: object, name: str) -> Choice:
    """The member of an enumeration that is given, as such or by its text.

    A text equals its member without being it, so what asks `is` has to be handed the member.

    Args:
        kind: the enumeration.
        given: a member, or the text of one.
        name: what is given, as the sentence begins.

    Raises:
        UsageError: there is no such member.
    """
    try:
        return kind(given)
    except ValueError:
        known = ", ".join(repr(str(one)) for one in kind)
        raise UsageError(f"{name} is {given!r}; choose one of {known}.") from None
