"""The searches of a comparison: which trials are missing, and what all of them choose."""

import contextlib
import dataclasses
from typing import Any

from loopwm.comparison.backends import AbstractBackend
from loopwm.comparison.jobs import Choice, Job, best
from loopwm.comparison.request import Place, Request
from loopwm.evaluation.compare.cells import KEPT, plain
from loopwm.evaluation.compare.store import Folder, Say, write_checked


def run_searches(
    request: Request, places: list[Place], folder: Folder, backend: AbstractBackend, say: Say
) -> dict[Place, dict[str, Any]]:
    """Makes the trials that are missing in a folder, and writes tuning.json.

    Trials are kept one by one: a search with further learning rates makes those alone.

    Args:
        request: what is compared.
        places: places with cells.
        folder: where trials are kept; opened.
        backend: does the jobs.
        say: told of each finished search, one line.

    Returns:
        `trials` and `choice` of each place; no choice where no trial gave a number.
    """
    search = request.suite.protocol.search
    found: dict[Place, dict[str, Any]]
    if search.trials == 1:
        only = {"trials": [], "choice": {"shape": 0, "rate": search.rates[0]}}
        found = {place: only for place in places}
    else:
        known = _make(request, places, folder, backend, say)
        found = {place: _summed(request, place, known[place]) for place in places}
    write_checked(
        folder.path / "tuning.json",
        {
            "search": dataclasses.asdict(search),
            "found": [
                {"task": task, "family": family, "size": size, **found[task, family, size]}
                for task, family, size in places
            ],
        },
    )
    return found


def _make(
    request: Request, places: list[Place], folder: Folder, backend: AbstractBackend, say: Say
) -> dict[Place, dict[str, dict[str, Any]]]:
    """All trials of each place by fingerprint, made or found."""
    known: dict[Place, dict[str, dict[str, Any]]] = {}
    jobs, at = [], {}
    for place in places:
        cell = request.cell(place, request.suite.protocol.search.seed)
        known[place] = {trial["fingerprint"]: trial for trial in folder.trials(cell)}
        marks = request.trials(place)
        missing = tuple(choice for choice, mark in marks.items() if mark not in known[place])
        if missing:
            jobs.append(Job(cell, request.suite.protocol, folder.data, trials=missing))
            at[cell] = place
    with contextlib.closing(backend.run(jobs)) as results:
        for number, (job, result) in enumerate(results, start=1):
            place = at[job.cell]
            folder.keep_trials(
                job.cell, _add(request, place, plain(result["trials"]), known[place])
            )
            chosen = _summed(request, place, known[place])["choice"]
            say(f"search {number}/{len(jobs)} {job.cell.name}: {chosen or 'nothing'}")
    return known


def _add(
    request: Request, place: Place, trials: list[dict[str, Any]], known: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Adds trials to those that are known of a place; gives those to be kept."""
    scored = any(trial["score"] is not None for trial in trials)
    marks, keep = request.trials(place), dict(known)
    for trial in trials:
        mark = marks[Choice(trial["shape"], trial["rate"])]
        known[mark] = trial | {"fingerprint": mark}
        # Where all failed, something else may be wrong: the next comparison tries them again.
        if scored or trial["status"] in KEPT:
            keep[mark] = known[mark]
    return list(keep.values())


def _summed(
    request: Request, place: Place, known: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any] | list[dict[str, Any]] | None]:
    """The trials of this search, in its order, and what they choose."""
    trials = [known[mark] for mark in request.trials(place).values() if mark in known]
    return {"trials": trials, "choice": best(trials)}
