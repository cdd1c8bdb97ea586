"""Unshared stacks beside the looped cores of grids.py, trained alike, for docs/results/depth.md.

    python docs/results/unshared.py flood --blocks 30 --balanced --gamma 0.985 --steps 1500 --seed 0
    python docs/results/unshared.py ice --blocks 16 --gamma 0.985 --steps 1500 --seed 0

A stack has the prelude, block and read-out of the core that `grids.py` trains on the task
(`--core resting` on flood fill, `passing` on ice), but every one of its blocks has weights of its
own, and so it has no more loops to give to a larger grid. Prints one Markdown row a seed.
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
from grid_tasks import Task, flood_task, ice_task
from grids import CORES, exact_share, train
from jaxtyping import Array, PRNGKeyArray

from loopwm.core import RESULTS, GridConfig, GridCore, LoopStats, Solution
from loopwm.core.cells import CellPrelude, CellReadout
from loopwm.nn import resolve

BLOCKS = {"flood": "resting", "ice": "passing"}
"""Whose block a stack is made of, by task; a key of `CORES`."""


class Stack(eqx.Module):
    """The looped core's parts with one block a depth."""

    prelude: CellPrelude
    weights: list[Array]
    """Free weights of the blocks, each with a leading axis of blocks. Not in a block, whose
    constraints are for weights without this axis."""
    readout: CellReadout
    config: GridConfig = eqx.field(static=True)

    def __init__(
        self, inputs: int, outputs: int, config: GridConfig, blocks: int, *, key: PRNGKeyArray
    ):
        """Builds prelude and read-out as the looped core of this key has them."""
        key_core, key_blocks = jax.random.split(key)
        core = GridCore(inputs, outputs, config, key=key_core)
        self.prelude, self.readout = core.prelude, core.readout
        keys = jax.random.split(key_blocks, blocks)
        blocks_of = eqx.filter_vmap(lambda k: eqx.filter(config.build_block(key=k), eqx.is_array))
        self.weights = jax.tree.leaves(blocks_of(keys))
        self.config = config

    def __call__(self, grid: Array, rule: object) -> Solution[Array]:
        """The answer at every cell of a grid (*cells, inputs); the rule has nothing to say."""
        e = self.prelude(grid)
        like = eqx.filter_eval_shape(self.config.build_block, key=jax.random.key(0))
        leaves, structure = jax.tree.flatten(like)
        free = [isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves]

        def bound(weights):
            arrays = iter(weights)
            filled = [next(arrays) if x else y for x, y in zip(free, leaves, strict=True)]
            return resolve(jax.tree.unflatten(structure, filled)).bind(e)

        @jax.checkpoint
        def through(h, weights):
            return bound(weights)(h), None

        start = bound([x[0] for x in self.weights]).start()
        h, _ = jax.lax.scan(through, start, self.weights)
        stats = LoopStats(
            jnp.asarray(len(self.weights[0])), jnp.asarray(jnp.nan), jnp.asarray(jnp.inf)
        )
        return Solution(value=self.readout(h, e), result=RESULTS.successful, stats=stats)


def report(stack: Stack, task: Task, blocks: int, seed: int, seconds: float) -> None:
    """Prints the Markdown row of one trained stack."""
    count = sum(x.size for x in jax.tree.leaves(eqx.filter(stack, eqx.is_inexact_array)))
    shares = [f"{exact_share(stack, grids, blocks):.3f}" for grids in task.tests.values()]
    cells = [str(blocks), str(seed), str(count), *shares, f"{seconds:.0f}"]
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Trains and reports one stack a depth and seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", choices=["flood", "ice"])
    parser.add_argument("--blocks", type=int, nargs="+", default=[30])
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3, help="largest step size of Adam")
    parser.add_argument("--gamma", type=float, default=0.97)
    parser.add_argument("--balanced", action="store_true", help="flood: mazes of every depth")
    words = parser.parse_args()
    for blocks in words.blocks:
        for seed in words.seed:
            if words.task == "flood":
                task = flood_task(seed, blocks, blocks, words.balanced)
            else:
                task = ice_task(seed, blocks, blocks)
            config = CORES[BLOCKS[words.task]](words.task, words.gamma)
            began = time.perf_counter()
            how = {"steps": words.steps, "batch": words.batch, "rate": words.rate}
            inputs = task.train.inputs.shape[-1]
            key = jax.random.split(jax.random.key(seed))[0]
            stack = Stack(inputs, 1, config, blocks, key=key)
            stack = train(stack, task, seed=seed, **how)
            if (blocks, seed) == (words.blocks[0], words.seed[0]):
                names = ["blocks", "seed", "parameters", *(f"{t}: exact" for t in task.tests)]
                names += ["seconds of training"]
                print("| " + " | ".join(names) + " |\n|" + "---|" * len(names), flush=True)
            report(stack, task, blocks, seed, time.perf_counter() - began)


if __name__ == "__main__":
    main()
