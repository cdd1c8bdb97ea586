"""`loopwm evaluate`."""

import json
import pathlib
from typing import Annotated, Any

import tyro

from loopwm.cli.output import json_alone
from loopwm.core import parse_depth


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
    """Evaluate a trained agent on environments of its own.

    Args:
        run: folder of a run, an agent's file, or pretrained:NAME (acrobot, cartpole, pendulum).
        episodes: number of episodes.
        depth: loops of each imagined transition: a number, certified:TOL, residual:TOL,
            second_difference:TOL, or gate:P with the exit probability that stops.
        planner: mppi, icem, gradient, categorical_cem, gumbel_muzero, random_shooting, or policy
            for the policy alone; the run's own when left out.
        video: folder for a video of one episode.
        seed: seed of the evaluation.
        as_json: print one JSON object instead of lines.
    """
    rule = None if depth is None else parse_depth(depth)
    from loopwm.run import evaluate_run

    with json_alone(as_json):
        record = evaluate_run(
            run, episodes=episodes, rule=rule, planner=planner, video=video, seed=seed
        )
    print(json.dumps(record) if as_json else _line(record))


def _line(record: dict[str, Any]) -> str:
    bound = record["bound_max"]
    held = "no certified bound" if bound is None else f"within {bound:.2g} of its fixed point"
    return (
        f"{record['env']}: return {record['return_mean']:.1f} ± {record['return_std']:.1f} over "
        f"{record['episodes']} episodes, {record['loops_mean']:.1f} loops, {held}, "
        f"{record['decision_ms']:.1f} ms a decision\n{record['depth']}"
    )
