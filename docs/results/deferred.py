"""Deferred decoding against decoding each step, on the cellular automaton: K = 8 chained steps.

    python docs/results/deferred.py [--seed 0 1 2] [--updates 1200] [--readout 16 64 256]

One env step is one micro-step of rule 110 on a ring of 24 cells, after as many flips of random
cells as asked for, which are the actions. Both ways to decode train the same bounded process core
from the same weights on the same batches. Prints one Markdown row a seed, width of the read-out
and way to decode. Times are CPU seconds. One core:
XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1".
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from loopwm.core import ConvolutionConfig, FixedDepth
from loopwm.envs import automaton
from loopwm.models import count_parameters
from loopwm.stability import Mode
from loopwm.training import (
    Curriculum,
    Decoding,
    DeferredConfig,
    OpenLoopGrid,
    SupervisedConfig,
    Trajectories,
    predict,
    train_open_loop,
)

STEPS = 8


def trajectories(seed: int, count: int, flips: int, rule: int = 110) -> Trajectories:
    """Rings as ±1, shape (count, 9, 24, 1), and flipped cells as 1, shape (count, 8, 24, 1)."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 2, (count, 24), dtype=np.uint8)
    rings, flipped = [cells], []
    for _ in range(STEPS):
        order = np.argsort(rng.random((count, 24)), axis=1)
        flip = (order < flips).astype(np.uint8)
        rings.append(automaton.advance(rings[-1] ^ flip, rule))
        flipped.append(flip)
    observation = 2.0 * np.stack(rings, axis=1)[..., None].astype(np.float32) - 1.0
    action = np.stack(flipped, axis=1)[..., None].astype(np.float32)
    return Trajectories(jnp.asarray(observation), jnp.asarray(action))


def cross_entropy(logits: jax.Array, observation: jax.Array) -> jax.Array:
    """Mean over cells, with cells as ±1."""
    return optax.sigmoid_binary_cross_entropy(logits, 0.5 * (observation + 1.0)).mean()


def terminal(model: OpenLoopGrid, data: Trajectories) -> tuple[float, float]:
    """Shares of wrong cells and of rings with a wrong cell after all 8 steps."""
    run = eqx.filter_jit(predict)
    logits = run(model, data.observation[:, 0], data.action, Decoding.DEFERRED)
    wrong = (np.asarray(logits) > 0) != (np.asarray(data.observation[:, -1]) > 0)
    return float(wrong.mean()), float(wrong.any(axis=(1, 2)).mean())


def rollout_seconds(model: OpenLoopGrid, data: Trajectories, repeats: int) -> dict[Decoding, float]:
    """Median CPU seconds to roll and decode all sequences, both ways taking turns."""
    run = eqx.filter_jit(predict)
    spent: dict[Decoding, list[float]] = {way: [] for way in Decoding}
    for _ in range(repeats + 2):
        for way in Decoding:
            began = time.process_time()
            run(model, data.observation[:, 0], data.action, way).block_until_ready()
            spent[way].append(time.process_time() - began)
    return {way: float(np.median(values[2:])) for way, values in spent.items()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--readout", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--flips", type=int, default=0, help="cells flipped before each step")
    parser.add_argument("--alpha", type=float, default=0.1, help="weight of the consistency term")
    parser.add_argument("--beta", type=float, default=0.0, help="weight of movement beyond 8·C")
    parser.add_argument("--limit", type=float, default=20.0, help="C")
    parser.add_argument("--loops", type=int, default=1, help="loops an env step")
    return parser.parse_args()


def main() -> None:
    """Prints the table."""
    words = parse()
    print(
        "| seed | read-out | parameters | decoding | wrong cells | wrong rings | training, CPU s | "
        "rollout and decode, CPU ms |\n|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    test = trajectories(1_000_000, 1000, words.flips)
    for width in words.readout:
        config = ConvolutionConfig(
            channels=8,
            inputs=4,
            hidden=16,
            dimensions=1,
            periodic=True,
            mode=Mode.BOUNDED,
            readout=width,
        )
        for seed in words.seed:
            key_model, key_batches = jax.random.split(jax.random.key(seed))
            fresh = OpenLoopGrid(1, 1, 1, config, FixedDepth(words.loops), key=key_model)
            data = trajectories(seed, 10_000, words.flips)
            for way in Decoding:
                trained = train_open_loop(
                    fresh,
                    data,
                    SupervisedConfig(
                        decoding=way,
                        horizon=DeferredConfig(
                            steps=STEPS,
                            curriculum=Curriculum.LINEAR,
                            ramp=max(1, words.updates // 2),
                            movement_weight=words.beta,
                            movement_limit=words.limit,
                        ),
                        consistency_weight=words.alpha,
                        updates=words.updates,
                        batch_size=words.batch,
                        learning_rate=words.rate,
                    ),
                    cross_entropy,
                    key=key_batches,
                )
                cells, rings = terminal(trained.model, test)
                seconds = rollout_seconds(trained.model, test, 10)[way]
                print(
                    f"| {seed} | {width} | {count_parameters(fresh)} | {way} | {cells:.4f} | "
                    f"{rings:.3f} | {trained.cpu_seconds:.1f} | {1e3 * seconds:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
