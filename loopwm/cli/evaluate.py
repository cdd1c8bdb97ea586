"""`loopwm evaluate`."""

import json
import pathlib
from typing import Annotated, Any

import tyro

from loopwm.core import AbstractDepthRule, CertifiedHalting, FixedDepth, ResidualHalting
from loopwm.errors import UsageError

_HALTING = {"certified": CertifiedHalting, "residual": ResidualHalting}


def evaluate(
    run: Annotated[tyro.conf.Positional[pathlib.Path], tyro.conf.arg(metavar="RUN")],
    /,
    *,
    episodes: int = 10,
    depth: str | None = None,
    planner: str | None = None,
    video: pathlib.Path | None = None,
    seed: int = 1_000_000,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Evaluate the agent of a run on environments of its own.

    Args:
        run: folder of the run.
        episodes: number of episodes.
        depth: loops of each imagined transition: a number, certified:TOL or residual:TOL.
        planner: mppi, categorical_cem, or policy for the policy alone.
        video: folder for a video of one episode.
        seed: seed of the evaluation.
        as_json: print one JSON object instead of a line.
    """
    if episodes < 1:
        raise UsageError(f"--episodes is {episodes}; give at least 1.")
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed is {seed}; give an integer from 0 to {2**32 - 1}.")
    rule = None if depth is None else parse_depth(depth)
    from loopwm.run import evaluate_run

    record = evaluate_run(
        run, episodes=episodes, rule=rule, planner=planner, video=video, seed=seed
    )
    print(json.dumps(record) if as_json else _line(record))


def parse_depth(text: str) -> AbstractDepthRule:
    """The depth rule of `--depth`: a number of loops, certified:TOL or residual:TOL.

    Raises:
        UsageError: it is none of these, or the number is out of range.
    """
    kind, sign, number = text.partition(":")
    try:
        if not sign:
            return FixedDepth(int(kind))
        if kind in _HALTING:
            return _HALTING[kind](float(number))
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
    raise UsageError(
        f"--depth {text} is not understood; give a number of loops, certified:TOL or residual:TOL."
    )


def _line(record: dict[str, Any]) -> str:
    return (
        f"{record['env']}: return {record['return_mean']:.1f} ± {record['return_std']:.1f} over "
        f"{record['episodes']} episodes, {record['loops_mean']:.1f} loops, "
        f"{record['decision_ms']:.1f} ms a decision"
    )
