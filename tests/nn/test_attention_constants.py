"""The constants of attention layers against Jacobians, a search and cases that attain them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from attention_cases import (
    CAPPED,
    HEADS,
    INPUTS,
    LAYERS,
    TOKENS,
    WIDTH,
    everything,
    hostile_weights,
    random_inputs,
    random_state,
    source_count,
    with_free,
)

from loopwm.nn import AbstractParametrization, resolve
from loopwm.nn.attention import CrossAttention, RowStochasticAttention, SelfAttention
from loopwm.stability import Norm, norms

NORMS = {"cross": norms.two, "self": norms.tokens}


def _norm_of(name: str, jacobian: np.ndarray) -> float:
    """The Jacobian's norm in the layer's own; for tokens a lower bound by alternating ascent."""
    jacobian = np.asarray(jacobian, np.float64)
    assert np.all(np.isfinite(jacobian))
    flat = jacobian.reshape(TOKENS * WIDTH, TOKENS * WIDTH)
    if name == "cross":
        return float(np.linalg.norm(flat, 2))
    if name == "average":
        return float(np.abs(flat).sum(axis=1).max())
    best = 0.0
    rng = np.random.default_rng(0)
    for block in jacobian:  # the rows of one token of the result
        for _ in range(3):
            out = rng.normal(size=WIDTH)
            for _ in range(15):
                moves = np.einsum("i,imj->mj", out, block)
                lengths = np.linalg.norm(moves, axis=1, keepdims=True)
                moves = moves / np.where(lengths > 0, lengths, 1.0)
                out = np.einsum("imj,mj->i", block, moves)
                best = max(best, float(np.linalg.norm(out)))
    return best


@pytest.mark.parametrize("name", CAPPED)
def test_jacobians_stay_below_the_constant_for_any_weights(name, rng):
    for family, free in hostile_weights(LAYERS[name].projections.free.shape).items():
        layer = with_free(LAYERS[name], free)
        bound = layer.lipschitz()
        assert bound.norm is (Norm.TWO if name == "cross" else Norm.TOKENS)
        assert float(bound) <= 1.0, family
        for scale in (0.1, 1.0, 10.0):
            h, (e, mask, bias) = random_state(rng, scale), random_inputs(name, rng, scale)
            _, jacobian, _, _, constant, _, _ = everything(layer, h, e, mask, 5.0 * bias)
            true = _norm_of(name, jacobian)
            assert true <= float(bound) * (1 + 1e-4) + 1e-30, family
            assert true <= float(constant) * (1 + 1e-4) + 1e-30, family
            assert float(constant) <= 1.05, family


def _search(name, layer, key, starts=12, steps=150):
    """The largest ‖J δ‖ / ‖δ‖ found by gradient ascent over h, δ, e and added logits."""
    norm = NORMS[name]

    def ratio(v):
        injected = layer.inject(v["e"], None, v["bias"])
        _, moved = jax.jvp(lambda h: layer(h, injected), (v["h"],), (v["d"],))
        return jnp.log(norm(moved) + 1e-30) - jnp.log(norm(v["d"]) + 1e-30)

    sizes = {
        "h": (TOKENS, WIDTH),
        "d": (TOKENS, WIDTH),
        "e": (source_count(name), INPUTS),
        "bias": (HEADS, TOKENS, source_count(name)),
    }
    keys = jax.random.split(key, len(sizes))
    scale = jnp.resize(jnp.asarray([0.5, 2.0, 8.0]), (starts,))[:, None, None]
    points = {
        n: jax.random.normal(k, (starts, *s)) for (n, s), k in zip(sizes.items(), keys, strict=True)
    }
    points |= {"h": scale * points["h"], "e": 3.0 * scale * points["e"]}
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, steps))

    def climb(carry, _):
        points, state, best = carry
        values, slope = jax.vmap(jax.value_and_grad(ratio))(points)
        change, state = optimizer.update(jax.tree.map(jnp.negative, slope), state)
        return (optax.apply_updates(points, change), state, jnp.maximum(best, values)), None

    start = (points, optimizer.init(points), jnp.full(starts, -jnp.inf))
    (_, _, best), _ = jax.jit(lambda c: jax.lax.scan(climb, c, None, steps))(start)
    return float(jnp.exp(jnp.max(best)))


@pytest.mark.parametrize("name", CAPPED)
def test_no_search_exceeds_the_constant_and_it_is_not_loose(name, key):
    layer = resolve(LAYERS[name])
    bound = float(layer.lipschitz())
    found = _search(name, layer, key)
    assert found <= bound * (1 + 1e-4)
    assert found >= bound / 2.5


def _one_head(kind, projections, **options):
    """A layer of width 1 with these projections, and no biases."""
    layer = kind(1, 1, heads=1, key=jax.random.key(0), **options)
    layer = jax.tree.map(lambda x: jnp.zeros_like(x) if eqx.is_array(x) else x, layer)
    weights = jnp.asarray(projections, jnp.float32).reshape(-1, 1, 1, 1)
    return eqx.tree_at(lambda x: x.projections, layer, weights)


@eqx.filter_jit
def _slope(layer, e, shift):
    """d(first token)/d(first token) at h = 0 and the constant for this input, of width 1."""
    injected = layer.inject(e)
    if shift is not None:
        injected = eqx.tree_at(lambda x: x.shift, injected, shift)
    h = jnp.zeros((1, 1) if shift is None else e.shape)
    return jax.jacobian(layer)(h, injected)[0, 0, 0, 0], layer.constant(injected)


def test_cross_constant_is_attained():
    # Two sources at both ends of the ball: o = R_v tanh(β R_k q), whose slope at 0 is R_k R_v.
    layer = _one_head(CrossAttention, [2.0, 3.0], key_radius=5.0, value_radius=7.0)
    layer = eqx.tree_at(lambda x: x.source.weight, layer, jnp.full((2, 1), 1e6))
    assert float(layer.lipschitz()) == pytest.approx(2.0 * 3.0 * 5.0 * 7.0, rel=1e-4)
    slope, constant = _slope(layer, jnp.asarray([[1.0], [-1.0]]), None)
    assert float(slope) == pytest.approx(210.0, rel=1e-4)
    assert float(slope) <= float(constant) <= 210.0 * (1 + 1e-3)
    # Keys far from the origin but close together cannot be told apart.
    slope, constant = _slope(layer, jnp.asarray([[1.0], [1.0]]), None)
    assert float(slope) == 0.0 and float(constant) < 0.01


def test_self_constant_by_hand_and_its_corners_are_attained():
    # L = |w_o| √(w_v² + (R_k R_v max(|w_q|, |w_k|))²) with β = 1.
    options = {"key_radius": 2.0, "value_radius": 3.0}
    layer = _one_head(SelfAttention, [0.5, -0.25, 1.5, 2.0], **options)
    expected = 2.0 * np.hypot(1.5, 2.0 * 3.0 * 0.5)
    assert float(layer.lipschitz()) == pytest.approx(expected, rel=1e-9)
    no_shift = jnp.zeros((3, 1, 2, 1))
    _, constant = _slope(layer, jnp.zeros((2, 1)), no_shift)
    assert expected <= float(constant) <= expected * (1 + 1e-3)
    # Only values move: near 0 a token that looks at itself alone has the slope w_o w_v.
    values = _one_head(SelfAttention, [0.0, 0.0, 1.5, 2.0], **options)
    slope, _ = _slope(values, jnp.zeros((2, 1)), no_shift)
    assert 2.0 * float(slope) == pytest.approx(float(values.lipschitz()), rel=1e-4)  # two tokens
    # Only queries move: keys and values at both ends of their balls, set by the shifts.
    queries = _one_head(SelfAttention, [0.5, 0.0, 0.0, 2.0], **options)
    ends = no_shift.at[1:, 0].set(jnp.asarray([1e5, -1e5])[:, None])
    slope, _ = _slope(queries, jnp.zeros((2, 1)), ends)
    assert float(slope) == pytest.approx(2.0 * 0.5 * 6.0, rel=1e-4)
    assert float(queries.lipschitz()) == pytest.approx(2.0 * 0.5 * 6.0, rel=1e-9)


@pytest.mark.parametrize("name", CAPPED)
def test_weights_are_judged_as_they_are(name):
    layer = resolve(LAYERS[name])
    louder = eqx.tree_at(lambda x: x.projections, layer, layer.projections.at[-1].multiply(7.0))
    assert float(louder.lipschitz()) == pytest.approx(7.0 * float(layer.lipschitz()), rel=1e-5)
    # A dead head costs nothing, however steep it is.
    dead = layer.projections.at[-1, 0].set(0.0)
    bounds = [
        float(eqx.tree_at(lambda x: x.projections, layer, weights).lipschitz())
        for weights in (dead, dead.at[0, 0].multiply(1e3))
    ]
    assert bounds[0] <= float(layer.lipschitz()) and bounds[1] <= 1e3 * bounds[0]
    if name == "cross":
        # A factor moved from a head's W_O to its W_Q leaves every Jacobian as it was.
        moved = layer.projections.at[0, 0].multiply(100.0).at[1, 0].divide(100.0)
        moved = eqx.tree_at(lambda x: x.projections, layer, moved)
        assert float(moved.lipschitz()) <= 1.5 * float(layer.lipschitz())


@pytest.mark.parametrize("name", CAPPED)
def test_cap_is_held_used_and_left_alone_inside(name):
    kind = type(LAYERS[name])
    for cap in (0.3, 2.0):
        layer = kind(WIDTH, INPUTS, heads=HEADS, cap=cap, key=jax.random.key(5))
        loud = with_free(layer, 10.0 * layer.projections.free)
        assert 0.8 * cap <= float(loud.lipschitz()) <= cap
        small = 1e-2 * layer.projections.free
        np.testing.assert_array_equal(resolve(with_free(layer, small)).projections, small)


@pytest.mark.parametrize("name", CAPPED)
def test_resolve_gives_the_same_function_and_gradients_are_finite(name, rng):
    h, (e, mask, bias) = random_state(rng), random_inputs(name, rng)

    def loss(layer):
        injected = layer.inject(e, mask, bias)
        return jnp.sum(layer(h, injected) ** 2)

    both = eqx.filter_jit(
        lambda layer: (
            eqx.filter_value_and_grad(loss)(layer),
            eqx.filter_value_and_grad(lambda m: loss(resolve(m)))(layer),
        )
    )
    for family, free in hostile_weights(LAYERS[name].projections.free.shape).items():
        (direct, slope), (through, resolved) = both(with_free(LAYERS[name], free))
        np.testing.assert_allclose(direct, through, rtol=1e-5, atol=1e-8)
        for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(resolved), strict=True):
            assert np.all(np.isfinite(a)) and np.all(np.isfinite(b)), family
    leaves = jax.tree.leaves(
        resolve(LAYERS[name]), is_leaf=lambda x: isinstance(x, AbstractParametrization)
    )
    assert not any(isinstance(leaf, AbstractParametrization) for leaf in leaves)


def test_averages_do_not_expand_the_largest_entry(rng):
    layer = LAYERS["average"]
    assert layer.lipschitz().norm is Norm.INFINITY and float(layer.lipschitz()) == 1.0
    for scale in (0.01, 1.0, 100.0):
        h, inputs = random_state(rng), random_inputs("average", rng, scale)
        _, jacobian, _, weights, _, _, injected = everything(layer, h, *inputs)
        # Not 1 + rounding: the computed weights themselves sum to 1 at most.
        sums = np.asarray(injected, np.float64).sum(axis=-1)
        assert np.all(sums <= 1.0) and np.all(sums >= 1.0 - 1e-5)
        assert 0.99 <= _norm_of("average", jacobian) <= 1.0 + 1e-6


def test_averages_in_the_norm_of_the_worst_token(assert_helpful):
    # Each head copies its part of another token: √2 in the norm of tokens, and no more.
    layer = LAYERS["average"]
    assert float(layer.lipschitz(Norm.TOKENS)) == pytest.approx(np.sqrt(2.0))
    h = jnp.zeros((TOKENS, WIDTH)).at[0, 0].set(1.0).at[1, 2].set(1.0)
    only = jnp.full((HEADS, TOKENS, TOKENS), -jnp.inf).at[0, :, 0].set(0.0).at[1, :, 1].set(0.0)
    out = layer(h, layer.inject(jnp.zeros((TOKENS, INPUTS)), None, only))
    assert float(norms.tokens(h)) == 1.0
    assert float(norms.tokens(out)) == pytest.approx(np.sqrt(2.0), rel=1e-4)
    single = RowStochasticAttention(WIDTH, INPUTS, key=jax.random.key(0))
    assert float(single.lipschitz(Norm.TOKENS)) == 1.0
    with pytest.raises(ValueError) as raised:
        layer.lipschitz(Norm.TWO)
    assert_helpful(raised)
