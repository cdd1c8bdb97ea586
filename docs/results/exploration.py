"""Exploring through the model, compared with random actions that are held.

    python docs/results/exploration.py [ENV ...] [--seed 0 1 2 3 4] [--weight 1.0]
    python docs/results/exploration.py --table

Env steps to the threshold on tasks whose reward says nothing until the goal is found. Each setting
changes two things: how random actions search before learning, and what is added to imagined rewards
in the decisions of training (`planning.bonus`; never in evaluation). `held` is the default: random
actions held 4 to 32 steps until a task has ended, now and then one while learning, no bonus.
`plain` draws a new random action every step for 250 steps, then none, and has no bonus; the others
add a bonus to `plain`, and `held+` ones to `held`.
Every run has a core of its own; finished ones are kept in runs/exploration and not repeated.
"""

import argparse
import math
import pathlib
import statistics

from foundation import Case, in_pairs, ours, read

ROOT = pathlib.Path("runs/exploration")


CASES = {
    "MountainCar-v0": Case(-110, 15_000),
    "MountainCarContinuous-v0": Case(90, 5_000),
}
EVERY = {"MountainCar-v0": 250, "MountainCarContinuous-v0": 500}
"""Env steps between evaluations: an episode without the goal has 200 and 999 steps."""
PLAIN = ("collection.random_hold=1,1", "collection.search_steps=250", "collection.epsilon=0")
BONUSES = ("residual", "certified", "disagreement")
SETTINGS: dict[str, tuple[str, ...]] = {
    "held": (),
    "plain": PLAIN,
    **{bonus: (*PLAIN, f"planning.bonus={bonus}") for bonus in BONUSES},
    **{f"held+{bonus}": (f"planning.bonus={bonus}",) for bonus in BONUSES},
}


def folder(env: str, name: str, weight: float, seed: int) -> pathlib.Path:
    """Where a run is kept; the weight is part of its name where there is a bonus."""
    weighted = f"-{weight:g}" if any("bonus" in word for word in SETTINGS[name]) else ""
    return ROOT / f"{env}-{name}{weighted}-{seed}"


def train(env: str, name: str, weight: float, seed: int, core: int) -> None:
    """One run by the command line."""
    case = CASES[env]
    settings = [f"evaluation.threshold={case.threshold}", "evaluation.stop_when_solved=true"]
    settings += [f"evaluation.every={EVERY[env]}", f"planning.bonus_weight={weight}"]
    settings += SETTINGS[name]
    ours(env, seed, core, folder(env, name, weight, seed), case.steps, *settings)


def solved_at(env: str, name: str, weight: float, seed: int) -> float | None:
    """Env steps to the threshold, infinite for a run that gave up, None where there is no run."""
    run = folder(env, name, weight, seed)
    if not (run / "finished").exists():
        return None
    return read(run)[0]["solved_at"] or math.inf


def table(envs: list[str], weight: float, seeds: list[int]) -> None:
    """Every run that there is, and medians; a dash for a run that gave up."""
    print("| env (threshold) | exploring | env steps | median |")
    print("|---|---|---|---|")
    for env in envs:
        for name in SETTINGS:
            found = [solved_at(env, name, weight, seed) for seed in seeds]
            steps = [value for value in found if value is not None]
            if steps:
                cells = [f"{x:,.0f}" if x < math.inf else "–" for x in steps]
                middle = statistics.median(steps)
                last = f"{middle:,.0f}" if middle < math.inf else "–"
                threshold = f"{env} ({CASES[env].threshold:g})"
                print(f"| {threshold} | {name} | {', '.join(cells)} | {last} |")


def main() -> None:
    """Runs what is not there yet, then prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("envs", nargs="*", default=[])
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--weight", type=float, default=1.0)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--table", action="store_true", help="print what there is, run nothing")
    words = parser.parse_args()
    envs = words.envs or list(CASES)
    if not words.table:
        jobs = [(e, n, words.weight, s) for e in envs for n in words.settings for s in words.seed]
        in_pairs(jobs, lambda job, core: train(*job, core))
    table(envs, words.weight, words.seed)


if __name__ == "__main__":
    main()
