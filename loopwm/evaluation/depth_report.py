"""A depth analysis in sentences, and as a section of a page."""

import functools
import html
import os
import pathlib

import numpy as np
from jaxtyping import Int64

from loopwm.errors import UsageError
from loopwm.evaluation.depth import Saturation
from loopwm.evaluation.depth_analysis import DepthAnalysis, Halting, HaltingKind

HEADING = "Depth: what the loops are worth"
"""Heading of the section."""
ERROR_FILE, LOOPS_FILE = "depth_error.png", "depth_loops.png"
"""Names of the files that `write_depth_figures` writes."""


def depth_section(analysis: DepthAnalysis) -> str:
    """The analysis as HTML that needs no other file: sentences, and the figures it allows."""
    # Imported here: drawing needs matplotlib, and a run draws once, at its end.
    from loopwm.evaluation import depth_figures
    from loopwm.evaluation.canvas import image

    parts = [f"<h2>{HEADING}</h2>", _paragraph(about(analysis)), _paragraph(errors(analysis))]
    if analysis.curve is not None:
        draw = functools.partial(depth_figures.error_figure, analysis, analysis.curve)
        parts.append(image(draw, "Error of the predicted observation against the number of loops"))
    parts.append(_paragraph(halting(analysis)))
    depths, rules = analysis.transitions.true_depth, halted(analysis)
    if depths is not None and rules:
        draw = functools.partial(depth_figures.loops_figure, rules, depths)
        parts.append(image(draw, "Loops used by halting against the true depth"))
    return "\n".join(parts)


def write_depth_figures(
    analysis: DepthAnalysis, folder: str | os.PathLike[str]
) -> list[pathlib.Path]:
    """Writes the figures that the analysis allows, as PNG files; the same bytes for the same one.

    Args:
        analysis: what was measured.
        folder: where to; made if missing.

    Returns:
        Paths of the files: none, one or both.

    Raises:
        UsageError: the folder cannot be written.
    """
    from loopwm.evaluation import depth_figures
    from loopwm.evaluation.canvas import LIGHT, png

    drawn: dict[str, bytes] = {}
    if analysis.curve is not None:
        drawn[ERROR_FILE] = png(depth_figures.error_figure(analysis, analysis.curve, LIGHT))
    depths, rules = analysis.transitions.true_depth, halted(analysis)
    if depths is not None and rules:
        drawn[LOOPS_FILE] = png(depth_figures.loops_figure(rules, depths, LIGHT))
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in drawn.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written ({error.strerror}); give another folder."
        ) from error
    return [folder / name for name in drawn]


def halted(analysis: DepthAnalysis) -> list[Halting]:
    """The halting rules that were measured."""
    return [rule for rule in (analysis.residual, analysis.certified) if rule is not None]


def depth_paragraph(sentence: str) -> str:
    """The section where there is nothing but a sentence to show."""
    return f"<h2>{HEADING}</h2>\n{_paragraph([sentence])}"


def about(analysis: DepthAnalysis) -> list[str]:
    """What was measured, and of which level it is."""
    trained = ""
    if analysis.trained != analysis.depth:
        trained = f", and training drew depths up to {analysis.trained}"
    return [
        f"Measured on {analysis.transitions.origin}.",
        "Errors are those of one predicted observation: root mean square over its entries, "
        "normalised as the model sees them.",
        f"The model uses {analysis.depth} loop(s) a transition{trained}.",
        "All of this was observed (level 'empirical'); no number here is a bound unless it says "
        "'certified'.",
    ]


def errors(analysis: DepthAnalysis) -> list[str]:
    """What was seen of the error against the depth."""
    curve, own = analysis.curve, analysis.depth
    found = []
    if analysis.diverged is not None:
        found.append(f"From {analysis.diverged} loop(s) on some predictions are not finite.")
    if curve is None:
        return [*found, "So there is no curve to draw."]
    mean, best = curve.mean, curve.best_depth
    if own < len(mean):
        found.append(
            f"The mean error is {mean[0]:.3g} before the first loop and {mean[own]:.3g} after "
            f"{own}; it is smallest, {mean[best]:.3g}, after {best} loop(s)."
        )
    if np.isnan(analysis.effective):
        found.append("Errors are not finite up to the trained depth, so no loops are counted.")
    else:
        found.append(
            f"Of the first {analysis.trained} loop(s), {analysis.effective:.0%} reduced the error "
            "of their transition, by however little."
        )
    return [*found, _overthinking(analysis, len(mean) - 1), _fit(analysis.fit)]


