"""Small attention layers, their inputs and hostile weights, for the tests of attention."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from loopwm.nn import resolve
from loopwm.nn.attention import CrossAttention, RowStochasticAttention, SelfAttention

WIDTH, INPUTS, HEADS, TOKENS, SOURCES = 4, 3, 2, 3, 4
LAYERS = {
    "cross": CrossAttention(WIDTH, INPUTS, heads=HEADS, key=jax.random.key(1)),
    "self": SelfAttention(WIDTH, INPUTS, heads=HEADS, key=jax.random.key(2)),
    "average": RowStochasticAttention(
        WIDTH, INPUTS, heads=HEADS, head_width=2, key=jax.random.key(3)
    ),
}
CAPPED = ["cross", "self"]


def source_count(name: str) -> int:
    return SOURCES if name == "cross" else TOKENS


def random_inputs(name, rng, scale=1.0):
    """e, a mask with at least one source for each token, and additive logits."""
    sources = source_count(name)
    mask = rng.random((TOKENS, sources)) < 0.7
    mask[:, 0] = True
    return (
        jnp.asarray(scale * rng.normal(size=(sources, INPUTS)), jnp.float32),
        jnp.asarray(mask),
        jnp.asarray(rng.normal(size=(HEADS, TOKENS, sources)), jnp.float32),
    )


def random_state(rng, scale=1.0):
    return jnp.asarray(scale * rng.normal(size=(TOKENS, WIDTH)), jnp.float32)


@eqx.filter_jit
def everything(layer, h, e, mask, bias):
    """Value, Jacobian of shape (tokens, width, tokens, width), rounding, weights, and constant."""
    layer = resolve(layer)
    injected = layer.inject(e, mask, bias)
    return (
        layer(h, injected),
        jax.jacobian(layer)(h, injected),
        layer.rounding(h, injected),
        layer.attention_weights(h, injected),
        layer.constant(injected),
        layer,
        injected,
    )


def hostile_weights(shape) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    gaussian = rng.normal(size=shape)
    unbalanced = gaussian.copy()
    unbalanced[:, 0] *= 1e6
    aligned = np.zeros(shape)
    aligned[..., 0, 0] = 3.0
    return {
        "gaussian": gaussian,
        "times 100": 100.0 * gaussian,
        "huge": 1e25 * gaussian,
        "tiny": 1e-25 * gaussian,
        "huge queries": gaussian * np.array([1e20] + [1e-10] * (shape[0] - 1))[:, None, None, None],
        "tiny queries": gaussian * np.array([1e-20] + [1e10] * (shape[0] - 1))[:, None, None, None],
        "unbalanced heads": unbalanced,
        "aligned": aligned,
        "zero": np.zeros(shape),
    }


def with_free(layer, free):
    return eqx.tree_at(lambda x: x.projections.free, layer, jnp.asarray(free, jnp.float32))
