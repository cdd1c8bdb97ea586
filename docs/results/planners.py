"""Every planner that fits a trained run: returns, and the time of a decision on one core.

    loopwm train CartPole-v1 --steps 2500 --seed 0 --out runs/planners/CartPole-v1
    loopwm train Pendulum-v1 --steps 1500 --seed 0 --out runs/planners/Pendulum-v1
    python docs/results/planners.py runs/planners/CartPole-v1 runs/planners/Pendulum-v1

Settings are the run's own, as for `loopwm evaluate RUN --planner NAME`. Each planner has a process
of its own, pinned to one core. Returns are over 10 episodes; a decision is one call of `act` on one
observation, median and 90th percentile of 300 after 20 that do not count. Prints Markdown.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

from foundation import environment, on_core

WARM, TIMED = 20, 300


def fitting(run: pathlib.Path) -> list[str]:
    """Planners that can plan the run's actions, and the policy alone."""
    from loopwm.envs import Spaces
    from loopwm.planning import PLANNERS
    from loopwm.training import RunFolder

    config = RunFolder.open(run).read_config()
    discrete = Spaces.of_source(config.env).action.layout.discrete
    builders = {name: getattr(config.planning, name) for name in PLANNERS}
    return [name for name, b in builders.items() if b.discrete in (discrete, None)] + ["policy"]


def once(run: pathlib.Path, planner: str, episodes: int, seed: int) -> dict:
    """Returns and milliseconds of one planner."""
    import loopwm
    from loopwm.run import evaluate_run

    found = evaluate_run(run, planner=planner, episodes=episodes, seed=seed)
    agent, single = loopwm.load(run, planner=planner), loopwm.make_env(run)
    observation, _ = single.reset(seed=seed)
    state, times = None, []
    for _ in range(WARM + TIMED):
        began = time.perf_counter()
        action, state = agent.act(observation, state)
        times.append(1e3 * (time.perf_counter() - began))
        observation, _, terminated, truncated, _ = single.step(action)
        if terminated or truncated:
            observation, _ = single.reset()
    single.close()
    times = sorted(times[WARM:])
    median, late = statistics.median(times), times[int(0.9 * TIMED)]
    return {**found, "planner": planner, "median_ms": median, "p90_ms": late}


def table(runs: list[pathlib.Path], arguments: argparse.Namespace) -> None:
    """One row a run and planner."""
    print("| env | env steps | planner | return | worst episode | median ms | p90 ms |")
    print("|---|---|---|---|---|---|---|")
    for run in runs:
        for planner in arguments.planners or fitting(run):
            words = [sys.executable, __file__, str(run), "--once", planner]
            words += ["--episodes", str(arguments.episodes), "--seed", str(arguments.seed)]
            done = subprocess.run(
                on_core(arguments.core, words), env=environment(), check=True, capture_output=True
            )
            row = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {row['env']} | {row['env_steps']} | {planner} | {row['return_mean']:.1f} ± "
                f"{row['return_std']:.1f} | {min(row['returns']):.1f} | {row['median_ms']:.2f} | "
                f"{row['p90_ms']:.2f} |",
                flush=True,
            )


def main() -> None:
    """The table, or one entry of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--planners", nargs="+", help="only these")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1_000_000)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--once", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.once:
        print(json.dumps(once(words.runs[0], words.once, words.episodes, words.seed)))
    else:
        table(words.runs, words)


if __name__ == "__main__":
    main()
