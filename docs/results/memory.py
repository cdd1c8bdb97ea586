"""Memory of long runs, for docs/results/agents.md.

    python docs/results/memory.py [ENV ...] [--steps 200000] [--capacity 20000]

Trains with the `debug` preset, eight environments and few updates, so that hundreds of thousands of
env steps take minutes, and reads the process's resident memory twice a second. Every evaluation (a
twentieth of the run) ends a stretch, of which the median is taken: an evaluation and a checkpoint
hold more for a moment. The replay is full after `capacity` env steps; what the memory does from
then on is what is asked. `memory:Frames-v0` has images of 32 × 32 × 3 bytes. Prints a Markdown row
an environment: medians of the first, the middle and the last stretch with a full replay, the
smallest and largest of them, and the largest reading.
"""

import argparse
import json
import math
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
from foundation import environment

ROOT = pathlib.Path("runs/memory")
ENVS = ("CartPole-v1", "Pendulum-v1", "loopwm/SlidingIce-v0", "memory:Frames-v0")


class Frames(gym.Env):
    """A bright square on a dark image, moved left and right; paid for being in the middle."""

    observation_space = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        """Somewhere at random."""
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(0, 28))
        return self._seen(), {}

    def step(self, action):
        """One pixel to a side."""
        self.place = int(np.clip(self.place + 2 * int(action) - 1, 0, 28))
        return self._seen(), float(abs(self.place - 14) < 4), False, False, {}

    def _seen(self) -> np.ndarray:
        image = np.zeros((32, 32, 3), np.uint8)
        image[14:18, self.place : self.place + 4] = 255
        return image


gym.register("Frames-v0", entry_point=Frames, max_episode_steps=50)


def resident(process: int) -> float:
    """Resident memory of a process in MB."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found.group(1)) / 1e3 if found else float("nan")


def measured(env: str, steps: int, capacity: int) -> list[tuple[int, list[float]]]:
    """Env steps at every evaluation, and the readings in MB of the stretch that it ended."""
    out = ROOT / env.replace("/", "-").replace(":", "-")
    shutil.rmtree(out, ignore_errors=True)
    settings = {
        "collection.envs": 8,
        "collection.replay_capacity": capacity,
        "collection.updates_per_step": 0.02,
        "evaluation.every": steps // 20,
        "evaluation.episodes": 1,
        # Early: what the first one costs, once, is no growth.
        "checkpoint_every": steps // 20,
    }
    words = [sys.executable, "-m", "loopwm.cli.main", "train", env, "--config", "debug"]
    words += ["--steps", str(steps), "--out", str(out), "--set"]
    words += [f"{key}={value}" for key, value in settings.items()]
    path = {"PYTHONPATH": os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path])}
    found: list[tuple[int, list[float]]] = []
    readings: list[float] = []
    with subprocess.Popen(words, env=environment() | path, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(0.5)
            evals = out / "evals.jsonl"
            lines = evals.read_text().splitlines() if evals.exists() else []
            if not math.isnan(reading := resident(process.pid)):
                readings.append(reading)
            if len(lines) > len(found):
                found.append((json.loads(lines[-1])["env_steps"], readings))
                readings = []
    if process.returncode:
        raise SystemExit(f"The run of {env} failed; its folder is {out}.")
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("envs", nargs="*", default=ENVS)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--capacity", type=int, default=20_000)
    words = parser.parse_args()
    print("| env | MB from env step on, replay full | half way | end | medians | largest reading |")
    print("|---|---|---|---|---|---|")
    for env in words.envs:
        found = measured(env, words.steps, words.capacity)
        begun = next(number for number, (step, _) in enumerate(found) if step >= words.capacity)
        full = [readings for _, readings in found[begun + 1 :]]
        medians = [statistics.median(readings) for readings in full]
        first, middle, last = medians[0], medians[len(medians) // 2], medians[-1]
        print(
            f"| {env} | {first:.0f} from {found[begun][0]:,} | {middle:.0f} | {last:.0f} "
            f"| {min(medians):.0f} to {max(medians):.0f} | {max(map(max, full)):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
