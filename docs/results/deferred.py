"""Deferred decoding against decoding each step: K = 8 chained steps of two grid tasks.

    python docs/results/deferred.py [--seed 0 1 2] [--updates 1200] [--readout 16 64 256]
    python docs/results/deferred.py --task ice [--seed 0 1 2] [--readout 64]

automaton: one env step is one micro-step of rule 110 on a ring of 24 cells, after as many flips of
random cells as asked for, which are the actions. ice: one env step is a whole slide in a random
direction on a grid of `--size` squared, played on by loopwm/SlidingIce-v0 whether or not the goal
was reached, with all three planes predicted at every cell; a transition has as many loops as the
longest slide has cells, unless `--loops` says otherwise.

Both ways to decode train the same bounded process core from the same weights on the same batches.
Prints one Markdown row a seed, width of the read-out and way to decode. Times are CPU seconds;
those of one gradient at K = 8 and of rolling and decoding 1,000 sequences are medians of calls
that take turns. One core: XLA_FLAGS="--xla_cpu_multi_thread_eigen=false
intra_op_parallelism_threads=1".
"""

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from loopwm.core import ConvolutionConfig, FixedDepth
from loopwm.envs import automaton, sliding_ice
from loopwm.models import count_parameters
from loopwm.nn import resolve
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
from loopwm.training.supervised import open_loop_loss

STEPS = 8


@dataclasses.dataclass(frozen=True)
class Task:
    """Sequences, the core that learns them, and how long it is trained unless told otherwise."""

    draw: Callable[[int, int], Trajectories]
    """Sequences from a seed and their number."""
    core: ConvolutionConfig
    loops: int
    """Loops an env step."""
    updates: int
    batch: int
    rate: float
    """Largest step size of Adam."""
    warm: int = 0
    """Updates on single steps before, the same for both ways."""

    def model(self, readout: int, loops: int, key: PRNGKeyArray) -> OpenLoopGrid:
        """A fresh model."""
        some = self.draw(0, 1)
        channels = some.observation.shape[-1]
        return OpenLoopGrid(
            channels,
            some.action.shape[-1],
            channels,
            dataclasses.replace(self.core, readout=readout),
            FixedDepth(loops),
            key=key,
        )


def rings(seed: int, count: int, flips: int, rule: int = 110) -> Trajectories:
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


def slides(seed: int, count: int, size: int) -> Trajectories:
    """Planes as ±1, shape (count, 9, size, size, 3), and directions, (count, 8, size, size, 4)."""
    action = np.random.default_rng(seed).integers(0, 4, (count, STEPS))
    planes = np.empty((count, STEPS + 1, size, size, 3), np.float32)
    env = sliding_ice.SlidingIce(size)
    env.reset(seed=seed)
    for number in range(count):
        planes[number, 0], _ = env.reset()
        for step in range(STEPS):
            planes[number, step + 1] = env.step(action[number, step])[0]
    direction = np.eye(4, dtype=np.float32)[action][:, :, None, None]
    everywhere = np.broadcast_to(direction, (count, STEPS, size, size, 4))
    return Trajectories(jnp.asarray(2.0 * planes - 1.0), jnp.asarray(everywhere))


def cross_entropy(logits: jax.Array, observation: jax.Array) -> jax.Array:
    """Mean over cells and planes, with cells as ±1."""
    return optax.sigmoid_binary_cross_entropy(logits, 0.5 * (observation + 1.0)).mean()


def terminal(model: OpenLoopGrid, data: Trajectories) -> tuple[float, float]:
    """Shares of wrong entries and of grids with a wrong cell after all 8 steps."""
    run = eqx.filter_jit(predict)
    logits = run(model, data.observation[:, 0], data.action, Decoding.DEFERRED)
    wrong = (np.asarray(logits) > 0) != (np.asarray(data.observation[:, -1]) > 0)
    return float(wrong.mean()), float(wrong.reshape(len(wrong), -1).any(axis=1).mean())


def in_turns(calls: dict[Decoding, Callable[[], jax.Array]], repeats: int) -> dict[Decoding, float]:
    """Median CPU seconds of a call of each way to decode, after two that are not counted."""
    spent: dict[Decoding, list[float]] = {way: [] for way in calls}
    for _ in range(repeats + 2):
        for way, call in calls.items():
            began = time.process_time()
            call().block_until_ready()
            spent[way].append(time.process_time() - began)
    return {way: float(np.median(values[2:])) for way, values in spent.items()}


def rollout_seconds(model: OpenLoopGrid, data: Trajectories) -> dict[Decoding, float]:
    """CPU seconds to roll and decode all sequences."""
    run, first = eqx.filter_jit(predict), data.observation[:, 0]
    return in_turns(
        {way: lambda way=way: run(model, first, data.action, way) for way in Decoding}, 15
    )


def gradient_seconds(
    model: OpenLoopGrid, data: Trajectories, settings: dict[Decoding, SupervisedConfig]
) -> dict[Decoding, float]:
    """CPU seconds of one gradient at K = 8."""

    @eqx.filter_jit
    def gradient(current, batch, config):
        def mean(some):
            resolved, steps = resolve(some), jnp.asarray(STEPS)
            one = lambda o, u: open_loop_loss(  # noqa: E731
                resolved, o, u, steps, config, cross_entropy
            )
            return jnp.mean(jax.vmap(one)(*batch))

        found = eqx.filter_grad(mean)(current)
        return optax.global_norm(eqx.filter(found, eqx.is_inexact_array))

    batch = jax.tree.map(lambda x: x[: next(iter(settings.values())).batch_size], data)
    return in_turns(
        {way: lambda way=way: gradient(model, batch, settings[way]) for way in settings}, 40
    )


