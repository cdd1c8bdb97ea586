"""The figures of an agent's imagination: curves, frames, and what its planner weighed."""

import numpy as np
from jaxtyping import Float, Int, Real
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loopwm.evaluation.canvas import Theme, blank, legend
from loopwm.evaluation.imagination import Imagination
from loopwm.evaluation.observation_parts import Frames, Series
from loopwm.training import Candidates

SERIES, IMAGES, FRAMES = 5, 3, 8
"""Series, images, and frames of an image that are shown at most."""

_LARGEST, _LONGEST_NAME = 1e18, 40
_STEPS = "env steps after the first observation"


def curves_figure(imagination: Imagination, series: list[Series], theme: Theme) -> Figure:
    """Error, reward and continuation against the step, and the first entries of observations.

    Args:
        imagination: what happened, and what was imagined.
        series: entries of the observations o_1 … o_K.
        theme: colours.

    Returns:
        The figure, two panels in a row.
    """
    episode, shown = imagination.episode, series[:SERIES]
    rows = -(-(3 + len(shown)) // 2)
    height = 0.9 + 1.5 * rows
    figure, panels = blank(theme, 2, height=height, rows=rows)
    # A layout that is computed takes longer than all else at an evaluation's drawing.
    figure.set_layout_engine(None)
    figure.subplots_adjust(
        left=0.08, right=0.98, top=1.0 - 0.55 / height, bottom=0.65 / height, hspace=0.55
    )
    error, *others = panels
    _line(error, imagination.unmoved, theme.middle, "o_0 held")
    _line(error, imagination.error, theme.series[2], "open-loop error")
    error.set_ylim(bottom=0.0)
    _title(error, "error of the observation, normalised", theme)
    goes_on = np.ones(len(imagination.error))
    goes_on[-1] = float(not episode.terminated)
    pairs = [
        ("reward", episode.reward, imagination.reward),
        ("continuation", goes_on, imagination.continuation),
        *((one.name, one.real, one.imagined) for one in shown),
    ]
    for axes, (name, real, imagined) in zip(others, pairs, strict=False):
        _line(axes, real, theme.series[0], "real")
        _line(axes, imagined, theme.series[1], "imagined", dashed=True)
        _title(axes, name, theme)
    for axes in others[len(pairs) :]:
        axes.set_visible(False)
    lines = [*error.get_lines(), *others[0].get_lines()]
    figure.legend(
        handles=lines, loc="upper left", ncols=4, frameon=False, fontsize=9,
        labelcolor=theme.ink,
    )  # fmt: skip
    figure.supxlabel(_STEPS, fontsize=10, color=theme.ink, y=0.05 / height)
    return figure


def frames_figure(images: list[Frames], theme: Theme) -> Figure:
    """Frames of images and grids, the real ones over the imagined ones.

    Args:
        images: images of the observations o_1 … o_K, at least one.
        theme: colours.

    Returns:
        The figure, a panel for each image.
    """
    shown = images[:IMAGES]
    figure, panels = blank(theme, 1, height=0.4 + 2.2 * len(shown), rows=len(shown))
    for axes, frames in zip(panels, shown, strict=True):
        steps = len(frames.real)
        chosen = np.unique(np.linspace(0, steps - 1, min(steps, FRAMES)).round().astype(int))
        height, width = frames.real.shape[1:3]
        axes.imshow(strip(frames, chosen, theme), interpolation="nearest")
        across, down = width + _gap(width), height + _gap(height)
        axes.set_xticks((width - 1) / 2 + across * np.arange(len(chosen)), chosen + 1)
        axes.set_yticks((height - 1) / 2 + down * np.arange(2), ["real", "imagined"])
        axes.grid(False)
        axes.spines[["left", "bottom"]].set_visible(False)
        _title(axes, frames.name, theme)
    panels[-1].set_xlabel(_STEPS)
    return figure


def strip(
    frames: Frames, chosen: Int[np.ndarray, " frames"], theme: Theme
) -> Float[np.ndarray, "height width 3"]:
    """One picture of the chosen frames, the real ones over the imagined ones, with gaps."""
    between = tuple(int(theme.faint[i : i + 2], 16) / 255.0 for i in (1, 3, 5))
    rows = []
    for row in (frames.real[chosen], frames.imagined[chosen]):
        _, height, width, _ = row.shape
        padded = np.empty((len(row), height + _gap(height), width + _gap(width), 3), np.float32)
        padded[:] = between
        padded[:, :height, :width] = row
        rows.append(np.concatenate(padded, axis=1))
    whole = np.concatenate(rows)
    return whole[: -_gap(height) or None, : -_gap(width) or None]


def _gap(side: int) -> int:
    """Pixels between frames whose side has so many."""
    return max(1, side // 12)


def candidates_figure(candidates: Candidates, theme: Theme) -> Figure:
    """Returns of the candidates against the iteration: the best, and mean ± deviation.

    Args:
        candidates: means over decisions.
        theme: colours.

    Returns:
        The figure.
    """
    figure, (axes,) = blank(theme, 1, height=2.8)
    best, mean, spread = map(_drawable, (candidates.best, candidates.mean, candidates.spread))
    iterations = np.arange(1, len(best) + 1)
    colour = theme.series[0]
    axes.fill_between(
        iterations, mean - spread, mean + spread, color=colour, alpha=0.18, lw=0,
        label="mean ± standard deviation",
    )  # fmt: skip
    _line(axes, mean, colour, "mean", marker="o")
    _line(axes, best, theme.series[1], "best", marker="o")
    axes.set_xlabel("iteration of a decision")
    axes.set_ylabel("return in imagination,\nnormalised")
    legend(axes, theme)
    return figure


def _line(
    axes: Axes,
    values: Real[np.ndarray, " steps"],
    colour: str,
    name: str,
    *,
    dashed: bool = False,
    marker: str | None = None,
) -> None:
    """Values of steps 1, 2 …; a single one as a dot, and none where it cannot be drawn."""
    marker = "o" if len(values) == 1 else marker
    style = (0, (4, 2)) if dashed else "-"
    axes.plot(
        np.arange(1, len(values) + 1), _drawable(values), color=colour, lw=1.4, ls=style,
        marker=marker, ms=4, label=name,
    )  # fmt: skip
    # Few ticks: they are what takes long to draw, and this is drawn at every evaluation.
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3))


def _drawable(values: Real[np.ndarray, " steps"]) -> Float[np.ndarray, " steps"]:
    """NaN in the place of what is not finite or too large for an axis."""
    values = np.asarray(values, np.float64)
    return np.where(np.abs(values) < _LARGEST, values, np.nan)


def _title(axes: Axes, name: str, theme: Theme) -> None:
    """The panel's name; an environment's keys may hold anything, also what looks like TeX."""
    short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    axes.set_title(short, fontsize=9, color=theme.ink, loc="left", parse_math=False)
