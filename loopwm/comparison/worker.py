"""A process that does one job: `python -m loopwm.comparison.worker FOLDER`."""

import json
import os
import pathlib
import pickle
import sys
import threading

from loopwm.comparison.jobs import perform
from loopwm.evaluation.compare.cells import plain
from loopwm.run import enable_compile_cache


def main(folder: str) -> None:
    """Reads `job` in the folder, does it, and leaves `result.json` there.

    Modules are found where the process that asks finds them, as by `path.json`.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    enable_compile_cache()
    path = pathlib.Path(folder)
    known = json.loads((path / "path.json").read_text(encoding="utf-8"))
    sys.path += [place for place in known if place not in sys.path]
    job = pickle.loads((path / "job").read_bytes())
    found = perform(job)
    (path / "result.json").write_text(json.dumps(plain(found)), encoding="utf-8")


def _end_with_parent() -> None:
    """Ends this process when the other end of its standard input is closed."""
    # Not through sys.stdin, whose lock a thread that waits would still hold at the end.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
