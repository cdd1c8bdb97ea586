"""Cells of control: ordinary training with the planner, and what the trained agent does."""

import dataclasses
import json
import pathlib
import tempfile
from typing import Any

import numpy as np

from loopwm import settings
from loopwm.agents import PlanningAgent
from loopwm.core import FixedDepth
from loopwm.envs import Spaces
from loopwm.evaluation import run_episodes
from loopwm.evaluation.compare.cells import Cell
from loopwm.evaluation.compare.cost import (
    parameters,
    peak_memory,
    training_flops,
    transition_costs,
)
from loopwm.evaluation.compare.protocol import ControlProtocol
from loopwm.models import EveryDepth, WorldModelBuilder
from loopwm.models.registry import WORLD_MODELS
from loopwm.planning import PlannerBuilder
from loopwm.run import train
from loopwm.training import EvaluationResult, RunConfig, RunFolder

_PLAYED_APART = 1_000
"""Seeds from one seed's final episodes to the next one's: each episode has one of its own."""


def measure_control(
    builder: WorldModelBuilder, cell: Cell, protocol: ControlProtocol, *, rate: float
) -> dict[str, Any]:
    """Trains an agent and evaluates it.

    Args:
        builder: the world model's configuration.
        cell: task and seed.
        protocol: env steps, preset, episodes.
        rate: learning rate, the search's choice.

    Returns:
        `return` (mean of the final episodes) and `returns`; `params`, `params_core`,
        `params_total` (with critic and policy); `flops_transition`, `us_transition`,
        `decision_ms`; `flops_training`; `seconds_training`; `peak_memory_mb`; `loops`; and, for
        looped models, `trade`: return by loops and by samples of the planner.

    Raises:
        UsageError: the environment or the model does not fit.
        RunFailure: the run failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        agent, run = _trained(
            builder, cell, protocol, folder, rate=rate, steps=protocol.env_steps, seed=cell.seed
        )
        config, summary = run.read_config(), _summary(run)
        played = _play(agent, config, protocol, seed=cell.seed)
        action = Spaces.of_source(cell.task).action.size
        learner, collection = config.learner, config.collection
        ratio = collection.updates_per_step
        assert ratio is not None, "a run's folder holds what its session filled in"
        # Updates for the random steps are made up for when learning begins.
        sequences = ratio * config.steps * learner.batch_size
        return {
            "return": float(np.mean(played.returns)),
            "returns": list(played.returns),
            **parameters(agent.world_model),
            "params_total": summary["params"]["total"],
            **transition_costs(agent.world_model, action),
            "decision_ms": played.decision_ms,
            "flops_training": training_flops(
                agent.world_model,
                action,
                round(sequences * learner.sequence),
                imagined=round(sequences * learner.imagination),
            ),
            "seconds_training": summary["wall_seconds"],
            "loops": played.loops_mean,
            "trade": _trade(agent, config, protocol, seed=cell.seed),
            "peak_memory_mb": peak_memory(),
        }


def try_control(
    builder: WorldModelBuilder, cell: Cell, protocol: ControlProtocol, *, rate: float
) -> float:
    """Minus the return of a shorter run from the search's seed: a trial of the search.

    Its episodes are none of those that cells are judged by.
    """
    steps, seed = max(1, round(protocol.search.share * protocol.env_steps)), protocol.search.seed
    with tempfile.TemporaryDirectory() as folder:
        agent, run = _trained(builder, cell, protocol, folder, rate=rate, steps=steps, seed=seed)
        return -float(np.mean(_play(agent, run.read_config(), protocol, seed=seed).returns))


def _trained(
    builder: WorldModelBuilder,
    cell: Cell,
    protocol: ControlProtocol,
    folder: str,
    *,
    rate: float,
    steps: int,
    seed: int,
) -> tuple[PlanningAgent, RunFolder]:
    name = next(key for key, kind in WORLD_MODELS.items() if kind is type(builder))
    overrides = {
        "model": {"name": name, **settings.dump(builder)},
        "learner": {"learning_rate": rate},
        "evaluation": {"every": steps, "episodes": 1},
        "checkpoint_every": steps,
    }
    out = pathlib.Path(folder) / "run"
    agent = train(
        cell.task,
        seed=seed,
        config=protocol.preset,
        steps=steps,
        out=out,
        overrides=overrides,
        quiet=True,
    )
    return agent, RunFolder.open(out)


def _summary(run: RunFolder) -> dict[str, Any]:
    return json.loads(run.summary_file.read_text(encoding="utf-8"))


def _play(
    agent: PlanningAgent, config: RunConfig, protocol: ControlProtocol, *, seed: int
) -> EvaluationResult:
    """The episodes that a training from this seed is judged by, the same for every family."""
    source = config.source()
    return run_episodes(
        agent,
        source,
        Spaces.of_source(source),
        episodes=protocol.episodes,
        seed=protocol.first_episode + _PLAYED_APART * seed,
        max_steps=config.evaluation.decisions(config.action_repeat),
    )


def _trade(
    agent: PlanningAgent, config: RunConfig, protocol: ControlProtocol, *, seed: int
) -> list[dict[str, Any]]:
    """Return by loops and by the planner's samples; empty for models without loops."""
    if not isinstance(agent.world_model, EveryDepth):
        return []
    layout = Spaces.of_source(config.env).action.layout
    chosen, rows = config.planning.choose(layout), []
    for share in protocol.samples:
        planner = _with_samples(chosen, share)
        for depth in protocol.depths:
            other = PlanningAgent(
                networks=agent.networks,
                normalizer=agent.normalizer,
                planner=planner.build(layout),
                discount=agent.discount,
                spaces=agent.spaces,
                rule=FixedDepth(depth),
            )
            played = _play(other, config, protocol, seed=seed)
            rows.append(
                {
                    "loops": depth,
                    "samples": getattr(planner, "population"),  # noqa: B009
                    "return": float(np.mean(played.returns)),
                    "decision_ms": played.decision_ms,
                }
            )
    return rows


def _with_samples(planner: PlannerBuilder, share: float) -> PlannerBuilder:
    """The planner with a share of its population, no less than elites and proposals allow."""
    population, least = (
        getattr(planner, "population"),  # noqa: B009 -- not every planner has one
        max(getattr(planner, "elites"), getattr(planner, "proposals") + 1),  # noqa: B009
    )
    fewer = max(least, round(share * population))
    return dataclasses.replace(planner, population=fewer)  # pyright: ignore[reportArgumentType, reportCallIssue]
