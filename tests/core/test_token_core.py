"""The token cores: their certificates against adversaries, and their mathematics by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.core import (
    RESULTS,
    FixedDepth,
    GridCore,
    Preset,
    SampledDepth,
    TokenConfig,
    iterate,
)
from loopwm.errors import UsageError
from loopwm.nn import resolve
from loopwm.stability import Level, Norm, attack, certify

TOKENS, WIDTH, INPUTS, HEADS = 3, 4, 3, 2
NAMES = ["cross", "cross, loud", "self", "self, loud"]
NORMS = {"cross": Norm.P, "self": Norm.TOKENS}


@pytest.fixture(scope="module")
def cores(filled):
    def build(preset: str) -> GridCore:
        config = TokenConfig(
            preset=Preset(preset), channels=WIDTH, inputs=INPUTS, heads=HEADS, readout=16
        )
        return filled(lambda key: GridCore(2, 1, config, key=key))

    fresh = {preset: build(preset) for preset in NORMS}
    loud = {f"{name}, loud": jax.tree.map(lambda x: 30.0 * x, c) for name, c in fresh.items()}
    return fresh | loud


@eqx.filter_jit
def _bind(core, tokens):
    core = resolve(core)
    return core.bind(core.prelude(tokens))


@pytest.fixture(scope="module")
def updates(cores):
    rng = np.random.default_rng(8)
    tokens = jnp.asarray(rng.normal(size=(TOKENS, 2)), jnp.float32)
    return {name: _bind(core, tokens) for name, core in cores.items()}


@pytest.mark.parametrize("name", NAMES)
def test_certificate_is_global_in_the_norm_of_the_preset(name, cores):
    certificate = certify(cores[name])
    assert certificate.level is Level.GLOBAL and certificate.norm is NORMS[name.split(",")[0]]
    assert certificate.rate == pytest.approx(0.6 + 0.4 * 0.95) and certificate.rate < 1
    assert [layer.constant for layer in certificate.layers] == pytest.approx([1.0, 1.0], rel=1e-9)


@eqx.filter_jit
def _ratios(update, x, y):
    before = jax.vmap(update.norm)(x - y)
    return jax.vmap(lambda a, b: update.norm(update(a) - update(b)))(x, y) / before


@pytest.mark.parametrize("name", NAMES)
def test_random_pairs_near_and_far_stay_below_the_rate(name, cores, updates, rng):
    scale = 10.0 ** rng.uniform(-1, 4, size=(128, 1, 1))
    x = jnp.asarray(scale * rng.normal(size=(128, TOKENS, WIDTH)), jnp.float32)
    y = x + jnp.asarray(0.3 * scale * rng.normal(size=x.shape), jnp.float32)
    worst, rate = float(_ratios(updates[name], x, y).max()), float(updates[name].rate())
    assert 0.3 < worst <= rate * (1 + 1e-4)
    assert rate <= certify(cores[name]).rate * (1 + 1e-6)


def _flat(update):
    shape = (TOKENS, WIDTH)
    return (
        lambda x: update(x.reshape(shape)).ravel(),
        lambda x: update.norm(x.reshape(shape)),
        TOKENS * WIDTH,
    )


@pytest.mark.parametrize("name", ["cross", "self"])
def test_the_adversary_does_not_exceed_the_rate(name, updates, key):
    result = attack(*_flat(updates[name]), key=key, starts=8, steps=40)
    assert 0.6 < result.ratio <= float(updates[name].rate()) * (1 + 1e-4)


def test_the_adversary_breaks_a_core_without_its_caps(cores, key):
    def free(core):
        meet, mix = core.block.layers
        return [meet.attention.projections, mix.layer.weight]

    core = cores["self"]
    broken = eqx.tree_at(
        free, core, [3.0 * weight for weight in free(eqx.filter_jit(resolve)(core))]
    )
    update = _bind(broken, jnp.ones((TOKENS, 2)))
    assert attack(*_flat(update), key=key, starts=8, steps=40).ratio > 1.2
    with pytest.raises(UsageError, match="not below 1"):
        certify(broken)


def _soft(x: np.ndarray, radius: float) -> np.ndarray:
    return x / np.sqrt(1.0 + np.sum(x**2, axis=-1, keepdims=True) / radius**2)


def _attend(layer, y: np.ndarray, injected) -> np.ndarray:
    """The attention of both kinds in float64, from the formulas of their classes."""
    meet = layer.attention
    weight = np.asarray(meet.projections, np.float64)
    size = weight.shape[2]
    if len(weight) == 2:
        queries = np.einsum("adw,nw->and", weight[0], y)
        queries = queries + np.asarray(meet.query_bias, np.float64)[:, None]
        keys, values = (np.asarray(x, np.float64) for x in (injected.keys, injected.values))
    else:
        rows = np.einsum("padw,nw->pand", weight[:3], y) + np.asarray(injected.shift, np.float64)
        queries, keys, values = (_soft(x, np.sqrt(size)) for x in rows)
    logits = np.einsum("and,amd->anm", queries, keys) / np.sqrt(size)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights = powers / powers.sum(axis=-1, keepdims=True)
    heads = np.einsum("anm,amd->and", weights, values)
    out = np.einsum("and,adw->nw", heads, weight[-1])
    return out + np.asarray(meet.output_bias, np.float64)


def _by_hand(update, h: np.ndarray) -> np.ndarray:
    meet, mix = update.layers
    share = 1.0 / (1.0 + np.exp(-float(meet.logit)))
    inside = _soft(h, np.sqrt(WIDTH))
    y = (1.0 - share) * h + share * _attend(meet, inside, update.injected[0])
    s = np.asarray(mix.layer.weight, np.float64)
    y = y - np.maximum(y @ s.T + np.asarray(update.injected[1], np.float64), 0.0) @ s
    retention = np.asarray(update.retention, np.float64)
    return retention * h + (1.0 - retention) * float(np.float32(update.gamma)) * y


@pytest.mark.parametrize("name", NAMES)
def test_one_loop_by_hand(name, updates, rng):
    h = rng.normal(size=(TOKENS, WIDTH))
    result = eqx.filter_jit(updates[name])(jnp.asarray(h, jnp.float32))
    np.testing.assert_allclose(result, _by_hand(updates[name], h), rtol=1e-4, atol=1e-4)


@eqx.filter_jit
def _solve(update, h, depth):
    return iterate(update, h, SampledDepth(depth, 400))


@pytest.mark.parametrize("name", NAMES)
def test_true_error_never_exceeds_the_bound(name, updates, rng):
    update, fixed = updates[name], np.zeros((TOKENS, WIDTH))
    for _ in range(2000):
        fixed = _by_hand(update, fixed)
    a = np.asarray(update.retention, np.float64)
    p = 1.0 / ((1.0 - a) * (a + (1.0 - a) * float(np.float32(update.gamma))))
    for depth in (1, 4, 40, 400):
        h = jnp.asarray(rng.normal(size=fixed.shape) * 100.0, jnp.float32)
        solution = _solve(update, h, jnp.asarray(depth))
        gap = np.asarray(solution.value, np.float64) - fixed
        rows = np.sum(gap**2, axis=-1)
        error = np.sqrt(np.sum(p * gap**2)) if a.ndim else np.sqrt(rows.max())
        assert error <= float(solution.stats.error_bound), depth
    size = np.sqrt(np.max(np.sum(fixed**2, axis=-1)))
    assert 0.0 < float(solution.stats.error_bound) <= 2e-2 * max(size, 1.0)


def test_self_has_one_retention_and_cross_one_for_each_channel(updates):
    assert updates["self"].retention.shape == ()
    assert updates["cross"].retention.shape == (TOKENS, WIDTH)
    assert np.ptp(np.asarray(updates["cross"].retention)) > 1e-3
    for update in updates.values():
        retention = np.asarray(update.retention)
        assert np.float32(0.05) <= retention.min() <= retention.max() <= np.float32(0.6)


@pytest.mark.parametrize("name", ["cross", "self"])
def test_tokens_meet_without_an_order_and_every_weight_learns(name, cores, rng):
    x = jnp.asarray(rng.normal(size=(TOKENS, 2)), jnp.float32)

    @eqx.filter_jit
    @eqx.filter_grad(has_aux=True)
    def run(core, x):
        solution = resolve(core)(x, FixedDepth(3))
        return jnp.sum(solution.value**2), solution

    gradient, solution = run(cores[name], x)
    assert solution.value.shape == (TOKENS, 1) and int(solution.stats.loops) == 3
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)) and np.any(leaf != 0), jax.tree_util.keystr(path)
    moved = run(cores[name], x[::-1])[1].value
    np.testing.assert_allclose(moved, solution.value[::-1], atol=1e-5)
    others = run(cores[name], x.at[0].set(3.0))[1].value
    assert float(jnp.max(jnp.abs(others[1:] - solution.value[1:]))) > 1e-5
    assert run(cores[name], x.at[0, 0].set(jnp.nan))[1].result == RESULTS.nonfinite


@pytest.mark.parametrize(
    "change",
    [
        {"heads": 3},
        {"heads": 0},
        {"layers": 0},
        {"dimensions": 2},
        {"periodic": True},
        {"injected": False, "start_from_input": True},
        {"gamma": 1.0},
        {"retention_max": 1.0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(change, assert_helpful):
    with pytest.raises(UsageError) as raised:
        TokenConfig(**change)
    assert_helpful(raised)
