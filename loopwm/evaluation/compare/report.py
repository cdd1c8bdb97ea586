"""The files of a comparison: report.html, figures, cells.csv, summary.json."""

import functools
import html
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from loopwm.evaluation.canvas import LIGHT, Draw, image, png
from loopwm.evaluation.compare import figures
from loopwm.evaluation.compare.analysis import Analysis
from loopwm.evaluation.compare.cells import Record, Status
from loopwm.evaluation.compare.families import FAMILIES, OURS
from loopwm.evaluation.compare.suites import Suite
from loopwm.evaluation.compare.tables import cells_csv, summarise
from loopwm.evaluation.compare.verdict import losses, shown, word
from loopwm.training.run_folder import write_text

_STYLE = """body{font:16px/1.5 sans-serif;max-width:860px;margin:2em auto}
table{border-collapse:collapse;font-size:13px}td,th{padding:.15em .6em;text-align:right}
td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f5f5f5}
img{max-width:100%}"""


def write_comparison(
    folder: pathlib.Path, suite: Suite, records: Sequence[Record]
) -> dict[str, Any]:
    """Analyses the cells and writes report.html, PNGs, cells.csv and summary.json.

    Args:
        folder: the comparison's folder.
        suite: what was compared.
        records: a record of every cell.

    Returns:
        The contents of summary.json.
    """
    analysis = Analysis(suite, records)
    page = folder / "report.html"
    summary = summarise(analysis, str(page))
    drawn = _figures(analysis)
    for name, (draw, _) in drawn.items():
        (folder / f"{name}.png").write_bytes(png(draw(LIGHT)))
    write_text(page, _page(analysis, summary, drawn))
    write_text(folder / "cells.csv", cells_csv(records))
    write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    return summary


def _figures(analysis: Analysis) -> dict[str, tuple[Draw, str]]:
    """Each figure by the name of its file, with what it shows."""
    found: dict[str, tuple[Draw, str]] = {}
    what = "Error" if analysis.errors else "Return"
    for cost, words in figures.COSTS.items():
        if any(cost in place.costs for place in analysis.places):
            draw = functools.partial(figures.front_figure, analysis, cost)
            found[f"front_{cost}"] = (draw, f"{what} against {words}")
    overall = [s for s in analysis.ratios if s.scope == "all" and s.ratio.estimate is not None]
    if overall:
        draw = functools.partial(figures.ratio_figure, overall)
        found["ratios"] = (draw, "Ratios of parameters with 95 % intervals")
    if figures.depth_figure(analysis.records, LIGHT) is not None:
        draw = functools.partial(_depth, analysis)
        found["depth"] = (draw, "Error against the number of loops")
    if analysis.errors and analysis.places:
        draw = functools.partial(figures.profile_figure, analysis)
        found["profiles"] = (draw, "Share of runs at or below each error")
    return found


def _depth(analysis: Analysis, theme: Any):
    figure = figures.depth_figure(analysis.records, theme)
    assert figure is not None
    return figure


def _page(analysis: Analysis, summary: dict[str, Any], drawn: dict[str, tuple[Draw, str]]) -> str:
    title = f"Comparison: {analysis.suite.name}"
    pictures = "".join(
        f"<h3>{html.escape(words)}</h3>{image(draw, words)}" for draw, words in drawn.values()
    )
    lost = losses(analysis) or ["Nowhere by its whole interval, in what was run."]
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>{_STYLE}</style>
<h1>{html.escape(title)}</h1>
<p>{html.escape(summary["verdict"])}</p>
<h2>Figures</h2>
{pictures}
<h2>Parameters at equal {"error" if analysis.errors else "return"}</h2>
{_ratio_table(analysis)}
<h2>Where looping lost</h2>
{"".join(f"<p>{html.escape(sentence)}</p>" for sentence in lost)}
{_trade_section(analysis)}
<h2>Every place</h2>
<p>Interquartile means over seeds with 95 % bootstrap intervals; costs are medians. Every cell is in
cells.csv, the search in tuning.json.</p>
{_place_table(analysis)}
<h2>Cells without numbers</h2>
{_missing(analysis.records)}
</html>
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(entry)}</td>" for entry in row) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def _ratio_table(analysis: Analysis) -> str:
    if not analysis.ratios:
        return "<p>No ratio: it takes our family, another one, and two sizes of both.</p>"
    rows = [
        (FAMILIES[s.family].words, s.scope, shown(s.ratio), word(s.ratio)) for s in analysis.ratios
    ]
    return _table(("against", "tasks", "parameters over ours", "ours needs"), rows)


def _place_table(analysis: Analysis) -> str:
    head = (
        "task", "family", "size", "seeds", "middle", "interval", "parameters", "core",
        "FLOPs", "µs", "training FLOPs", "memory MB",
    )  # fmt: skip
    rows = []
    for place in analysis.places:
        low, high = place.interval.low, place.interval.high
        spread = "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
        costs = [
            f"{place.costs[name]:.4g}" if name in place.costs else ""
            for name in (
                "params",
                "params_core",
                "flops_transition",
                "us_transition",
                "flops_training",
                "peak_memory_mb",
            )  # fmt: skip
        ]
        first = (place.task, place.family, f"{place.size:,}", str(len(place.values)))
        rows.append((*first, f"{place.interval.estimate:.4g}", spread, *costs))
    return _table(head, rows)


def _trade_section(analysis: Analysis) -> str:
    """Return by parameters, loops and samples of the planner, of looped agents."""
    rows = [
        (record.cell.task, f"{record.cell.size:,}", str(record.cell.seed), str(row["loops"]),
         str(row["samples"]), f"{row['return']:.4g}", f"{row['decision_ms']:.3g}")
        for record in analysis.records
        if record.cell.family == OURS
        for row in record.measures.get("trade", [])
    ]  # fmt: skip
    if not rows:
        return ""
    head = ("task", "size", "seed", "loops", "samples", "return", "ms a decision")
    return f"<h2>Parameters, loops and samples at test time</h2>{_table(head, rows)}"


def _missing(records: Sequence[Record]) -> str:
    reasons: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if record.status is not Status.DONE:
            key = (record.status.value, record.sentence or "")
            reasons.setdefault(key, []).append(record.cell.name)
    if not reasons:
        return "<p>None.</p>"
    rows = [
        (status, sentence, str(len(names)), ", ".join(names[:4]) + (" …" if names[4:] else ""))
        for (status, sentence), names in reasons.items()
    ]
    return _table(("status", "why", "cells", "which"), rows)
