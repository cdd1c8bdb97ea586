"""Stability studies of a run's world model, or of anyone's update."""

import os

from loopwm.envs import EnvSource, Spaces
from loopwm.evaluation.rollouts import visit
from loopwm.evaluation.study import Study
from loopwm.evaluation.study_config import StudyConfig
from loopwm.evaluation.study_model import study_world_model
from loopwm.evaluation.study_module import study_module
from loopwm.run import enable_compile_cache, load
from loopwm.training.agent_file import read_agent


def study_run(
    run: str | os.PathLike[str],
    *,
    config: StudyConfig | None = None,
    env: EnvSource | None = None,
) -> Study:
    """Certifies and measures the world model of a run; the same as `loopwm stability RUN`.

    Args:
        run: a run's folder, an agent's file, or pretrained:NAME.
        config: sizes of the study.
        env: needed when the run was made with a function instead of an id.

    Returns:
        The study; `loopwm.evaluation.stability_report` makes a page of it.

    Raises:
        UsageError: there is no such run or agent, or something voids the model's certificate.
        RunFailure: the environment failed.
    """
    sizes = StudyConfig() if config is None else config
    agent, made = load(run, env=env), read_agent(run).config
    source = made.source(env)
    spaces = Spaces.of_source(source)
    visits = visit(agent, source, spaces, steps=sizes.episode_steps, seed=sizes.seed)
    return study_world_model(
        agent,
        visits,
        name=str(run),
        env=made.env,
        seed=made.seed,
        actions=spaces.action.layout,
        config=sizes,
    )


def study_update(name: str, *, config: StudyConfig | None = None) -> Study:
    """Certifies and measures anyone's update; the same as `loopwm stability module:factory`.

    Args:
        name: `module:factory`, a function without arguments that returns an update h → h⁺, a
            function or an Equinox module, and a state h.
        config: sizes of the study.

    Returns:
        The study.

    Raises:
        UsageError: the function cannot be found, fails or returns something else; or the update
            has dropout, state, or weights that are NaN, integer or of low precision, or changes
            shape.
    """
    enable_compile_cache()
    return study_module(name, StudyConfig() if config is None else config)


__all__ = ["StudyConfig", "study_run", "study_update"]
