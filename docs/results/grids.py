"""Trains looped cores on three grid tasks and measures exactness, for docs/results/stability.md.

    python docs/results/grids.py flood --core infinity --seed 0 1 2
    python docs/results/grids.py flood --core convolution --gamma 0.95 --seed 0
    python docs/results/grids.py automaton --core convolution --seed 0 1 2 --depth 4 \
        --steps 600 --batch 128 --rate 5e-3

Prints one Markdown row a seed, every share being the share of held-out grids with all cells right.
`--out DIR` keeps the trained cores. One core of the machine is enough:
XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1".
"""

import argparse
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from grid_tasks import Grids, Task, automaton_task, flood_task, ice_task
from jaxtyping import Array

from loopwm.core import (
    AbstractUpdate,
    ConvolutionConfig,
    GridConfig,
    GridCore,
    InfinityConfig,
    Meeting,
    ResidualHalting,
    SampledDepth,
)
from loopwm.errors import UsageError
from loopwm.evaluation.depth import spearman
from loopwm.nn import resolve
from loopwm.stability import Certificate, Mode, Norm, attack, certify

Core = TypeVar("Core", bound=eqx.Module)

TOLERANCES = (1.5, 1.2, 1.0, 0.85, 0.7, 0.5, 0.3, 0.2, 0.14, 0.1, 0.07, 0.05, 0.02)


def infinity(task: str, gamma: float, rest: bool = False) -> GridConfig:
    """A core that contracts in the ∞-norm."""
    ring = task == "automaton"
    if task == "ice":
        return InfinityConfig(gamma=gamma, meeting=Meeting.DIRECTED, prelude_window=3, rest=rest)
    return InfinityConfig(gamma=gamma, dimensions=1 if ring else 2, periodic=ring, rest=rest)


def passing(task: str, gamma: float) -> GridConfig:
    """A core in the ∞-norm in which cells let their neighbours in and do nothing else."""
    ring = task == "automaton"
    return InfinityConfig(
        gamma=gamma,
        dimensions=1 if ring else 2,
        periodic=ring,
        inputs=16,
        mixes=0,
        heads=2,
        meeting=Meeting.GATED,
        rest=True,
        readout=32,
        readout_window=3,
    )


def convolution(task: str, gamma: float, mode: Mode = Mode.CONTRACTIVE) -> GridConfig:
    """A convolutional core of about the same size, in the P-norm if it contracts."""
    if task == "automaton":
        grid = (24,) if mode is Mode.CONTRACTIVE else None
        return ConvolutionConfig(
            gamma=gamma, dimensions=1, periodic=True, grid=grid, retention_max=0.3, mode=mode
        )
    return ConvolutionConfig(channels=6, hidden=8, inputs=4, gamma=gamma, mode=mode)


CORES: dict[str, Callable[[str, float], GridConfig]] = {
    "infinity": infinity,
    "resting": functools.partial(infinity, rest=True),
    "passing": passing,
    "convolution": convolution,
    "bounded": functools.partial(convolution, mode=Mode.BOUNDED),
    "free": functools.partial(convolution, mode=Mode.FREE),
}


def train(
    core: Core,
    task: Task,
    *,
    seed: int,
    steps: int,
    batch: int,
    rate: float,
    settle: float = 0.0,
    moving: float = 0.0,
) -> Core:
    """Adam with warm-up and cosine decay on the cross-entropy of every cell.

    `settle` weighs the residual of the last loop, so that a state whose answer stands also rests;
    `moving` weighs how much cells move in the first loops, so that those rest that the answer does
    not need. Both grow from 0 between 60 and 75 % of the steps, when the answers are learned.
    """
    key_steps = jax.random.split(jax.random.key(seed))[1]
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, min(50, steps), steps, 0.02 * rate)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def loss(core, inputs, answers, keys, weight):
        core = resolve(core)
        solution = jax.vmap(lambda x, k: core(x, task.rule(k)))(inputs, keys)
        cross = optax.sigmoid_binary_cross_entropy(solution.value[..., 0], answers).mean()
        if settle:
            cross += settle * weight * solution.stats.residual.mean()
        if moving:
            cross += moving * weight * movement(core, inputs)
        return cross

    @eqx.filter_jit(donate="all-except-first")
    def step(data, core, state, key, weight):
        key_pick, key_rule = jax.random.split(key)
        picked = jax.random.randint(key_pick, (batch,), 0, len(data[0]))
        keys = jax.random.split(key_rule, batch)
        value, gradient = eqx.filter_value_and_grad(loss)(
            core, data[0][picked], data[1][picked], keys, weight
        )
        change, state = optimiser.update(gradient, state)
        return eqx.apply_updates(core, change), state, value

    state = optimiser.init(eqx.filter(core, eqx.is_inexact_array))
    data = (task.train.inputs, task.train.answers)
    for number, key in enumerate(jax.random.split(key_steps, steps)):
        weight = jnp.asarray(np.clip(number / steps / 0.15 - 4.0, 0.0, 1.0), jnp.float32)
        core, state, value = step(data, core, state, key, weight)
        if number % 200 == 0 or number == steps - 1:
            print(f"step {number}: loss {float(value):.4f}", flush=True)
            if not np.isfinite(float(value)):
                raise SystemExit(f"The loss became {float(value)} by step {number}; lower --rate.")
    return core


