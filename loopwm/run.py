"""Puts the parts of a run together: what `loopwm.train` and `loopwm.load` do."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from loopwm import configs, settings
from loopwm.agents import AbstractAgent, PlanningAgent, PolicyAgent, RandomAgent
from loopwm.core import AbstractDepthRule
from loopwm.envs import EnvSource, Spaces, VectorStepper, env_name, make, make_vector, thresholds
from loopwm.errors import RunFailure, UsageError
from loopwm.evaluation import record_episode, run_episodes, write_report
from loopwm.models import Networks, Normalizer, Sizes, build_networks, count_parameters
from loopwm.nn import resolve
from loopwm.planning import AbstractPlanner
from loopwm.stability import Certifiable, certify
from loopwm.training import (
    Clock,
    Counters,
    LearnerState,
    RunConfig,
    RunFolder,
    RunTelemetry,
    Trainer,
    checkpoint,
    init_learner,
)
from loopwm.training.run_folder import read_yaml

DEFAULT_CONFIG = "classic_control"


class Interrupted(RunFailure):
    """The user asked a run to stop; everything was saved."""


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
        UsageError: unknown preset, unknown key, wrong type.
    """
    chosen = str(config if config is not None else DEFAULT_CONFIG)
    is_file = chosen.endswith((".yaml", ".yml")) or os.sep in chosen
    values = read_yaml(pathlib.Path(chosen)) if is_file else configs.preset(chosen)
    values = settings.merge(values, overrides or {})
    given = {"env": env, "seed": seed, "steps": steps}
    values = settings.merge(values, {k: v for k, v in given.items() if v is not None})
    return settings.build(RunConfig, values)


