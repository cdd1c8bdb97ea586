"""How tight the certified constants of attention are, for docs/results/stability.md.

    python docs/results/attention.py

The largest ‖J δ‖ / ‖δ‖ that gradient ascent finds over state and direction, once with the input and
the added logits free as well, once at one random input without any. Prints Markdown.
"""

import argparse

import jax
import jax.numpy as jnp
import optax

from loopwm.nn import CrossAttention, SelfAttention, resolve
from loopwm.stability import norms

TOKENS, SOURCES, INPUTS, STARTS, STEPS = 6, 8, 8, 24, 400
KINDS = {"cross": (CrossAttention, norms.two), "self": (SelfAttention, norms.tokens)}


def search(name, layer, key, given=None) -> float:
    """Largest ratio found; with `given`, at that input and no added logits."""
    norm = KINDS[name][1]
    sources = SOURCES if name == "cross" else TOKENS
    heads, _, width = layer.projections.shape[1:]

    def ratio(v):
        injected = layer.inject(v["e"], None, v["bias"]) if given is None else given
        _, moved = jax.jvp(lambda h: layer(h, injected), (v["h"],), (v["d"],))
        return jnp.log(norm(moved) + 1e-30) - jnp.log(norm(v["d"]) + 1e-30)

    shapes = {"h": (TOKENS, width), "d": (TOKENS, width)}
    if given is None:
        shapes |= {"e": (sources, INPUTS), "bias": (heads, TOKENS, sources)}
    keys = jax.random.split(key, len(shapes))
    points = {
        n: jax.random.normal(k, (STARTS, *s))
        for (n, s), k in zip(shapes.items(), keys, strict=True)
    }
    scale = jnp.resize(jnp.asarray([0.5, 2.0, 8.0]), (STARTS,))[:, None, None]
    points["h"] = scale * points["h"]
    if given is None:
        points["e"] = 3.0 * scale * points["e"]
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, STEPS))

    def climb(carry, _):
        points, state, best = carry
        values, slope = jax.vmap(jax.value_and_grad(ratio))(points)
        change, state = optimizer.update(jax.tree.map(jnp.negative, slope), state)
        return (optax.apply_updates(points, change), state, jnp.maximum(best, values)), None

    start = (points, optimizer.init(points), jnp.full(STARTS, -jnp.inf))
    (_, _, best), _ = jax.jit(lambda c: jax.lax.scan(climb, c, None, STEPS))(start)
    return float(jnp.exp(jnp.nanmax(best)))


def main() -> None:
    """One row for each kind, size and seed."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    print(
        "| layer | width | heads | seed | certified | over the search at every input | "
        "over the search at one input | the bound of that input over it |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, (kind, _) in KINDS.items():
        for width, heads in ((4, 1), (8, 2), (16, 4), (32, 4)):
            for seed in range(3):
                key_layer, key_e, key_all, key_one = jax.random.split(jax.random.key(seed), 4)
                layer = resolve(kind(width, INPUTS, heads=heads, key=key_layer))
                certified = float(layer.lipschitz())
                sources = SOURCES if name == "cross" else TOKENS
                given = layer.inject(jax.random.normal(key_e, (sources, INPUTS)))
                everywhere = search(name, layer, key_all)
                here = search(name, layer, key_one, given)
                print(
                    f"| {name} | {width} | {heads} | {seed} | {certified:.4f} | "
                    f"{certified / everywhere:.2f} | {certified / here:.2f} | "
                    f"{float(layer.constant(given)) / here:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