def warmed(
    fresh: OpenLoopGrid, data: Trajectories, updates: int, rate: float, key: PRNGKeyArray
) -> OpenLoopGrid:
    """The model after training on single steps, where both ways to decode are the same."""
    before, after = data.observation[:, :-1], data.observation[:, 1:]
    pairs = jnp.stack([before, after], axis=2).reshape(-1, 2, *before.shape[2:])
    single = Trajectories(pairs, data.action.reshape(-1, 1, *data.action.shape[2:]))
    config = SupervisedConfig(
        decoding=Decoding.EACH_STEP,
        horizon=DeferredConfig(steps=1),
        updates=updates,
        batch_size=64,
        learning_rate=rate,
    )
    trained = train_open_loop(fresh, single, config, cross_entropy, key=key)
    wrong = terminal(trained.model, jax.tree.map(lambda x: x[:2000], single))[1]
    print(f"after {updates} single steps, {wrong:.4f} wrong grids of training", flush=True)
    return trained.model


def compare(task: Task, test: Trajectories, words: argparse.Namespace, width: int, seed: int):
    """Prints the two rows of one seed."""
    loops = words.loops or task.loops
    updates, rate = words.updates or task.updates, words.rate or task.rate
    key_model, key_batches = jax.random.split(jax.random.key(seed))
    fresh = task.model(width, loops, key_model)
    settings = {
        way: SupervisedConfig(
            decoding=way,
            horizon=DeferredConfig(
                steps=STEPS,
                curriculum=Curriculum.LINEAR,
                ramp=max(1, updates // 2),
                drawn=way in words.drawn,
                movement_weight=words.beta,
                movement_limit=words.limit,
            ),
            consistency_weight=words.alpha,
            updates=updates,
            batch_size=words.batch or task.batch,
            learning_rate=rate,
        )
        for way in (Decoding.DEFERRED, Decoding.EACH_STEP)
    }
    data = task.draw(seed, words.count)
    warm = task.warm if words.warm is None else words.warm
    if warm:
        fresh = warmed(fresh, data, warm, rate, jax.random.fold_in(key_batches, 1))
    gradient = gradient_seconds(fresh, data, settings)
    rollout = rollout_seconds(fresh, test)
    for way, config in settings.items():
        trained = train_open_loop(fresh, data, config, cross_entropy, key=key_batches)
        cells, grids = terminal(trained.model, test)
        print(
            f"| {seed} | {width} | {count_parameters(fresh)} | {way} | {cells:.5f} | "
            f"{grids:.3f} | {trained.cpu_seconds:.1f} | {1e3 * gradient[way]:.1f} | "
            f"{1e3 * rollout[way]:.1f} |",
            flush=True,
        )


def chosen(words: argparse.Namespace) -> Task:
    """The task, with its core."""
    if words.task == "automaton":
        ring = ConvolutionConfig(inputs=4, mode=Mode.BOUNDED, dimensions=1, periodic=True)
        return Task(lambda seed, count: rings(seed, count, words.flips), ring, 1, 1200, 64, 5e-3)
    plane = ConvolutionConfig(inputs=4, mode=Mode.BOUNDED, prelude_window=3)
    draw = functools.partial(slides, size=words.size)
    return Task(draw, plane, words.size - 1, 1500, 16, 1e-2, 2000)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=["automaton", "ice"], default="automaton")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, help="1200, on ice 1500")
    parser.add_argument("--warm", type=int, help="updates on single steps before: 0, on ice 2000")
    parser.add_argument("--batch", type=int, help="64, on ice 16")
    parser.add_argument("--count", type=int, default=10_000, help="training sequences")
    parser.add_argument("--rate", type=float, help="largest step size: 5e-3, on ice 1e-2")
    parser.add_argument("--readout", type=int, nargs="+", default=[64])
    parser.add_argument("--flips", type=int, default=0, help="cells flipped before each step")
    parser.add_argument("--size", type=int, default=5, help="ice: cells on a side")
    parser.add_argument("--alpha", type=float, default=0.1, help="weight of the consistency term")
    parser.add_argument("--beta", type=float, default=0.0, help="weight of movement beyond 8·C")
    parser.add_argument("--limit", type=float, default=20.0, help="C")
    parser.add_argument("--loops", type=int, help="loops an env step: 1, on ice size − 1")
    parser.add_argument(
        "--drawn",
        type=Decoding,
        choices=list(Decoding),
        nargs="+",
        default=[],
        help="ways to decode for which K of every sequence is drawn, up to the curriculum's",
    )
    return parser.parse_args()


def main() -> None:
    """Prints the table."""
    words = parse()
    task = chosen(words)
    test = task.draw(1_000_000, 1000)
    print(
        "| seed | read-out | parameters | decoding | wrong cells | wrong grids | training, CPU s | "
        "gradient, CPU ms | rollout and decode, CPU ms |\n|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for width in words.readout:
        for seed in words.seed:
            compare(task, test, words, width, seed)


if __name__ == "__main__":
    main()
