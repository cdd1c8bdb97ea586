"""Agents beside Stable-Baselines3, for docs/results/agents.md. Needs `pip install -e ".[bench]"`.

    python docs/results/agents.py ours [ENV ...] [--seed 0 1 2 3 4]
    python docs/results/agents.py peers [ENV ...] [--seed 0 1 2 3 4]
    python docs/results/agents.py both [ENV ...]    # side by side, a core each, swapped by seed
    python docs/results/agents.py peers LunarLander-v3 --repeat 4
    python docs/results/agents.py table

With --repeat N peers take each action N times, as presets of ours may: their schedules, updates and
evaluations stay as they are in env steps. PEERS_PYTHON names the Python that has stable-baselines3,
where it is another one than ours.

Every run has a core of its own; finished ones are kept in runs/agents and not repeated. Peers have
the settings of RL Baselines3 Zoo, or SB3's defaults where the Zoo has none, and are evaluated like
ours: 10 episodes on an environment of their own, whose time does not count. Every run stops when an
evaluation reaches the threshold. Hopper-v5 has none here: its return at the end is what counts.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import math
import os
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

    threshold: float | None
    """Mean return that ends a run; None where the return at the end is what counts."""
    bar: int | None
    """Largest median of our env steps to the threshold; None where the peer's return is the bar."""
    steps: int
    """Env steps of our runs."""
    peer: str
    peer_steps: int
    """Env steps after which a peer gives up."""
    every: int
    """Env steps between a peer's evaluations."""
    our_every: int = 250
    """Env steps between evaluations of ours."""
    preset: str | None = None
    """Of ours; the default one when None."""


CASES = {
    "CartPole-v1": Case(475, 1_200, 3_000, "PPO", 50_000, 1_000),
    "Pendulum-v1": Case(-200, 800, 2_000, "SAC", 20_000, 250),
    "Acrobot-v1": Case(-100, 5_000, 5_000, "DQN", 100_000, 1_000),
    "MountainCarContinuous-v0": Case(90, 4_000, 6_000, "SAC", 50_000, 500),
    "MountainCar-v0": Case(-110, 15_000, 15_000, "DQN", 120_000, 2_000),
    "InvertedPendulum-v5": Case(950, 2_000, 3_000, "SAC", 30_000, 500),
    "InvertedDoublePendulum-v5": Case(9_000, 4_000, 5_000, "SAC", 30_000, 500),
    "Reacher-v5": Case(-6, 4_000, 6_000, "SAC", 30_000, 500),
    "LunarLander-v3": Case(200, 17_500, 25_000, "DQN", 100_000, 1_000, 1_000, "box2d"),
    "Hopper-v5": Case(None, None, 50_000, "SAC", 50_000, 5_000, 5_000),
}


STOP = "evaluation.stop_when_solved=true"


def _off_policy(**changed) -> dict:
    """What the Zoo's DQN has on Acrobot and LunarLander, with changes."""
    return {
        "learning_rate": 6.3e-4,
        "batch_size": 128,
        "buffer_size": 50_000,
        "learning_starts": 0,
        "gamma": 0.99,
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
    "LunarLander-v3": _off_policy(),
    "Hopper-v5": {"learning_starts": 10_000},
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
ZOO_STEPS = {
    "CartPole-v1": 100_000,
    "Acrobot-v1": 100_000,
    "LunarLander-v3": 100_000,
    "MountainCar-v0": 120_000,
}
ZOO_ENVS = {"CartPole-v1": 8}


def repeated(settings: dict, repeat: int) -> dict:
    """The Zoo's DQN, whose settings in steps count decisions: as many env steps as before."""
    if repeat == 1:
        return settings
    per_step = settings["train_freq"] if settings["gradient_steps"] == -1 else 0
    if per_step == 0 or settings["train_freq"] % repeat:
        raise SystemExit("--repeat needs a peer with an update an env step, every N of them.")
    return {
        **settings,
        "train_freq": settings["train_freq"] // repeat,
        "gradient_steps": per_step,
        "target_update_interval": settings["target_update_interval"] // repeat,
    }


def peer_once(env: str, seed: int, out: pathlib.Path, repeat: int = 1) -> None:
    """Trains a peer until the threshold and writes env steps, seconds and parameters."""
    import gymnasium as gym
    import stable_baselines3
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    class Repeat(gym.Wrapper):
        """`loopwm.envs.ActionRepeat`; a peer's Python need not have loopwm."""

        def step(self, action):
            total = 0.0
            for _ in range(repeat):
                observation, reward, terminated, truncated, info = self.env.step(action)
                total += float(reward)
                if terminated or truncated:
                    break
            return observation, total, terminated, truncated, info

    torch.set_num_threads(1)
    case, wrapper = CASES[env], None if repeat == 1 else Repeat
    train, trial = (
        make_vec_env(env, ZOO_ENVS.get(env, 1), seed, wrapper_class=wrapper),
        make_vec_env(env, 1, 10_000 + seed, wrapper_class=wrapper),
    )
    found = {"solved_at": None, "seconds": math.inf, "evaluations": []}

    class Watch(BaseCallback):
        """Evaluates now and then, the clock standing still."""

        def __init__(self):
            super().__init__()
            self.spent, self.began, self.due = 0.0, time.perf_counter(), case.every

        def _on_step(self) -> bool:
            made = repeat * self.num_timesteps
            if made < self.due:
                return True
            self.due += case.every
            self.spent += time.perf_counter() - self.began
            mean, _ = evaluate_policy(self.model, trial, n_eval_episodes=10)
            found["evaluations"].append([made, float(mean)])
            if case.threshold is not None and mean >= case.threshold:
                found.update(solved_at=made, seconds=self.spent)
                return False
            self.began = time.perf_counter()
            return made < case.peer_steps

    kind = getattr(stable_baselines3, case.peer)
    settings = repeated(ZOO.get(env, {}), repeat)
    model = kind("MlpPolicy", train, seed=seed, **settings)
    found["parameters"] = sum(p.numel() for p in model.policy.parameters())
    model.learn(ZOO_STEPS.get(env, case.peer_steps) // repeat, callback=Watch())
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found))


