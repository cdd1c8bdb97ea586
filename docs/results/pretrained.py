"""Trains the agents that come with the package, and evaluates them on 100 other episodes.

    python docs/results/pretrained.py [NAME ...]    # trains with seed 0, writes and evaluates
    python docs/results/pretrained.py --table       # evaluates the files that are there

A run stops at the first evaluation that reaches the environment's threshold.
"""

import argparse
import pathlib

import loopwm
from loopwm.pretrained import NAMES, agent_file
from loopwm.run import evaluate_run

RUNS = pathlib.Path("runs/pretrained")
EPISODES = 100


def make(name: str) -> None:
    """Trains an agent and takes the place of the file that is there."""
    run, file = RUNS / name, agent_file(name)
    loopwm.train(
        NAMES[name],
        seed=0,
        steps=5_000,
        out=run,
        overrides={"evaluation": {"stop_when_solved": True}},
    )
    file.unlink(missing_ok=True)
    loopwm.export(run, file)


def row(name: str) -> str:
    """A line of the table."""
    found = evaluate_run(f"pretrained:{name}", episodes=EPISODES)
    returns = sorted(found["returns"])
    return (
        f"| pretrained:{name} | {found['env']} | {found['env_steps']:,} "
        f"| {agent_file(name).stat().st_size / 1e3:.0f} kB | {found['return_mean']:.1f} ± "
        f"{found['return_std']:.1f} | {returns[0]:.1f} to {returns[-1]:.1f} |"
    )


def main() -> None:
    """Trains unless only the table is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--table", action="store_true")
    words = parser.parse_args()
    names = words.names or list(NAMES)
    for name in [] if words.table else names:
        make(name)
    print(f"| agent | env | env steps | file | return, {EPISODES} episodes | range |")
    print("|---|---|---|---|---|---|")
    for name in names:
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
