"""Trains an agent on CartPole-v1 for a short while.

python examples/train_cartpole.py [FOLDER] [--steps N] [--config NAME]
"""

import argparse
import json
import pathlib

import loopwm

parser = argparse.ArgumentParser()
parser.add_argument("folder", nargs="?", default="runs/train-cartpole")
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--config", default="classic_control")
arguments = parser.parse_args()

agent = loopwm.train(
    "CartPole-v1",
    seed=0,
    steps=arguments.steps,
    config=arguments.config,
    out=arguments.folder,
)

# The folder holds everything about the run; evals.jsonl has one line for each evaluation.
lines = pathlib.Path(arguments.folder, "evals.jsonl").read_text().splitlines()
for record in map(json.loads, lines):
    print(f"{record['env_steps']:>6} env steps: mean return {record['return_mean']:.1f}")

certificate = loopwm.certify(agent.world_model.core)
print(f"The inner loop contracts at {certificate.rate:.3f} ({certificate.level})")
print(f"Watch it act: python examples/load_and_act.py {arguments.folder}")
