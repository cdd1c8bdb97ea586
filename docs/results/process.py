"""Process loops: the automaton at one micro-step a loop, for docs/results/depth.md.

    python docs/results/process.py --mode bounded --seed 0 1 2 3 4
    python docs/results/process.py --mode contractive --seed 0 1 2 3 4

Trains a core on rings of 24 cells under rule 110 with k hidden micro-steps, of which the end alone
is supervised, k drawn from 1 to a bound that grows to 8. Measures the share of 2,000 held-out rings
with every cell right after k = 4, 8, 12, 16 micro-steps and as many loops; more than 8 were never
trained. Prints one Markdown row a seed.
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from grids import claim

from loopwm.core import ConvolutionConfig, GridCore, SampledDepth
from loopwm.envs import automaton
from loopwm.nn import resolve
from loopwm.stability import Mode

TRAINED, LONGEST, CELLS = 8, 16, 24
MEASURED = (4, 8, 12, 16)


def rings(seed: int, count: int) -> tuple[jax.Array, jax.Array]:
    """Rings as ±1, shape (count, cells, 1), and after 0..16 micro-steps, (count, 17, cells)."""
    states = [automaton.sample(np.random.default_rng(seed), count, length=CELLS, steps=0).before]
    for _ in range(LONGEST):
        states.append(automaton.advance(states[-1], 110))
    inputs = 2.0 * jnp.asarray(states[0], jnp.float32)[..., None] - 1.0
    return inputs, jnp.asarray(np.stack(states, axis=1), jnp.float32)


def build(mode: Mode, seed: int) -> GridCore:
    """A core of less than 1,000 parameters, which starts from the ring."""
    config = ConvolutionConfig(
        mode=mode,
        dimensions=1,
        periodic=True,
        channels=8,
        hidden=12,
        inputs=4,
        layers=1,
        readout=16,
        gated=False,
        start_from_input=True,
        injected=False,
        gamma=0.999,
        retention_min=0.001,
        retention_max=0.1,
        grid=(CELLS,) if mode is Mode.CONTRACTIVE else None,
    )
    return GridCore(1, 1, config, key=jax.random.key(seed))


def train(
    core: GridCore, seed: int, *, steps: int, batch: int, rate: float, noise: float
) -> GridCore:
    """Adam on the cross-entropy after k micro-steps; k up to a bound that grows to 8."""
    inputs, states = rings(seed, 20_000)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, 50, steps, 0.02 * rate)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def loss(core, x, answers, depths):
        core = resolve(core)

        def one(x, depth):
            return core(x, SampledDepth(depth=depth, max_depth=TRAINED)).value[..., 0]

        logits = jax.vmap(one)(x, depths)
        return optax.sigmoid_binary_cross_entropy(logits, answers).mean()

    @eqx.filter_jit(donate="all-except-first")
    def step(data, core, state, key, largest):
        key_pick, key_depth, key_noise = jax.random.split(key, 3)
        picked = jax.random.randint(key_pick, (batch,), 0, len(data[0]))
        depths = jax.random.randint(key_depth, (batch,), 1, largest + 1)
        value, gradient = eqx.filter_value_and_grad(loss)(
            core,
            # Noise on the start teaches the loop to restore what drifts.
            data[0][picked] + noise * jax.random.normal(key_noise, (batch, CELLS, 1)),
            data[1][picked, depths],
            depths,
        )
        change, state = optimiser.update(gradient, state)
        return eqx.apply_updates(core, change), state, value

    state = optimiser.init(eqx.filter(core, eqx.is_inexact_array))
    for number, key in enumerate(jax.random.split(jax.random.key(seed + 1000), steps)):
        # The bound reaches 8 after half of the steps.
        largest = min(TRAINED, 1 + number * 2 * TRAINED // steps)
        core, state, value = step((inputs, states), core, state, key, jnp.asarray(largest))
        if number % 500 == 0 or number == steps - 1:
            print(f"step {number}: loss {float(value):.5f}", flush=True)
    return core


@eqx.filter_jit
def _answers(core, inputs, depth):
    core = resolve(core)
    rule = SampledDepth(depth=depth, max_depth=LONGEST)
    return jax.lax.map(lambda x: core(x, rule).value[..., 0], inputs, batch_size=200)


def exact(core: GridCore, inputs: jax.Array, states: jax.Array, depth: int) -> float:
    """Share of rings with every cell right after that many micro-steps and loops."""
    found = np.asarray(_answers(core, inputs, jnp.asarray(depth))) > 0
    return float((found == (np.asarray(states[:, depth]) > 0.5)).all(axis=1).mean())


def main() -> None:
    """One row a seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mode", type=Mode, choices=list(Mode), default=Mode.BOUNDED)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=5e-3, help="largest step size of Adam")
    parser.add_argument("--noise", type=float, default=0.2, help="deviation of noise on the start")
    words = parser.parse_args()
    inputs, states = rings(1_000_000, 2000)
    names = ", ".join(map(str, MEASURED))
    print(f"| mode | seed | parameters | certificate | exact after {names} | seconds |")
    print("|---|---|---|---|---|---|")
    for seed in words.seed:
        began = time.perf_counter()
        core = build(words.mode, seed)
        core = train(
            core, seed, steps=words.steps, batch=words.batch, rate=words.rate, noise=words.noise
        )
        seconds = time.perf_counter() - began
        count = sum(x.size for x in jax.tree.leaves(eqx.filter(core, eqx.is_inexact_array)))
        shares = ", ".join(f"{exact(core, inputs, states, k):.4f}" for k in MEASURED)
        row = [words.mode, str(seed), str(count), claim(core), shares, f"{seconds:.0f}"]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
