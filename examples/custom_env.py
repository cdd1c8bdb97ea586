"""An environment of your own: a ship that has to come to rest at its berth, in a current.

python examples/custom_env.py [FOLDER] [--steps N] [--config NAME]

docs/custom_environments.md goes through it line by line.
"""

import argparse
import json
import pathlib

import gymnasium as gym
import numpy as np

import loopwm


class Docking(gym.Env):
    """A ship on a line: thrust moves it, water brakes it, a current pushes it to one side."""

    metadata = {"render_modes": ["ansi"], "render_fps": 5}

    def __init__(self, render_mode: str | None = None):
        """Names the spaces: what is seen, and what can be done."""
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Dict(
            {
                "ship": gym.spaces.Box(-20.0, 20.0, (2,), np.float32),  # position, speed
                "current": gym.spaces.Discrete(3),  # to the left, none, to the right
            }
        )
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)  # thrust

    def reset(self, *, seed=None, options=None):
        """Puts the ship somewhere, at rest, and draws a current."""
        super().reset(seed=seed)
        self.ship = np.array([self.np_random.uniform(-5.0, 5.0), 0.0])
        self.current = int(self.np_random.integers(3))
        return self._observation(), {}

    def step(self, action):
        """Moves on by a fifth of a second; running ashore ends the episode."""
        position, speed = self.ship
        thrust = float(np.clip(action[0], -1.0, 1.0))
        push = 0.5 * (self.current - 1)
        speed += 0.2 * (3.0 * thrust + push - 0.3 * speed)
        position += 0.2 * speed
        self.ship = np.array([position, speed])
        reward = -0.1 * (abs(position) + 0.5 * abs(speed))
        ashore = abs(position) > 10.0
        return self._observation(), reward - 20.0 * ashore, bool(ashore), False, {}

    def render(self):
        """A line with the ship on it."""
        if self.render_mode != "ansi":
            return None
        place = int(np.clip(self.ship[0], -10, 10)) + 10
        return "".join("S" if i == place else "|" if i == 10 else "~" for i in range(21))

    def _observation(self):
        return {"ship": self.ship.astype(np.float32), "current": np.int64(self.current)}


gym.register("Docking-v0", entry_point=f"{__name__}:Docking", max_episode_steps=100)

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="runs/custom-env")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--config", default="classic_control")
    arguments = parser.parse_args()

    for finding in loopwm.check_env("Docking-v0").findings:
        print(f"{finding.level}: {finding.message}")
    agent = loopwm.train(
        "Docking-v0",
        seed=0,
        steps=arguments.steps,
        config=arguments.config,
        out=arguments.folder,
    )
    lines = pathlib.Path(arguments.folder, "evals.jsonl").read_text().splitlines()
    for record in map(json.loads, lines):
        print(f"{record['env_steps']:>6} env steps: mean return {record['return_mean']:.1f}")

    env = gym.make("Docking-v0", render_mode="ansi")
    observation, _ = env.reset(seed=1)
    state, done = None, False
    while not done:
        action, state = agent.act(observation, state)
        observation, _, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        print(env.render())
    env.close()
