"""A self-contained page about a run."""

import html
from typing import Any

from loopwm import settings
from loopwm.envs import AbstractObservationCodec
from loopwm.evaluation.depth_analysis import DepthAnalysis
from loopwm.evaluation.depth_report import depth_paragraph, depth_section
from loopwm.evaluation.imagination import Watched
from loopwm.evaluation.imagination_report import watched_paragraph, watched_sections
from loopwm.training import RunConfig, RunFolder
from loopwm.training.run_folder import write_text

_WIDTH, _HEIGHT, _MARGIN = 720, 280, 48


def write_report(
    folder: RunFolder,
    config: RunConfig,
    summary: dict[str, Any],
    guarantees: list[str],
    depth: DepthAnalysis | str | None = None,
    watched: tuple[Watched, AbstractObservationCodec] | str | None = None,
) -> None:
    """Writes report.html: how the return grew, what is certified, what was imagined, loops.

    Args:
        folder: the run's folder.
        config: the run's configuration.
        summary: contents of summary.json.
        guarantees: sentences about what is guaranteed, from `statements`.
        depth: what the loops are worth, or the sentence that says why it is not known; None for a
            model without loops, or one that was not trained.
        watched: what an evaluation showed of the agent's imagination, with the codec of its
            observations, or the sentence that says why it is not known; None where none was made.
    """
    records = folder.read_evals()
    rows = [
        ("environment", config.env),
        ("seed", config.seed),
        ("env steps", summary["env_steps"]),
        ("training seconds", f"{summary['wall_seconds']:.1f}"),
        ("of them compiling", f"{summary['compile_seconds']:.1f}"),
        ("threshold", summary["threshold"]),
        ("solved at", summary["solved_at"]),
        ("mean return of the last evaluation", summary["final_return_mean"]),
        ("parameters", summary["params"]["total"]),
        ("of them world model", summary["params"]["world_model"]),
        ("of them core", summary["params"]["core"]),
    ]
    table = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in rows
    )
    paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in guarantees)
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(config.env)}</title>
<style>body{{font:16px/1.5 sans-serif;max-width:760px;margin:2em auto}}
th{{text-align:left;padding-right:2em;font-weight:normal;color:#555}}
img{{max-width:100%}}
pre{{background:#f5f5f5;padding:1em;overflow:auto;font-size:13px}}</style>
<h1>{html.escape(config.env)}, seed {config.seed}</h1>
<table>{table}</table>
<h2>Return of evaluations</h2>
{_curve(records, summary["threshold"])}
<h2>What is guaranteed, and what is not</h2>
{paragraphs}
{_watched(watched)}
{_depth(depth)}
<h2>Configuration</h2>
<pre>{html.escape(_flat(settings.dump(config)))}</pre>
</html>
"""
    write_text(folder.report_file, page)


def _watched(watched: tuple[Watched, AbstractObservationCodec] | str | None) -> str:
    """The sections about imagination, if there is anything to say."""
    if watched is None:
        return ""
    return watched_paragraph(watched) if isinstance(watched, str) else watched_sections(*watched)


def _depth(depth: DepthAnalysis | str | None) -> str:
    """The section about depth, if there is anything to say."""
    if depth is None:
        return ""
    return depth_section(depth) if isinstance(depth, DepthAnalysis) else depth_paragraph(depth)


def _curve(records: list[dict[str, Any]], threshold: float | None) -> str:
    """Return against env steps as SVG."""
    if not records:
        return "<p>No evaluation yet.</p>"
    steps = [record["env_steps"] for record in records]
    means = [record["return_mean"] for record in records]
    shown = means if threshold is None else [*means, threshold]
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0

    def x(step: int) -> float:
        return _MARGIN + (_WIDTH - 2 * _MARGIN) * step / max(steps[-1], 1)

    def y(value: float) -> float:
        return _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * (value - low) / span

    points = " ".join(f"{x(s):.1f},{y(m):.1f}" for s, m in zip(steps, means, strict=True))
    dots = "".join(
        f'<circle cx="{x(s):.1f}" cy="{y(m):.1f}" r="3"><title>{s}: {m:.1f}</title></circle>'
        for s, m in zip(steps, means, strict=True)
    )
    goal = ""
    if threshold is not None:
        goal = (
            f'<line x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{y(threshold):.1f}" '
            f'y2="{y(threshold):.1f}" stroke="#999" stroke-dasharray="4"/>'
            f'<text x="{_WIDTH - _MARGIN}" y="{y(threshold) - 4:.1f}" text-anchor="end">'
            f"threshold {threshold:g}</text>"
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" font-size="12" fill="#333">{goal}'
        f'<polyline points="{points}" fill="none" stroke="#1f77b4" stroke-width="2"/>{dots}'
        f'<text x="{_MARGIN}" y="{_HEIGHT - 12}">0</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - 12}" text-anchor="end">{steps[-1]} env steps'
        f'</text><text x="4" y="{y(high):.1f}">{high:.0f}</text>'
        f'<text x="4" y="{y(low):.1f}">{low:.0f}</text></svg>'
    )


def _flat(values: dict[str, Any], prefix: str = "") -> str:
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines.append(_flat(value, f"{prefix}{key}."))
        else:
            lines.append(f"{prefix}{key}={value}")
    return "\n".join(lines)
