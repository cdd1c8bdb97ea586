"""Agents beside Stable-Baselines3, for docs/results/agents.md. Needs `pip install -e ".[bench]"`.

    python docs/results/agents.py ours [ENV ...] [--seed 0 1 2 3 4]
    python docs/results/agents.py peers [ENV ...] [--seed 0 1 2 3 4]
    python docs/results/agents.py both [ENV ...]    # side by side, a core each, swapped by seed
    python docs/results/agents.py table

Every run has a core of its own; finished ones are kept in runs/agents and not repeated. Peers have
the settings of RL Baselines3 Zoo, or SB3's defaults where the Zoo has none, and are evaluated like
ours: 10 episodes on an environment of their own, whose time does not count. Every run stops when an
evaluation reaches the threshold.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import math
import pathlib
import statistics
import subprocess
import sys
import time

from foundation import environment, in_pairs, on_core, ours, read

ROOT = pathlib.Path("runs/agents")


@dataclasses.dataclass(frozen=True)
class Case:
    """An environment, what counts as solved, and who runs for how long."""

    threshold: float
    bar: int
    """Largest median of our env steps to the threshold."""
    steps: int
    """Env steps of our runs."""
    peer: str
    peer_steps: int
    """Env steps after which a peer gives up."""
    every: int
    """Env steps between a peer's evaluations."""


CASES = {
    "CartPole-v1": Case(475, 1_200, 3_000, "PPO", 50_000, 1_000),
    "Pendulum-v1": Case(-200, 800, 2_000, "SAC", 20_000, 250),
    "Acrobot-v1": Case(-100, 5_000, 5_000, "DQN", 100_000, 1_000),
    "MountainCarContinuous-v0": Case(90, 4_000, 6_000, "SAC", 50_000, 500),
    "MountainCar-v0": Case(-110, 15_000, 15_000, "DQN", 120_000, 2_000),
    "InvertedPendulum-v5": Case(950, 2_000, 3_000, "SAC", 30_000, 500),
    "InvertedDoublePendulum-v5": Case(9_000, 4_000, 5_000, "SAC", 30_000, 500),
    "Reacher-v5": Case(-6, 4_000, 6_000, "SAC", 30_000, 500),
}


STOP = "evaluation.stop_when_solved=true"


def _off_policy(**changed) -> dict:
    """What the Zoo's DQN of Acrobot has, with changes."""
    return {
        "learning_rate": 6.3e-4,
        "batch_size": 128,
        "buffer_size": 50_000,
        "learning_starts": 0,
        "target_update_interval": 250,
        "train_freq": 4,
        "gradient_steps": -1,
        "exploration_fraction": 0.12,
        "exploration_final_eps": 0.1,
        "policy_kwargs": {"net_arch": [256, 256]},
        **changed,
    }


ZOO = {
    "CartPole-v1": {
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "ent_coef": 0.0,
        "learning_rate": lambda left: 1e-3 * left,
        "clip_range": lambda left: 0.2 * left,
    },
    "Pendulum-v1": {"learning_rate": 1e-3},
    "Acrobot-v1": _off_policy(),
    "MountainCar-v0": _off_policy(
        learning_rate=4e-3,
        buffer_size=10_000,
        learning_starts=1_000,
        gamma=0.98,
        target_update_interval=600,
        train_freq=16,
        gradient_steps=8,
        exploration_fraction=0.2,
        exploration_final_eps=0.07,
    ),
    "MountainCarContinuous-v0": {
        "buffer_size": 50_000,
        "batch_size": 512,
        "ent_coef": 0.1,
        "train_freq": 32,
        "gradient_steps": 32,
        "gamma": 0.9999,
        "tau": 0.01,
        "learning_starts": 0,
        "use_sde": True,
        "policy_kwargs": {"log_std_init": -3.67, "net_arch": [64, 64]},
    },
}
"""Settings of RL Baselines3 Zoo; a schedule's horizon is the Zoo's number of env steps."""
ZOO_STEPS = {"CartPole-v1": 100_000, "Acrobot-v1": 100_000, "MountainCar-v0": 120_000}
ZOO_ENVS = {"CartPole-v1": 8}


