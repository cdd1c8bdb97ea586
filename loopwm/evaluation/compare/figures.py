"""The figures of a comparison: fronts, ratios, error against depth, profiles."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from loopwm.evaluation.canvas import Theme, blank
from loopwm.evaluation.compare.analysis import Analysis, Place, Scoped
from loopwm.evaluation.compare.cells import Record
from loopwm.evaluation.compare.families import FAMILIES, OURS
from loopwm.evaluation.compare.statistics import profile

COSTS = {
    "params": "parameters of the world model",
    "flops_transition": "FLOPs of an imagined transition",
    "us_transition": "CPU microseconds of an imagined transition",
}
"""What fronts are drawn against."""

_MARKERS = "osD^v<>Ph"


def _logarithmic(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis, between powers of ten too where it is short."""
    for formatter in (axis.set_major_formatter, axis.set_minor_formatter):
        formatter(LogFormatter(minor_thresholds=(1.2, 0.5)))


def _style(family: str) -> dict[str, object]:
    number = list(FAMILIES).index(family)
    ours = family == OURS
    return {
        # There may be more families than colours, so marks repeat in a round of another length.
        "color": colormaps["tab10"](number % 10),
        "marker": _MARKERS[number % len(_MARKERS)],
        "lw": 2.4 if ours else 1.2,
        "ms": 6 if ours else 4,
        "zorder": 4 if ours else 3,
    }


