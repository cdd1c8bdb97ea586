"""The failures a user can meet, each one sentence and an exit status."""

import re


class UsageError(ValueError):
    """The request cannot be carried out as asked: bad argument, bad file, unsupported space.

    The message is one sentence that says what was wrong and what to do. The command line
    prints it and exits with status 2.
    """

    exit_status = 2


class RunFailure(RuntimeError):
    """A run that started properly went wrong: an environment raised, a loss became NaN.

    The message is one sentence that says what happened and what is left on disk. The command
    line prints it and exits with status 1.
    """

    exit_status = 1


class NotFinite(RunFailure):
    """A loss, a weight, a prediction or a decision became infinite or NaN."""


def as_clause(error: object, longest: int = 300) -> str:
    """The text of a foreign exception, to be put into a sentence: one line, without full stops."""
    try:
        text = str(error)
    except Exception:  # even that may be wrong with a foreign one
        text = ""
    text = re.sub(r"[.!?]+\s", "; ", " ".join(text.split())).rstrip(".!? ")
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def after_colon(error: object) -> str:
    """The text of a foreign exception as a clause behind a colon; nothing where it has none."""
    text = as_clause(error)
    return f": {text}" if text else ""