def peer_once(env: str, seed: int, out: pathlib.Path) -> None:
    """Trains a peer until the threshold and writes env steps, seconds and parameters."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)
    case = CASES[env]
    train, trial = (
        make_vec_env(env, ZOO_ENVS.get(env, 1), seed),
        make_vec_env(env, 1, 10_000 + seed),
    )
    found = {"solved_at": None, "seconds": math.inf, "evaluations": []}

    class Watch(BaseCallback):
        """Evaluates now and then, the clock standing still."""

        def __init__(self):
            super().__init__()
            self.spent, self.began, self.due = 0.0, time.perf_counter(), case.every

        def _on_step(self) -> bool:
            if self.num_timesteps < self.due:
                return True
            self.due += case.every
            self.spent += time.perf_counter() - self.began
            mean, _ = evaluate_policy(self.model, trial, n_eval_episodes=10)
            found["evaluations"].append([self.num_timesteps, float(mean)])
            if mean >= case.threshold:
                found.update(solved_at=self.num_timesteps, seconds=self.spent)
                return False
            self.began = time.perf_counter()
            return self.num_timesteps < case.peer_steps

    kind = getattr(stable_baselines3, case.peer)
    model = kind("MlpPolicy", train, seed=seed, **ZOO.get(env, {}))
    found["parameters"] = sum(p.numel() for p in model.policy.parameters())
    model.learn(ZOO_STEPS.get(env, case.peer_steps), callback=Watch())
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found))


def run_peer(env: str, seed: int, core: int) -> None:
    """A peer in a process of its own."""
    out = ROOT / "peers" / f"{env}-{seed}.json"
    if not out.exists():
        words = [sys.executable, __file__, "peer-once", env, "--seed", str(seed)]
        subprocess.run(on_core(core, words), env=environment(), check=True)


def run_ours(env: str, seed: int, core: int) -> None:
    """Our agent by the command line, its default preset."""
    out, case = ROOT / "ours" / f"{env}-{seed}", CASES[env]
    ours(env, seed, core, out, case.steps, f"evaluation.threshold={case.threshold}", STOP)


def both(envs: list[str], seeds: list[int]) -> None:
    """Ours and a peer at the same time."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for env in envs:
            for seed in seeds:
                core = seed % 2
                pair = [pool.submit(run_ours, env, seed, core)]
                pair += [pool.submit(run_peer, env, seed, 1 - core)]
                for job in pair:
                    job.result()


def shown(value: float | None) -> str:
    """A number of env steps or seconds, or a dash for what was not reached."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def table() -> None:
    """Medians and every run."""
    names = ["env (threshold)", "bar", "ours: env steps", "median", "seconds"]
    print("| " + " | ".join([*names, "peer", "env steps", "seconds"]) + " |")
    print("|---|---|---|---|---|---|---|---|")
    for env, case in CASES.items():
        steps, seconds, peer_steps, peer_seconds = [], [], [], []
        for run in sorted((ROOT / "ours").glob(f"{env}-?")):
            if not (run / "summary.json").exists():
                continue
            summary, evals = read(run)
            good = [e for e in evals if e["return_mean"] >= case.threshold]
            steps.append(good[0]["env_steps"] if good else math.inf)
            seconds.append(good[0]["wall_seconds"] if good else math.inf)
        for run in sorted((ROOT / "peers").glob(f"{env}-?.json")):
            found = json.loads(run.read_text())
            peer_steps.append(found["solved_at"] or math.inf)
            peer_seconds.append(found["seconds"])
        if not steps and not peer_steps:
            continue
        middle = shown(statistics.median(steps)) if steps else ""
        columns = [", ".join(map(shown, x)) for x in (steps, seconds, peer_steps, peer_seconds)]
        print(
            f"| {env} ({case.threshold:g}) | {case.bar:,} | {columns[0]} | {middle} | {columns[1]} "
            f"| {case.peer} | {columns[2]} | {columns[3]} |"
        )


def main() -> None:
    """Runs what is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["ours", "peers", "both", "table", "peer-once"])
    parser.add_argument("envs", nargs="*", default=[])
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    words = parser.parse_args()
    envs = words.envs or list(CASES)
    if words.what == "table":
        table()
    elif words.what == "peer-once":
        peer_once(envs[0], words.seed[0], ROOT / "peers" / f"{envs[0]}-{words.seed[0]}.json")
    elif words.what == "both":
        both(envs, words.seed)
    else:
        run = run_ours if words.what == "ours" else run_peer
        jobs = [(env, seed) for env in envs for seed in words.seed]
        in_pairs(jobs, lambda job, core: run(*job, core))


if __name__ == "__main__":
    main()