def front_figure(analysis: Analysis, cost: str, theme: Theme) -> Figure:
    """Error, or return, against a cost: a panel a task, a line a family, 95 % intervals.

    Args:
        analysis: what was compared.
        cost: one of `COSTS`.
        theme: colours.

    Returns:
        The figure.
    """
    tasks = [t for t in analysis.suite.tasks if any(p.task == t for p in analysis.places)]
    columns = min(3, max(1, len(tasks)))
    rows = -(-max(1, len(tasks)) // columns)
    figure, panels = blank(theme, columns, height=0.9 + 2.7 * rows, rows=rows)
    for axes, task in zip(panels, tasks, strict=False):
        for family in analysis.suite.families:
            here = [
                p
                for p in analysis.places
                if (p.task, p.family) == (task, family) and cost in p.costs
            ]
            _line(axes, sorted(here, key=lambda p: p.costs[cost]), cost)
        axes.set_xscale("log")
        _logarithmic(axes.xaxis)
        if analysis.errors:
            axes.set_yscale("log")
            _logarithmic(axes.yaxis)
        axes.tick_params(which="both", labelsize=7)
        axes.set_title(task, fontsize=9, color=theme.ink, loc="left")
        axes.set_xlabel(COSTS[cost], fontsize=8)
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    panels[0].set_ylabel("error (geometric mean of NRMSE)" if analysis.errors else "return")
    _family_legend(figure, panels, theme)
    return figure


def _line(axes: Axes, places: Sequence[Place], cost: str) -> None:
    if not places:
        return
    x = [place.costs[cost] for place in places]
    middle = np.array([place.interval.estimate for place in places])
    spread = None
    if all(place.interval.low is not None for place in places):
        low = np.array([place.interval.low for place in places], float)
        high = np.array([place.interval.high for place in places], float)
        spread = np.maximum(np.stack([middle - low, high - middle]), 0.0)
    family = places[0].family
    axes.errorbar(x, middle, spread, capsize=2, label=family, elinewidth=0.8, **_style(family))  # pyright: ignore[reportArgumentType]


def _family_legend(figure: Figure, panels: Sequence[Axes], theme: Theme) -> None:
    names: dict[str, Artist] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            names.setdefault(name, handle)
    if names:
        figure.legend(
            list(names.values()), list(names), loc="outside upper left", ncols=5, frameon=False,
            fontsize=8, labelcolor=theme.ink,
        )  # fmt: skip


def ratio_figure(ratios: Sequence[Scoped], theme: Theme) -> Figure:
    """Bars of parameter ratios with their intervals, and the line at 1.

    Args:
        ratios: ratios of one scope, at least one.
        theme: colours.

    Returns:
        The figure; an arrow marks an end of an interval that is open.
    """
    known = [s for s in ratios if s.ratio.estimate is not None]
    figure, (axes,) = blank(theme, 1, height=1.3 + 0.36 * max(1, len(known)))
    ends = [e for s in known for e in (s.ratio.low, s.ratio.estimate, s.ratio.high) if e]
    left, right = 0.5 * min([1.0, *ends]), 2.0 * max([1.0, *ends])
    for place, scoped in enumerate(known[::-1]):
        ratio, colour = scoped.ratio, _style(scoped.family)["color"]
        assert ratio.estimate is not None
        axes.barh(place, ratio.estimate - 1.0, left=1.0, height=0.55, color=colour, alpha=0.55)  # pyright: ignore[reportArgumentType]
        if ratio.interval:
            low = left if ratio.low is None else ratio.low
            high = right if ratio.high is None else ratio.high
            axes.plot([low, high], [place, place], color=theme.ink, lw=1.4)
            for end, at, marker in ((ratio.low, low, "<"), (ratio.high, high, ">")):
                axes.plot(at, place, marker=marker if end is None else "|", color=theme.ink, ms=7)
    axes.axvline(1.0, color=theme.ink, lw=1.2, ls=(0, (5, 3)))
    axes.set_xscale("log")
    _logarithmic(axes.xaxis)
    axes.set_xlim(left, right)
    axes.set_yticks(range(len(known)), [FAMILIES[s.family].words for s in known[::-1]], fontsize=8)
    axes.set_xlabel("parameters of the other family over ours; right of 1 ours needs fewer")
    return figure


def depth_figure(records: Sequence[Record], theme: Theme) -> Figure | None:
    """NRMSE after 5 steps against the loops that trained looped models are evaluated with.

    Args:
        records: cells; those without a curve are left out.
        theme: colours.

    Returns:
        The figure, a line a task and size, medians over seeds; None without a curve.
    """
    lines: dict[tuple[str, int], dict[int, list[float]]] = {}
    for record in records:
        if record.cell.blocks:
            continue
        for depth, error in record.measures.get("curve", {}).items():
            if error is not None:
                line = lines.setdefault((record.cell.task, record.cell.size), {})
                line.setdefault(int(depth), []).append(error)
    if not lines:
        return None
    figure, (axes,) = blank(theme, 1, height=4.2)
    colours = colormaps["viridis"](np.linspace(0.0, 0.9, len(lines)))
    for ((task, size), line), colour in zip(lines.items(), colours, strict=True):
        depths = sorted(line)
        middle = [float(np.median(line[depth])) for depth in depths]
        axes.plot(depths, middle, color=colour, marker="o", ms=4, label=f"{task}, {size:,}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    _logarithmic(axes.yaxis)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.set_xlabel("loops of a transition in the evaluation")
    axes.set_ylabel("NRMSE after 5 imagined steps")
    axes.legend(fontsize=7, frameon=False, labelcolor=theme.ink, ncols=2)
    return figure


def profile_figure(analysis: Analysis, theme: Theme) -> Figure:
    """Share of runs (tasks and seeds) at or below each error, at the largest size.

    Args:
        analysis: a comparison of errors.
        theme: colours.

    Returns:
        The figure, with 95 % intervals as bands.
    """
    figure, (axes,) = blank(theme, 1, height=4.2)
    size = max(analysis.suite.sizes)
    here = [p for p in analysis.places if p.size == size]
    every = np.concatenate([p.values for p in here]) if here else np.ones(1)
    low, high = max(float(every.min()), 1e-4), max(float(every.max()), 2e-4)
    thresholds = np.geomspace(low, high, 16)
    for family in analysis.suite.families:
        strata = [p.values for p in here if p.family == family]
        if not strata:
            continue
        shares = [profile(strata, float(t)) for t in thresholds]
        style = _style(family)
        colour, width = style["color"], style["lw"]
        middle = [s.estimate for s in shares]
        axes.plot(thresholds, middle, color=colour, lw=width, label=family)  # pyright: ignore[reportArgumentType]
        if all(s.low is not None for s in shares):
            band = [[s.low for s in shares], [s.high for s in shares]]
            axes.fill_between(thresholds, *band, color=colour, alpha=0.1, lw=0)  # pyright: ignore[reportArgumentType]
    axes.set_xscale("log")
    _logarithmic(axes.xaxis)
    axes.set_ylim(0.0, 1.05)
    axes.set_xlabel(f"error, at {size:,} parameters")
    axes.set_ylabel("share of runs at or below it")
    axes.legend(fontsize=8, frameon=False, labelcolor=theme.ink, ncols=2)
    return figure
