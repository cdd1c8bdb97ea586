"""What a command prints."""

import contextlib
import sys


def json_alone(as_json: bool) -> contextlib.AbstractContextManager[object]:
    """Sends what environments and libraries print to standard error, where JSON is asked for.

    So that standard output holds one JSON object, whoever else prints.
    """
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
