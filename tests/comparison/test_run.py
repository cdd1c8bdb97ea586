"""Comparisons with a backend that trains nothing: what is run, kept, redone and recorded."""

import dataclasses
import json

import pytest
from comparisons import CountingBackend, answer, suite_of

from loopwm.comparison import AbstractBackend, compare, request
from loopwm.comparison.request import Request
from loopwm.errors import RunFailure, UsageError
from loopwm.evaluation.compare import SUITES, Cell, Search, Status, report, suites
from loopwm.evaluation.compare.store import Folder

ARGUMENTS = {"tasks": ["Pendulum-v1"], "families": ["looped", "gru"], "sizes": [4_000], "seeds": 2}
CELLS = [f"Pendulum-v1.{f}.4000.seed{s}" for s in (0, 1) for f in ("looped", "gru")]


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Drawing takes seconds and is tested beside the report."""
    monkeypatch.setattr(report, "_figures", lambda _: {})


@pytest.fixture
def run(tmp_path):
    """Compares in the same folder with a fresh backend; gives summary, backend and sentences."""

    def compared(answer=answer, stop_after=None, **changes):
        backend, said = CountingBackend(answer, stop_after), []
        arguments = {**ARGUMENTS, "out": tmp_path / "out", **changes}
        summary = compare("dynamics", **arguments, backend=backend, say=said.append)
        return summary, backend, said

    return compared


def times(tmp_path):
    return {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "cells").iterdir()}


def test_every_cell_once_after_its_search(run, tmp_path):
    summary, backend, said = run()
    assert backend.cells == CELLS
    assert backend.searches == [f"Pendulum-v1.{f}.4000.seed10000" for f in ("looped", "gru")]
    assert summary["cells"] == {"done": 4} and len(said) == 7
    tuning = json.loads((tmp_path / "out" / "tuning.json").read_text())["content"]
    trials = SUITES["dynamics"].protocol.search.trials
    assert [len(found["trials"]) for found in tuning["found"]] == [trials, trials]
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"report.html", "cells.csv"}


def test_finished_cells_are_not_run_again(run, tmp_path):
    first, *_ = run()
    before = times(tmp_path)
    second, backend, _ = run()
    assert backend.cells == backend.searches == []
    assert times(tmp_path) == before and second == first


def test_more_seeds_sizes_and_families_are_added(run, tmp_path):
    run()
    before = times(tmp_path)
    _, backend, _ = run(seeds=3, sizes=[4_000, 8_000], families=["looped", "gru", "unshared"])
    assert len(backend.cells) == 18 - 4 and not set(backend.cells) & set(CELLS)
    after = times(tmp_path)
    assert {name: after[name] for name in before} == before


def test_a_killed_comparison_goes_on(run, tmp_path):
    with pytest.raises(RunFailure, match="finished cells are kept"):
        run(stop_after=2)
    cells = tmp_path / "out" / "cells"
    assert len(list(cells.iterdir())) == 2
    # The kill came while a third file was written.
    (cells / f"{CELLS[2]}.json.tmp").write_text('{"checksum": "ab')
    _, backend, _ = run()
    assert backend.searches == [] and backend.cells == CELLS[2:]


def test_half_written_cells_are_said_and_redone(run, tmp_path):
    run()
    path = tmp_path / "out" / "cells" / f"{CELLS[1]}.json"
    path.write_text(path.read_text()[:100])
    summary, backend, said = run()
    assert backend.cells == [CELLS[1]] and summary["cells"] == {"done": 4}
    (sentence,) = [s for s in said if "half written" in s]
    assert path.name in sentence


def test_half_written_searches_are_redone_and_their_cells_kept(run, tmp_path):
    run()
    path = tmp_path / "out" / "searches" / "Pendulum-v1.gru.4000.seed10000.json"
    path.write_text(path.read_text()[:100])
    _, backend, _ = run()
    assert (backend.searches, backend.cells) == ([path.stem], [])


def test_another_choice_makes_other_cells(run, tmp_path):
    run()

    def faster(job):
        found = answer(job)
        for trial in found.get("trials", []):
            trial["score"] = 0.5 if (trial["shape"], trial["rate"]) == (1, 1e-2) else 1.0
        return found

    for path in (tmp_path / "out" / "searches").iterdir():
        path.unlink()
    _, backend, _ = run(answer=faster)
    assert len(backend.searches) == 2 and backend.cells == CELLS


def test_a_cell_that_diverges_is_recorded_and_the_rest_goes_on(run, tmp_path):
    def diverging(job):
        if job.choice is not None and job.cell.name == CELLS[2]:
            return {"status": "diverged", "sentence": "The loss is nan.", "measures": {}}
        return answer(job)

    summary, backend, said = run(answer=diverging)
    assert backend.cells == CELLS and summary["cells"] == {"done": 3, "diverged": 1}
    assert any("diverged: The loss is nan." in sentence for sentence in said)
    assert "The loss is nan." in (tmp_path / "out" / "report.html").read_text()
    assert run()[1].cells == []  # it would diverge again


def test_a_cell_that_fails_is_tried_again(run):
    def failing(job):
        if job.choice is not None and job.cell.name == CELLS[0]:
            return {"status": "failed", "sentence": "Its process ended.", "measures": {}}
        return answer(job)

    summary, *_ = run(answer=failing)
    assert summary["cells"] == {"done": 3, "failed": 1}
    summary, backend, _ = run()
    assert backend.cells == [CELLS[0]] and summary["cells"] == {"done": 4}


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_search_without_a_number_leaves_no_cells(run, tmp_path, status):
    def lost(job):
        if job.choice is not None or job.cell.family != "gru":
            return answer(job)
        found = {"score": None, "status": status, "sentence": "The loss is inf."}
        return {"trials": [trial | found for trial in answer(job)["trials"]]}

    summary, backend, _ = run(answer=lost)
    assert backend.cells == [name for name in CELLS if "looped" in name]
    assert summary["cells"] == {"done": 2, status: 2}
    assert (
        "No trial of the search gave a number: The loss is inf."
        in (tmp_path / "out" / "report.html").read_text()
    )
    # It would diverge again; what failed may go otherwise.
    _, backend, _ = run()
    assert backend.searches == ([] if status == "diverged" else ["Pendulum-v1.gru.4000.seed10000"])


def test_further_trials_are_made_alone(run, tmp_path, monkeypatch):
    tried = []

    def noted(job):
        tried.extend((job.cell.family, t.shape, t.rate) for t in job.trials)
        return answer(job)

    run(answer=noted)
    assert len(tried) == 2 * 2 * len(SUITES["dynamics"].protocol.search.rates)
    tried.clear()

    def search(**changes):
        suite = SUITES["dynamics"]
        changed = dataclasses.replace(suite.protocol.search, **changes)
        protocol = dataclasses.replace(suite.protocol, search=changed)
        monkeypatch.setitem(
            suites.SUITES, "dynamics", dataclasses.replace(suite, protocol=protocol)
        )

    search(rates=(3e-4, 7e-2, 1e-3))
    # Trials of the same score: the first one is chosen as before, so that its cells are kept.
    _, backend, _ = run(answer=noted)
    assert tried == [(f, shape, 7e-2) for f in ("looped", "gru") for shape in (0, 1)]
    assert backend.cells == []
    tuning = json.loads((tmp_path / "out" / "tuning.json").read_text())["content"]
    assert [t["rate"] for t in tuning["found"][0]["trials"]] == 2 * [3e-4, 7e-2, 1e-3]
    tried.clear()
    search(rates=(7e-2,), shapes=1)
    _, backend, _ = run(answer=noted)
    assert tried == [] and backend.cells == CELLS
    search(rates=(7e-2, 1e-3), share=0.1)
    run(answer=noted)
    assert len(tried) == 4  # a trial of another length is another one


def test_jobs_that_wait_are_dropped_when_a_cell_cannot_be_kept(tmp_path, monkeypatch):
    closed = []

    class Waiting(AbstractBackend):
        def run(self, jobs):
            try:
                yield from ((job, answer(job)) for job in jobs)
            finally:
                closed.append(jobs[0].choice is None)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Folder, "keep", full)
    with pytest.raises(RunFailure, match="No space left") as raised:
        compare("dynamics", **ARGUMENTS, out=tmp_path / "out", backend=Waiting())
    # Also while the traceback, which holds on to it, is still there.
    assert closed == [True, False] and raised.tb is not None


def test_numbers_that_are_not_finite_are_the_same_as_when_they_are_read_back(run, tmp_path):
    def endless(job):
        found = answer(job)
        if job.choice is not None:
            found["measures"]["reward_rmse"] = float("inf")
        return found

    run(answer=endless)
    table = (tmp_path / "out" / "cells.csv").read_text()
    run()
    assert (tmp_path / "out" / "cells.csv").read_text() == table and "inf" not in table


def test_one_comparison_at_a_time_in_a_folder(run, assert_helpful):
    refused = []

    def meanwhile(job):
        with pytest.raises(UsageError, match="Another comparison runs") as raised:
            run()
        assert_helpful(raised)
        refused.append(raised)
        return answer(job)

    summary, *_ = run(answer=meanwhile)
    assert len(refused) == 6 and summary["cells"] == {"done": 4}
    run()


def test_each_cell_that_diverged_knows_its_own_size(monkeypatch):
    place = ("loopwm/NLinkPendulum-v0", "unshared", 4_000)
    wanted = Request.of(
        "dynamics", tasks=place[:1], families=["looped", "unshared"], sizes=[4_000], seeds=2
    )

    def built(cell, *_):
        if cell.blocks == 8:
            raise UsageError("It has no model of that size; give another one.")
        return cell.blocks

    monkeypatch.setattr(request, "builder_of", built)
    monkeypatch.setattr(request, "parameters_of", lambda blocks, _: 100 + blocks)
    found = wanted.missing(place, Status.DIVERGED, "The loss is nan.")
    sizes = [(r.cell.seed, r.cell.blocks, r.measures.get("params")) for r in found]
    known = {0: 100, 1: 101, 2: 102, 4: 104, 8: None}
    assert sizes == [(seed, blocks, known[blocks]) for blocks in known for seed in (0, 1)]


def test_families_without_a_model_of_that_size_are_recorded(run):
    summary, backend, _ = run(families=["looped", "transformer"], sizes=[200, 4_000])
    assert summary["cells"] == {"done": 6, "unbuildable": 2}
    assert not [name for name in backend.cells if "transformer.200" in name]


def test_tasks_that_cannot_be_made_are_recorded(run, monkeypatch):
    real = request.sizes_of

    def without(task, protocol):
        if task == "Acrobot-v1":
            raise UsageError("Acrobot-v1 needs a package that is missing; install it.")
        return real(task, protocol)

    monkeypatch.setattr(request, "sizes_of", without)
    summary, backend, _ = run(tasks=["Pendulum-v1", "Acrobot-v1"])
    assert backend.cells == CELLS and summary["cells"] == {"done": 4, "not run": 4}
    with pytest.raises(UsageError, match="install it"):
        run(tasks=["Acrobot-v1"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"families": ["mlp"]}, "no family 'mlp'"),
        ({"families": []}, "No family"),
        ({"tasks": ["Pong-v5"]}, "no task 'Pong-v5'"),
        ({"tasks": ["nowhere:Own-v0"]}, "no task 'nowhere:Own-v0'"),
        ({"tasks": []}, "No task is given"),
        ({"sizes": [0]}, "--sizes has 0"),
        ({"sizes": [1]}, "No family can be built with 1 parameters"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"jobs": 0}, "--jobs is 0"),
    ],
    ids=str,
)
def test_requests_that_make_no_sense(run, tmp_path, assert_helpful, changes, said):
    with pytest.raises(UsageError, match=said) as raised:
        run(**changes)
    assert_helpful(raised)
    assert not (tmp_path / "out").exists()


def test_environments_of_ones_own_are_tasks_too(run, tmp_path):
    own = "MountainCarContinuous-v0"
    summary, backend, _ = run(tasks=["Pendulum-v1", own], seeds=1, sizes=[4_000, 8_000])
    assert {name.split(".")[0] for name in backend.cells} == {"Pendulum-v1", own}
    assert {ratio["scope"] for ratio in summary["ratios"]} == {
        "all",
        "classic control",
        "other",
        "Pendulum-v1",
        own,
    }


def test_unknown_suites_and_other_settings_are_refused(run, tmp_path, assert_helpful):
    with pytest.raises(UsageError, match="no suite 'atari'") as raised:
        compare("atari", out=tmp_path / "other")
    assert_helpful(raised)
    run()
    with pytest.raises(UsageError, match="other settings") as raised:
        run(quick=True)
    assert_helpful(raised)


def test_quick_is_smaller_and_fair(monkeypatch):
    for name, suite in SUITES.items():
        quick, full = suites.find_suite(name, quick=True).protocol, suite.protocol
        assert quick.env_steps <= full.env_steps and quick.search.trials <= full.search.trials
    assert suites.find_suite("dynamics", quick=True).protocol.search.trials == 2


@pytest.mark.parametrize("own", [False, True], ids=["known depth", "own"])
def test_loops_and_stacks_of_one_width_are_run_beside_each_other(run, own):
    deep = "MountainCarContinuous-v0" if own else "loopwm/NLinkPendulum-v0"
    families, sizes = ["looped", "unshared"], [2_000, 4_000, 8_000]
    _, backend, _ = run(tasks=["Pendulum-v1", deep], families=families, sizes=sizes, seeds=1)
    extra = [name for name in backend.cells if "blocks" in name]
    # At the middle size, and not on Pendulum-v1, where a step is one of its integrator.
    assert extra == [
        f"{deep.replace('/', '-')}.{family}.4000.blocks{count}.seed0"
        for family in families
        for count in (1, 2, 4, 8)
    ]
    assert len(backend.cells) == 12 + 8


def test_one_trial_needs_no_search(run, monkeypatch):
    suite = suite_of()
    protocol = dataclasses.replace(suite.protocol, search=Search(rates=(2e-3,), shapes=1))
    monkeypatch.setitem(SUITES, "dynamics", dataclasses.replace(suite, protocol=protocol))
    _, backend, _ = run()
    assert backend.searches == [] and backend.cells == CELLS


def test_cells_sort_and_name_themselves():
    one, two = (Cell("debug", "Pendulum-v1", "gru", 4_000, seed) for seed in (0, 1))
    assert one < two and one.name == "Pendulum-v1.gru.4000.seed0"
