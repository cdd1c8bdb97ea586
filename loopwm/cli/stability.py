"""`loopwm stability`."""

import json
import pathlib
from typing import TYPE_CHECKING, Annotated

import tyro

from loopwm.cli.output import json_alone
from loopwm.pretrained import PREFIX

if TYPE_CHECKING:
    from loopwm.evaluation.study import Study


def stability(
    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|MODULE:FACTORY")],
    /,
    *,
    out: pathlib.Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Say what is proven of a loop, measure what it does, and hold one against the other.

    Args:
        target: folder of a run, an agent's file, or pretrained:NAME; or module:factory, a function
            without arguments that returns an update h -> h and a state h.
        out: folder for report.html (default: stability in the run's folder, else none).
        as_json: print one JSON object instead of a table.
    """
    from loopwm.evaluation.stability_report import check_folder, write_stability_report
    from loopwm.study import study_run, study_update
    from loopwm.training.agent_file import read_agent

    path = pathlib.Path(target)
    is_run = target.startswith(PREFIX) or path.exists() or ":" not in target
    if is_run:
        read_agent(target)
    if out is None and path.is_dir():
        out = path / "stability"
    if out is not None:
        check_folder(out)
    with json_alone(as_json):
        study = study_run(target) if is_run else study_update(target)
        report = None if out is None else str(write_stability_report(study, out))
    if as_json:
        print(json.dumps(study.record(report)))
    else:
        _show(study, report)


def _show(study: "Study", report: str | None) -> None:
    """A table and a paragraph for people."""
    from rich.console import Console
    from rich.table import Table

    from loopwm.evaluation.stability_report import number_rows, observations, verdict

    table = Table(title=f"Stability study of {study.name}", title_justify="left")
    for name in ("measured", "largest seen", "proven bound", ""):
        table.add_column(name, justify="left" if name in ("measured", "") else "right")
    for row in number_rows(study):
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.print(table)
    for sentence in (*study.guarantees, verdict(study)):
        console.print(sentence)
    console.print("Only observed: " + " ".join(observations(study)))
    where = "Give --out DIR for a report with figures." if report is None else f"Report: {report}"
    console.print(where)
