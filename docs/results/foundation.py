"""Measures the bars of docs/results/foundation.md. Needs `pip install -e ".[bench]"`.

    python docs/results/foundation.py runs      # ten training runs, two at a time, one core each
    python docs/results/foundation.py sac       # ours and SB3's SAC side by side, one core each
    python docs/results/foundation.py decision  # one decision, one core
    python docs/results/foundation.py startup   # process start to the end of the first update

Every command prints Markdown. Raw results stay in runs/foundation.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path("runs/foundation")
STEPS = {"CartPole-v1": 5000, "Pendulum-v1": 3000}
SEEDS = range(5)
ONE_CORE = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def environment() -> dict[str, str]:
    """The process environment with one thread for everything."""
    single = {"XLA_FLAGS": ONE_CORE, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**os.environ, **single}


@dataclasses.dataclass(frozen=True)
class Case:
    """An environment's part of a measurement."""

    threshold: float
    """Mean return that counts as solved."""
    steps: int
    """Env steps of a run."""


def on_core(core: int, words: list[str]) -> list[str]:
    """The command pinned to a core where `taskset` exists."""
    return (["taskset", "-c", str(core)] if shutil.which("taskset") else []) + words


def ours(
    env: str,
    seed: int,
    core: int,
    out: pathlib.Path,
    steps: int,
    *settings: str,
    preset: str | None = None,
) -> pathlib.Path:
    """Trains one run with the command line, pinned to a core."""
    if not (out / "finished").exists():
        shutil.rmtree(out, ignore_errors=True)
        words = [sys.executable, "-m", "loopwm.cli.main", "train", env, "--seed", str(seed)]
        words += ["--steps", str(steps), "--out", str(out)]
        words += [] if preset is None else ["--config", preset]
        words += [word for setting in settings for word in ("--set", setting)]
        subprocess.run(
            on_core(core, words), env=environment(), check=True, stderr=subprocess.DEVNULL
        )
        (out / "finished").touch()
    return out


def in_pairs(jobs, work) -> list:
    """Runs the jobs two at a time, each on a core of its own."""
    cores: queue.Queue[int] = queue.Queue()
    for core in range(2):
        cores.put(core)

    def one(job):
        core = cores.get()
        try:
            return work(job, core)
        finally:
            cores.put(core)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, jobs))


def read(run: pathlib.Path) -> tuple[dict, list[dict]]:
    """Summary and evaluations of a run."""
    lines = (run / "evals.jsonl").read_text().splitlines()
    return json.loads((run / "summary.json").read_text()), [json.loads(line) for line in lines]


def worst_ratio(run: pathlib.Path) -> tuple[float, float]:
    """Certified rate and the worst ratio that gradient ascent finds on the run's core."""
    import jax

    import loopwm
    from loopwm.core import LoopedCore
    from loopwm.stability import attack

    model = loopwm.load(run).world_model
    core, latent = model.core, model.latent
    assert isinstance(core, LoopedCore)
    action = core.prelude.linear.in_features - latent
    rate, worst = loopwm.certify(core).rate, 0.0
    for number in range(16):
        key_input, key_attack = jax.random.split(jax.random.key(number))
        z = 3.0 ** (number % 4 - 1) * jax.random.normal(key_input, (latent,))
        u = jax.random.uniform(key_attack, (action,), minval=-1.0, maxval=1.0)
        update = core.bind(core.prelude(z, u))
        found = attack(update, update.norm, core.config.width, key=key_attack)
        worst = max(worst, found.ratio)
    return rate, worst


def runs() -> None:
    """Ten training runs; solved_at, staying solved, certificates."""
    jobs = [(env, seed) for seed in SEEDS for env in STEPS]
    paths = in_pairs(
        jobs, lambda job, core: ours(*job, core, ROOT / f"{job[0]}-{job[1]}", STEPS[job[0]])
    )
    print("| env | seed | solved_at | last three evaluations | rate | worst ratio | seconds |")
    print("|---|---|---|---|---|---|---|")
    solved: dict[str, list[float]] = {env: [] for env in STEPS}
    stayed = dict.fromkeys(STEPS, 0)
    for (env, seed), path in sorted(zip(jobs, paths, strict=True)):
        summary, evals = read(path)
        last = statistics.fmean(record["return_mean"] for record in evals[-3:])
        rate, worst = worst_ratio(path)
        solved[env].append(summary["solved_at"] or float("inf"))
        stayed[env] += last >= summary["threshold"]
        print(
            f"| {env} | {seed} | {summary['solved_at']} | {last:.1f} | {rate:.4f} | {worst:.4f} "
            f"| {summary['wall_seconds']:.0f} |"
        )
    for env, values in solved.items():
        print(
            f"\n{env}: median solved_at {statistics.median(values):g}, worst {max(values):g}, "
            f"stayed solved {stayed[env]} of {len(values)}"
        )
    print(f"\nparams: {summary['params']}")


def sac_once(seed: int) -> None:
    """SB3's SAC until its evaluation reaches −200; prints env steps and seconds of training."""
    import gymnasium as gym
    import torch
    from stable_baselines3 import SAC
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    torch.set_num_threads(1)
    began = time.perf_counter()
    model = SAC("MlpPolicy", gym.make("Pendulum-v1"), learning_rate=1e-3, seed=seed)
    trial = Monitor(gym.make("Pendulum-v1"))
    trial.reset(seed=10_000 + seed)
    seconds = time.perf_counter() - began
    for _ in range(40):
        began = time.perf_counter()
        model.learn(250, reset_num_timesteps=False)
        seconds += time.perf_counter() - began
        mean, _ = evaluate_policy(model, trial, n_eval_episodes=10)
        if mean >= -200.0:
            print(json.dumps({"env_steps": model.num_timesteps, "seconds": seconds}))
            return
    print(json.dumps({"env_steps": None, "seconds": float("inf")}))


