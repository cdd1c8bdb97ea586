"""Certified halting: the measured error beside the bound that is held, for docs/results/depth.md.

    for env in CartPole-v1 Pendulum-v1; do
        loopwm train $env --steps 1000 --seed 0 --out runs/halting/$env-0
    done
    python docs/results/halting.py bound runs/halting/CartPole-v1-0 runs/halting/Pendulum-v1-0
    python docs/results/halting.py flood 0 300 --count 5000

`bound` takes the world models of runs at transitions of their environment, half of them under the
agent's policy and half under random actions; `flood` takes flood-fill cores in the ∞-norm, trained
for as many steps as are named, at mazes they never saw. Each input is halted in float32 at every
tolerance, and the state that is left is held against the fixed point, which the same float32
numbers iterated in float64 come to. Prints one Markdown row a tolerance.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from grid_tasks import flood_task, mazes
from grids import infinity, train
from jaxtyping import Array

import loopwm
from loopwm.core import RESULTS, AbstractUpdate, CertifiedHalting, GridCore, iterate
from loopwm.envs import Spaces, VectorStepper, make_vector
from loopwm.nn import resolve
from loopwm.stability import certify
from loopwm.training import RunFolder

# The fixed point is known to this distance, in the update's norm; what is unknown of it is counted
# as error.
FIXED_POINT = CertifiedHalting(tolerance=1e-7, max_depth=100_000)


@dataclasses.dataclass
class Seen:
    """What was measured at one tolerance, arrays of shape (inputs,)."""

    error: np.ndarray
    """Distance to the fixed point, with what is not known of the fixed point added."""
    bound: np.ndarray
    """The bound that the solution holds."""
    loops: np.ndarray
    met: np.ndarray
    """Whether it stopped by the tolerance, and not at the largest depth."""


@eqx.filter_jit
def halted(core, inputs, tolerances: Sequence[float]):
    """Certified halting in float32, as in `core(...)`; and what is the update's own at each input.

    The layers are left out of the updates: they are the core's at every input.
    """

    def one(x):
        update = core.bind(core.prelude(*x))
        found = [iterate(update, update.start(), CertifiedHalting(t)) for t in tolerances]
        ended = [(s.stats.error_bound, s.stats.loops, s.result) for s in found]
        return dataclasses.replace(update, layers=()), [s.value for s in found], ended

    return jax.vmap(one)(inputs)


@eqx.filter_jit
def distances(layers, updates: AbstractUpdate, states: Sequence[Array]):
    """Distance of every state to its fixed point in the update's norm, and what that is off by."""

    def one(update, states):
        update = dataclasses.replace(update, layers=layers)
        rest = iterate(update, states[-1], FIXED_POINT)
        return [update.norm(h - rest.value) for h in states], rest.stats.error_bound

    return jax.vmap(one)(updates, states)


def wide(tree):
    """The same numbers in float64; call it where that is enabled."""
    return jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x, np.float64)) if eqx.is_inexact_array(x) else x, tree
    )


def measure(core, layers, batches: Iterator, tolerances: Sequence[float]) -> list[Seen]:
    """Errors and bounds of a core, its weights resolved, at batches of inputs of its prelude."""
    parts = [[] for _ in tolerances]
    for number, inputs in enumerate(batches):
        if number % 20 == 0:
            print(f"batch {number}", file=sys.stderr, flush=True)
        updates, states, ended = halted(core, inputs, tuple(tolerances))
        # The float32 number that the loop computes with, not the decimal it came from.
        updates = dataclasses.replace(updates, gamma=float(np.float32(updates.gamma)))
        with jax.enable_x64(True):
            errors, unknown = distances(wide(layers), wide(updates), wide(states))
        for part, error, (bound, loops, result) in zip(parts, errors, ended, strict=True):
            met = result == RESULTS.successful
            part.append(tuple(np.asarray(x) for x in (error + unknown, bound, loops, met)))
    return [Seen(*map(np.concatenate, zip(*part, strict=True))) for part in parts]


