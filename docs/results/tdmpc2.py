"""Ours beside networks of TD-MPC2's default size, for docs/results/evidence.md.

    python docs/results/tdmpc2.py rates
    python docs/results/tdmpc2.py run [ENV ...] [--seed 0 1 2 3 4]
    python docs/results/tdmpc2.py table

Both train with the same losses, planner, data and updates an env step (presets `classic_control`
and `tdmpc2`), and stop when the mean return of ten episodes reaches the threshold, as in agents.md.
`rates` trains the networks of TD-MPC2 for 500 env steps with the learning rate of their paper
(3e-4, Hansen et al. 2024) and with ours (1e-3), on a seed that no run has; the better one is theirs
in `run`. Every run has a core of its own; finished ones are kept in runs/tdmpc2. An update of the
large networks takes about 0.4 s.
"""

import argparse
import pathlib

from foundation import Case, in_pairs, ours, read

ROOT = pathlib.Path("runs/tdmpc2")


# Thresholds of docs/results/agents.md; env steps after which a run gives up.
CASES = {
    "Pendulum-v1": Case(-200, 2_000),
    "CartPole-v1": Case(475, 3_000),
    "InvertedPendulum-v5": Case(950, 3_000),
    "InvertedDoublePendulum-v5": Case(9_000, 4_000),
}
PRESETS = {"classic_control": (), "tdmpc2": ("learner.learning_rate=3e-4",)}
RATES = ("3e-4", "1e-3")


def folder(preset: str, env: str, seed: int) -> pathlib.Path:
    """Where a run is kept."""
    return ROOT / preset / f"{env}-{seed}"


def once(preset: str, env: str, seed: int, core: int) -> None:
    """One run, stopped at the threshold."""
    settings = ("evaluation.every=250", "evaluation.stop_when_solved=true", *PRESETS[preset])
    out = folder(preset, env, seed)
    ours(env, seed, core, out, CASES[env].steps, *settings, preset=preset)


def rates() -> None:
    """Return of TD-MPC2's networks after 500 env steps of Pendulum-v1 at either learning rate."""

    def work(rate: str, core: int) -> float:
        settings = (f"learner.learning_rate={rate}", "evaluation.every=500")
        out = ROOT / "rates" / rate
        ours("Pendulum-v1", 100, core, out, 500, *settings, preset="tdmpc2")
        return read(out)[1][-1]["return_mean"]

    for rate, reached in zip(RATES, in_pairs(RATES, work), strict=True):
        print(f"{rate}: {reached:.0f}")


def found(preset: str, env: str) -> tuple[list[float], list[int | None], int]:
    """Last returns of the finished runs by seed, env steps to the threshold, and all parameters."""
    returns, steps, parameters = [], [], 0
    for run in sorted(ROOT.glob(f"{preset}/{env}-?")):
        if (run / "finished").exists():
            summary, evaluations = read(run)
            returns.append(evaluations[-1]["return_mean"])
            steps.append(summary["solved_at"])
            parameters = summary["params"]["total"]
    return returns, steps, parameters


def table() -> None:
    """One row an environment."""
    print("| env (threshold) | parameters, ratio | | env steps to the threshold | return there |")
    print("|---|---|---|---|---|")
    for env, case in CASES.items():
        runs = {preset: found(preset, env) for preset in PRESETS}
        (*_, small), (*_, large) = runs.values()
        if not small or not large:
            continue
        for name, (returns, steps, _) in zip(("ours", "TD-MPC2's"), runs.values(), strict=True):
            first = name == "ours"
            shown = [f"{x:,}" if x is not None else f"not within {case.steps:,}" for x in steps]
            print(
                f"| {f'{env} ({case.threshold:,})' if first else ''} "
                f"| {f'{small:,} to {large:,}, {large / small:.0f}' if first else ''} | {name} "
                f"| {', '.join(shown)} | {', '.join(f'{x:,.0f}' for x in returns)} |"
            )


def main() -> None:
    """Runs what is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["rates", "run", "table"])
    parser.add_argument("envs", nargs="*", default=[])
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    words = parser.parse_args()
    if words.what == "rates":
        return rates()
    if words.what == "table":
        return table()
    envs = words.envs or list(CASES)
    jobs = [(preset, env, seed) for seed in words.seed for env in envs for preset in PRESETS]
    in_pairs(jobs, lambda job, core: once(*job, core))
    return None


if __name__ == "__main__":
    main()
