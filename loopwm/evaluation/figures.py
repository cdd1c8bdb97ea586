"""The figures of a stability report, each for light and for dark pages.

Observations are coloured; what is proven is drawn in the colour of the text, dashed.
"""

import numpy as np
from jaxtyping import Complex
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from loopwm.evaluation.canvas import (
    DARK,
    LIGHT,
    Draw,
    Theme,
    blank,
    label,
    legend,
    picture,
    positive,
)
from loopwm.evaluation.rollouts import ADVERSARIAL, POLICY, RANDOM
from loopwm.evaluation.study import InnerStudy, OuterStudy
from loopwm.stability import Certificate, Level


def residual_figure(inner: InnerStudy, certificate: Certificate | None, theme: Theme) -> Figure:
    """Residual over the first one, against the loop, with the certified envelope.

    Args:
        inner: what was measured.
        certificate: what is proven, if anything.
        theme: colours.

    Returns:
        The figure.
    """
    figure, (axes,) = blank(theme, 1)
    first = inner.residuals[:, :1]
    shares = inner.residuals / np.where(first > 0, first, 1.0)
    loops = np.arange(1, shares.shape[1] + 1)
    for kind, colour in _coloured(inner.kinds, theme):
        rows = shares[[k == kind for k in inner.kinds]]
        axes.plot(loops, positive(rows).T, color=colour, lw=1.2, alpha=0.75)
        axes.plot([], [], color=colour, lw=2, label=f"{kind} ({len(rows)})")
    axes.set_yscale("log")
    axes.set_xlim(1, loops[-1])
    drawn = positive(shares)
    low, high = np.nanmin(drawn, initial=1e-1), np.nanmax(drawn, initial=1.0)
    axes.set_ylim(max(low / 3, 1e-18), min(high * 10, 1e18))
    if inner.limits is not None and certificate is not None:
        envelope = certificate.rate ** (loops - 1.0)
        axes.plot(loops, envelope, color=theme.ink, lw=1.8, ls=(0, (5, 3)))
        inside = np.flatnonzero(envelope < 0.5 * axes.get_ylim()[1])
        at = min(len(loops) // 2, int(inside[-1]) if len(inside) else 0)
        word = "certified envelope" if certificate.rate < 1.0 else "certified growth"
        text = f"{word}, {certificate.rate:.4g} a loop"
        aside = 5 if certificate.rate < 1.0 else 16
        label(axes, float(loops[at]), float(envelope[at]), text, theme, offset=(aside, 5))
    if inner.stops < loops[-1]:
        axes.axvline(inner.stops, color=theme.middle, lw=1.2, zorder=0)
        axes.text(
            inner.stops, 0.02, f" the model stops here, T = {inner.stops}", color=theme.ink,
            fontsize=8, transform=axes.get_xaxis_transform(), alpha=0.8,
        )  # fmt: skip
    axes.set_xlabel("loop t")
    axes.set_ylabel(f"residual ‖h$_t$ − h$_{{t-1}}$‖, {inner.norm}-norm\n(first loop = 1)")
    legend(axes, theme)
    return figure


def spectrum_figure(
    inner: InnerStudy, outer: OuterStudy | None, certificate: Certificate | None, theme: Theme
) -> Figure:
    """Eigenvalues of the Jacobians in the complex plane, with the unit and the certified circle.

    Args:
        inner: what was measured of the inner loop.
        outer: what was measured of imagined transitions, if anything.
        certificate: what is proven of the inner loop, if anything.
        theme: colours.

    Returns:
        The figure, one panel for each map.
    """
    figure, axes = blank(theme, 1 if outer is None else 2, height=4.8)
    radius = None
    if certificate is not None and certificate.level is Level.GLOBAL:
        radius = certificate.rate
    groups = [
        (colour, kind, inner.eigenvalues[[k == kind for k in inner.kinds]])
        for kind, colour in _coloured(inner.kinds, theme)
    ]
    shown = [inner.eigenvalues] + ([] if outer is None else [outer.eigenvalues])
    reach = 1.12 * max(1.0, *(float(np.max(np.abs(values))) for values in shown))
    _plane(axes[0], groups, radius, reach, theme)
    axes[0].set_title("Inner loop h → h⁺", fontsize=10, color=theme.ink, loc="left")
    if outer is not None:
        groups = [(theme.series[0], "visited", outer.eigenvalues)]
        _plane(axes[1], groups, None, reach, theme)
        title = "Imagined transition z → z′ (only observed)"
        axes[1].set_title(title, fontsize=10, color=theme.ink, loc="left")
    return figure


def rollout_figure(outer: OuterStudy, radius: float | None, theme: Theme) -> Figure:
    """Norm of imagined states against the step, with the proven ball.

    Args:
        outer: what was measured.
        radius: radius of the proven ball, if there is one.
        theme: colours.

    Returns:
        The figure.
    """
    figure, (axes,) = blank(theme, 1)
    names = {
        POLICY: "policy's actions",
        RANDOM: "random actions",
        ADVERSARIAL: "adversary's actions",
    }
    steps = np.arange(next(iter(outer.norms.values())).shape[1])
    for (how, sizes), colour in zip(outer.norms.items(), theme.series, strict=True):
        low, middle, high = (f(sizes, axis=0) for f in (np.min, np.median, np.max))
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, lw=0)
        axes.plot(steps, middle, color=colour, lw=1.6, label=names[how])
    largest = np.max([np.max(s, where=np.isfinite(s), initial=0) for s in outer.norms.values()])
    top = 1.12 * max(largest, radius or 0.0, 1e-6)
    axes.set_ylim(0, top)
    axes.set_xscale("symlog", linthresh=10, linscale=0.6)
    axes.set_xlim(0, steps[-1])
    axes.set_xticks([x for x in (0, 10, 100, 1000, 10_000) if x <= steps[-1]])
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    if radius is not None:
        axes.axhline(radius, color=theme.ink, lw=1.8, ls=(0, (5, 3)))
        axes.axhspan(radius, top, color=theme.faint, alpha=0.35, lw=0, zorder=0)
        label(axes, 1.0, radius, f"proven ball, radius {radius:.4g}", theme, offset=(0, 4))
    axes.set_xlabel("imagined step")
    axes.set_ylabel(f"‖z‖ in the {outer.norm}-norm")
    legend(axes, theme)
    return figure


