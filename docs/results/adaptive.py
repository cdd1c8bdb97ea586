"""Adaptive halting against a fixed number of loops, for docs/results/depth.md.

    python docs/results/grids.py flood --core resting --balanced --gamma 0.985 --mean 30 \
        --largest 50 --steps 1500 --seed 0 1 2 3 4 --out cores
    python docs/results/adaptive.py cores --gamma 0.985 --seed 0 1 2 3 4

For cores that grids.py kept: mean loops, wrong mazes and cross-entropy of residual halting and of a
fixed depth, and processor time of batches of 100 mazes, both taking turns. Both are chosen on 2,000
mazes of the same size that are neither trained nor tested on: the fixed depth is the smallest of
20, 30, 40 and 60 with the fewest wrong ones, the tolerance of residual halting the largest of 0.3,
0.21, 0.147 … with at most 1 % more wrong ones than that.
"""

import argparse
import pathlib
import time

import equinox as eqx
import jax
import numpy as np
import optax
from grid_tasks import Grids, flood_task, mazes
from grids import CORES

from loopwm.core import AbstractDepthRule, FixedDepth, GridCore, ResidualHalting
from loopwm.nn import resolve

BATCH = 100
DEPTHS = (20, 30, 40, 60)


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


def enough(core: GridCore, grids: Grids) -> FixedDepth:
    """The smallest depth with the fewest wrong mazes."""
    return min(map(FixedDepth, DEPTHS), key=lambda rule: measured(core, grids, rule)[2])


def tolerance_for(core: GridCore, grids: Grids, fixed: FixedDepth) -> float:
    """The largest of 0.3, 0.21, … whose error here is at most 1 % over the fixed one."""
    limit = 1.01 * measured(core, grids, fixed)[2]
    tolerance = 0.3
    while tolerance > 1e-5:
        if measured(core, grids, ResidualHalting(tolerance=tolerance, max_depth=200))[2] <= limit:
            break
        tolerance *= 0.7
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
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--turns", type=int, default=7)
    words = parser.parse_args()
    names = ["seed", "mazes", "tolerance", "loops, fixed, adaptive", "ratio"]
    names += ["wrong mazes, fixed, adaptive", "cross-entropy, fixed, adaptive", "time of a batch"]
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names), flush=True)
    for seed in words.seed:
        task = flood_task(seed, 30, 50, balanced=True)
        config = CORES[words.core]("flood", words.gamma)
        core = GridCore(task.train.inputs.shape[-1], 1, config, key=jax.random.key(0))
        core = eqx.tree_deserialise_leaves(words.cores / f"flood-{words.core}-{seed}.eqx", core)
        for name, grids in task.tests.items():
            chosen_on = mazes(2_000_000 + seed, 2000, grids.inputs.shape[1])
            fixed = enough(core, chosen_on)
            tolerance = tolerance_for(core, chosen_on, fixed)
            rule = ResidualHalting(tolerance=tolerance, max_depth=200)
            one, other = (measured(core, grids, r) for r in (fixed, rule))
            took = seconds(core, grids, [fixed, rule], words.turns)
            cells = [str(seed), name, f"{tolerance:.3g}", f"{one[0]:.0f}, {other[0]:.1f}"]
            cells += [f"{other[0] / one[0]:.2f}", f"{one[2]:.3f}, {other[2]:.3f}"]
            cells += [f"{one[1]:.1e}, {other[1]:.1e}"]
            print("| " + " | ".join([*cells, f"{took[1] / took[0]:.2f}"]) + " |", flush=True)


if __name__ == "__main__":
    main()
