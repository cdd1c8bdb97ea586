"""Runs a comparison: searches, cells, statistics, report."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loopwm.comparison.backends import AbstractBackend, LocalBackend
from loopwm.comparison.jobs import Choice, Job
from loopwm.comparison.request import Place, Request
from loopwm.comparison.searches import run_searches
from loopwm.errors import RunFailure, UsageError
from loopwm.evaluation.compare.cells import Cell, Record, Status, plain
from loopwm.evaluation.compare.store import Folder, Say


def run_cells(
    request: Request,
    unavailable: Mapping[Place, tuple[Status, str]],
    folder: Folder,
    backend: AbstractBackend,
    say: Say,
) -> list[Record]:
    """Does the searches and cells that are missing in a folder.

    Args:
        request: what is compared.
        unavailable: places that have no cells here, and why.
        folder: where finished cells are kept; opened.
        backend: does the jobs.
        say: told of each finished job, one line.

    Returns:
        A record of every cell, in the request's order; what could not be run is among them.
    """
    records: dict[Cell, Record] = {}
    for place, (status, why) in unavailable.items():
        records |= {record.cell: record for record in request.missing(place, status, why)}
    places = [place for place in request.places() if place not in unavailable]
    found = run_searches(request, places, folder, backend, say)
    jobs: list[Job] = []
    marks: dict[Cell, str] = {}
    for place in places:
        choice = found[place]["choice"]
        if choice is None:
            records |= {r.cell: r for r in _without_choice(request, place, found[place])}
            continue
        for cell in request.cells(place):
            marks[cell] = request.fingerprint(cell, choice)
            kept = folder.finished(cell, marks[cell])
            if kept is None:
                jobs.append(Job(cell, request.suite.protocol, folder.data, Choice(**choice)))
            else:
                records[cell] = kept
    # First seeds first: the others of a place then find its programs compiled.
    jobs.sort(key=lambda job: job.cell.seed)
    say(f"{len(records)} cells are there already or have no model; {len(jobs)} are to be run.")
    # Closed here, whatever goes wrong: else the jobs that wait would still be done at the end.
    with contextlib.closing(backend.run(jobs)) as results:
        for number, (job, result) in enumerate(results, start=1):
            cell = job.cell
            assert job.choice is not None
            record = Record(
                cell,
                Status(result["status"]),
                marks[cell],
                sentence=result["sentence"],
                measures=plain({**dataclasses.asdict(job.choice), **result["measures"]}),
            )
            folder.keep(record)
            records[cell] = record
            say(f"{number}/{len(jobs)} {cell.name}: {_brief(record)}")
    wanted = [cell for place in request.places() for cell in request.cells(place)]
    return [records[cell] for cell in wanted]


def _without_choice(request: Request, place: Place, search: dict[str, Any]) -> list[Record]:
    """Records of a place whose trials all failed."""
    trials = search["trials"]
    diverged = all(trial["status"] == Status.DIVERGED.value for trial in trials)
    status = Status.DIVERGED if diverged else Status.FAILED
    last = trials[-1]["sentence"]
    return request.missing(place, status, f"No trial of the search gave a number: {last}")


def _brief(record: Record) -> str:
    """A finished cell in a few words."""
    if not record.done:
        return f"{record.status}: {record.sentence}"
    measures = record.measures
    value = measures.get("return")
    shown = f"return {value:.4g}" if value is not None else f"error {measures['error']:.4g}"
    return f"{shown}, {measures['params']} parameters, {measures['seconds_training']:.0f} s"


def compare(
    suite: str,
    *,
    tasks: Sequence[str] | None = None,
    families: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    seeds: int | None = None,
    out: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    quick: bool = False,
    backend: AbstractBackend | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compares families of world models; the same as the command `loopwm compare`.

    Args:
        suite: dynamics, control or debug.
        tasks: some of the suite's tasks, or other Gymnasium ids.
        families: some of the families.
        sizes: parameters of the world models.
        seeds: seeds 0 … seeds − 1.
        out: the folder; runs/compare-SUITE (with quick runs/compare-SUITE-quick) when left out.
            Finished cells in it are kept.
        jobs: processes side by side.
        quick: a tenth of the data and updates (control: a fifth of the env steps), and a smaller
            search.
        backend: does the jobs; processes on this machine when left out.
        say: told what happens, a sentence or line at a time.

    Returns:
        The contents of summary.json.

    Raises:
        UsageError: something in the request cannot be carried out, or another comparison runs in
            the folder.
        RunFailure: interrupted; finished cells are kept.
    """
    from loopwm.evaluation.compare.report import write_comparison

    if jobs < 1:
        raise UsageError(f"--jobs is {jobs}; give at least 1.")
    request = Request.of(
        suite, tasks=tasks, families=families, sizes=sizes, seeds=seeds, quick=quick
    )
    name = f"compare-{suite}{'-quick' if quick else ''}"
    folder = Folder(out if out is not None else pathlib.Path("runs") / name, say)
    unavailable = request.unavailable()
    folder.open(request.settings())
    try:
        with folder.alone():
            chosen = LocalBackend(jobs) if backend is None else backend
            records = run_cells(request, unavailable, folder, chosen, say)
            return write_comparison(folder.path, request.suite, records)
    except KeyboardInterrupt:
        raise RunFailure(
            f"Stopped; finished cells are kept in {folder.path}: give the same command again."
        ) from None
    except OSError as error:
        raise RunFailure(
            f"{folder.path} cannot be written any more ({error.strerror}); check the space that "
            "is left there, and give the same command again."
        ) from error