def sac() -> None:
    """Ours and SAC on Pendulum side by side, one core each, cores swapped between seeds."""
    print("| seed | SAC env steps | SAC seconds | our env steps | our seconds | ratio |")
    print("|---|---|---|---|---|---|")
    ratios = []
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
        cold = {**environment(), "JAX_ENABLE_COMPILATION_CACHE": "false"}
        for seed in SEEDS:
            words = [sys.executable, __file__, "sac-once", "--seed", str(seed)]
            peer = pool.submit(
                subprocess.run,
                on_core(seed % 2, words),
                env=environment(),
                check=True,
                capture_output=True,
                text=True,
            )
            out = pathlib.Path(folder) / str(seed)
            words = [sys.executable, "-m", "loopwm.cli.main", "train", "Pendulum-v1"]
            words += ["--seed", str(seed), "--out", str(out), "--steps", "1500"]
            subprocess.run(
                on_core(1 - seed % 2, words), env=cold, check=True, stderr=subprocess.DEVNULL
            )
            theirs = json.loads(peer.result().stdout.splitlines()[-1])
            summary, evals = read(out)
            reached = [r for r in evals if r["return_mean"] >= -200.0]
            seconds = reached[0]["wall_seconds"] if reached else float("inf")
            ratios.append(seconds / theirs["seconds"])
            print(
                f"| {seed} | {theirs['env_steps']} | {theirs['seconds']:.1f} | "
                f"{summary['solved_at']} | {seconds:.1f} | {ratios[-1]:.2f} |",
                flush=True,
            )
    print(f"\nmedian ratio {statistics.median(ratios):.2f} (nothing taken from a compile cache)")


def decision_once(env: str) -> None:
    """Times single decisions of a freshly built default agent; prints milliseconds."""
    import gymnasium as gym
    import jax

    from loopwm.agents import PlanningAgent
    from loopwm.envs import Spaces
    from loopwm.models import Normalizer
    from loopwm.nn import resolve
    from loopwm.run import resolve_config
    from loopwm.session import build_planner, build_run_networks

    config = resolve_config(env)
    single = gym.make(env)
    spaces = Spaces.of(single)
    agent = PlanningAgent(
        networks=resolve(build_run_networks(config, spaces)),
        normalizer=jax.tree.map(lambda x: x, Normalizer.create(spaces.observation.size)),
        planner=build_planner(config, spaces),
        discount=config.learner.discount,
        spaces=spaces,
    )
    observation, _ = single.reset(seed=0)
    state, times = None, []
    for _ in range(320):
        began = time.perf_counter()
        _, state = agent.act(observation, state)
        times.append(1e3 * (time.perf_counter() - began))
    times = sorted(times[20:])
    print(json.dumps({"median": statistics.median(times), "p90": times[int(0.9 * len(times))]}))


def decision() -> None:
    """One decision at the default planner, one core."""
    print("| env | median ms | 90th percentile ms |\n|---|---|---|")
    for env in STEPS:
        words = on_core(0, [sys.executable, __file__, "decision-once", "--env", env])
        done = subprocess.run(words, env=environment(), check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"| {env} | {found['median']:.2f} | {found['p90']:.2f} |")


FIRST_UPDATE = """
import sys, time
from loopwm import session
class Timed(session.Trainer):
    # Not in the modules of the learner, whose changed code would not be taken from the cache.
    def _update_once(self):
        metrics = super()._update_once()
        print(time.time(), flush=True)
        return metrics
session.Trainer = Timed
from loopwm.cli.main import main
sys.exit(main(["train", sys.argv[1], "--steps", "260", "--out", sys.argv[2]]))
"""


def startup() -> None:
    """Process start to the end of the first update, with an empty and a filled cache."""
    print("| env | cold s | warm s |\n|---|---|---|")
    for env in STEPS:
        with tempfile.TemporaryDirectory() as folder:
            variables = {**os.environ, "XDG_CACHE_HOME": folder}
            cold, *warm = [
                first_update(env, variables, pathlib.Path(folder) / str(i)) for i in range(4)
            ]
        shown = ", ".join(f"{value:.1f}" for value in warm)
        print(f"| {env} | {cold:.1f} | {statistics.median(warm):.1f} ({shown}) |")


def first_update(env: str, variables: dict[str, str], out: pathlib.Path) -> float:
    """Seconds from process start to the end of the first update."""
    began = time.time()
    words = [sys.executable, "-c", FIRST_UPDATE, env, str(out)]
    done = subprocess.run(
        words, env=variables, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return float(done.stdout.splitlines()[0]) - began


def main() -> None:
    """Runs the named measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    known = {f.__name__: f for f in (runs, sac, decision, startup)}
    parser.add_argument("what", choices=[*known, "sac-once", "decision-once"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--env", default="CartPole-v1")
    arguments = parser.parse_args()
    if arguments.what == "sac-once":
        sac_once(arguments.seed)
    elif arguments.what == "decision-once":
        decision_once(arguments.env)
    else:
        known[arguments.what]()


if __name__ == "__main__":
    main()
