"""What `loopwm.train`, `resume`, `load`, `export` and `evaluate` do."""

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import jax
import numpy as np

from loopwm import configs, programs, settings
from loopwm.agents import PlanningAgent, PolicyAgent
from loopwm.core import AbstractDepthRule
from loopwm.envs import EnvSource, Spaces, is_known, make, recorded_name
from loopwm.errors import UsageError
from loopwm.evaluation import certificate_of, depth_promise, record_episode, run_episodes
from loopwm.models import AbstractOnePassModel, Normalizer, check_depth, resolve_networks
from loopwm.session import Interrupted, Session, build_planner, build_run_networks
from loopwm.training import RunConfig, RunFolder, checkpoint
from loopwm.training.agent_file import SavedAgent, read_agent, write_agent
from loopwm.training.lock import alone
from loopwm.training.run_folder import read_yaml

DEFAULT_CONFIG = "classic_control"


def resolve_config(
    env: str,
    *,
    config: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    steps: int | None = None,
) -> RunConfig:
    """The configuration of a run: preset, then overrides, then arguments.

    Args:
        env: environment id.
        config: name of a preset, or path of a YAML file; `classic_control` when left out.
        overrides: nested mapping laid upon it.
        seed: seed, if it is to differ.
        steps: env steps, if they are to differ.

    Returns:
        The resolved configuration.

    Raises:
        UsageError: unknown preset, unknown key, wrong type, or another environment among the
            overrides.
    """
    chosen = str(config if config is not None else DEFAULT_CONFIG)
    is_file = chosen.endswith((".yaml", ".yml")) or os.sep in chosen
    values = read_yaml(pathlib.Path(chosen)) if is_file else configs.preset(chosen)
    values = settings.merge(values, overrides or {})
    given = {"env": env, "seed": seed, "steps": steps}
    other = (overrides or {}).get("env", env)
    if other != env:
        raise UsageError(f"env is set to {other}, but the run is to be in {env}; give it once.")
    values = settings.merge(values, {k: v for k, v in given.items() if v is not None})
    return settings.build(RunConfig, values)


def enable_compile_cache() -> None:
    """Keeps compiled programs in the user's cache folder, or beside JAX's where that one is set.

    Nothing is kept where JAX's own cache is switched off.
    """
    if not jax.config.values["jax_enable_compilation_cache"]:
        return
    folder = jax.config.values["jax_compilation_cache_dir"]
    if folder is None:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        folder = os.path.join(base, "loopwm", "jax")
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    programs.keep_in(f"{folder}-programs")