def movement(core: GridCore, grids: Array, loops: int = 12) -> Array:
    """Σ_t |h_{t+1} − h_t| of the first loops, mean over cells, over the batch's largest entry."""

    def moved(grid):
        update = core.bind(core.prelude(grid))

        def loop(h, _):
            following = update(h)
            return following, jnp.max(jnp.abs(following - h), axis=-1)

        return jax.lax.scan(loop, update.start(), None, loops)[1]

    cells = jax.vmap(moved)(grids)
    return loops * jnp.mean(cells) / jnp.max(cells)


@eqx.filter_jit
def _logits_and_loops(core, inputs, rule):
    core = resolve(core)
    solution = jax.lax.map(lambda x: core(x, rule), inputs, batch_size=100)
    return solution.value[..., 0], solution.stats.loops


def exact_share(core: GridCore, grids: Grids, depth: int) -> float:
    """Share of grids with every cell right after `depth` loops."""
    # The depth is an array in a rule of one fixed limit, so that all depths share a program.
    rule = SampledDepth(depth=jnp.asarray(depth), max_depth=64)
    logits, _ = _logits_and_loops(core, grids.inputs, rule)
    return _exact(logits, grids)


def halting(core: GridCore, grids: Grids, tolerance: float) -> str:
    """Mean loops of residual halting, exactness there, and rank correlation with true depth."""
    share, loops = _halted(core, grids, tolerance)
    assert grids.depth is not None
    rank = f"{spearman(loops, grids.depth):.2f}" if np.ptp(loops) else "undefined, all alike"
    return f"{loops.mean():.1f} loops, {share:.3f} exact, Spearman {rank}"


def halting_tolerance(core: GridCore, grids: Grids) -> float:
    """The tolerance of residual halting whose loops follow the depth of these grids best.

    Among those that leave at most 0.5 % of them more wrong than the best one; chosen on training
    grids. The smallest of the list where all stop at the same loop.
    """
    assert grids.depth is not None
    some = Grids(grids.inputs[:500], grids.answers[:500], grids.depth[:500])
    halted = {tolerance: _halted(core, some, tolerance) for tolerance in TOLERANCES}
    least = max(share for share, _ in halted.values()) - 0.005
    found = [
        (spearman(loops, some.depth), tolerance)
        for tolerance, (share, loops) in halted.items()
        if share >= least and np.ptp(loops)
    ]
    return max(found)[1] if found else TOLERANCES[-1]


def _halted(core: GridCore, grids: Grids, tolerance: float) -> tuple[float, np.ndarray]:
    """Share of exact grids under residual halting, and the loops of each."""
    # The tolerance is part of the program: one compilation each.
    logits, loops = _logits_and_loops(
        core, grids.inputs, ResidualHalting(tolerance=tolerance, max_depth=200)
    )
    return _exact(logits, grids), np.asarray(loops)


def _exact(logits: Array, grids: Grids) -> float:
    right = (np.asarray(logits) > 0) == np.asarray(grids.answers, bool)
    return float(right.reshape(len(right), -1).all(axis=1).mean())


def bound_in_float64(core: GridCore, grid: Array) -> AbstractUpdate:
    """The inner update at one grid, its float32 numbers taken over exactly."""
    update = eqx.filter_jit(lambda c, x: resolve(c).bind(c.prelude(x)))(core, grid)
    update = dataclasses.replace(update, gamma=float(np.float32(update.gamma)))
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), update)


@eqx.filter_jit
def _ratios(update: AbstractUpdate, x: Array, y: Array) -> Array:
    def ratio(pair):
        return update.norm(update(pair[0]) - update(pair[1])) / update.norm(pair[0] - pair[1])

    return jax.lax.map(ratio, (x, y), batch_size=500)


