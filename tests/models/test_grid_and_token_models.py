"""World models on grids and tokens: flat outside, cells inside, with the same promises."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.core import (
    RESULTS,
    ActionMap,
    ConvolutionConfig,
    FixedDepth,
    InfinityConfig,
    Meeting,
    Preset,
    TokenConfig,
)
from loopwm.errors import UsageError
from loopwm.models import (
    GridModelConfig,
    LoopedConfig,
    Sizes,
    TokenModelConfig,
    View,
    count_parameters,
)
from loopwm.nn import resolve
from loopwm.settings import build, dump
from loopwm.stability import Level, Mode, Norm, certify, certify_transition

CELLS, CHANNELS, ACTION = (3, 4), 2, 4
SIZES = Sizes(24, ACTION, (*CELLS, CHANNELS))
SMALL = {"channels": 4, "inputs": 3, "readout": 4}
GRID = GridModelConfig(channels=3, hidden=5, depth=2, core=ConvolutionConfig(hidden=4, **SMALL))
TOKENS = TokenModelConfig(tokens=3, width=4, hidden=6, depth=2, core=TokenConfig(heads=2, **SMALL))


def _with_core(config, core):
    return dataclasses.replace(config, core=core)


CONFIGS = {
    "grid": GRID,
    "grid, bounded": _with_core(GRID, ConvolutionConfig(mode=Mode.BOUNDED, hidden=4, **SMALL)),
    "grid, infinity": _with_core(GRID, InfinityConfig(**SMALL)),
    "grid, learned": dataclasses.replace(GRID, actions=ActionMap.LEARNED),
    "tokens, cross": TOKENS,
    "tokens, self": _with_core(TOKENS, TokenConfig(preset=Preset.SELF, heads=2, **SMALL)),
    "tokens, infinity": _with_core(
        TOKENS, InfinityConfig(dimensions=1, meeting=Meeting.ATTENTION, **SMALL)
    ),
}
NORMS = {
    "grid": Norm.P,
    "grid, bounded": Norm.P,
    "grid, infinity": Norm.INFINITY,
    "grid, learned": Norm.P,
    "tokens, cross": Norm.P,
    "tokens, self": Norm.TOKENS,
    "tokens, infinity": Norm.INFINITY,
}


@pytest.fixture(scope="module")
def models(filled):
    return {
        name: filled(lambda key, c=config: c.build(SIZES, key=key))
        for name, config in CONFIGS.items()
    }


@eqx.filter_jit
def _everything(model, observation, actions):
    """Sizes of imagined states, and what one transition brings, with its gradient."""

    def value(model):
        model = resolve(model)
        z = model.encode(observation)

        def body(state, u):
            solution = model.transition(state, u)
            return solution.value, (jnp.linalg.norm(solution.value), solution)

        last, (sizes, solutions) = jax.lax.scan(body, z, actions)
        outcome = model.outcome(z, actions[0], last)
        decoded = model.decode(last)
        total = jnp.sum(decoded) + outcome.reward + outcome.continuation_logit
        return total, (z, sizes, solutions, decoded)

    return eqx.filter_grad(value, has_aux=True)(model)


@pytest.mark.parametrize("name", ["grid", "tokens, self"])
def test_flat_outside_bounded_and_trainable(name, models, rng):
    model = models[name]
    observation = jnp.asarray(rng.normal(size=24), jnp.float32)
    actions = jnp.eye(ACTION)[rng.integers(0, ACTION, 6)]
    radius = certify_transition(eqx.filter_jit(resolve)(model)).radius
    assert radius == pytest.approx(np.sqrt(model.latent), rel=1e-5)
    for factor in (1.0, 100.0):
        loud = jax.tree.map(lambda x, f=factor: f * x if eqx.is_inexact_array(x) else x, model)
        gradient, (z, sizes, solutions, decoded) = _everything(loud, observation, actions)
        assert z.shape == (model.latent,) and decoded.shape == (24,)
        assert float(jnp.linalg.norm(z)) <= radius and float(sizes.max()) <= radius
        assert np.all(np.asarray(solutions.stats.loops) == 2)
        assert np.all(np.asarray(solutions.result == RESULTS.successful))
        if factor == 1.0:
            silent = [
                jax.tree_util.keystr(path)
                for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
                if not (np.all(np.isfinite(leaf)) and np.any(leaf != 0))
            ]
            assert not silent


@pytest.mark.parametrize("name", CONFIGS)
def test_the_core_is_certified_in_its_norm(name, models):
    certificate = certify(eqx.filter_jit(resolve)(models[name].core))
    assert certificate.norm is NORMS[name]
    assert certificate.level is (Level.BALL if "bounded" in name else Level.GLOBAL)
    assert "bounded" in name or certificate.rate < 1.0
    assert 0 < count_parameters(models[name].core) < count_parameters(models[name])


def test_a_free_core_proves_no_ball(filled):
    free = _with_core(GRID, ConvolutionConfig(mode=Mode.FREE, hidden=4, **SMALL))
    with pytest.raises(UsageError, match="mode 'free'"):
        certify_transition(filled(lambda key: free.build(SIZES, key=key)))


def test_transition_and_bound_by_hand(models, rng):
    model, z = models["grid"], jnp.asarray(rng.normal(size=36), jnp.float32)
    u = jnp.asarray([0.0, 1.0, 0.0, 0.0])

    @eqx.filter_jit
    def run(model):
        cells = jnp.concatenate([z.reshape(3, 4, 3), jnp.broadcast_to(u, (3, 4, 4))], axis=-1)
        return model.core.grid(cells, FixedDepth(2)).value, model.transition(z, u).value

    change, after = run(model)
    moved = np.asarray(z, np.float64).reshape(12, 3) + np.asarray(change, np.float64).reshape(12, 3)
    expected = moved / np.sqrt(1.0 + np.sum(moved**2, axis=-1, keepdims=True) / 3.0)
    np.testing.assert_allclose(after, expected.ravel(), atol=1e-5)


def test_actions_reach_their_cells(filled):
    pointed = dataclasses.replace(GRID, actions=ActionMap.POINTED)
    model = filled(lambda key: pointed.build(dataclasses.replace(SIZES, action=14), key=key))
    shares = np.asarray(model.core.actions(jnp.arange(14.0)))
    np.testing.assert_array_equal(shares[..., 0], np.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(shares[..., 1:], np.full((3, 4, 2), [12.0, 13.0]))
    learned = filled(
        lambda key: dataclasses.replace(GRID, actions=ActionMap.LEARNED).build(SIZES, key=key)
    )
    linear = learned.core.actions.linear
    u = jnp.asarray([0.0, 0.0, 1.0, 0.0])
    expected = (linear.weight[:, 2] + linear.bias).reshape(3, 4, 3)
    np.testing.assert_allclose(learned.core.actions(u), expected, rtol=1e-6)


def test_a_move_of_the_grid_moves_the_answer(filled, rng):
    """On a torus, with a broadcast action, nothing but the head knows where a cell is."""
    core = ConvolutionConfig(hidden=4, periodic=True, **SMALL)
    model = filled(lambda key: _with_core(GRID, core).build(SIZES, key=key))

    @eqx.filter_jit
    def follow(model, grid):
        z = model.transition(model.encode(grid.ravel()), jnp.asarray([1.0, 0.0, 0.0, 0.0])).value
        return model.decode(z).reshape(*CELLS, CHANNELS)

    grid = jnp.asarray(rng.normal(size=(*CELLS, CHANNELS)), jnp.float32)
    moved = follow(model, jnp.roll(grid, (1, 2), (0, 1)))
    np.testing.assert_allclose(moved, jnp.roll(follow(model, grid), (1, 2), (0, 1)), atol=1e-5)


def test_a_grid_without_channels_has_one(filled):
    sizes = Sizes(12, ACTION, CELLS)
    model = filled(lambda key: GRID.build(sizes, key=key))
    assert model.latent == 36 and eqx.filter_jit(model.encode)(jnp.ones(12)).shape == (36,)
    row = _with_core(GRID, ConvolutionConfig(dimensions=1, hidden=4, **SMALL))
    assert filled(lambda key: row.build(sizes, key=key)).core.layout.cells == (3,)


PICTURE = Sizes(9 * 10 * 2, ACTION, (9, 10, 2), image=True)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(LoopedConfig, (9, 10, 2)), (LoopedConfig, (4, 3, 1)), (TokenModelConfig, (16, 8, 3))],
    ids=str,
)
def test_images_are_encoded_and_decoded_by_convolutions(kind, shape, filled, rng):
    size = int(np.prod(shape))
    config = kind(hidden=8)
    sizes = Sizes(size, ACTION, shape, image=True)
    model = filled(lambda key: config.build(sizes, key=key))

    @eqx.filter_jit
    @eqx.filter_grad(has_aux=True)
    def run(model, image):
        z = resolve(model).encode(image)
        decoded = model.decode(z)
        return jnp.sum(decoded**2), (z, decoded)

    gradient, (z, decoded) = run(model, jnp.asarray(rng.random(size), jnp.float32))
    assert z.shape == (model.latent,) and decoded.shape == (size,)
    for part in (gradient.encoder, gradient.decoder):
        for leaf in jax.tree.leaves(part):
            assert np.all(np.isfinite(leaf)) and np.any(leaf != 0)
    halvings = {9: 1, 4: 0, 16: 1}[shape[0]]
    assert len(model.encoder.convolutions) == len(model.decoder.convolutions) == halvings


def test_the_view_can_be_chosen(filled):
    flat = filled(lambda key: LoopedConfig(view=View.VECTOR).build(PICTURE, key=key))
    assert flat.encoder.hidden[0].linear.in_features == 180
    forced = dataclasses.replace(PICTURE, image=False)
    image = filled(lambda key: LoopedConfig(view=View.IMAGE).build(forced, key=key))
    assert image.encoder.shape == (9, 10, 2)


@pytest.mark.parametrize(
    ("config", "sizes", "match"),
    [
        (GRID, Sizes(4, 2), "no such shape"),
        (GRID, Sizes(4, 2, (4,)), r"\(4,\)"),
        (_with_core(GRID, ConvolutionConfig(dimensions=1)), SIZES, r"dimensions=1 .*\(3, 4, 2\)"),
        (_with_core(GRID, ConvolutionConfig(grid=(8, 8))), SIZES, r"grid is \(8, 8\).*\(3, 4\)"),
        (dataclasses.replace(GRID, actions=ActionMap.POINTED), SIZES, "12 cells"),
        (_with_core(TOKENS, InfinityConfig()), SIZES, "dimensions is 2"),
        (LoopedConfig(view=View.IMAGE), Sizes(4, 2, (4,)), "no image"),
    ],
    ids=lambda x: getattr(x, "pattern", None) or type(x).__name__,
)
def test_what_cannot_be_built_is_refused(config, sizes, match, assert_helpful):
    with pytest.raises(UsageError, match=match) as raised:
        eqx.filter_eval_shape(lambda key: config.build(sizes, key=key), jax.random.key(0))
    assert_helpful(raised)


@pytest.mark.parametrize(
    "change",
    [{"channels": 0}, {"hidden": 0}, {"depth": 0}, {"window": 2}, {"window": 0}],
    ids=str,
)
def test_grid_sizes_out_of_range_are_refused(change, assert_helpful):
    with pytest.raises(UsageError) as raised:
        GridModelConfig(**change)
    assert_helpful(raised)


@pytest.mark.parametrize("field", ["tokens", "width", "hidden", "depth"])
def test_token_sizes_below_one_are_refused(field, assert_helpful):
    with pytest.raises(UsageError, match=f"model.{field} is 0") as raised:
        TokenModelConfig(**{field: 0})
    assert_helpful(raised)


@pytest.mark.parametrize("config", [GRID, TOKENS, CONFIGS["tokens, infinity"]], ids=str)
def test_settings_survive_a_file(config):
    assert build(type(config), dump(config)) == config


def test_heads_that_do_not_divide_the_width_are_refused_by_the_setting(assert_helpful):
    with pytest.raises(UsageError, match="3 heads do not divide 16 channels") as raised:
        build(TokenModelConfig, {"core": {"name": "attention", "heads": 3}})
    assert_helpful(raised)


@pytest.mark.parametrize("base", [LoopedConfig(), GRID, TOKENS], ids=["vector", "grid", "tokens"])
def test_exits_are_what_each_depth_would_answer(base, filled, rng, assert_helpful):
    core = dataclasses.replace(base.core, gate=True)
    config = dataclasses.replace(base, depth=3, core=core)
    model = filled(lambda key: config.build(SIZES, key=key))
    z = jnp.asarray(rng.normal(size=model.latent), jnp.float32)
    u = jnp.asarray(rng.normal(size=ACTION), jnp.float32)

    @eqx.filter_jit
    def run(model):
        model = resolve(model)
        each = [model.transition(z, u, FixedDepth(t)).value for t in (1, 2, 3)]
        return model.exits(z, u), jnp.stack(each)

    (states, logits), expected = run(model)
    np.testing.assert_allclose(states, expected, atol=1e-5)
    assert logits.shape == (3,) and len(np.unique(logits)) == 3
    without = filled(lambda key: base.build(SIZES, key=key))
    assert model.gated and not without.gated
    with pytest.raises(UsageError, match="model.core.gate=true") as raised:
        without.exits(z, u)
    assert_helpful(raised)
