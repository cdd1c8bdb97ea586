"""`loopwm compare`."""

import json
import pathlib
import sys
from typing import Annotated

import tyro

from loopwm.cli.output import json_alone


def compare(
    suite: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SUITE")],
    /,
    *,
    models: tuple[str, ...] | None = None,
    tasks: tuple[str, ...] | None = None,
    sizes: tuple[int, ...] | None = None,
    seeds: int | None = None,
    out: pathlib.Path | None = None,
    jobs: int = 1,
    quick: bool = False,
    backend: str = "local",
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Compare world models at equal data, updates and search, with a report.

    Args:
        suite: dynamics (open-loop error), control (return), or debug (that everything works).
        models: families (default: all): looped, latent_mlp, gru, rssm, transformer, ensemble,
            unshared, single_pass, width_matched.
        tasks: some of the suite's environments (default: all), or other Gymnasium ids.
        sizes: parameters of the world models (default: the suite's).
        seeds: number of seeds, from 0 on (default: 5; debug 2).
        out: folder (default: runs/compare-SUITE, with --quick runs/compare-SUITE-quick); what is
            finished there is kept.
        jobs: processes side by side.
        quick: a tenth of the data and updates (control: a fifth of the env steps), and a smaller
            search.
        backend: local, processes on this machine, or ray, a Ray cluster.
        as_json: print summary.json instead of the verdict.
    """
    from loopwm import comparison
    from loopwm.comparison.choose import choose_backend

    with json_alone(as_json):
        summary = comparison.compare(
            suite,
            families=models,
            tasks=tasks,
            sizes=sizes,
            seeds=seeds,
            out=out,
            jobs=jobs,
            quick=quick,
            backend=choose_backend(backend, jobs),
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
    if as_json:
        print(json.dumps(summary))
    else:
        print(summary["verdict"])
        print(f"Report: {summary['report']}")
