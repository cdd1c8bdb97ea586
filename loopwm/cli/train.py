"""`loopwm train`."""

import pathlib
from typing import Annotated

import tyro

from loopwm import settings
from loopwm.errors import UsageError


def train(
    env_id: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="ENV_ID")] = None,
    /,
    *,
    config: str | None = None,
    seed: int | None = None,
    steps: int | None = None,
    out: pathlib.Path | None = None,
    resume: pathlib.Path | None = None,
    overrides: Annotated[
        tuple[tuple[str, ...], ...],
        tyro.conf.arg(name="set", metavar="KEY=VALUE ..."),
        tyro.conf.UseAppendAction,
    ] = (),
) -> None:
    """Train a planning agent in a Gymnasium environment.

    Args:
        env_id: Gymnasium id, such as CartPole-v1 or my_module:MyEnv-v0.
        config: name of a preset or path of a YAML file (default: classic_control).
        seed: seed of everything random (default: 0).
        steps: env steps of the run.
        out: folder of the run (default: a fresh one under runs/).
        resume: go on with the run in this folder.
        overrides: settings that replace the configuration's, e.g. learner.batch_size=64.
    """
    from loopwm import run

    if resume is not None:
        refused = {"--config": config, "--seed": seed, "--out": out, "--set": overrides or None}
        named = [flag for flag, value in refused.items() if value is not None]
        if named:
            raise UsageError(
                f"{named[0]} cannot be changed when resuming, because the run in {resume} has its "
                "own; leave it out (--steps may be raised)."
            )
        run.resume(resume, env=env_id, steps=steps)
        return
    if env_id is None:
        raise UsageError("Name the environment, e.g. loopwm train CartPole-v1.")
    run.train(
        env_id,
        config=config,
        seed=seed,
        steps=steps,
        out=out,
        overrides=settings.parse_overrides([pair for pairs in overrides for pair in pairs]),
    )
