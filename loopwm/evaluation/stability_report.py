"""A self-contained page about a stability study: what is proven, what was observed, pictures."""

import collections
import functools
import html
import json
import math
import os
import pathlib

import numpy as np

from loopwm.errors import UsageError
from loopwm.evaluation import figures
from loopwm.evaluation.rollouts import POLICY, RANDOM
from loopwm.evaluation.study import Study
from loopwm.stability import Level
from loopwm.training.run_folder import write_text

REPORT, RECORD = "report.html", "stability.json"
"""Names of the files that `write_stability_report` writes."""

_ACTIONS = {POLICY: "the policy's actions", RANDOM: "random actions"}

_STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1f2430;--dim:#5b6475;--line:#dfe3ea;--box:#f4f6fa}
@media(prefers-color-scheme:dark){:root{--page:#15181f;--ink:#e6e8ee;--dim:#a3abbb;--line:#343a47;
--box:#1e222c}}
body{font:16px/1.55 system-ui,sans-serif;max-width:820px;margin:2.5em auto;padding:0 1em;
background:var(--page);color:var(--ink)}
h1{font-size:1.6em;margin-bottom:.1em}h2{font-size:1.15em;margin-top:2.2em}
.dim,figcaption{color:var(--dim)}figcaption{font-size:.9em}figure{margin:1em 0}
img{width:100%;height:auto}
.box{background:var(--box);border-left:4px solid var(--ink);padding:.7em 1em}
table{border-collapse:collapse;width:100%;font-size:.9em;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.3em .8em .3em 0;border-bottom:1px solid var(--line)}
th{font-weight:600}
"""


def check_folder(folder: pathlib.Path) -> None:
    """Refuses a folder for the report that cannot be made or written, before anything is measured.

    Raises:
        UsageError: it is a file, lies beneath one, or may not be written.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise UsageError(f"{existing} is a file, not a folder; give another --out.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"{folder} cannot be written; give another --out.")


def write_stability_report(study: Study, folder: pathlib.Path) -> pathlib.Path:
    """Writes report.html, and stability.json beside it.

    Args:
        study: what was proven and measured.
        folder: where to; made if missing.

    Returns:
        Path of report.html.

    Raises:
        UsageError: the folder cannot be written.
    """
    check_folder(folder)
    path, page = folder / REPORT, stability_page(study)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, page)
        write_text(folder / RECORD, json.dumps(study.record(str(path)), indent=2) + "\n")
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written ({error.strerror}); give another --out."
        ) from error
    return path


def stability_page(study: Study) -> str:
    """The page as HTML that needs no other file."""
    seed = "" if study.seed is None else f", seed {study.seed}"
    about = "an update h → h⁺" if study.env is None else f"world model for {study.env}{seed}"
    size = study.params["total"]
    if size is not None:
        about += f", {size:,} parameters"
    parts = [
        f"<h1>Stability study of {_text(study.name)}</h1>",
        f'<p class="dim">{_text(about)}</p>',
        f'<p class="box">{_text(verdict(study))}</p>',
        "<h2>What is guaranteed, and what is only observed</h2>",
        f"<p><b>{_heading_of_guarantees(study)}</b> {_text(_guaranteed(study))}</p>",
        f"<p><b>Only observed</b> (level 'empirical'). {_text(' '.join(observations(study)))}</p>",
        *_pictures(study),
        "<h2>Numbers</h2>",
        _table(("measured", "largest seen", "proven bound", "kept"), number_rows(study)),
        "<h3>Each start of the inner loop</h3>",
        _table(_INPUT_HEAD, _input_rows(study)),
        "<h2>What this does not say</h2>",
        f"<p>{_text(_limits_of(study))}</p>",
    ]
    title = f"Stability study of {_text(study.name)}"
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</html>\n"
    )


def verdict(study: Study) -> str:
    """Whether measurements kept the proven bounds, in one sentence."""
    broken = [check.name for check in study.checks if not check.holds]
    if study.bounds_hold is None:
        return (
            "No bound is proven of the whole update, so there is nothing for measurements to keep."
        )
    if broken:
        return (
            f"A proven bound was broken ({', '.join(broken)}): the certificate does not describe "
            "this update, so do not rely on it."
        )
    if len(study.checks) == 1:
        return "The one measurement that has a proven bound stayed within it."
    return f"All {len(study.checks)} measurements that have a proven bound stayed within it."


def observations(study: Study) -> list[str]:
    """What was seen, in sentences that claim no more than that."""
    inner, outer = study.inner, study.outer
    searched = f"A search over {inner.pairs} pairs of states and the" if inner.pairs else "The"
    found = [
        f"{searched} Jacobians along {len(inner.kinds)} trajectories found distances multiplied by "
        f"{inner.max_ratio:.4g} at most in one loop, in the {inner.norm}-norm; this is a lower "
        "bound of the largest factor there is."
    ]
    if study.certificate is not None and study.certificate.level is not Level.LINEAR:
        found.append(f"The proven bound is {study.certificate.rate:.4g}.")
    found.append(
        f"The largest Lyapunov exponent of the inner loop was {_signed(inner.exponent)} per loop: "
        f"nearby states {_course(inner.exponent)}."
    )
    if outer is not None:
        each = ", and ".join(
            f"{_signed(value)} per step under {_ACTIONS[how]} (nearby states {_course(value)})"
            for how, value in outer.exponents.items()
        )
        found.append(f"Imagined transitions z → z′ had a largest Lyapunov exponent of {each}.")
    return found