def report(name: str, core, layers, batches: Iterator, tolerances: Sequence[float]) -> None:
    """Prints a row a tolerance."""
    certificate = certify(core)
    began = time.perf_counter()
    found = measure(core, layers, batches, tolerances)
    for tolerance, seen in zip(tolerances, found, strict=True):
        bound = seen.bound.astype(np.float64)
        ratio, met = seen.error / bound, seen.met
        # Not "error > bound", which a NaN would pass; and an infinite bound would hold nothing.
        broken = int(np.sum(~(seen.error <= bound) | ~np.isfinite(bound)))
        kept = f"{np.max(seen.error[met]) / tolerance:.4f}" if met.any() else "none stopped by it"
        print(
            f"| {name} | {certificate.level}, {certificate.norm}, {certificate.rate:.4f} | "
            f"{tolerance:g} | {len(ratio):,} | {np.mean(met):.4f} | {np.mean(seen.loops):.1f} | "
            f"{np.median(bound):.2g} ({np.min(bound):.2g}) | "
            f"{np.median(ratio):.4f} | {np.max(ratio):.4f} | {kept} | {broken} |",
            flush=True,
        )
    print(f"({name}: {time.perf_counter() - began:.0f} s)", flush=True)


def transitions(run: str, count: int, envs: int = 100) -> tuple[Array, Array]:
    """Latent states and actions of an environment's transitions, half under random actions."""
    agent, source = loopwm.load(run, planner="policy"), RunFolder.open(run).read_config().source()
    spaces = Spaces.of_source(source)
    observed, taken = [], []
    for seed, chosen in enumerate((True, False)):
        stepper = VectorStepper(make_vector(source, envs), spaces)
        stepper.reset(seed=seed)
        stepper.env.action_space.seed(seed)
        state, wanted = agent.initial_state(seed=seed, batch=envs), (count + seed) // 2
        while wanted > 0:
            if chosen:
                action, state = agent.act(stepper.raw, state, explore=False)
            else:
                action = stepper.env.action_space.sample()
            before, u = stepper.observation, spaces.action.encode(action)
            step = stepper.step(action)
            # A step that was only a reset is no transition.
            rows = np.flatnonzero(step.real)[:wanted]
            observed.append(before[rows])
            taken.append(u[rows])
            wanted -= len(rows)
            state = agent.restart(state, step.begun)
        stepper.close()
    model, normalizer = agent.world_model, agent.normalizer
    encode = eqx.filter_jit(lambda m, o: jax.vmap(lambda x: m.encode(normalizer(x)))(o))
    z = encode(model, jnp.asarray(np.concatenate(observed), jnp.float32))
    return z, jnp.asarray(np.concatenate(taken), jnp.float32)


def in_batches(arrays: tuple[Array, ...], batch: int) -> Iterator[tuple[Array, ...]]:
    """Rows of all arrays, `batch` at a time; the last ones may be fewer."""
    for first in range(0, len(arrays[0]), batch):
        yield tuple(x[first : first + batch] for x in arrays)


def bound(runs: Sequence[str], words: argparse.Namespace) -> None:
    """World models of runs."""
    for run in runs:
        core = loopwm.load(run).world_model.core
        layers = getattr(core, "grid", core).block.layers
        report(
            run,
            core,
            layers,
            in_batches(transitions(run, words.count), words.batch),
            words.tolerance,
        )


def flood(steps: Sequence[str], words: argparse.Namespace) -> None:
    """Flood-fill cores on 8×8 mazes, in the ∞-norm at γ = 0.97."""
    inputs = (mazes(2_000_000, words.count, 8).inputs,)
    task = flood_task(words.seed, mean=22.0, largest=40, balanced=False)
    for number in map(int, steps):
        config = infinity("flood", 0.97)
        core = GridCore(inputs[0].shape[-1], 1, config, key=jax.random.key(words.seed))
        if number:
            core = train(config, task, seed=words.seed, steps=number, batch=64, rate=3e-3)
        core = eqx.filter_jit(resolve)(core)
        name = f"flood fill, {number} steps, seed {words.seed}"
        report(name, core, core.block.layers, in_batches(inputs, words.batch), words.tolerance)


def main() -> None:
    """Runs the named measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = {"bound": bound, "flood": flood}
    parser.add_argument("what", choices=known)
    parser.add_argument("which", nargs="+", help="folders of runs, or steps of training")
    parser.add_argument("--count", type=int, default=100_000, help="inputs of each")
    tolerances = [1.0, 1e-1, 1e-2, 1e-3, 1e-4]
    parser.add_argument("--tolerance", type=float, nargs="+", default=tolerances)
    parser.add_argument("--batch", type=int, default=500, help="inputs computed together")
    parser.add_argument("--seed", type=int, default=0, help="flood: of data and weights")
    words = parser.parse_args()
    names = ["model", "certificate (level, norm, rate)", "tolerance", "inputs", "met"]
    names += ["mean loops", "bound, median (smallest)", "error / bound, median", "largest"]
    names += ["largest error / tolerance where met", "violations"]
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names), flush=True)
    known[words.what](words.which, words)


if __name__ == "__main__":
    main()
