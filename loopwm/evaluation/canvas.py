"""Empty figures in the colours of a page, and how they get into one."""

import base64
import dataclasses
import io
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_DPI = 150


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours of a page."""

    ink: str
    """Text, axes and what is proven."""
    faint: str
    """Grid lines."""
    middle: str
    """Reference lines, such as the unit circle."""
    page: str
    """Background."""
    series: tuple[str, str, str]
    """Three kinds of observations, told apart by colour-blind readers too."""


LIGHT = Theme("#1f2430", "#c9ced8", "#8b93a3", "#ffffff", ("#0072b2", "#d55e00", "#009e73"))
DARK = Theme("#e6e8ee", "#454b59", "#8b93a3", "#15181f", ("#56b4e9", "#f0803c", "#2fc496"))

Draw = Callable[[Theme], Figure]


def picture(draw: Draw, description: str) -> str:
    """A figure as HTML that needs no other file and follows the page's colours.

    Args:
        draw: draws the figure in a theme.
        description: what it shows, for readers who cannot see it.

    Returns:
        A `picture` element with both versions as data.
    """
    light, dark = (_data_uri(draw(theme)) for theme in (LIGHT, DARK))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{description}"></picture>'
    )


def image(draw: Draw, description: str) -> str:
    """A figure for light pages, as HTML that needs no other file.

    Args:
        draw: draws the figure in a theme.
        description: what it shows, for readers who cannot see it.

    Returns:
        An `img` element with the figure as data.
    """
    return f'<img src="{_data_uri(draw(LIGHT))}" alt="{description}">'


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format="png",
        dpi=_DPI,
        bbox_inches="tight",
        pad_inches=0.08,
        metadata={"Software": None},
    )
    return buffer.getvalue()


def pixels(figure: Figure) -> UInt8[np.ndarray, "height width 3"]:
    """The figure in red, green and blue, at the resolution of a screen."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def blank(
    theme: Theme, panels: int, height: float = 3.6, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """An empty figure with quiet axes, so many panels in each row."""
    figure = Figure(figsize=(7.4, height), facecolor=theme.page, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, panels, squeeze=False).flat)
    for one in axes:
        one.set_facecolor(theme.page)
        one.grid(color=theme.faint, lw=0.5, alpha=0.6)
        one.set_axisbelow(True)
        one.tick_params(colors=theme.ink, labelsize=9, length=3)
        for side, spine in one.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme.faint)
        one.xaxis.label.set_color(theme.ink)
        one.yaxis.label.set_color(theme.ink)
    return figure, axes


def positive(values: np.ndarray) -> np.ndarray:
    """The values as a logarithmic axis can show them: NaN where not positive or not finite."""
    return np.where((values > 0) & np.isfinite(values), values, np.nan)


def label(
    axes: Axes, x: float, y: float, text: str, theme: Theme, *, offset: tuple[int, int]
) -> None:
    """Text beside a point, so many points to the right and above."""
    axes.annotate(
        text, (x, y), xytext=offset, textcoords="offset points", fontsize=9, color=theme.ink
    )


def legend(axes: Axes, theme: Theme) -> None:
    """Names of the series above the axes, where they cover nothing."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False, fontsize=9,
        labelcolor=theme.ink, borderaxespad=0.2,
    )  # fmt: skip


def _data_uri(figure: Figure) -> str:
    return "data:image/png;base64," + base64.b64encode(png(figure)).decode("ascii")
