"""The figures of a depth analysis: error against depth, loops used against true depth."""

import numpy as np
from jaxtyping import Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loopwm.evaluation.canvas import Theme, blank, legend
from loopwm.evaluation.depth import DepthCurve
from loopwm.evaluation.depth_analysis import DepthAnalysis, Halting


def error_figure(analysis: DepthAnalysis, curve: DepthCurve, theme: Theme) -> Figure:
    """Mean error against depth with the middle half of the transitions, its fit, and the depths.

    Args:
        analysis: what was measured.
        curve: its curve.
        theme: colours.

    Returns:
        The figure.
    """
    figure, (axes,) = blank(theme, 1)
    loops, colour = np.arange(len(curve.mean)), theme.series[0]
    low, high = np.quantile(curve.errors, (0.25, 0.75), axis=0)
    axes.fill_between(
        loops, low, high, color=colour, alpha=0.18, lw=0, label="middle half of transitions"
    )
    axes.plot(loops, curve.mean, color=colour, lw=1.6, marker="o", ms=4, label="mean error")
    if analysis.fit is not None:
        fine = np.linspace(0, loops[-1], 200)
        axes.plot(
            fine, analysis.fit(fine), color=theme.series[1], lw=1.4, ls=(0, (4, 2)),
            label=r"fit $a + b\,e^{-cT}$",
        )  # fmt: skip
    axes.set_xlim(-0.02 * loops[-1], 1.02 * loops[-1])
    shown = np.concatenate([low, high, curve.mean])
    if shown.min() > 0 and shown.max() > 30 * shown.min():
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.15 * shown.max() or 1.0)
    _mark_depths(axes, analysis, int(loops[-1]), theme)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("loops t of the transition")
    axes.set_ylabel("error of the next observation\n(root mean square, normalised)")
    legend(axes, theme)
    return figure


def _mark_depths(axes: Axes, analysis: DepthAnalysis, end: int, theme: Theme) -> None:
    """The model's own depth, and where training ended."""
    marks = {analysis.depth: f"the model's depth, {analysis.depth}"}
    if analysis.trained != analysis.depth:
        marks[analysis.trained] = f"largest trained depth, {analysis.trained}"
    for number, (depth, words) in enumerate(marks.items()):
        if depth > end:
            continue
        axes.axvline(depth, color=theme.middle, lw=1.2, zorder=0)
        left = depth > 0.6 * end
        axes.text(
            depth, 0.96 - 0.07 * number, f"{words} " if left else f" {words}", color=theme.ink,
            fontsize=8, alpha=0.8, va="top", ha="right" if left else "left",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    if analysis.trained < end:
        axes.axvspan(analysis.trained, 1.02 * end, color=theme.faint, alpha=0.3, lw=0, zorder=0)
        axes.text(
            0.99, 0.96, "never trained", color=theme.ink, fontsize=8, alpha=0.8, ha="right",
            va="top", transform=axes.transAxes,
        )  # fmt: skip


def loops_figure(
    rules: list[Halting], true_depth: Int64[np.ndarray, " samples"], theme: Theme
) -> Figure:
    """Loops used against the true depth: areas count transitions, lines are means.

    Args:
        rules: halting rules and what they did.
        true_depth: micro-steps that each transition needed, shape (samples,).
        theme: colours.

    Returns:
        The figure, one panel for each rule.
    """
    figure, panels = blank(theme, len(rules), height=3.9)
    for axes, rule, colour in zip(panels, rules, theme.series[: len(rules)], strict=True):
        pairs, counts = np.unique(
            np.stack([true_depth, rule.loops], axis=1), axis=0, return_counts=True
        )
        areas = 260.0 * counts / counts.max()
        axes.scatter(pairs[:, 0], pairs[:, 1], s=areas, color=colour, alpha=0.35, lw=0)
        depths = np.unique(true_depth)
        means = [float(rule.loops[true_depth == depth].mean()) for depth in depths]
        axes.plot(depths, means, color=colour, lw=1.6, marker="o", ms=4)
        words = "undefined" if np.isnan(rule.correlation) else f"{rule.correlation:.2f}"
        if not rule.met.all():
            axes.axhline(rule.loops[~rule.met][0], color=theme.middle, lw=1.2, zorder=0)
        axes.set_title(
            f"{rule.kind} at most {rule.tolerance:g}: stopped {rule.met.mean():.0%}\n"
            f"rank correlation {words}",
            fontsize=10, color=theme.ink, loc="left",
        )  # fmt: skip
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(0, 1.12 * max(1, int(rule.loops.max())))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("true depth, micro-steps of the simulator")
    panels[0].set_ylabel("loops used")
    return figure