def train(
    env: EnvSource,
    *,
    seed: int | None = None,
    config: str | os.PathLike[str] | None = None,
    steps: int | None = None,
    out: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> PlanningAgent:
    """Trains a planning agent; the same as the command `loopwm train`.

    Args:
        env: Gymnasium id, `module:Id` included, or a function that makes an environment.
        seed: seed of everything random; the configuration's (0) when left out.
        config: name of a preset or path of a YAML file.
        steps: env steps; the configuration's when left out.
        out: the run's folder; a fresh one under `runs/` when left out.
        overrides: nested mapping of settings, such as {"learner": {"batch_size": 64}}.
        quiet: print nothing.

    Returns:
        The trained agent, ready to act.

    Raises:
        UsageError: something in the request cannot be carried out; nothing was written.
        RunFailure: the run failed, or was interrupted; the last checkpoint is named.
    """
    enable_compile_cache()
    resolved = resolve_config(
        recorded_name(env), config=config, overrides=overrides, seed=seed, steps=steps
    )
    session = Session(resolved.source(env), resolved)
    folder = RunFolder.create(out if out is not None else fresh_folder(resolved), session.config)
    with _alone(folder):
        try:
            return session.run(folder, resume=False, quiet=quiet)
        except (UsageError, Interrupted, KeyboardInterrupt, MemoryError):
            folder.discard()
            raise


def resume(
    run: str | os.PathLike[str],
    *,
    env: EnvSource | None = None,
    steps: int | None = None,
    quiet: bool = False,
) -> PlanningAgent:
    """Goes on with a run from its newest checkpoint.

    Args:
        run: the run's folder.
        env: needed when the run was made with a function instead of an id, or with an id that a
            script registered: the function, or module:Id, which the run then keeps.
        steps: env steps of the whole run, if more than before.
        quiet: print nothing.

    Returns:
        The trained agent.

    Raises:
        UsageError: the folder holds no run, no checkpoint, or one of another environment.
        RunFailure: the run failed, or was interrupted.
    """
    enable_compile_cache()
    folder = RunFolder.open(run)
    config = folder.read_config()
    if isinstance(env, str) and not _may_be(env, config.env):
        raise UsageError(
            f"{run} is a run of {config.env}, not of {env}; give no other environment."
        )
    made = checkpoint.steps(folder)
    if not made:
        raise UsageError(
            f"{run} holds no checkpoint to go on from; start again and give another folder."
        )
    values = settings.dump(config)
    if isinstance(env, str) and (":" in env or not is_known(config.env)):
        values["env"] = env
    if steps is not None:
        values["steps"] = steps
    config = settings.build(RunConfig, values)
    if config.steps < made[-1] and steps is not None:
        raise UsageError(
            f"{run} has made {made[-1]} env steps already, more than {steps}; give more --steps, "
            "or leave them out."
        )
    session = Session(_source_of(run, config, env), config)
    with _alone(folder):
        _clear_halves(folder)
        return session.run(folder, resume=True, quiet=quiet)


def _may_be(env: str, own: str) -> bool:
    """Whether an id may be that of the environment a run names, where no id is known, or no module.

    What a function made may be registered by now, and what a script registered needs its module.
    """
    alone = env.rpartition(":")[2] == own.rpartition(":")[2] and not (":" in env and ":" in own)
    return env == own or alone or not is_known(own)


def _alone(folder: RunFolder) -> contextlib.AbstractContextManager[None]:
    """Keeps other processes from writing into a run's folder."""
    taken = f"Another process is at the run in {folder.path}; wait until it has ended, or "
    return alone(folder.path, f"{taken}give another folder.")


def _clear_halves(folder: RunFolder) -> None:
    """Removes what a process left behind that was killed while it wrote or removed a checkpoint."""
    made = {str(step) for step in checkpoint.steps(folder)}
    for path in (*folder.checkpoints.iterdir(), *folder.replay.glob("*")):
        alone = path.parent == folder.replay and path.name.isdigit() and path.name not in made
        if alone or ".orbax-checkpoint-tmp" in path.name:
            shutil.rmtree(path, ignore_errors=True)


def load(
    run: str | os.PathLike[str],
    *,
    env: EnvSource | None = None,
    planner: str | None = None,
    rule: AbstractDepthRule | None = None,
) -> PlanningAgent | PolicyAgent:
    """Loads a trained agent, ready to act.

    Args:
        run: a run's folder, a file that `export` wrote, or pretrained:NAME.
        env: needed when the run was made with a function instead of an id.
        planner: a registered planner, or "policy" for the policy alone.
        rule: depth of imagined transitions; the model's own when left out.

    Returns:
        The agent.

    Raises:
        UsageError: there is no run, no checkpoint or no such agent; or its model cannot keep the
            rule.
    """
    saved = read_agent(run)
    return _agent_of(saved, _source_of(run, saved.config, env), planner, rule)


def make_env(
    run: str | os.PathLike[str], *, env: EnvSource | None = None, render_mode: str | None = None
) -> gym.Env:
    """Makes the environment that a trained agent acts in, with actions repeated as in training.

    Args:
        run: a run's folder, a file that `export` wrote, or pretrained:NAME.
        env: needed when the run was made with a function instead of an id.
        render_mode: Gymnasium render mode.

    Returns:
        The environment; its faults are raised as `RunFailure`.

    Raises:
        UsageError: there is no such run or agent, or its environment cannot be made.
    """
    return make(_source_of(run, read_agent(run).config, env), render_mode=render_mode)


def _source_of(run: str | os.PathLike[str], config: RunConfig, env: EnvSource | None) -> EnvSource:
    """What the agent of a run acts in: its own environment, or one given instead."""
    if env is None and not is_known(config.env):
        folder = pathlib.Path(run)
        written = f", or write module:Id as env into {folder / 'config.yaml'}"
        raise UsageError(
            f"{run} was trained in '{config.env}', a function or an id whose module was not "
            "imported; give it in Python as env=, the function or module:Id"
            f"{written if folder.is_dir() else ''}."
        )
    return config.source(env)


def _agent_of(
    saved: SavedAgent, source: EnvSource, planner: str | None, rule: AbstractDepthRule | None
) -> PlanningAgent | PolicyAgent:
    enable_compile_cache()
    config, kept = saved.config, saved.networks
    spaces = Spaces.of_source(source)
    skeleton = {
        "learner": {kept: build_run_networks(config, spaces)},
        "normalizer": Normalizer.create(spaces.observation.size),
    }
    tree = checkpoint.with_arrays(skeleton, saved.arrays)
    networks = resolve_networks(tree["learner"][kept])
    normalizer = jax.tree.map(lambda x: np.asarray(x, np.float32), tree["normalizer"])
    check_depth(rule, networks.world_model)
    if planner == "policy":
        return PolicyAgent(networks=networks, normalizer=normalizer, spaces=spaces)
    return PlanningAgent(
        networks=networks,
        normalizer=normalizer,
        planner=build_planner(config, spaces, planner),
        discount=config.learner.discount,
        spaces=spaces,
        rule=rule,
        bonus=config.planning.bonus,
        bonus_weight=config.planning.bonus_weight,
    )


def export(run: str | os.PathLike[str], file: str | os.PathLike[str]) -> None:
    """Writes the agent of a run into one file to share; the same as `loopwm export`.

    Args:
        run: the run's folder.
        file: the file, a NumPy archive, which must not exist yet.

    Raises:
        UsageError: there is no run or no checkpoint, or the file exists or cannot be written.
    """
    write_agent(read_agent(run), file)


def evaluate_run(
    run: str | os.PathLike[str],
    *,
    episodes: int = 10,
    rule: AbstractDepthRule | None = None,
    planner: str | None = None,
    video: pathlib.Path | None = None,
    seed: int = 1_000_000,
    env: EnvSource | None = None,
) -> dict[str, Any]:
    """Evaluates a trained agent; the same as the command `loopwm evaluate`.

    Args:
        run: a run's folder, a file that `export` wrote, or pretrained:NAME.
        episodes: number of episodes, played side by side.
        rule: depth of imagined transitions; the model's own when left out.
        planner: a registered planner, or "policy" for the policy alone.
        video: folder for a video of one further episode.
        seed: seed of environments and agent.
        env: needed when the run was made with a function instead of an id.

    Returns:
        env, env_steps of the checkpoint, return_mean, return_std, returns, episodes, loops_mean,
        bound_max (of the transitions under the actions taken; None without a bound), decision_ms,
        certificate, depth (what is promised of the loops, in one sentence), and video when one was
        asked for.

    Raises:
        UsageError: there is no such run or agent, or the request does not fit it.
        RunFailure: the environment failed.
    """
    if episodes < 1:
        raise UsageError(f"--episodes is {episodes}; give at least 1.")
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed is {seed}; give an integer from 0 to {2**32 - 1}.")
    saved = read_agent(run)
    config, source = saved.config, _source_of(run, saved.config, env)
    agent = _agent_of(saved, source, planner, rule)
    limit = config.evaluation.decisions(config.action_repeat)
    result = run_episodes(
        agent, source, Spaces.of_source(source), episodes=episodes, seed=seed, max_steps=limit
    )
    model = agent.world_model
    certificate = certificate_of(model.core)
    own_depth = None if isinstance(model, AbstractOnePassModel) else model.depth
    record = {
        "env": config.env,
        "env_steps": saved.env_steps,
        "return_mean": float(np.mean(result.returns)),
        "return_std": float(np.std(result.returns)),
        "returns": list(result.returns),
        "episodes": episodes,
        "loops_mean": result.loops_mean,
        "bound_max": result.bound_max if np.isfinite(result.bound_max) else None,
        "decision_ms": result.decision_ms,
        "certificate": None if certificate is None else certificate.summary(),
        "depth": depth_promise(rule, own_depth, certificate),
    }
    if video is not None:
        path = record_episode(agent, source, video, seed=seed, max_steps=limit)
        record["video"] = str(path)
    return record


def fresh_folder(config: RunConfig) -> pathlib.Path:
    """A folder under `runs/` that does not exist yet, named after environment and seed."""
    # A function's name may be anything, its representation included.
    name = re.sub(r"[^\w.-]+", "-", config.env)[:100]
    base = pathlib.Path("runs") / f"{name.strip('-')}-seed{config.seed}"
    candidate, number = base, 2
    while candidate.exists():
        candidate = base.with_name(f"{base.name}-{number}")
        number += 1
    return candidate


__all__ = [
    "Interrupted",
    "evaluate_run",
    "export",
    "load",
    "make_env",
    "resolve_config",
    "resume",
    "train",
]