def violations(core: GridCore, grids: Grids, inputs: int = 8) -> str:
    """Worst ratio over the rate of the same input among random and adversarial pairs."""
    worst, broken, pairs, starts = [0.0, 0.0], 0, 25_000, 25
    for number in range(inputs):
        with jax.enable_x64(True):
            update = bound_in_float64(core, grids.inputs[number])
            shape = (*grids.answers.shape[1:], core.config.channels)
            rng, rate = np.random.default_rng(number), float(update.rate())
            size = 10.0 ** rng.uniform(-2, 4, (2, pairs, *(1,) * len(shape)))
            x = size[0] * rng.normal(size=(pairs, *shape))
            # Half of the differences are corners of a cube, the worst there are in the ∞-norm.
            y = rng.normal(size=x.shape)
            y[::2] = np.sign(y[::2])
            random = _ratios(update, jnp.asarray(x), jnp.asarray(x + size[1] * y))
            geometry = Norm.INFINITY if isinstance(core.config, InfinityConfig) else Norm.TWO
            key = jax.random.key(number)
            found = attack(
                update, update.norm, shape, key=key, starts=starts, geometry=geometry
            ).ratios
        for place, ratios in enumerate((random, found)):
            relative = np.asarray(ratios, np.float64) / rate
            worst[place] = max(worst[place], float(relative.max()))
            # States of up to 10⁴ times the difference: float64 rounds their ratio by up to 10⁻⁹.
            broken += int(np.sum(~(relative <= 1.0 + 1e-9)))
    return f"{worst[0]:.4f}, {worst[1]:.4f}, {broken} of {inputs * (pairs + starts):,}"


def report(name: str, core: GridCore, task: Task, seed: int, seconds: float) -> None:
    """Prints the Markdown row of one trained core."""
    count = sum(x.size for x in jax.tree.leaves(eqx.filter(core, eqx.is_inexact_array)))
    cells = [name, str(seed), str(count), claim(core)]
    for grids in task.tests.values():
        cells.append(", ".join(f"{exact_share(core, grids, d):.3f}" for d in task.depths))
    if task.train.depth is not None:
        tolerance = halting_tolerance(core, task.train)
        cells.append(f"{tolerance:g}")
        cells += [halting(core, grids, tolerance) for grids in task.tests.values()]
    contracts = certify_or_none(core) is not None and core.declare().mode is Mode.CONTRACTIVE
    cells.append(violations(core, next(iter(task.tests.values()))) if contracts else "")
    print("| " + " | ".join([*cells, f"{seconds:.0f}"]) + " |", flush=True)


def certify_or_none(core: GridCore) -> Certificate | None:
    """The certificate, or None where it is refused, as in mode free."""
    try:
        return certify(core)
    except UsageError:
        return None


def claim(core: GridCore) -> str:
    """Level, norm and rate or growth of a difference in one loop."""
    certificate = certify_or_none(core)
    if certificate is None:
        return "none"
    return f"{certificate.level}, {certificate.norm}, {certificate.rate:.4f}"


def header(task: Task) -> None:
    """Prints the head of the table."""
    depths = ", ".join(map(str, task.depths))
    names = ["core", "seed", "parameters", "certificate (level, norm, rate)"]
    names += [f"{test}: exact at {depths} loops" for test in task.tests]
    if task.train.depth is not None:
        names += ["tolerance", *(f"{test}: residual halting" for test in task.tests)]
    names += ["random and adversarial ratio over the rate, violations", "seconds of training"]
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", choices=["flood", "ice", "automaton"])
    parser.add_argument("--core", choices=sorted(CORES), default="infinity")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3, help="largest step size of Adam")
    parser.add_argument("--gamma", type=float, help="0.95 for automaton, 0.97 otherwise")
    parser.add_argument("--mean", type=float, default=22.0, help="mean depth in training")
    parser.add_argument("--largest", type=int, default=40, help="largest depth in training")
    parser.add_argument("--balanced", action="store_true", help="flood: mazes of every depth")
    parser.add_argument("--settle", type=float, default=0.0, help="weight of the last residual")
    parser.add_argument("--moving", type=float, default=0.0, help="weight of how much cells move")
    parser.add_argument("--kept", type=pathlib.Path, help="folder of --out, instead of training")
    parser.add_argument("--depth", type=int, default=8, help="automaton: loops")
    parser.add_argument("--out", type=pathlib.Path, help="folder for the trained cores")
    return parser.parse_args()


def main() -> None:
    """Trains and reports one core a seed."""
    words = parse()
    gamma = words.gamma or (0.95 if words.task == "automaton" else 0.97)
    config = CORES[words.core](words.task, gamma)
    for seed in words.seed:
        if words.task == "flood":
            task = flood_task(seed, words.mean, words.largest, words.balanced)
        elif words.task == "ice":
            task = ice_task(seed, words.mean, words.largest)
        else:
            task = automaton_task(seed, words.depth)
        began = time.perf_counter()
        how = {"steps": words.steps, "batch": words.batch, "rate": words.rate}
        key = jax.random.split(jax.random.key(seed))[0]
        core = GridCore(task.train.inputs.shape[-1], 1, config, key=key)
        name = f"{words.task}-{words.core}-{seed}.eqx"
        if words.kept:
            core = eqx.tree_deserialise_leaves(words.kept / name, core)
        else:
            core = train(core, task, seed=seed, settle=words.settle, moving=words.moving, **how)
        seconds = time.perf_counter() - began
        if words.out:
            words.out.mkdir(parents=True, exist_ok=True)
            eqx.tree_serialise_leaves(words.out / name, core)
        if seed == words.seed[0]:
            header(task)
        report(words.core, core, task, seed, seconds)


if __name__ == "__main__":
    main()
