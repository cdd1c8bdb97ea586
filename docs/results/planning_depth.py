"""Coarse-to-fine planning against planning at full depth, on trained agents.

    python docs/results/planning_depth.py runs/stability/CartPole-v1-contractive-0 ... \
        [--depth 4 8 16] [--plans every last last_terminal] [--episodes 10] [--repeats 60]

Prints a Markdown table. Times are CPU milliseconds of the process, an environment and a decision,
so that other people's load on the machine does not enter; the plans take turns, one decision each,
and the ratio is the median of the paired ratios. One core:
XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1".
"""

import argparse
import dataclasses
import pathlib
import time

import numpy as np

import loopwm
from loopwm.agents import PlanningAgent
from loopwm.core import FixedDepth
from loopwm.envs import Spaces, VectorStepper, make_vector
from loopwm.evaluation import run_episodes
from loopwm.planning import CoarseConfig, Rescoring, Scoring
from loopwm.training import RunFolder

PLANS: dict[str, CoarseConfig] = {
    "full": CoarseConfig(),
    "every": CoarseConfig(depth=1),
    "every_2": CoarseConfig(depth=2),
    "last": CoarseConfig(depth=1, rescoring=Rescoring.LAST),
    "last_2": CoarseConfig(depth=2, rescoring=Rescoring.LAST),
    "last_terminal": CoarseConfig(depth=1, rescoring=Rescoring.LAST, scoring=Scoring.TERMINAL),
}


def agents(
    run: pathlib.Path, depth: int, plans: list[str], elites: int | None
) -> dict[str, PlanningAgent]:
    """The agent of a run at a full depth, with each way to plan and the same number of elites."""
    base = loopwm.load(run)
    assert isinstance(base, PlanningAgent)
    rule = None if depth == base.world_model.depth else FixedDepth(depth)
    found = {}
    for name in plans:
        own = base.planner.config
        config = dataclasses.replace(own, coarse=PLANS[name], elites=elites or own.elites)
        planner = config.build(base.spaces.action.layout)
        found[name] = dataclasses.replace(base, planner=planner, rule=rule)
    return found


def timed(
    several: dict[str, PlanningAgent], observation: np.ndarray, repeats: int
) -> dict[str, np.ndarray]:
    """CPU milliseconds a decision and environment, the agents taking turns, shape (repeats,)."""
    batch = len(observation)
    states = {name: agent.initial_state(seed=0, batch=batch) for name, agent in several.items()}
    spent: dict[str, list[float]] = {name: [] for name in several}
    for _ in range(repeats + 3):  # the first three compile and warm up
        for name, agent in several.items():
            began = time.process_time()
            action, states[name] = agent.act(observation, states[name])
            np.asarray(action)
            spent[name].append(1e3 * (time.process_time() - began) / batch)
    return {name: np.asarray(values[3:]) for name, values in spent.items()}


def observations(source: str, batch: int) -> np.ndarray:
    """First observations of as many environments, as the agents of an evaluation see them."""
    stepper = VectorStepper(make_vector(source, batch), Spaces.of_source(source))
    stepper.reset(seed=0)
    first = stepper.raw
    stepper.close()
    return first


def report(run: pathlib.Path, depth: int, words: argparse.Namespace) -> None:
    """The rows of one agent at one full depth."""
    source = RunFolder.open(run).read_config().source()
    several = agents(run, depth, ["full", *words.plans], words.elites)
    times = timed(several, observations(source, words.episodes), words.repeats)
    for name, agent in several.items():
        result = run_episodes(
            agent,
            source,
            Spaces.of_source(source),
            episodes=words.episodes,
            seed=words.seed,
        )
        ratio = np.median(times[name] / times["full"])
        print(
            f"| {run.name} | {depth} | {name} | {np.mean(result.returns):.1f} ± "
            f"{np.std(result.returns):.1f} | {result.loops_mean:.2f} | "
            f"{np.median(times[name]):.2f} | {ratio:.2f} |",
            flush=True,
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=pathlib.Path, nargs="+")
    parser.add_argument("--depth", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument(
        "--plans",
        nargs="+",
        choices=sorted(set(PLANS) - {"full"}),
        default=["every", "last", "last_terminal"],
    )
    parser.add_argument("--elites", type=int, help="of every plan; the run's own unless given")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1_000_000)
    words = parser.parse_args()
    print(
        "| run | full depth | plan | return | loops | CPU ms a decision | of full |\n"
        "|---|---|---|---|---|---|---|",
        flush=True,
    )
    for run in words.runs:
        for depth in words.depth:
            report(run, depth, words)


if __name__ == "__main__":
    main()