def budget_figure(certificate: Certificate, theme: Theme) -> Figure:
    """How the certified rate comes about: layers, their product times the scale, the mix.

    Args:
        certificate: what is proven.
        theme: colours.

    Returns:
        The figure.
    """
    bars = [(layer.name, layer.constant, theme.series[0]) for layer in certificate.layers]
    if certificate.gamma is not None:
        bars.append(("γ: product, scaled", certificate.gamma, theme.series[2]))
    word = "growth in one loop" if certificate.rate >= 1.0 else "rate with retention"
    if certificate.level is Level.LINEAR:
        word = "rate of the retention alone"
    bars.append((word, certificate.rate, theme.ink))
    figure, (axes,) = blank(theme, 1, height=0.9 + 0.42 * len(bars))
    places = np.arange(len(bars))[::-1]
    values = np.array([value for _, value, _ in bars])
    axes.barh(places, values, height=0.62, color=[colour for *_, colour in bars])
    for place, value in zip(places, values, strict=True):
        wide = value > 0.2 * values.max()
        axes.text(
            value, place, f"{value:.4f}  " if wide else f"  {value:.4f}", va="center", fontsize=9,
            ha="right" if wide else "left", color=theme.page if wide else theme.ink,
        )  # fmt: skip
    axes.axvline(1.0, color=theme.ink, lw=1.2, ls=(0, (2, 2)))
    axes.set_yticks(places, [name for name, *_ in bars])
    axes.set_xlim(0, 1.05 * max(1.0, values.max()))
    axes.set_xlabel("Lipschitz bound; below 1, states come closer")
    axes.grid(visible=False, axis="y")
    return figure


def _plane(
    axes: Axes,
    groups: list[tuple[str, str, Complex[np.ndarray, "_ _"]]],
    radius: float | None,
    reach: float,
    theme: Theme,
) -> None:
    """One panel of eigenvalues."""
    axes.add_patch(Circle((0, 0), 1.0, fill=False, ec=theme.middle, lw=1.2))
    if radius is not None:
        ring = Circle((0, 0), radius, fill=False, ec=theme.ink, lw=1.6, ls=(0, (5, 3)))
        axes.add_patch(ring)
        text = f"certified, radius {radius:.4g}"
        axes.plot([], [], color=theme.ink, lw=1.6, ls=(0, (5, 3)), label=text)
    axes.plot([], [], color=theme.middle, lw=1.2, label="unit circle")
    for colour, name, values in groups:
        flat = values.reshape(-1)
        axes.scatter(
            np.real(flat), np.imag(flat), s=13, color=colour, alpha=0.65, lw=0, label=name, zorder=3
        )
    axes.set_aspect("equal")
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    if reach < 2.0:
        axes.set_xticks(np.arange(-1.0, 1.1, 0.5))
        axes.set_yticks(np.arange(-1.0, 1.1, 0.5))
    axes.set_xlabel("real part")
    axes.set_ylabel("imaginary part")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize=8,
        labelcolor=theme.ink,
    )  # fmt: skip


def _coloured(kinds: tuple[str, ...], theme: Theme) -> list[tuple[str, str]]:
    """Each kind once, in order, with its colour."""
    distinct = list(dict.fromkeys(kinds))
    return [(kind, theme.series[i % len(theme.series)]) for i, kind in enumerate(distinct)]


__all__ = [
    "DARK",
    "LIGHT",
    "Draw",
    "budget_figure",
    "picture",
    "residual_figure",
    "rollout_figure",
    "spectrum_figure",
]