def peer_file(env: str, seed: int, repeat: int = 1) -> pathlib.Path:
    """What is found of a peer."""
    name = env if repeat == 1 else f"{env}x{repeat}"
    return ROOT / "peers" / f"{name}-{seed}.json"


def run_peer(env: str, seed: int, core: int, repeat: int = 1) -> None:
    """A peer in a process of its own."""
    if not peer_file(env, seed, repeat).exists():
        # tensorboardX imports torch where it is installed, which a bare machine does not have: to
        # time ours, peers may live in an environment of their own.
        python = os.environ.get("PEERS_PYTHON", sys.executable)
        words = [python, __file__, "peer-once", env, "--seed", str(seed), "--repeat", str(repeat)]
        subprocess.run(on_core(core, words), env=environment(), check=True)


def run_ours(env: str, seed: int, core: int) -> None:
    """Our agent by the command line."""
    out, case = ROOT / "ours" / f"{env}-{seed}", CASES[env]
    until = [] if case.threshold is None else [f"evaluation.threshold={case.threshold}", STOP]
    every = f"evaluation.every={case.our_every}"
    ours(env, seed, core, out, case.steps, every, *until, preset=case.preset)


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


def finished(env: str) -> tuple[list[list[dict]], list[dict]]:
    """Evaluations of our finished runs, and what was found of the peer's."""
    runs = [r for r in sorted((ROOT / "ours").glob(f"{env}-?")) if (r / "finished").exists()]
    peers = sorted((ROOT / "peers").glob(f"{env}-?.json"))
    return [read(run)[1] for run in runs], [json.loads(peer.read_text()) for peer in peers]


def table() -> None:
    """Medians and every run: env steps to the threshold, then returns where there is none."""
    names = ["env (threshold)", "bar", "ours: env steps", "median", "seconds"]
    print("| " + " | ".join([*names, "peer", "env steps", "seconds"]) + " |")
    print("|---|---|---|---|---|---|---|---|")
    for env, case in CASES.items():
        runs, peers = finished(env)
        if case.threshold is None or not (runs or peers):
            continue
        good = [next((e for e in r if e["return_mean"] >= case.threshold), None) for r in runs]
        steps = [e["env_steps"] if e else math.inf for e in good]
        seconds = [e["wall_seconds"] if e else math.inf for e in good]
        theirs = [p["solved_at"] or math.inf for p in peers], [p["seconds"] for p in peers]
        middle = shown(statistics.median(steps)) if steps else ""
        columns = [", ".join(map(shown, x)) for x in (steps, seconds, *theirs)]
        print(
            f"| {env} ({case.threshold:g}) | {case.bar:,} | {columns[0]} | {middle} | {columns[1]} "
            f"| {case.peer} | {columns[2]} | {columns[3]} |"
        )
    print("\n| env | env steps | ours: return | median | peer | return | median |")
    print("|---|---|---|---|---|---|---|")
    for env, case in CASES.items():
        if case.threshold is None and any(found := finished(env)):
            ends = [returns_at(case.steps, [_pairs(r) for r in found[0]])]
            ends += [returns_at(case.steps, [p["evaluations"] for p in found[1]])]
            cells = [f"{', '.join(map(shown, x))} | {middle_of(x)}" for x in ends]
            print(f"| {env} | {case.steps:,} | {cells[0]} | {case.peer} | {cells[1]} |")


def _pairs(evaluations: list[dict]) -> list[list[float]]:
    return [[e["env_steps"], e["return_mean"]] for e in evaluations]


def returns_at(steps: int, runs: list[list[list[float]]]) -> list[float | None]:
    """Each run's mean return at its first evaluation after so many env steps; None before."""
    return [next((mean for at, mean in run if at >= steps), None) for run in runs]


def middle_of(returns: list[float | None]) -> str:
    """Median of the runs that are finished."""
    there = [value for value in returns if value is not None]
    return shown(statistics.median(there)) if there else ""


def main() -> None:
    """Runs what is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["ours", "peers", "both", "table", "peer-once"])
    parser.add_argument("envs", nargs="*", default=[])
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--repeat", type=int, default=1)
    words = parser.parse_args()
    envs = words.envs or list(CASES)
    if words.what == "table":
        table()
    elif words.what == "peer-once":
        out = peer_file(envs[0], words.seed[0], words.repeat)
        peer_once(envs[0], words.seed[0], out, words.repeat)
    elif words.what == "both":
        both(envs, words.seed)
    else:
        jobs = [(env, seed) for env in envs for seed in words.seed]
        if words.what == "ours":
            in_pairs(jobs, lambda job, core: run_ours(*job, core))
        else:
            in_pairs(jobs, lambda job, core: run_peer(*job, core, words.repeat))


if __name__ == "__main__":
    main()