def number_rows(study: Study) -> list[tuple[str, str, str, str]]:
    """Every measurement: what, the largest seen, its proven bound, and whether it was kept."""
    inner, outer, certificate = study.inner, study.outer, study.certificate
    rows = [
        (check.name, _number(check.observed), _number(check.bound), _kept(check.holds))
        for check in study.checks
    ]
    free = []
    if certificate is None or certificate.level is Level.LINEAR:
        free.append((f"largest ratio of distances, {inner.norm}-norm", inner.max_ratio))
        free.append(("spectral radius", inner.spectral_radius))
    free += [
        ("largest Jacobian norm, 2-norm", float(np.max(inner.spectral_norms))),
        ("Lyapunov exponent of h → h⁺, a loop", inner.exponent),
    ]
    if outer is not None:
        free += [
            ("Lyapunov exponent of z → z′, a step", outer.exponent),
            ("spectral radius of ∂z′/∂z", outer.spectral_radius),
        ]
        if study.transition is None:
            free.append((f"norm of an imagined state, {outer.norm}-norm", outer.largest_norm))
    return rows + [(name, _number(value), "none", "") for name, value in free]


_INPUT_HEAD = (
    "input",
    "residuals shrink by",
    "spectral radius",
    "Lyapunov",
    "fixed points found",
    "",
)


def _input_rows(study: Study) -> list[tuple[str, ...]]:
    inner = study.inner
    rows = []
    for i, (kind, outcome) in enumerate(zip(inner.kinds, inner.outcomes, strict=True)):
        points = collections.Counter(inner.fixed_points[i])
        rows.append(
            (
                kind,
                _number(float(inner.rates[i])),
                _number(float(inner.spectral_radii[i, -1])),
                _number(float(inner.exponents[i])),
                ", ".join(f"{count} {name}" for name, count in points.items()) or "none",
                outcome,
            )
        )
    return rows


def _pictures(study: Study) -> list[str]:
    inner, outer, certificate = study.inner, study.outer, study.certificate
    radius = None if study.transition is None else study.transition.radius
    envelope = (
        "The dashed line is proven: no curve may rise above it by more than rounding."
        if inner.limits is not None
        else "Nothing bounds these curves."
    )
    colours = (
        "Colours tell states that the agent visited from random inputs and far ones."
        if outer is not None
        else "Colours tell loops from the given state, from random ones and from far ones."
    )
    parts = [
        "<h2>Residual against loop</h2>",
        _figure(
            functools.partial(figures.residual_figure, inner, certificate),
            f"How far the state still moves in each loop, as a share of its first move. {envelope} "
            f"{colours}",
        ),
        "<h2>Spectra</h2>",
        _figure(
            functools.partial(figures.spectrum_figure, inner, outer, certificate),
            "Eigenvalues of the Jacobians. Inside the unit circle a direction shrinks, outside it "
            "grows, at that state.",
        ),
    ]
    if outer is not None:
        ball = "The dashed line is proven for every horizon and every action sequence."
        parts += [
            "<h2>Imagined rollouts</h2>",
            _figure(
                functools.partial(figures.rollout_figure, outer, radius),
                "Median and range over rollouts. The adversary plans a few steps ahead for the "
                f"largest state. {ball if radius is not None else 'No ball is proven.'}",
            ),
        ]
    return parts + _budget(study)


def _budget(study: Study) -> list[str]:
    certificate, heading = study.certificate, "<h2>Layer budget</h2>"
    if certificate is None:
        return [heading, f"<p>No layer bounds lead to a rate. {_text(study.reason or '')}</p>"]
    rows = [
        (layer.name, f"{layer.constant:.6f}", f"{layer.bound.norm}", f"{layer.bound.level}")
        for layer in certificate.layers
    ]
    caption = (
        "Upper bounds from float64. The layers multiply to γ, and the retention mixes γ with 1 "
        "into the rate."
    )
    if certificate.level is Level.LINEAR:
        caption = "The retention alone is bounded; the layers carry no bound."
    table = _table(("layer", "Lipschitz bound", "norm", "level"), rows) if rows else ""
    drawn = functools.partial(figures.budget_figure, certificate)
    return [heading, table, _figure(drawn, caption)]


def _guaranteed(study: Study) -> str:
    return " ".join(study.guarantees)


def _heading_of_guarantees(study: Study) -> str:
    if study.certificate is not None:
        return "Guaranteed."
    return "Nothing is guaranteed for every state."


def _limits_of(study: Study) -> str:
    said = (
        "Observations hold for the states, inputs and actions that were tried. A contraction says "
        "that the loop has one answer for each input, not that the answer is right."
    )
    if study.certificate is not None:
        said += " The certificate does not survive: " + "; ".join(study.certificate.voided_by) + "."
    return said


def _signed(value: float) -> str:
    return f"{value:+.3g}" if math.isfinite(value) else f"{value}"


def _course(exponent: float) -> str:
    if math.isnan(exponent):
        return "could not be followed"
    return "were seen to part" if exponent > 0 else "were seen to come together"


def _figure(draw: figures.Draw, caption: str) -> str:
    shown = figures.picture(draw, html.escape(caption, quote=True))
    return f"<figure>{shown}<figcaption>{_text(caption)}</figcaption></figure>"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    top = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def _number(value: float) -> str:
    if float(value).is_integer() and abs(value) < 1e5:
        return f"{value:.0f}"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e3 else f"{value:.3g}"


def _kept(holds: bool) -> str:
    return "kept" if holds else "BROKEN"


def _text(value: object) -> str:
    return html.escape(str(value))
