"""The page of a stability study: what it says, what it shows, and where it is written."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
import studies
from matplotlib.image import imread
from matplotlib.patches import Circle

from loopwm.errors import UsageError
from loopwm.evaluation import figures
from loopwm.evaluation.rollouts import POLICY, RANDOM
from loopwm.evaluation.stability_report import (
    check_folder,
    number_rows,
    observations,
    stability_page,
    verdict,
    write_stability_report,
)
from loopwm.stability import Level

LINEAR = dataclasses.replace(studies.CERTIFICATE, level=Level.LINEAR, gamma=None, layers=())


@pytest.fixture(scope="module")
def page():
    return stability_page(studies.study(name="runs/<one>"))


def words(page):
    """What a reader reads: no figures, no tags, no style."""
    return re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.S)


def test_the_page_needs_nothing_else(page):
    assert "://" not in page and "<script" not in page
    sources = re.findall(r'(?:src|srcset|href)="([^"]*)"', page)
    assert len(sources) == 8  # four figures, for light and for dark pages
    for source in sources:
        kind, data = source.split(",", 1)
        assert kind == "data:image/png;base64"
        assert imread(io.BytesIO(base64.b64decode(data))).ndim == 3
    assert all(len(text) > 30 for text in re.findall(r'alt="([^"]*)"', page))


def test_what_is_proven_and_what_is_seen_are_kept_apart(page):
    text = words(page)
    guaranteed, observed = text.split("Only observed", 1)
    assert "at most, in the P-norm, for every state and every input" in guaranteed
    assert "ball of radius 2 in the 2-norm" in guaranteed and "0.89" not in guaranteed
    assert "lower bound" in observed and "+0.05 per step" in observed
    assert not re.search(r"\bstable\b", text)
    assert "layers[1]" in text and "0.800000" in text
    assert "&lt;one&gt;" in page and "<one>" not in page


def test_exponents_are_put_into_words():
    said = " ".join(observations(studies.study()))
    assert "+0.05 per step under the policy's actions (nearby states were seen to part)" in said
    assert "-0.02 per step under random actions (nearby states were seen to come together)" in said
    lost = studies.study(inner=studies.inner_study(exponents=np.array([np.nan, 0.0])))
    assert "nan per loop: nearby states could not be followed" in " ".join(observations(lost))


def test_the_verdict():
    assert "All 6 measurements" in verdict(studies.study())
    broken = studies.study(inner=studies.inner_study(ratios=np.array([0.95])))
    assert "was broken (largest ratio of distances)" in verdict(broken)
    assert "BROKEN" in {row[3] for row in number_rows(broken)}
    nothing = studies.study(certificate=None, transition=None, reason="It has none.")
    assert "No bound is proven" in verdict(nothing)


def test_numbers_without_a_bound_say_so():
    rows = {row[0]: row[1:] for row in number_rows(studies.study())}
    assert rows["largest ratio of distances"] == ("0.8900", "0.9000", "kept")
    assert rows["largest Jacobian norm, 2-norm"] == ("1.1000", "none", "")
    assert rows["spectral radius of ∂z′/∂z"] == ("1.2000", "none", "")
    nothing = studies.study(certificate=None, transition=None, outer=None, reason="It has none.")
    rows = number_rows(nothing)
    assert {row[2] for row in rows} == {"none"}
    assert rows[0][0] == "largest ratio of distances, P-norm" and len(rows) == 4


def test_a_page_without_certificate_or_outer_map():
    nothing = studies.study(
        env=None,
        seed=None,
        params={"total": None, "world_model": None, "core": None},
        certificate=None,
        transition=None,
        outer=None,
        reason="No Lipschitz bound of it is known.",
        guarantees=("No certificate: No Lipschitz bound of it is known.",),
        inner=studies.inner_study(limits=None),
    )
    text = words(stability_page(nothing))
    assert "No Lipschitz bound of it is known." in text and "Imagined rollouts" not in text
    assert "Nothing bounds these curves" in text


def test_a_linear_certificate_claims_the_retention_alone():
    text = words(stability_page(studies.study(certificate=LINEAR, transition=None)))
    assert "The retention alone is bounded" in text and "No ball is proven" in text


def test_residuals_are_drawn_under_their_envelope():
    figure = figures.residual_figure(studies.inner_study(), studies.CERTIFICATE, figures.LIGHT)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log" and axes.get_xlabel() == "loop t"
    dashed = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed[0].get_ydata(), [1.0, 0.9, 0.81])
    curves = [line.get_ydata() for line in axes.get_lines() if len(line.get_ydata()) == 3]
    np.testing.assert_allclose(curves[0], [1.0, 0.81, 0.486])
    assert [t.get_text() for t in axes.get_legend().get_texts()] == [
        "visited (1)",
        "far (1)",
    ]
    bare = figures.residual_figure(studies.inner_study(limits=None), None, figures.DARK)
    assert not [line for line in bare.axes[0].get_lines() if line.get_linestyle() == "--"]


def test_residuals_that_are_no_numbers_or_zero_are_left_out():
    wild = studies.inner_study(
        residuals=np.array([[1.0, np.inf, np.nan], [0.0, 0.0, 0.0]]), limits=None
    )
    figures.picture(lambda theme: figures.residual_figure(wild, None, theme), "wild")


def test_spectra_lie_in_the_unit_disc():
    figure = figures.spectrum_figure(
        studies.inner_study(), studies.outer_study(), studies.CERTIFICATE, figures.LIGHT
    )
    inner, outer = figure.axes
    radii = [patch.radius for patch in inner.patches if isinstance(patch, Circle)]
    assert radii == [1.0, studies.RATE]
    assert [p.radius for p in outer.patches if isinstance(p, Circle)] == [1.0]
    points = np.concatenate([c.get_offsets() for c in inner.collections])
    np.testing.assert_allclose(sorted(points[:, 0]), [-0.2, 0.3, 0.3, 0.5])
    assert inner.get_xlim()[1] == outer.get_xlim()[1] > 1.2  # the largest eigenvalue is in sight
    bounded = dataclasses.replace(studies.CERTIFICATE, level=Level.BALL)
    figure = figures.spectrum_figure(studies.inner_study(), None, bounded, figures.LIGHT)
    assert len(figure.axes) == 1 and len(figure.axes[0].patches) == 1  # a growth is no circle


def test_rollouts_are_drawn_under_their_ball():
    figure = figures.rollout_figure(studies.outer_study(), studies.RADIUS, figures.LIGHT)
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    np.testing.assert_allclose(lines["policy's actions"].get_ydata(), [1.5, 0.8, 1.1, 1.0])
    ball = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert list(ball[0].get_ydata()) == [2.0, 2.0] and axes.get_ylim()[1] > 3.0
    lost = {
        how: np.array([[1.0, np.inf], [1.0, np.nan]]) for how in (POLICY, RANDOM, "adversarial")
    }
    figures.picture(
        lambda theme: figures.rollout_figure(studies.outer_study(norms=lost), None, theme), "lost"
    )


@pytest.mark.parametrize(
    ("certificate", "bars"),
    [(studies.CERTIFICATE, [1.0, 0.8, 0.8, 0.9]), (LINEAR, [0.9])],
)
def test_the_budget_leads_to_the_rate(certificate, bars):
    (axes,) = figures.budget_figure(certificate, figures.LIGHT).axes
    np.testing.assert_allclose([patch.get_width() for patch in axes.patches], bars)


def test_the_files(tmp_path):
    path = write_stability_report(studies.study(), tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "report.html"
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "stability.json"]
    record = json.loads((path.parent / "stability.json").read_text(encoding="utf-8"))
    assert record == studies.study().record(str(path))
    assert write_stability_report(studies.study(), path.parent) == path  # written anew


def test_the_same_study_makes_the_same_page(page):
    assert stability_page(studies.study(name="runs/<one>")) == page


def test_folders_that_cannot_be_written(tmp_path, monkeypatch, assert_helpful):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(UsageError, match="is a file") as raised:
            check_folder(folder)
        assert_helpful(raised)
    check_folder(tmp_path / "not" / "yet")
    assert not (tmp_path / "not").exists()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UsageError, match="cannot be written") as raised:
        check_folder(tmp_path / "not" / "yet")
    assert_helpful(raised)
