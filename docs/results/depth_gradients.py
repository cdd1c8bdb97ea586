"""Memory and accuracy of the gradients through the loop, for docs/results/depth_gradients.md.

    python docs/results/depth_gradients.py --seed 0 1 2

Prints two Markdown tables: bytes of temporary buffers of the compiled gradient, as XLA reports
them, and how far each gradient is from that of the fixed point.
"""

import argparse
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from loopwm.core import (
    CoreConfig,
    FixedDepth,
    GradientKind,
    LoopedCore,
    LoopGradient,
    ResidualHalting,
)
from loopwm.nn import resolve

DEPTHS = (4, 16, 64)
CONVERGED = 400
LATENT, ACTION, BATCH = 48, 4, 64
GRADIENTS = {
    "full": LoopGradient(),
    "full, checkpoints": LoopGradient(checkpoint=True),
    "truncated(2)": LoopGradient(GradientKind.TRUNCATED, loops=2),
    "implicit": LoopGradient(GradientKind.IMPLICIT),
}


def problem(seed: int) -> tuple[LoopedCore, Array, Array, Array]:
    """A core of the default sizes, its constrained weights resolved, inputs and read-outs."""
    keys = jax.random.split(jax.random.key(seed), 4)
    core = resolve(LoopedCore(LATENT, ACTION, CoreConfig(), key=keys[0]))
    z, u = jax.random.normal(keys[1], (BATCH, LATENT)), jax.random.normal(keys[2], (BATCH, ACTION))
    return core, z, u, jax.random.normal(keys[3], (BATCH, LATENT))


def gradient_of(rule, gradient: LoopGradient) -> Callable:
    """Compiles to the gradient of a linear read-out of the batch in all weights."""

    def loss(weights, static, z, u, read):
        core = eqx.combine(weights, static)
        out = jax.vmap(lambda a, b: core(a, b, rule, gradient).value)(z, u)
        return jnp.sum(read * out) / len(z)

    return jax.jit(jax.grad(loss), static_argnums=1)


def flat(tree) -> Array:
    """All entries of a tree as one vector."""
    return jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    seeds = parser.parse_args().seed
    problems = {seed: problem(seed) for seed in seeds}
    print("| gradient | " + " | ".join(f"T = {t}" for t in DEPTHS) + " | residual halting |")
    print("|---|" + "---|" * (len(DEPTHS) + 1))
    compiled = {}
    for name, gradient in GRADIENTS.items():
        cells = []
        for rule in (*map(FixedDepth, DEPTHS), ResidualHalting(1e-3, 256)):
            if isinstance(rule, ResidualHalting) and gradient.kind is GradientKind.FULL:
                cells.append("not possible")
                continue
            core, *data = problems[seeds[0]]
            weights, static = eqx.partition(core, eqx.is_inexact_array)
            made = gradient_of(rule, gradient).lower(weights, static, *data).compile()
            compiled[name, rule] = made
            cells.append(f"{made.memory_analysis().temp_size_in_bytes:,}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print()
    deep = gradient_of(FixedDepth(CONVERGED), LoopGradient())
    print("| gradient | " + " | ".join(f"T = {t}" for t in DEPTHS) + " | residual halting |")
    print("|---|" + "---|" * (len(DEPTHS) + 1))
    exact = {}
    for seed, (core, *data) in problems.items():
        weights, static = eqx.partition(core, eqx.is_inexact_array)
        exact[seed] = flat(deep(weights, static, *data))
    for name in GRADIENTS:
        cells = []
        for rule in (*map(FixedDepth, DEPTHS), ResidualHalting(1e-3, 256)):
            if (name, rule) not in compiled:
                cells.append("not possible")
                continue
            errors = []
            for seed, (core, *data) in problems.items():
                weights, _ = eqx.partition(core, eqx.is_inexact_array)
                found = flat(compiled[name, rule](weights, *data))
                size = jnp.linalg.norm(exact[seed])
                errors.append(float(jnp.linalg.norm(found - exact[seed]) / size))
            cells.append(", ".join(f"{error:.1e}" for error in errors))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
