"""Every cell of a comparison as CSV, and its summary as plain data."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from loopwm.evaluation.compare.analysis import Analysis
from loopwm.evaluation.compare.cells import Record, Status, plain
from loopwm.evaluation.compare.verdict import losses, verdict, word

_FIRST = ("suite", "task", "family", "size", "seed", "blocks", "status", "sentence")


def cells_csv(records: Sequence[Record]) -> str:
    """One line a cell, those without numbers too; nested numbers have names such as nrmse.5."""
    rows = [_row(record) for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    ordered = [*_FIRST, *(name for name in names if name not in _FIRST)]
    text = io.StringIO()
    writer = csv.DictWriter(text, ordered, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(record: Record) -> dict[str, Any]:
    cell = record.cell
    row: dict[str, Any] = {
        "suite": cell.suite,
        "task": cell.task,
        "family": cell.family,
        "size": cell.size,
        "seed": cell.seed,
        "blocks": cell.blocks or "",
        "status": record.status.value,
        "sentence": record.sentence or "",
    }
    for name, value in record.measures.items():
        if isinstance(value, dict):
            row |= {f"{name}.{key}": entry for key, entry in value.items()}
        elif isinstance(value, list):
            row[name] = " ".join(map(str, value))
        else:
            row[name] = value
    return row


def summarise(analysis: Analysis, report: str) -> dict[str, Any]:
    """Contents of summary.json.

    Args:
        analysis: what follows from the cells.
        report: path of the page.
    """
    suite = analysis.suite
    return plain(
        {
            "suite": suite.name,
            "measure": suite.protocol.measured_by,
            "tasks": suite.tasks,
            "families": suite.families,
            "sizes": suite.sizes,
            "seeds": suite.seeds,
            "cells": {
                status.value: analysis.count(status) for status in Status if analysis.count(status)
            },
            "points": [place.content() for place in analysis.places],
            "versus": [versus.content() for versus in analysis.versus],
            "ratios": [
                {**scoped.content(), "needs": word(scoped.ratio)} for scoped in analysis.ratios
            ],
            "recurrence": {task: worth.content() for task, worth in analysis.worths.items()},
            "lost": losses(analysis),
            "verdict": verdict(analysis),
            "report": report,
        }
    )