def enable_compile_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless one is set already."""
    if jax.config.jax_compilation_cache_dir is not None:
        return
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    jax.config.update("jax_compilation_cache_dir", os.path.join(base, "loopwm", "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


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
        env_name(env), config=config, overrides=overrides, seed=seed, steps=steps
    )
    session = _Session(env, resolved)
    folder = RunFolder.create(out if out is not None else fresh_folder(resolved), resolved)
    return session.run(folder, resume=False, quiet=quiet)


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
        env: needed when the run was made with a function instead of an id.
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
    if isinstance(env, str) and env != config.env:
        raise UsageError(
            f"{run} is a run of {config.env}, not of {env}; leave the environment out."
        )
    if steps is not None:
        config = dataclasses.replace(config, steps=steps)
    if checkpoint.latest(folder) is None:
        raise UsageError(f"{run} holds no checkpoint to go on from; start the run anew.")
    session = _Session(config.env if env is None else env, config)
    return session.run(folder, resume=True, quiet=quiet)


def load(
    run: str | os.PathLike[str],
    *,
    env: EnvSource | None = None,
    planner: str | None = None,
    rule: AbstractDepthRule | None = None,
) -> PlanningAgent | PolicyAgent:
    """Loads the agent of a run, ready to act.

    Args:
        run: the run's folder.
        env: needed when the run was made with a function instead of an id.
        planner: a registered planner, or "policy" for the policy alone.
        rule: depth of imagined transitions; the model's own when left out.

    Returns:
        The agent.

    Raises:
        UsageError: the folder holds no run, or no checkpoint.
    """
    enable_compile_cache()
    folder = RunFolder.open(run)
    config = folder.read_config()
    single = make(config.env if env is None else env)
    spaces = Spaces.of(single)
    single.close()
    arrays, _ = checkpoint.load(folder)
    skeleton = {
        "learner": {"networks": _networks(config, spaces)},
        "normalizer": jax.tree.map(np.asarray, Normalizer.create(spaces.observation.size)),
    }
    tree = checkpoint.with_arrays(skeleton, arrays)
    networks = resolve(tree["learner"]["networks"])
    normalizer = jax.tree.map(lambda x: np.asarray(x, np.float32), tree["normalizer"])
    if planner == "policy":
        return PolicyAgent(networks=networks, normalizer=normalizer, spaces=spaces)
    return PlanningAgent(
        networks=networks,
        normalizer=normalizer,
        planner=_planner(config, spaces, planner),
        discount=config.learner.discount,
        spaces=spaces,
        rule=rule,
    )


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
    """Evaluates the agent of a run; the same as the command `loopwm evaluate`.

    Args:
        run: the run's folder.
        episodes: number of episodes, played side by side.
        rule: depth of imagined transitions; the model's own when left out.
        planner: a registered planner, or "policy" for the policy alone.
        video: folder for a video of one further episode.
        seed: seed of environments and agent.
        env: needed when the run was made with a function instead of an id.

    Returns:
        env, env_steps of the checkpoint, return_mean, return_std, returns, episodes, loops_mean,
        decision_ms, certificate, and video when one was asked for.

    Raises:
        UsageError: the folder holds no run, or the request does not fit it.
        RunFailure: the environment failed.
    """
    agent = load(run, env=env, planner=planner, rule=rule)
    folder = RunFolder.open(run)
    config = folder.read_config()
    source = config.env if env is None else env
    limit = config.evaluation.max_episode_steps
    result = run_episodes(
        agent, source, agent.spaces, episodes=episodes, seed=seed, max_steps=limit
    )
    core = agent.world_model.core_module()
    record = {
        "env": config.env,
        "env_steps": checkpoint.steps(folder)[-1],
        "return_mean": float(np.mean(result.returns)),
        "return_std": float(np.std(result.returns)),
        "returns": list(result.returns),
        "episodes": episodes,
        "loops_mean": result.loops_mean,
        "decision_ms": result.decision_ms,
        "certificate": certify(core).summary() if isinstance(core, Certifiable) else None,
    }
    if video is not None:
        path = record_episode(agent, source, video, seed=seed, max_steps=limit)
        record["video"] = str(path)
    return record


def fresh_folder(config: RunConfig) -> pathlib.Path:
    """A folder under `runs/` that does not exist yet, named after environment and seed."""
    name = config.env.replace(":", "-").replace("/", "-")
    base = pathlib.Path("runs") / f"{name}-seed{config.seed}"
    candidate, number = base, 2
    while candidate.exists():
        candidate = base.with_name(f"{base.name}-{number}")
        number += 1
    return candidate


def _networks(config: RunConfig, spaces: Spaces) -> Networks:
    sizes = Sizes(observation=spaces.observation.size, action=spaces.action.size)
    return build_networks(
        config.model,
        config.heads,
        sizes,
        discrete=spaces.action.discrete,
        key=jax.random.key(config.seed),
    )


def _planner(config: RunConfig, spaces: Spaces, name: str | None = None) -> AbstractPlanner:
    builder = config.planning.choose(discrete=spaces.action.discrete, name=name)
    return builder.build(spaces.action.size)


class _Session:
    """Checks a request and holds what a run needs, before anything is written."""

    def __init__(self, source: EnvSource, config: RunConfig):
        self.source, self.config = source, config
        single = make(source)
        try:
            self.spaces = Spaces.of(single)
            given = config.evaluation.threshold
            self.threshold = thresholds.reward_threshold(single) if given is None else given
        finally:
            single.close()
        self.planner = _planner(config, self.spaces)

    def run(self, folder: RunFolder, *, resume: bool, quiet: bool) -> PlanningAgent:
        """Trains in the folder; see `train`."""
        key = jax.random.fold_in(jax.random.key(self.config.seed), 1)
        learner = init_learner(
            _networks(self.config, self.spaces), self.config.learner, key=key
        )
        done = checkpoint.steps(folder)[-1] if resume else 0
        telemetry = RunTelemetry(folder, self.config.steps, done, quiet=quiet)
        collection = self.config.collection
        vector = make_vector(
            self.source, collection.envs, same_step=collection.same_step_reset
        )
        try:
            trainer = self._trainer(folder, learner, telemetry)
            if resume:
                trainer.restore()
                folder.write_config(self.config)
            with _stop_on_signal(trainer):
                finished = trainer.run(VectorStepper(vector, self.spaces), Clock())
        finally:
            telemetry.close()
            vector.close()
        self._report(folder, trainer)
        if not finished:
            raise Interrupted(
                f"Stopped at env step {trainer.counters.env_steps} and saved; go on with: "
                f"loopwm train {self.config.env} --resume {folder.path}"
            )
        telemetry.message(f"{folder.path} holds the run; report: {folder.report_file}")
        return self._actor(trainer.resolved_networks(), trainer.normalizer)

    def _trainer(self, folder: RunFolder, learner: LearnerState, telemetry: Any) -> Trainer:
        evaluation = self.config.evaluation
        return Trainer(
            self.config,
            folder,
            self.spaces,
            learner,
            make_actor=self._actor,
            random_actor=RandomAgent(
                action_size=self.spaces.action.size,
                discrete=self.spaces.action.discrete,
                spaces=self.spaces,
            ),
            evaluate=lambda actor, seed: run_episodes(
                actor,
                self.source,
                self.spaces,
                episodes=evaluation.episodes,
                seed=seed,
                max_steps=evaluation.max_episode_steps,
            ),
            summarise=self._summary,
            threshold=self.threshold,
            telemetry=telemetry,
        )

    def _actor(self, networks: Networks, normalizer: Normalizer) -> PlanningAgent:
        return PlanningAgent(
            networks=networks,
            normalizer=jax.tree.map(lambda x: np.asarray(x, np.float32), normalizer),
            planner=self.planner,
            discount=self.config.learner.discount,
            spaces=self.spaces,
        )

    def _summary(
        self, learner: LearnerState, counters: Counters, records: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Contents of summary.json."""
        model = learner.networks.world_model
        core = model.core_module()
        return {
            "env": self.config.env,
            "seed": self.config.seed,
            "env_steps": counters.env_steps,
            "wall_seconds": counters.wall_seconds,
            "compile_seconds": counters.compile_seconds,
            "threshold": self.threshold,
            "solved_at": counters.solved_at,
            "final_return_mean": records[-1]["return_mean"] if records else None,
            "params": {
                "total": count_parameters(learner.networks),
                "world_model": count_parameters(model),
                "core": count_parameters(core),
            },
            "certificate": certify(core).summary() if isinstance(core, Certifiable) else None,
        }

    def _report(self, folder: RunFolder, trainer: Trainer) -> None:
        summary = self._summary(trainer.learner, trainer.counters, folder.read_evals())
        write_report(folder, self.config, summary)


@contextlib.contextmanager
def _stop_on_signal(trainer: Trainer) -> Iterator[None]:
    """Turns the first Ctrl-C or SIGTERM into a request to stop after the current step."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {}

    def request(number: int, _frame: object) -> None:
        trainer.stop_requested = True
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, request)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


__all__ = ["AbstractAgent", "Interrupted", "load", "resolve_config", "resume", "train"]