def _overthinking(analysis: DepthAnalysis, end: int) -> str:
    """Whether loops beyond the trained depth hurt."""
    worse, trained = analysis.overthinking, analysis.trained
    if np.isnan(worse):
        return "Beyond the trained depth nothing finite was measured."
    beyond = f"Between {trained + 1} and {end} loops, which were never trained, the mean error"
    if np.isinf(worse):
        return f"{beyond} is no longer 0, as it is after {trained}."
    if worse > 0.0:
        return f"{beyond} is up to {worse:.1%} above that after {trained} (over-thinking)."
    return f"{beyond} is never above that after {trained} (no over-thinking was seen)."


def _fit(fit: Saturation | None) -> str:
    """The fit and how well it describes the curve."""
    if fit is None:
        return "There are too few depths for a fit."
    return (
        f"Least squares of a + b·exp(−cT) gives a = {fit.floor:.3g}, b = {fit.gain:.3g} and "
        f"c = {fit.rate:.3g} a loop, and misses the curve by {fit.residual:.1%} of its range (root "
        "mean square)."
    )


def halting(analysis: DepthAnalysis) -> list[str]:
    """What the halting rules did, and whether it follows the true depth."""
    found = []
    if analysis.residual is None:
        found.append("Residuals are not finite at the model's own depth, so none halts at one.")
    else:
        found += _rule(analysis, analysis.residual)
    if analysis.certified is None:
        found.append(
            "Certified halting is not possible: the core is not certified to contract for all "
            "states and inputs."
        )
    else:
        found += _rule(analysis, analysis.certified)
    depths = analysis.transitions.true_depth
    if depths is None:
        found.append("The environment does not report how deep its steps are.")
    else:
        common, times = _most_common(depths)
        found.append(
            f"The true depths, which the environment reports, go from {depths.min()} to "
            f"{depths.max()}, {depths.mean():.1f} in the mean; the most common one, {common}, is "
            f"that of {times} of {len(depths)} transitions, and the correlation rests on the rest."
        )
    return found


def _most_common(depths: Int64[np.ndarray, " samples"]) -> tuple[int, int]:
    """The most common depth, and how often it occurs."""
    values, counts = np.unique(depths, return_counts=True)
    return int(values[counts.argmax()]), int(counts.max())


def _rule(analysis: DepthAnalysis, rule: Halting) -> list[str]:
    """One halting rule: its promise, its loops, its error, and its correlation."""
    last = analysis.traces.errors.shape[1] - 1
    certified = rule.kind is HaltingKind.CERTIFIED
    norm = "" if analysis.certificate is None else f" in the {analysis.certificate.norm}-norm"
    quantity = "certified distance to the fixed point" if certified else "residual"
    found = [
        f"Halting at a {quantity} of at most {rule.tolerance:g}{norm} (--depth "
        f"{rule.kind}:{rule.tolerance:g}) stopped {rule.met.mean():.0%} of the transitions within "
        f"{last} loops, and used {rule.loops.mean():.1f} loops in the mean ({rule.loops.min()} to "
        f"{rule.loops.max()}) for a mean error of {rule.errors.mean():.3g}."
    ]
    depths = analysis.transitions.true_depth
    if depths is None:
        return found
    if not np.isnan(rule.correlation):
        found.append(
            f"Spearman's rank correlation of these loops with the true depth is "
            f"{rule.correlation:.2f}."
        )
    else:
        same = "loops" if np.ptp(rule.loops) == 0 else "true depths"
        found.append(f"Their {same} are all the same, so no correlation is defined.")
    return found


def _paragraph(sentences: list[str]) -> str:
    return f"<p>{html.escape(' '.join(sentences))}</p>"
