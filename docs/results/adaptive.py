"""Adaptive halting against a fixed number of loops, for docs/results/depth.md.

    python docs/results/grids.py flood --core resting --balanced --gamma 0.985 --mean 30 \
        --largest 50 --steps 1500 --seed 0 1 2 3 4 --out cores
    python docs/results/adaptive.py cores --gamma 0.985 --seed 0 1 2 3 4

For cores that grids.py kept: mean loops, cross-entropy and exact grids of residual halting and of a
fixed depth, and processor time of batches of 100 grids, both taking turns. Residual halting gets
the largest tolerance that keeps the error of 500 training mazes within 1 %, found by halving.
"""

import argparse
import pathlib
import time

import equinox as eqx
import jax
import numpy as np
import optax
from grids import CORES, Grids, flood_task

from loopwm.core import AbstractDepthRule, FixedDepth, GridCore, ResidualHalting
from loopwm.nn import resolve

BATCH = 100


@eqx.filter_jit
def answers(core: GridCore, inputs: jax.Array, rule: AbstractDepthRule):
    """Logits and loops of one batch."""
    core = resolve(core)
    solution = jax.vmap(lambda x: core(x, rule))(inputs)
    return solution.value[..., 0], solution.stats.loops


def measured(core: GridCore, grids: Grids, rule: AbstractDepthRule) -> tuple[float, float, float]:
    """Mean loops, mean cross-entropy of a cell, share of grids with a wrong cell."""
    loops, cross, wrong = [], [], []
    for first in range(0, len(grids.inputs) // BATCH * BATCH, BATCH):
        part = slice(first, first + BATCH)
        logits, used = answers(core, grids.inputs[part], rule)
        loops.append(np.asarray(used).mean())
        cross.append(optax.sigmoid_binary_cross_entropy(logits, grids.answers[part]).mean())
        right = (np.asarray(logits) > 0) == np.asarray(grids.answers[part], bool)
        wrong.append(1.0 - right.reshape(BATCH, -1).all(axis=1).mean())
    return float(np.mean(loops)), float(np.mean(cross)), float(np.mean(wrong))


def tolerance_for(core: GridCore, grids: Grids, fixed: AbstractDepthRule) -> float:
    """The largest of 0.3, 0.15, … whose error here is at most 1 % over the fixed one."""
    some = Grids(grids.inputs[:500], grids.answers[:500])
    limit = 1.01 * measured(core, some, fixed)[1]
    tolerance = 0.3
    while tolerance > 1e-5:
        if measured(core, some, ResidualHalting(tolerance=tolerance, max_depth=200))[1] <= limit:
            break
        tolerance /= 2.0
    return tolerance


def seconds(
    core: GridCore, grids: Grids, rules: list[AbstractDepthRule], turns: int
) -> list[float]:
    """Median processor seconds of one batch under each rule, the rules taking turns."""
    spent = [[] for _ in rules]
    for turn in range(turns + 1):
        for rule, times in zip(rules, spent, strict=True):
            began = time.process_time()
            jax.block_until_ready(answers(core, grids.inputs[:BATCH], rule))
            if turn:
                times.append(time.process_time() - began)
    return [float(np.median(times)) for times in spent]


def main() -> None:
    """Prints one Markdown row a seed and size of maze."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cores", type=pathlib.Path, help="folder of grids.py --out")
    parser.add_argument("--core", default="resting", choices=sorted(CORES))
    parser.add_argument("--gamma", type=float, default=0.985)
    parser.add_argument("--depth", type=int, default=40, help="loops of the fixed depth")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--turns", type=int, default=7)
    words = parser.parse_args()
    names = ["seed", "mazes", "tolerance", "loops", "of fixed", "cross-entropy, fixed, adaptive"]
    names += [
        "relative error increase",
        "wrong mazes, fixed, adaptive",
        "time of a batch over fixed",
    ]
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names), flush=True)
    fixed = FixedDepth(words.depth)
    for seed in words.seed:
        task = flood_task(seed, 30, 50, balanced=True)
        config = CORES[words.core]("flood", words.gamma)
        core = GridCore(task.train.inputs.shape[-1], 1, config, key=jax.random.key(0))
        core = eqx.tree_deserialise_leaves(words.cores / f"flood-{words.core}-{seed}.eqx", core)
        tolerance = tolerance_for(core, task.train, fixed)
        rule = ResidualHalting(tolerance=tolerance, max_depth=200)
        for name, grids in task.tests.items():
            (_, plain, lost), (loops, cross, wrong) = (
                measured(core, grids, r) for r in (fixed, rule)
            )
            took = seconds(core, grids, [fixed, rule], words.turns)
            cells = [str(seed), name, f"{tolerance:.3g}", f"{loops:.1f}"]
            cells += [f"{loops / words.depth:.2f}", f"{plain:.2e}, {cross:.2e}"]
            cells += [f"{100 * (cross / plain - 1):+.1f} %", f"{lost:.3f}, {wrong:.3f}"]
            print("| " + " | ".join([*cells, f"{took[1] / took[0]:.2f}"]) + " |", flush=True)


if __name__ == "__main__":
    main()
