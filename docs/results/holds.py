"""How long random actions take to end a task first, by how long each of them is held.

    python docs/results/holds.py [--seeds 20]

Env steps until the first termination, no more than 10,000, for actions held m to n steps
(log-uniform, as `collection.random_hold` and `search_hold` say): median and 90 % quantile over
seeds, and on how many seeds it did not happen.
"""

import argparse

import gymnasium as gym
import numpy as np

ENVS = ("Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0")
HOLDS = ((1, 1), (1, 4), (1, 16), (1, 32), (1, 64), (4, 24), (4, 32), (4, 48), (8, 8), (16, 16))
LIMIT = 10_000


def first_end(name: str, hold: tuple[int, int], seed: int) -> int:
    """Env steps until the task ends first."""
    env, rng, (shortest, longest) = gym.make(name), np.random.default_rng(seed), hold
    env.action_space.seed(seed)
    env.reset(seed=seed)
    left, action = 0, env.action_space.sample()
    for step in range(1, LIMIT):
        if left == 0:
            action = env.action_space.sample()
            ratio = (longest + 1) / shortest
            left = int(min(longest, shortest * ratio ** rng.random()))
        left -= 1
        _, _, terminated, truncated, _ = env.step(action)
        if terminated:
            return step
        if truncated:
            env.reset()
            left = 0
    return LIMIT


def main() -> None:
    """Prints a row a hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    seeds = range(parser.parse_args().seeds)
    print("| held, env steps | " + " | ".join(ENVS) + " |")
    print("|---|" + "---|" * len(ENVS))
    for hold in HOLDS:
        cells = []
        for name in ENVS:
            found = [first_end(name, hold, seed) for seed in seeds]
            never = sum(steps == LIMIT for steps in found)
            most = np.quantile(found, 0.9)
            cells.append(
                f"{np.median(found):,.0f}, {most:,.0f}" + (f", {never} never" * (never > 0))
            )
        print(f"| {hold[0]} to {hold[1]} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
