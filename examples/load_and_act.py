"""Loads the agent of a run and lets it act in a plain Gymnasium loop.

python examples/load_and_act.py FOLDER [--episodes N] [--render]
"""

import argparse

import loopwm

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("--episodes", type=int, default=3)
parser.add_argument("--render", action="store_true", help="open a window")
arguments = parser.parse_args()

agent = loopwm.load(arguments.folder)
env = loopwm.make_env(arguments.folder, render_mode="human" if arguments.render else None)

for episode in range(arguments.episodes):
    observation, _ = env.reset(seed=episode)
    state, total, over = None, 0.0, False
    while not over:
        # The state carries the plan from one decision to the next; None begins an episode.
        action, state = agent.act(observation, state)
        observation, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        over = terminated or truncated
    print(f"episode {episode}: return {total:.1f}")
env.close()
