"""Ours beside networks of TD-MPC2's default size, for docs/results/evidence.md.

    python docs/results/tdmpc2.py rates
    python docs/results/tdmpc2.py run [ENV ...] [--seed 0 1 2 3 4] [--networks ours tdmpc2 ...]
    python docs/results/tdmpc2.py table

All train with the same losses, planner, data and updates an env step (presets `classic_control`
and `tdmpc2`), and stop when the mean return of ten episodes reaches the threshold, as in agents.md.
`one_pass` and `small_mlp` are controls of size: the block of ours applied once, and an MLP like
TD-MPC2's, with as many parameters as our world model; heads, critic and policy are those of ours.
`rates` trains the others' networks for 500 env steps with the learning rate of TD-MPC2's paper
(3e-4, Hansen et al. 2024) and with ours (1e-3), on a seed that no run has; the better one is theirs
in `run`. Every run has a core of its own; finished ones are kept in runs/tdmpc2. An update of the
large networks takes about 0.4 s.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable

from foundation import Case, in_pairs, ours, read

from loopwm import settings
from loopwm.envs import Spaces
from loopwm.models import LatentMLPConfig, LoopedConfig, SinglePassConfig, at_size, parameters_of
from loopwm.models.world_model import Sizes, WorldModelBuilder
from loopwm.session import model_sizes

ROOT = pathlib.Path("runs/tdmpc2")


# Thresholds of docs/results/agents.md; env steps after which a run gives up.
CASES = {
    "Pendulum-v1": Case(-200, 2_000),
    "CartPole-v1": Case(475, 3_000),
    "InvertedPendulum-v5": Case(950, 3_000),
    "InvertedDoublePendulum-v5": Case(9_000, 4_000),
}
RATES = ("3e-4", "1e-3")


@dataclasses.dataclass(frozen=True)
class Networks:
    """Whose networks are trained, and how."""

    words: str
    """As the table says it."""
    preset: str = "classic_control"
    rate: str = "1e-3"
    """Learning rate; of others than ours, the better one of `rates`."""
    model: tuple[str, Callable[[Sizes], WorldModelBuilder]] | None = None
    """Name and sizes of the world model; that of the preset when None."""

    def settings(self, env: str) -> tuple[str, ...]:
        """What they change in the preset, but for the learning rate."""
        if self.model is None:
            return ()
        name, build = self.model
        builder = build(model_sizes(Spaces.of_source(env)))
        return (f"model={json.dumps({'name': name, **settings.dump(builder)})}",)


def same_size(builder: WorldModelBuilder) -> Callable[[Sizes], WorldModelBuilder]:
    """The model as large as our default one."""
    return lambda sizes: at_size(builder, sizes, parameters_of(LoopedConfig(), sizes))


NETWORKS = {
    "ours": Networks("ours"),
    "tdmpc2": Networks("TD-MPC2's", preset="tdmpc2", rate="3e-4"),
    "one_pass": Networks("one pass", model=("single_pass", same_size(SinglePassConfig()))),
    "small_mlp": Networks("small MLP", model=("latent_mlp", same_size(LatentMLPConfig()))),
}


def train(name: str, env: str, seed: int, core: int, steps: int, rate: str, *more: str) -> list:
    """Evaluations of a run."""
    networks = NETWORKS[name]
    changes = (*networks.settings(env), f"learner.learning_rate={rate}", *more)
    out = ROOT / name / f"{env}-{seed}" / rate
    return read(ours(env, seed, core, out, steps, *changes, preset=networks.preset))[1]


def once(job: tuple[str, str, int], core: int) -> None:
    """One run, stopped at the threshold."""
    name, env, seed = job
    stop = ("evaluation.every=250", "evaluation.stop_when_solved=true")
    train(name, env, seed, core, CASES[env].steps, NETWORKS[name].rate, *stop)


def rates() -> None:
    """Return of the others' networks after 500 env steps of Pendulum-v1 at either rate."""
    jobs = [(name, rate) for name in NETWORKS if name != "ours" for rate in RATES]

    def work(job: tuple[str, str], core: int) -> float:
        name, rate = job
        evals = train(name, "Pendulum-v1", 100, core, 500, rate, "evaluation.every=500")
        return evals[-1]["return_mean"]

    for (name, rate), reached in zip(jobs, in_pairs(jobs, work), strict=True):
        print(f"{name} {rate}: {reached:.0f}")


def found(name: str, env: str) -> tuple[list[float], list[int | None], int]:
    """Last returns of the finished runs by seed, env steps to the threshold, and all parameters."""
    returns, steps, parameters = [], [], 0
    for run in sorted(ROOT.glob(f"{name}/{env}-?/{NETWORKS[name].rate}")):
        if (run / "finished").exists():
            summary, evaluations = read(run)
            returns.append(evaluations[-1]["return_mean"])
            steps.append(summary["solved_at"])
            parameters = summary["params"]["total"]
    return returns, steps, parameters


def table() -> None:
    """One row an environment and network that was run; parameters, and how many times ours."""
    print("| env (threshold) | networks | parameters | over ours | env steps | return there |")
    print("|---|---|---|---|---|---|")
    for env, case in CASES.items():
        runs = {name: found(name, env) for name in NETWORKS}
        small, label = runs["ours"][-1], f"{env} ({case.threshold:,})"
        for name, (returns, steps, parameters) in runs.items():
            if not returns:
                continue
            shown = [f"{x:,}" if x is not None else f"not within {case.steps:,}" for x in steps]
            over = f"{parameters / small:.2f}" if small else "–"
            print(
                f"| {label} | {NETWORKS[name].words} | {parameters:,} | {over} "
                f"| {', '.join(shown)} | {', '.join(f'{x:,.0f}' for x in returns)} |"
            )
            label = ""


def main() -> None:
    """Runs what is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["rates", "run", "table"])
    parser.add_argument("envs", nargs="*", default=[])
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    words = parser.parse_args()
    if words.what == "rates":
        return rates()
    if words.what == "table":
        return table()
    envs = words.envs or list(CASES)
    jobs = [(name, env, seed) for seed in words.seed for env in envs for name in words.networks]
    in_pairs(jobs, once)
    return None


if __name__ == "__main__":
    main()
