"""From cells to ratios, verdict, tables and report, on errors with a known answer."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from comparisons import power_law, record_of, suite_of

from loopwm.evaluation.compare import (
    FAMILIES,
    SUITES,
    Analysis,
    Cell,
    Ratio,
    Record,
    Status,
    figures,
)
from loopwm.evaluation.compare.analysis import DIVERGED_ERROR
from loopwm.evaluation.compare.report import write_comparison
from loopwm.evaluation.compare.tables import cells_csv, summarise
from loopwm.evaluation.compare.verdict import FEWER, MORE, UNCLEAR, losses, verdict, word


def analysed(scales, *, spread=0.02, **changes):
    suite = suite_of(families=tuple(scales), **changes)
    return Analysis(suite, power_law(suite, scales, spread, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("low", "high", "interval", "said"),
    [
        (1.01, 3.0, True, FEWER),
        (1.01, None, True, FEWER),
        (1.0, 3.0, True, UNCLEAR),
        (0.5, 3.0, True, UNCLEAR),
        (None, None, True, UNCLEAR),
        (None, 0.99, True, MORE),
        (0.2, 0.99, True, MORE),
        (0.2, 1.0, True, UNCLEAR),
        (None, None, False, UNCLEAR),
    ],
)
def test_words_that_the_interval_allows(low, high, interval, said):
    assert word(Ratio(low, 2.0, high, "exact", interval)) == said


@pytest.mark.parametrize(("scale", "said"), [(4.0, FEWER), (0.25, MORE), (1.0, UNCLEAR)])
def test_verdict_says_what_the_errors_are(scale, said):
    analysis = analysed({"looped": 1.0, "gru": scale})
    text = verdict(analysis)
    (overall,) = (s for s in analysis.ratios if s.scope == "all")
    assert overall.ratio.estimate == pytest.approx(scale, rel=0.1)
    assert word(overall.ratio) == said
    assert (f"needs {said} parameters than the GRU" in text) == (said != UNCLEAR)
    assert ("is not told apart from that of the GRU" in text) == (said == UNCLEAR)
    assert "a factor of 16 apart" in text
    assert "2 task(s)" in text and "5 seed(s)" in text and "60 done" in text
    assert "too rough" not in text


def test_nobody_gains_by_diverging_everywhere():
    suite = suite_of(families=("looped", "gru"))
    rng = np.random.default_rng(0)
    records = power_law(suite, {"looped": 1.0, "gru": 4.0}, 0.02, rng)
    lost = suite.tasks[1]

    def diverged(seeds, known=True):
        measures = {"params": 1e3} if known else {}
        return Analysis(
            suite,
            [
                Record(
                    r.cell,
                    Status.DIVERGED,
                    "f",
                    sentence="nan",
                    measures=measures | ({"params": r.cell.size} if known else {}),
                )
                if (r.cell.family, r.cell.task) == ("looped", lost) and r.cell.seed < seeds
                else r
                for r in records
            ],
        )

    most, everywhere = diverged(suite.seeds - 1), diverged(suite.seeds)
    assert len(most.versus) == len(everywhere.versus) == 6
    for analysis in (most, everywhere):
        (overall,) = (s for s in analysis.ratios if s.scope == "all")
        assert overall.ratio.tasks == overall.asked == 2
        assert word(overall.ratio) == UNCLEAR
    # Where its size is not known either, the verdict says what the ratio rests on.
    assert "ratio on 1 of 2 tasks" in verdict(diverged(suite.seeds, known=False))


def test_a_diverged_cell_is_never_better_than_a_finished_one():
    suite = suite_of(families=("looped", "gru"))
    records = [
        record_of(c.cell, 50.0)
        for c in power_law(suite, {"looped": 1.0, "gru": 1.0}, 0, np.random.default_rng(0))
    ]
    records[0] = Record(records[0].cell, Status.DIVERGED, "f", sentence="nan")
    cell = records[0].cell
    place = Analysis(suite, records).place(cell.task, cell.family, cell.size)
    assert place is not None and place.by_seed[cell.seed] == 50.0


def test_choices_at_the_end_of_the_search_are_said():
    suite = suite_of(tasks=("Pendulum-v1",))
    rates = suite.protocol.search.rates

    def sentence(rate_of):
        records = [
            dataclasses.replace(r, measures={**r.measures, "rate": rate_of(r.cell)})
            for r in power_law(suite, {"looped": 1.0, "gru": 1.0}, 0.0, np.random.default_rng(0))
        ]
        return verdict(Analysis(suite, records))

    inner = sorted(rates)[1]
    assert "learning rates" not in sentence(lambda _: inner)
    for end in (min(rates), max(rates)):
        text = sentence(lambda cell, end=end: end if cell.family == "gru" else inner)
        assert "At 3 of 6 places" in text and text.endswith("there: GRU (World Models style).")


def test_losses_are_listed():
    lost = losses(analysed({"looped": 1.0, "gru": 0.25, "rssm": 4.0}))
    # Each size of each task, and the ratio of all tasks and of each.
    assert len(lost) == 9 and sum("needs more parameters" in sentence for sentence in lost) == 3
    assert all("GRU" in sentence and "RSSM" not in sentence for sentence in lost)
    assert "0.5 times our error" in lost[0] or "times our error" in lost[0]
    assert losses(analysed({"looped": 1.0, "gru": 4.0})) == []


def test_losses_of_the_only_task_are_listed_too():
    # As if nothing was told apart at equal size.
    suite = suite_of(tasks=("Pendulum-v1",), families=("looped", "gru"))
    records = power_law(suite, {"looped": 1.0, "gru": 0.25}, 0.0, np.random.default_rng(0))
    analysis = Analysis(suite, records)
    analysis.versus = []
    assert "needs more parameters than the GRU" in verdict(analysis)
    (sentence,) = losses(analysis)
    assert sentence.startswith("all tasks: at equal error ours needs more parameters than the GRU")


def test_seeds_that_failed_are_few_seeds():
    suite = suite_of(tasks=("Pendulum-v1",), families=("looped", "gru"))
    records = [
        Record(r.cell, Status.FAILED, "f", sentence="It ended.")
        if (r.cell.family, r.cell.size) == ("gru", 4_000) and r.cell.seed > 1
        else r
        for r in power_law(suite, {"looped": 1.0, "gru": 4.0}, 0.02, np.random.default_rng(0))
    ]
    text = verdict(Analysis(suite, records))
    assert "With 2 seed(s) at some places, fewer than 5, intervals are too rough" in text


def test_scopes_are_all_kinds_and_tasks():
    tasks = ("Pendulum-v1", "loopwm/Dominoes-v0", "loopwm/SlidingIce-v0")
    found = analysed({"looped": 1.0, "gru": 2.0}, tasks=tasks).ratios
    assert [s.scope for s in found] == ["all", "classic control", "known depth", *tasks]


def test_few_seeds_and_one_size_and_debug_are_said():
    analysis = analysed({"looped": 1.0, "gru": 4.0}, seeds=2)
    assert "too rough" in verdict(analysis)
    single = analysed({"looped": 1.0, "gru": 4.0}, sizes=(4_000,))
    assert single.ratios == [] and "There is no ratio" in verdict(single)
    debug = dataclasses.replace(SUITES["debug"], families=("looped",))
    records = power_law(debug, {"looped": 1.0}, 0.0, np.random.default_rng(0))
    assert "nothing in it is evidence" in verdict(Analysis(debug, records))


def test_one_seed_has_no_words():
    analysis = analysed({"looped": 1.0, "gru": 4.0}, seeds=1)
    assert all(word(s.ratio) == UNCLEAR for s in analysis.ratios)
    assert "(one seed, so no interval)" in verdict(analysis)
    assert all(v.better is None for v in analysis.versus)


def test_diverged_cells_count_as_a_large_error():
    suite = suite_of(tasks=("Pendulum-v1",), sizes=(4_000,))
    records = power_law(suite, {"looped": 1.0, "gru": 1.0}, 0.0, np.random.default_rng(0))
    lost = [
        Record(r.cell, Status.DIVERGED, "f", sentence="The loss is nan.")
        if r.cell.family == "gru" and r.cell.seed < 2
        else r
        for r in records
    ]
    place = Analysis(suite, lost).place("Pendulum-v1", "gru", 4_000)
    assert place is not None and sorted(place.values)[-2:] == [DIVERGED_ERROR] * 2
    assert len(place.values) == 5


def test_a_seed_is_compared_with_itself():
    suite = suite_of(tasks=("Pendulum-v1",), sizes=(4_000,))
    hard = (1.0, 4.0, 0.5, 2.0, 0.2)
    records = [
        record_of(cell, hard[cell.seed] * (1.03 if cell.family == "gru" else 1.0))
        for cell in (
            Cell(suite.name, "Pendulum-v1", family, 4_000, seed)
            for family in suite.families
            # The order in which cells were finished says nothing.
            for seed in (range(5) if family == "gru" else (3, 1, 4, 0, 2))
        )
    ]
    (versus,) = Analysis(suite, records).versus
    assert versus.better
    found = versus.interval
    np.testing.assert_allclose([found.low, found.estimate, found.high], 1.03)
    # Nor does a seed that failed shift the others.
    (versus,) = Analysis(suite, records[1:]).versus
    np.testing.assert_allclose(versus.interval.estimate, 1.03)


def test_returns_are_better_when_higher():
    control = dataclasses.replace(
        SUITES["control"], tasks=("Pendulum-v1",), families=("looped", "gru"), sizes=(1_000, 4_000)
    )

    def record(family, size, seed):
        cell = Cell("control", "Pendulum-v1", family, size, seed)
        value = (-200.0 if family == "looped" else -400.0) * 1_000 / size - seed
        measures = {**record_of(cell, 1.0).measures, "return": value}
        return Record(cell, Status.DONE, "f", measures=measures)

    records = [
        record(family, size, seed)
        for family in control.families
        for size in control.sizes
        for seed in range(control.seeds)
    ]
    analysis = Analysis(control, records)
    assert all(v.better for v in analysis.versus)
    ratio = analysis.ratios[0].ratio
    assert ratio.estimate is not None and ratio.estimate > 1.5 and word(ratio) == FEWER
    assert "At equal return (within 5 %)" in verdict(analysis)


def test_returns_that_are_as_good_at_every_size_tell_no_ratio():
    control = dataclasses.replace(
        SUITES["control"], tasks=("CartPole-v1",), families=("looped", "gru"), sizes=(1_000, 4_000)
    )
    records = [
        Record(
            cell, Status.DONE, "f", measures={"params": cell.size, "rate": 1e-3, "return": 500.0}
        )
        for family in control.families
        for size in control.sizes
        for seed in range(control.seeds)
        for cell in [Cell("control", "CartPole-v1", family, size, seed)]
    ]
    analysis = Analysis(control, records)
    (scoped,) = analysis.ratios
    assert (scoped.ratio.bound, scoped.ratio.estimate, word(scoped.ratio)) == (
        "open",
        None,
        UNCLEAR,
    )
    text = verdict(analysis)
    assert "no number, bounded on neither side" in text
    assert "the smallest models of both families reach what they are compared at" in text
    assert "did not come down" not in text and "not reached" not in text


def test_families_may_be_more_than_colours_and_marks(monkeypatch):
    for number in range(30):
        monkeypatch.setitem(FAMILIES, f"own{number}", FAMILIES["gru"])
    styles = {(s["color"], s["marker"]) for s in map(figures._style, FAMILIES)}
    assert len(styles) == len(FAMILIES)


def test_recurrence_is_fitted_to_its_own_cells():
    suite = suite_of(tasks=("Pendulum-v1",), families=("looped", "unshared"), sizes=(4_000,))
    rng, scales = np.random.default_rng(0), {"looped": 1.0, "unshared": 1.0}
    records = power_law(suite, scales, 0.0, rng)
    assert Analysis(suite, records).worths == {}
    for family, power in (("looped", 0.46), ("unshared", 1.0)):
        for blocks in (1, 2, 4, 8):
            for seed in range(5):
                cell = Cell(suite.name, "Pendulum-v1", family, 4_000, seed, blocks)
                records.append(record_of(cell, blocks**-power * np.exp(0.01 * rng.normal())))
    analysis = Analysis(suite, records)
    assert analysis.worths["Pendulum-v1"].phi.estimate == pytest.approx(0.46, abs=0.02)
    assert "r^φ different blocks of the same width with φ = 0.4" in verdict(analysis)
    # They take no part in anything else.
    assert len(analysis.places) == 2
    assert all(len(place.values) == 5 for place in analysis.places)


def test_every_cell_is_in_the_table():
    suite = suite_of(tasks=("Pendulum-v1",), sizes=(4_000,), seeds=2)
    records = power_law(suite, {"looped": 1.0, "gru": 1.0}, 0.0, np.random.default_rng(0))
    records[0] = Record(records[0].cell, Status.NOT_RUN, "", sentence="It needs MuJoCo, and more.")
    rows = list(csv.DictReader(io.StringIO(cells_csv(records))))
    assert len(rows) == 4
    assert rows[0]["status"] == "not run" and rows[0]["sentence"] == "It needs MuJoCo, and more."
    assert rows[0]["error"] == ""
    assert float(rows[1]["nrmse.5"]) == float(rows[1]["error"])
    assert rows[1]["nrmse.50"] == "" and rows[3]["family"] == "gru"


def test_report_is_whole(tmp_path):
    suite = suite_of(families=("looped", "gru", "unshared"), seeds=3)
    scales = {"looped": 1.0, "gru": 2.0, "unshared": 0.5}
    records = power_law(suite, scales, 0.02, np.random.default_rng(0))
    records[-1] = Record(records[-1].cell, Status.FAILED, "f", sentence="It <failed> & ended.")
    summary = write_comparison(tmp_path, suite, records)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary == summarise(Analysis(suite, records), str(tmp_path / "report.html"))
    assert summary["cells"] == {"done": 53, "failed": 1} and len(summary["points"]) == 18
    assert {r["family"]: r["needs"] for r in summary["ratios"] if r["scope"] == "all"} == {
        "gru": FEWER,
        "unshared": MORE,
    }
    page = (tmp_path / "report.html").read_text()
    assert "Where looping lost" in page and "It &lt;failed&gt; &amp; ended." in page
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {
        "front_params.png",
        "front_flops_transition.png",
        "front_us_transition.png",
        "ratios.png",
        "depth.png",
        "profiles.png",
    }
    assert page.count("data:image/png") == len(pictures)


@pytest.mark.parametrize("status", [Status.DIVERGED, Status.FAILED])
def test_nothing_measured_makes_a_report_too(tmp_path, status):
    suite = suite_of(tasks=("Pendulum-v1",), sizes=(4_000,), seeds=1)
    cells = [Cell(suite.name, "Pendulum-v1", f, 4_000, 0) for f in suite.families]
    records = [Record(c, status, "f", sentence="The loss is nan.") for c in cells]
    summary = write_comparison(tmp_path, suite, records)
    counted = [DIVERGED_ERROR] * len(cells) if status is Status.DIVERGED else []
    assert [point["estimate"] for point in summary["points"]] == counted
    assert "There is no ratio" in summary["verdict"]
    assert (tmp_path / "report.html").exists()
