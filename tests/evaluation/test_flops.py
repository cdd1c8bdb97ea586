"""FLOPs of an imagined transition, against counts by hand."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import SIZES, SMALL

from loopwm.core import CoreConfig, LoopedCore, ResidualHalting, iterate
from loopwm.core.contractive import LayerKind
from loopwm.errors import UsageError
from loopwm.evaluation import flops_of_transition
from loopwm.evaluation.flops import unrolled
from loopwm.models import LatentMLPConfig, LoopedConfig, shapes_of
from loopwm.models.conventional.width_matched import core_flops, matched_width
from loopwm.nn import resolve
from loopwm.stability import Mode


def _products(function, *arguments):
    """FLOPs of a function's matrix products, from the program with its loops written out."""
    flat, leaves = unrolled(function, *arguments)
    total = 0
    for equation in jax.make_jaxpr(flat)(*leaves).jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, result = equation.invars[0].aval, equation.outvars[0].aval
            inner = math.prod(left.shape[axis] for axis in contracted)
            total += 2 * inner * math.prod(result.shape)
    return total


def test_latent_mlp_by_hand():
    config = LatentMLPConfig(latent=64, hidden=32, width=128, layers=2)
    counted = flops_of_transition(shapes_of(config, SIZES), SIZES.action)
    products = 2 * (66 * 128 + 128 * 128 + 128 * 64)
    # Biases, layer norms, mish and softmax: some two dozen operations an entry.
    assert products < counted < products + 30 * (128 + 128 + 64)


def test_loops_count_as_often_as_they_run():
    core = CoreConfig(width=32, layers=2)
    costs = {}
    for depth in (1, 3, 5):
        config = LoopedConfig(latent=16, hidden=8, depth=depth, core=core)
        costs[depth] = flops_of_transition(shapes_of(config, SIZES), SIZES.action)
        products = core_flops(16, SIZES.action, core, depth)
        assert products < costs[depth] < 1.15 * products
    loop = (costs[3] - costs[1]) / 2
    assert costs[5] - costs[3] == pytest.approx(2 * loop, rel=0.02)
    assert loop > 2 * 2 * 2 * 32 * 32  # two layers, S and its transpose


def test_the_outcome_head_is_counted_when_asked_for():
    shapes = shapes_of(SMALL["gru"], SIZES)
    bare = flops_of_transition(shapes, SIZES.action)
    head = flops_of_transition(shapes, SIZES.action, outcome=True) - bare
    assert head > 2 * (14 * 8 + 8 * 2)


@pytest.mark.parametrize(
    "config",
    [
        CoreConfig(width=6, layers=2),
        CoreConfig(width=7, layers=1, layer=LayerKind.SLL),
        CoreConfig(width=6, layers=3, layer=LayerKind.SANDWICH),
        CoreConfig(width=7, layers=2, mode=Mode.BOUNDED),
        CoreConfig(width=8, layers=1, mode=Mode.LINEAR),
        CoreConfig(width=5, layers=2, mode=Mode.FREE),
    ],
    ids=lambda c: f"{c.mode} {c.layer}",
)
def test_the_closed_form_is_what_the_program_has(config, filled):
    core = filled(lambda key: LoopedCore(4, 2, config, key=key))
    resolved = eqx.filter_eval_shape(resolve, core)
    for depth in (1, 3):

        def run(core, z, u, depth=depth):
            # The core's own call, less its statistics, which nobody asks for here.
            e = core.prelude(z, u)
            update = core.bind(e)
            h, _ = jax.lax.scan(lambda h, _: (update(h), None), update.start(), None, depth)
            return core.coda(jnp.concatenate([h, e]))

        found = _products(run, resolved, jnp.zeros(4), jnp.zeros(2))
        assert found == core_flops(4, 2, config, depth)


def test_the_wide_pass_costs_what_the_loops_cost():
    for loops in (1, 4, 12):
        config = dataclasses.replace(SMALL["width_matched"], loops=loops).core
        width = matched_width(6, 2, config, loops)
        wanted = core_flops(6, 2, config, loops)

        def missed(size, config=config, wanted=wanted):
            return abs(core_flops(6, 2, dataclasses.replace(config, width=size), 1) - wanted)

        assert missed(width) <= min(missed(width - 1), missed(width + 1))
        assert (width == config.width) == (loops == 1)
    sizes = {"latent": 32, "hidden": 8, "core": CoreConfig(width=32)}
    looped = shapes_of(LoopedConfig(depth=4, **sizes), SIZES)
    wide = shapes_of(type(SMALL["width_matched"])(loops=4, **sizes), SIZES)
    costs = [flops_of_transition(model, SIZES.action) for model in (looped, wide)]
    assert costs[1] == pytest.approx(costs[0], rel=0.05)


def test_unrolled_gives_the_same_numbers(rng):
    w = jnp.asarray(rng.normal(size=(3, 3)), jnp.float32)
    xs = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)

    def function(parts, start):
        def body(carry, x):
            h = jax.nn.relu(parts["w"] @ carry) + x
            return h, (h.sum(), jax.jit(jnp.tanh)(h))

        forward = jax.lax.scan(body, start, parts["xs"])
        return forward, jax.lax.scan(body, start, parts["xs"], reverse=True)

    parts = {"w": w, "xs": xs, "name": "not an array"}
    flat, leaves = unrolled(function, parts, jnp.ones(3))
    for one, two in zip(flat(*leaves), jax.tree.leaves(function(parts, jnp.ones(3))), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)


def test_a_loop_without_a_number_is_refused(filled, assert_helpful):
    core = filled(lambda key: LoopedCore(4, 2, CoreConfig(width=4), key=key))

    def halting(core, e):
        update = core.bind(e)
        return iterate(update, update.start(), ResidualHalting(1e-3)).value

    with pytest.raises(UsageError, match="fixed number") as raised:
        unrolled(halting, core, jnp.zeros(4))[0](*unrolled(halting, core, jnp.zeros(4))[1])
    assert_helpful(raised)
