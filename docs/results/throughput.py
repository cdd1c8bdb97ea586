"""Env steps a second of training with 1, 4 and 16 environments, sync and async.

    python docs/results/throughput.py [ENV ...] [--updates 1 0.125] [--repeats 3]

A run of the default preset is timed between its first and its last evaluation (evaluations do not
count), with so many updates an env step; the median of the repeats, which have seeds of their own.
Both cores are free to be used.
"""

import argparse
import itertools
import pathlib
import shutil
import statistics
import subprocess
import sys

from foundation import environment, read

from loopwm.envs import VectorKind

ROOT = pathlib.Path("runs/throughput")
ENVS = (1, 4, 16)
STEPS = 2_000


def rate(env: str, envs: int, kind: VectorKind, updates: float, seed: int) -> float:
    """Env steps a second of one run in a process of its own."""
    out = ROOT / f"{env}-{envs}-{kind.value}-{updates:g}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    settings = {
        "collection.envs": envs,
        "collection.vector": kind.value,
        "collection.updates_per_step": updates,
        "evaluation.every": STEPS // 2,
        "evaluation.episodes": 1,
        "evaluation.max_episode_steps": 10,
    }
    words = [sys.executable, "-m", "loopwm.cli.main", "train", env, "--seed", str(seed)]
    words += ["--steps", str(STEPS), "--out", str(out), "--set"]
    words += [f"{key}={value}" for key, value in settings.items()]
    subprocess.run(words, env=environment(), check=True, stderr=subprocess.DEVNULL)
    _, (first, *_, last) = read(out)
    made = last["env_steps"] - first["env_steps"]
    return made / (last["wall_seconds"] - first["wall_seconds"])


def main() -> None:
    """Prints a row an environment, number of updates and kind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("envs", nargs="*", default=["CartPole-v1", "Hopper-v5"])
    parser.add_argument("--updates", type=float, nargs="+", default=[1.0, 0.125])
    parser.add_argument("--repeats", type=int, default=3)
    words = parser.parse_args()
    print("| env | updates a step | environments run | " + " | ".join(map(str, ENVS)) + " |")
    print("|---|---|---|" + "---|" * len(ENVS))
    for env, updates, kind in itertools.product(words.envs, words.updates, VectorKind):
        columns = [
            statistics.median(rate(env, n, kind, updates, seed) for seed in range(words.repeats))
            for n in ENVS
        ]
        shown = " | ".join(f"{value:.0f}" for value in columns)
        print(f"| {env} | {updates:g} | {kind.value} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
