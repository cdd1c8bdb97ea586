"""Each family's equations, computed again in NumPy from its weights."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import SIZES, SMALL

from loopwm.core import CoreConfig, FixedDepth, LoopedCore
from loopwm.models import LoopedConfig
from loopwm.models.conventional.ensemble import Gaussians, negative_log_likelihood, softly_bounded
from loopwm.models.conventional.latent_mlp import simplices
from loopwm.models.conventional.rssm import (
    Code,
    RSSMConfig,
    balanced,
    divergence,
    mixed,
    straight_through,
)
from loopwm.models.conventional.stack import StackCore
from loopwm.models.conventional.transformer import TransformerCore
from loopwm.nn import resolve

U = np.array([0.3, -0.8])


@pytest.fixture(scope="module")
def models(filled):
    names = ("latent_mlp", "gru", "rssm", "transformer", "ensemble")
    return {name: filled(lambda key, n=name: SMALL[n].build(SIZES, key=key)) for name in names}


def _linear(layer, x):
    bias = 0.0 if layer.bias is None else np.asarray(layer.bias, np.float64)
    return np.asarray(layer.weight, np.float64) @ x + bias


def _norm(layer, x):
    scaled = (x - x.mean()) / np.sqrt(x.var() + layer.eps)
    return scaled * np.asarray(layer.weight, np.float64) + np.asarray(layer.bias, np.float64)


def _sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def _softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _silu_layer(layer, x):
    y = _norm(layer.norm, _linear(layer.linear, x))
    return y * _sigmoid(y)


def _mlp(network, x):
    for layer in network.hidden:
        x = _silu_layer(layer, x)
    return _linear(network.readout, x)


def _gru(cell, x, h):
    """Gates from the three blocks of the stacked weights: reset, update, candidate."""
    of_x = np.split(np.asarray(cell.weight_ih, np.float64) @ x + np.asarray(cell.bias), 3)
    of_h = np.split(np.asarray(cell.weight_hh, np.float64) @ h, 3)
    r, q = _sigmoid(of_x[0] + of_h[0]), _sigmoid(of_x[1] + of_h[1])
    n = np.tanh(of_x[2] + r * (of_h[2] + np.asarray(cell.bias_n)))
    return (1.0 - q) * n + q * h


def _core(model, z):
    """What the core answers at z under U."""
    run = eqx.filter_jit(lambda model, z, u: model.core(z, u))
    return run(model, jnp.asarray(z, jnp.float32), jnp.asarray(U, jnp.float32))


def test_simplices_by_hand():
    x = jnp.log(jnp.asarray([1.0, 3.0, 2.0, 2.0, 9.0, 1.0]))
    np.testing.assert_allclose(simplices(x, 2), [0.25, 0.75, 0.5, 0.5, 0.9, 0.1], rtol=1e-6)


def test_latent_mlp(models, rng):
    model = models["latent_mlp"]
    z = np.asarray(simplices(jnp.asarray(rng.normal(size=8), jnp.float32), 4), np.float64)
    y = np.concatenate([z, U])
    for layer in model.core.layers:
        y = _norm(layer.norm, _linear(layer.linear, y))
        y = y * np.tanh(np.log1p(np.exp(y)))  # Mish
    y = _norm(model.core.bound.norm, _linear(model.core.readout, y))
    following = _core(model, z)
    np.testing.assert_allclose(following, _softmax(y.reshape(2, 4)).ravel(), atol=1e-5)
    encoded = eqx.filter_jit(model.encode)(jnp.ones(3))
    for state in (following, encoded):
        np.testing.assert_allclose(state.reshape(2, 4).sum(axis=1), 1.0, rtol=1e-5)


def test_gru(models, rng):
    core, z = models["gru"].core, np.tanh(rng.normal(size=6))
    expected = _gru(core.cell, _silu_layer(core.embed, np.concatenate([z, U])), z)
    np.testing.assert_allclose(_core(models["gru"], z), expected, atol=1e-5)
    assert np.max(np.abs(expected)) < 1.0


def test_rssm_step(models, filled, rng):
    core, h = models["rssm"].core, np.tanh(rng.normal(size=5))
    s = np.eye(4)[[1, 3, 0]].ravel()
    after = _gru(core.cell, _silu_layer(core.embed, np.concatenate([s, U])), h)
    logits = _mlp(core.prior, after).reshape(3, 4)
    probabilities = 0.99 * _softmax(logits) + 0.01 / 4
    found = np.asarray(_core(models["rssm"], np.concatenate([s, h])))
    np.testing.assert_allclose(found[12:], after, atol=1e-5)
    np.testing.assert_allclose(found[:12].reshape(3, 4), probabilities, atol=1e-5)
    config = dataclasses.replace(core.config, imagination=Code.MODE)
    hard = filled(lambda key: config.build(SIZES, key=key))  # of the same weights
    found = np.asarray(_core(hard, np.concatenate([s, h])))
    np.testing.assert_allclose(found[:12].reshape(3, 4), np.eye(4)[logits.argmax(1)], atol=1e-6)


def test_rssm_encodes_the_posterior_without_memory(models, rng):
    model, observation = models["rssm"], rng.normal(size=3)
    features = _mlp(model.encoder, observation)
    logits = _mlp(model.posterior, np.concatenate([np.zeros(5), features])).reshape(3, 4)
    z = eqx.filter_jit(model.encode)(jnp.asarray(observation, jnp.float32))
    expected = 0.99 * _softmax(logits) + 0.01 / 4
    np.testing.assert_allclose(z[:12].reshape(3, 4), expected, atol=1e-5)
    assert np.all(np.asarray(z[12:]) == 0.0)


def test_unimix_and_divergence_by_hand():
    log_p = mixed(jnp.log(jnp.asarray([[0.9, 0.1], [0.5, 0.5]])), 0.1)
    np.testing.assert_allclose(jnp.exp(log_p), [[0.86, 0.14], [0.5, 0.5]], rtol=1e-5)
    certain = mixed(jnp.asarray([[1e4, 0.0]]), 0.01)
    np.testing.assert_allclose(jnp.exp(certain), [[0.995, 0.005]], rtol=1e-4)
    log_q = jnp.log(jnp.asarray([[0.5, 0.5], [0.25, 0.75]]))
    by_hand = 0.5 * np.log(0.5 / 0.86) + 0.5 * np.log(0.5 / 0.14)
    by_hand += 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    assert float(divergence(log_q, log_p)) == pytest.approx(by_hand, rel=1e-5)


def test_balanced_divergences_have_free_bits_and_their_own_gradients():
    config = RSSMConfig(dynamics_weight=1.0, representation_weight=0.1, free_nats=1.0)
    near = jnp.log(jnp.asarray([[0.5, 0.5]])), jnp.log(jnp.asarray([[0.4, 0.6]]))
    far = jnp.log(jnp.asarray([[0.99, 0.01]])), jnp.log(jnp.asarray([[0.01, 0.99]]))
    slopes = jax.grad(balanced, argnums=(0, 1))
    assert float(balanced(*near, config)) == pytest.approx(1.1)  # the free bits alone
    assert all(np.all(g == 0.0) for g in slopes(*near, config))
    size = 0.98 * np.log(99.0)
    assert float(balanced(*far, config)) == pytest.approx(1.1 * size, rel=1e-5)
    of_q, of_p = slopes(*far, config)
    # d/dlog p of Σ q (log q − log p) is −q; log q enters as q(log q − log p) + q.
    np.testing.assert_allclose(of_p, [[-0.99, -0.01]], rtol=1e-5)
    q, gap = np.array([0.99, 0.01]), np.log(99.0) * np.array([1.0, -1.0])
    np.testing.assert_allclose(of_q, [0.1 * (q * gap + q)], rtol=1e-4)


def test_straight_through_has_the_gradient_of_the_probabilities():
    hard, w = jnp.asarray([[0.0, 1.0]]), jnp.asarray([[2.0, 5.0]])
    log_p = jnp.log(jnp.asarray([[0.3, 0.7]]))
    np.testing.assert_allclose(straight_through(hard, log_p), hard, atol=1e-7)
    slope = jax.grad(lambda x: jnp.sum(w * straight_through(hard, x)))(log_p)
    np.testing.assert_allclose(slope, [[0.6, 3.5]], rtol=1e-5)


def test_rssm_samples_what_it_predicts(models):
    core = models["rssm"].core
    log_p = jnp.log(jnp.asarray([[0.7, 0.1, 0.1, 0.1], [0.25] * 4, [0.01, 0.01, 0.01, 0.97]]))
    keys = jax.random.split(jax.random.key(0), 2000)
    drawn = jax.vmap(lambda k: core.sample(log_p, key=k))(keys).reshape(-1, 3, 4)
    np.testing.assert_allclose(jnp.sum(drawn, axis=-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(jnp.mean(drawn, axis=0), jnp.exp(log_p), atol=0.04)


def test_rssm_loss_is_of_valid_steps_alone(models):
    observation, action = jnp.ones((4, 3)), jnp.zeros((3, 2))
    own = eqx.filter_jit(models["rssm"].auxiliary)
    first = jnp.asarray([True, False, False])
    there = own(observation, action, first, key=jax.random.key(0))
    elsewhere = observation.at[2:].set(7.0)
    assert float(own(elsewhere, action, first, key=jax.random.key(0))) == float(there)
    everywhere = own(elsewhere, action, jnp.ones(3, bool), key=jax.random.key(0))
    assert float(everywhere) > float(there) > 1.0  # free bits: 1.1 a step, over two terms


def _attend(block, tokens, mask, heads):
    """One pre-norm block on tokens (n, width)."""
    seen = np.stack([_norm(block.norm_attention, t) for t in tokens])
    query, key, value = (
        (seen @ np.asarray(projection.weight, np.float64).T).reshape(len(seen), heads, -1)
        for projection in (
            block.attention.query_proj,
            block.attention.key_proj,
            block.attention.value_proj,
        )
    )
    logits = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(query.shape[-1])
    weights = _softmax(np.where(mask[None], logits, -np.inf))
    read = np.einsum("hqk,khd->qhd", weights, value).reshape(len(seen), -1)
    tokens = tokens + read @ np.asarray(block.attention.output_proj.weight, np.float64).T

    def mlp(token):
        y = _linear(block.widen, _norm(block.norm_mlp, token))
        gelu = 0.5 * y * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (y + 0.044715 * y**3)))
        return _linear(block.narrow, gelu)

    return tokens + np.stack([mlp(token) for token in tokens])


def test_transformer(models, rng):
    core: TransformerCore = models["transformer"].core
    x, codes, actions = rng.normal(size=5), rng.normal(size=(2, 5)), rng.normal(size=(2, 2))
    # Of the two places behind the present, only the latter is filled.
    z = np.concatenate([x, [0.0, 1.0], codes.ravel(), actions.ravel()])
    found = np.asarray(_core(models["transformer"], z))
    filled = [(codes[1], actions[1]), (x, U)]
    places = np.asarray(core.places, np.float64)[1:]
    tokens = np.stack(
        [
            _linear(core.state, c) + _linear(core.action, a) + p
            for (c, a), p in zip(filled, places, strict=True)
        ]
    )
    for block in core.blocks:
        tokens = _attend(block, tokens, np.tril(np.ones((2, 2), bool)), heads=2)
    moved = x + _linear(core.readout, _norm(core.norm, tokens[-1]))
    np.testing.assert_allclose(found[:5], moved / np.sqrt(1 + moved @ moved / 5), atol=1e-5)
    # The window has moved by one: (x, u) is now its last place, and both are filled.
    np.testing.assert_allclose(found[5:7], [1.0, 1.0])
    np.testing.assert_allclose(found[7:17], np.concatenate([codes[1], x]), rtol=1e-6)
    np.testing.assert_allclose(found[17:], np.concatenate([actions[1], U]), rtol=1e-6)


def test_transformer_forgets_what_leaves_the_window(models):
    model = models["transformer"]

    @eqx.filter_jit
    def follow(model, first):
        def body(z, u):
            following = model.transition(z, u).value
            # Every later code is the same whatever came before: the past alone differs.
            return following.at[: model.present].set(0.5), following

        u = jnp.ones((4, 2))
        start = model.encode(jnp.ones(3)).at[: model.present].set(first)
        return jax.lax.scan(body, start, u)[1][:, : model.present]

    one, two = follow(model, 0.1), follow(model, -0.9)
    apart = np.abs(np.asarray(one - two)).max(axis=1)
    assert np.all(apart[:3] > 1e-5) and apart[3] == 0.0  # W = 3 steps are seen


def test_soft_bounds_by_hand():
    low, high = jnp.asarray([-4.0]), jnp.asarray([1.0])
    x = np.array([[-50.0], [-1.0], [50.0]])
    inner = 1.0 - np.log1p(np.exp(1.0 - x))
    expected = -4.0 + np.log1p(np.exp(inner + 4.0))
    found = np.asarray(softly_bounded(jnp.asarray(x, jnp.float32), low, high))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.all(found >= -4.0) and np.all(found <= 1.0 + np.log1p(np.exp(-5.0)) + 1e-6)


def test_likelihood_by_hand():
    predicted = Gaussians(
        mean=jnp.asarray([[1.0, 2.0], [0.0, 0.0]]),
        log_variance=jnp.log(jnp.asarray([[4.0, 1.0], [0.25, 1.0]])),
    )
    found = negative_log_likelihood(predicted, jnp.asarray([3.0, 2.0]))
    first = (4.0 / 4.0 + np.log(4.0) + 0.0) / 2
    second = (9.0 / 0.25 + np.log(0.25) + 4.0) / 2
    np.testing.assert_allclose(found, [first, second], rtol=1e-5)


def test_ensemble(models, rng):
    model, z = models["ensemble"], rng.normal(size=5)
    means, variances = [], []
    for number in range(3):
        member = jax.tree.map(
            lambda x, n=number: x[n] if eqx.is_array(x) else x, model.core.members
        )
        delta, raw = np.split(_mlp(member, np.concatenate([z, U])), 2)
        moved = z + delta
        means.append(moved / np.sqrt(1.0 + moved @ moved / 5))
        variances.append(raw)
    means = np.stack(means)
    np.testing.assert_allclose(_core(model, z), means.mean(axis=0), atol=1e-5)
    predict = eqx.filter_jit(lambda m, z, u: (m.core.predict(z, u), m.disagreement(z, u)))
    arrays = jnp.asarray(z, jnp.float32), jnp.asarray(U, jnp.float32)
    found, apart = predict(model, *arrays)
    np.testing.assert_allclose(found.mean, means, atol=1e-5)
    bounded = softly_bounded(
        jnp.asarray(np.stack(variances), jnp.float32), model.core.low, model.core.high
    )
    np.testing.assert_allclose(found.log_variance, bounded, atol=1e-4)
    assert float(apart) == pytest.approx(means.var(axis=0).mean(), rel=1e-3)
    same = jax.tree.map(
        lambda x: jnp.broadcast_to(x[:1], x.shape) if eqx.is_array(x) else x, model.core.members
    )
    agreeing = eqx.tree_at(lambda m: m.core.members, model, same)
    assert float(predict(agreeing, *arrays)[1]) == pytest.approx(0.0, abs=1e-10)


def test_ensemble_loss_trains_its_members_alone(models, rng):
    observation = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    action, valid = jnp.zeros((3, 2)), jnp.asarray([True, True, False])
    loss = lambda m, o: m.auxiliary(o, action, valid, key=jax.random.key(3))  # noqa: E731
    gradient = eqx.filter_jit(eqx.filter_grad(loss))(models["ensemble"], observation)
    for part in (gradient.encoder, gradient.decoder, gradient.head):
        assert all(np.all(leaf == 0.0) for leaf in jax.tree.leaves(part))
    assert all(np.any(leaf != 0.0) for leaf in jax.tree.leaves(gradient.core))


def test_ensemble_loss_by_hand(models, rng):
    model, key = models["ensemble"], jax.random.key(3)
    observation = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    action = jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)
    own, valid = eqx.filter_jit(model.auxiliary), jnp.asarray([True, True, False])
    found = own(observation, action, valid, key=key)

    @eqx.filter_jit
    def each(model):
        z = jax.vmap(model.encode)(observation)
        one = lambda a, u, b: negative_log_likelihood(model.core.predict(a, u), b)  # noqa: E731
        return jax.vmap(one)(z[:-1], action, z[1:])

    # A weight for each member and transition; two of three transitions count.
    weight = np.asarray(jax.random.poisson(key, 1.0, (3, 3)))[:2]
    likelihood = np.sum(weight * np.asarray(each(model))[:2]) / (2 * 3)
    gap = 0.01 * np.mean(np.asarray(model.core.high - model.core.low))
    assert float(found) == pytest.approx(likelihood + gap, rel=1e-4)
    assert float(own(observation.at[3:].set(7.0), action, valid, key=key)) == float(found)
    none = own(observation, action, jnp.zeros(3, bool), key=key)
    assert float(none) == pytest.approx(gap, rel=1e-4)


def test_a_stack_is_the_looped_core_without_its_loop(filled, rng):
    config = CoreConfig(width=6, layers=2)
    z, u = jnp.asarray(rng.normal(size=5), jnp.float32), jnp.asarray(U, jnp.float32)
    looped = filled(lambda key: LoopedCore(5, 2, config, key=key))
    stack = filled(lambda key: StackCore(5, 2, config, 3, key=key), seed=1)
    parts = lambda core: (core.prelude, core.coda)  # noqa: E731
    stack = eqx.tree_at(parts, stack, parts(looped))

    @eqx.filter_jit
    def run(looped, stack):
        looped, stack = resolve((looped, stack))
        single = eqx.tree_at(lambda s: s.blocks, stack, (looped.block,))
        tied = eqx.tree_at(lambda s: s.blocks, stack, (looped.block,) * 3)
        wanted = [stack.bound(z + looped(z, u, FixedDepth(depth)).value) for depth in (1, 3)]
        return wanted, single(z, u), tied(z, u), stack(z, u)

    (once, thrice), single, tied, different = run(looped, stack)
    np.testing.assert_allclose(single, once, atol=1e-6)
    np.testing.assert_allclose(tied, thrice, atol=1e-6)
    assert float(jnp.max(jnp.abs(different - thrice))) > 1e-3


def test_stacks_have_the_sizes_of_the_looped_model():
    looped, core = LoopedConfig(), CoreConfig()
    for name in ("unshared", "single_pass", "width_matched"):
        config = type(SMALL[name])()
        assert (config.latent, config.hidden, config.core) == (looped.latent, looped.hidden, core)
    assert type(SMALL["unshared"])().blocks == looped.depth
    assert type(SMALL["width_matched"])().loops == looped.depth
