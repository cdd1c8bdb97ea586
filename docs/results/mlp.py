"""How many parameters a grid MLP needs for the automaton, for docs/results/depth.md.

    python docs/results/mlp.py --width 160 1024 --seed 0 1 2 3 4

Trains MLPs of three hidden layers on the pairs of docs/results/grids.py automaton (rings of 24
cells, 4 hidden micro-steps, 20,000 pairs) with eight times as many updates as the looped core has
there, and prints one Markdown row a width and seed.
"""

import argparse
import time

import equinox as eqx
import jax
import numpy as np
import optax
from grid_tasks import rings


def train(width: int, seed: int, *, steps: int, batch: int, rate: float) -> eqx.nn.MLP:
    """Adam with warm-up and cosine decay on the cross-entropy of every cell."""
    key_net, key_steps = jax.random.split(jax.random.key(seed))
    net = eqx.nn.MLP(24, 24, width, 3, key=key_net)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, 50, steps, 0.02 * rate)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.1))
    pairs = rings(seed, 20_000)

    def loss(net, x, y):
        return optax.sigmoid_binary_cross_entropy(jax.vmap(net)(x[..., 0]), y).mean()

    @eqx.filter_jit(donate="all-except-first")
    def call(data, net, state, keys):
        def step(carry, key):
            net, state = carry
            picked = jax.random.randint(key, (batch,), 0, len(data[0]))
            gradient = eqx.filter_grad(loss)(
                eqx.combine(net, static), data[0][picked], data[1][picked]
            )
            change, state = optimiser.update(eqx.filter(gradient, eqx.is_array), state, net)
            return (eqx.apply_updates(net, change), state), None

        return jax.lax.scan(step, (net, state), keys)[0]

    arrays, static = eqx.partition(net, eqx.is_array)
    state = optimiser.init(arrays)
    for keys in jax.random.split(key_steps, (steps // 100, 100)):
        arrays, state = call((pairs.inputs, pairs.answers), arrays, state, keys)
    return eqx.combine(arrays, static)


def main() -> None:
    """One row a width and seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, nargs="+", default=[160, 512])
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=4800)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3, help="largest step size of Adam")
    words = parser.parse_args()
    held_out = rings(1_000_000, 2000)
    print("| width | seed | parameters | exact, training rings | exact, held out | seconds |")
    print("|---|---|---|---|---|---|")
    for width in words.width:
        for seed in words.seed:
            began = time.perf_counter()
            net = train(width, seed, steps=words.steps, batch=words.batch, rate=words.rate)
            seconds = time.perf_counter() - began
            count = sum(x.size for x in jax.tree.leaves(eqx.filter(net, eqx.is_array)))
            shares = []
            for pairs in (rings(seed, 20_000), held_out):
                found = np.asarray(jax.vmap(net)(pairs.inputs[..., 0])) > 0
                right = found == (np.asarray(pairs.answers) > 0.5)
                shares.append(f"{right.all(axis=1).mean():.4f}")
            print(
                f"| {width} | {seed} | {count:,} | {' | '.join(shares)} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
