"""Gradients through the loop: against finite differences in float64, and against each other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from loopwm.core import (
    FULL,
    AbstractUpdate,
    CertifiedHalting,
    ConvolutionConfig,
    CoreConfig,
    FixedDepth,
    GradientKind,
    GridCore,
    LoopGradient,
    ResidualHalting,
    SampledDepth,
    iterate,
    with_full_gradient,
)
from loopwm.errors import UsageError
from loopwm.models import LoopedConfig, Sizes
from loopwm.stability import Mode

IMPLICIT = LoopGradient(GradientKind.IMPLICIT, terms=300, tolerance=1e-6)
CHECKPOINTED = LoopGradient(checkpoint=True)
SIZE = 4


class Tanh(AbstractUpdate):
    """h⁺ = tanh(W h + x) / 2 with ‖W‖₂ ≤ 1: it contracts at 1/2."""

    weight: Float[Array, "size size"]
    injected: Float[Array, " size"]

    def __call__(self, h: Float[Array, "*state"]) -> Float[Array, "*state"]:
        """One loop."""
        return 0.5 * jnp.tanh(self.weight @ h + self.injected)

    def start(self) -> Float[Array, "*state"]:
        """h_0 = 0."""
        return jnp.zeros_like(self.injected)

    def norm(self, x: Float[Array, "*state"]) -> Float[Array, ""]:
        """‖x‖₂."""
        return jnp.linalg.norm(x)

    def rate(self) -> Float[Array, ""]:
        """ρ = 1/2."""
        return jnp.asarray(0.5)

    def rounding(self, h: Float[Array, "*state"]) -> Float[Array, ""]:
        """η, generously."""
        return jnp.asarray(1e-6)


@pytest.fixture(scope="module")
def update():
    rng = np.random.default_rng(3)
    weight = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
    return Tanh(jnp.asarray(weight, jnp.float32), jnp.asarray(rng.normal(size=SIZE), jnp.float32))


@pytest.fixture(scope="module")
def start():
    return jnp.asarray([2.0, -1.0, 0.5, 3.0])


def truncated(loops):
    return LoopGradient(GradientKind.TRUNCATED, loops=loops)


def loss(update, h, rule, gradient):
    return jnp.linspace(-1.0, 1.0, len(h)) @ iterate(update, h, rule, gradient).value


@eqx.filter_jit
def gradients(update, h, rule, gradient):
    """Derivatives of the loss with respect to the update and h_0."""
    arrays, static = eqx.partition(update, eqx.is_inexact_array)
    return jax.grad(lambda p, x: loss(eqx.combine(p, static), x, rule, gradient), argnums=(0, 1))(
        arrays, h
    )


def assert_same(one, other, rtol=1e-4, atol=1e-6):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def twin_loss(twin, direction, size):
    """The loss at the fixed point of the float64 twin, moved along a direction."""
    known = [*twin.weights, *twin.injected, twin.retention]
    *others, retention = [x + size * d for x, d in zip(known, direction, strict=True)]
    count = len(twin.weights)
    moved = type(twin)(others[:count], others[count:], retention, twin.gamma)
    return np.linspace(-1.0, 1.0, len(retention)) @ moved.fixed_point()


@pytest.mark.parametrize(
    "rule",
    [FixedDepth(400), ResidualHalting(1e-5, 600), CertifiedHalting(1e-3, 600)],
    ids=["fixed", "residual", "certified"],
)
def test_implicit_agrees_with_finite_differences_of_the_fixed_point(
    rule, core, bind, inputs, reference, rng
):
    update = bind(core, *inputs)
    found, of_start = gradients(update, update.start() + 1.0, rule, IMPLICIT)
    np.testing.assert_array_equal(of_start, 0.0)
    # Weights, injected inputs and retention: all that depends on weights or input.
    parts = [*(layer.weight for layer in found.layers), *found.injected, found.retention]
    twin = reference(update)
    for _ in range(3):
        direction = [rng.normal(size=np.shape(x)) for x in parts]
        difference = twin_loss(twin, direction, 1e-6) - twin_loss(twin, direction, -1e-6)
        slope = sum(np.vdot(g, d) for g, d in zip(parts, direction, strict=True))
        assert abs(difference / 2e-6) > 0.05
        assert slope == pytest.approx(difference / 2e-6, rel=1e-2)


def test_implicit_equals_full_at_a_converged_depth_alone(update, start):
    full = gradients(update, start, FixedDepth(40), FULL)
    assert_same(gradients(update, start, FixedDepth(40), IMPLICIT), full, 1e-4, 1e-5)
    shallow = gradients(update, start, FixedDepth(2), FULL)
    assert float(jnp.max(jnp.abs(full[0].weight - shallow[0].weight))) > 1e-2
    # One term of the series is the derivative of one more loop, its input held.
    once = LoopGradient(GradientKind.IMPLICIT, terms=1)
    one_loop = gradients(update, start, FixedDepth(40), truncated(1))
    assert_same(gradients(update, start, FixedDepth(40), once), one_loop, 1e-4, 1e-5)
    assert float(jnp.max(jnp.abs(full[0].weight - one_loop[0].weight))) > 1e-3


@pytest.mark.parametrize("gradient", [IMPLICIT, truncated(3)], ids=["implicit", "truncated"])
def test_a_batch_of_halting_loops_equals_each_alone(gradient, update, start):
    starts = jnp.asarray([0.0, 1.0, 100.0])[:, None] * start[None]
    rule = ResidualHalting(1e-2, 40)

    @eqx.filter_jit
    def batch(update, starts):
        one = jax.grad(lambda p, h: loss(p, h, rule, gradient))
        return jax.vmap(one, in_axes=(None, 0))(update, starts)

    found = batch(update, starts)
    for i in range(3):
        alone, _ = gradients(update, starts[i], rule, gradient)
        assert_same(jax.tree.map(lambda x, row=i: x[row], found), alone)


def test_checkpoints_change_nothing(update, start):
    full = gradients(update, start, FixedDepth(5), FULL)
    assert_same(gradients(update, start, FixedDepth(5), CHECKPOINTED), full)
    assert_same(gradients(update, start, SampledDepth(jnp.asarray(5), 7), CHECKPOINTED), full)


RULES = {
    "fixed": lambda tolerance: FixedDepth(5),
    "sampled": lambda tolerance: SampledDepth(jnp.asarray(5), 9),
    "residual": lambda tolerance: ResidualHalting(tolerance, 9),
}


@pytest.mark.parametrize("kind", list(RULES))
def test_truncated_is_the_full_gradient_of_the_last_loops(kind, update, start):
    states = [start]
    for _ in range(5):
        states.append(update(states[-1]))
    residuals = [float(update.norm(b - a)) for a, b in zip(states, states[1:], strict=False)]
    rule = RULES[kind](float(np.sqrt(residuals[3] * residuals[4])))
    found, of_start = gradients(update, start, rule, truncated(2))
    expected, _ = gradients(update, states[3], FixedDepth(2), FULL)
    assert_same(found, expected)
    np.testing.assert_array_equal(of_start, 0.0)
    whole = gradients(update, start, rule, truncated(8))
    assert_same(whole, gradients(update, start, FixedDepth(5), FULL))
    assert float(jnp.max(jnp.abs(whole[1]))) > 1e-4


@pytest.mark.parametrize("rule", [FixedDepth(5), ResidualHalting(0.05, 60)], ids=["fixed", "halt"])
def test_the_forward_values_are_the_same(rule, update, start):
    solve = eqx.filter_jit(lambda gradient: iterate(update, start, rule, gradient))
    plain = solve(FULL)
    for gradient in (IMPLICIT, truncated(2)):
        other = solve(gradient)
        np.testing.assert_allclose(other.value, plain.value, rtol=1e-5, atol=1e-7)
        assert_same(other.stats, plain.stats, 1e-3)
        assert other.result == plain.result


def test_nan_is_not_hidden(update, start):
    found, _ = gradients(update, start.at[0].set(jnp.nan), ResidualHalting(1e-2, 40), IMPLICIT)
    assert np.all(np.isnan(found.injected))


def test_memory_is_flat_in_depth_unless_full(update, start):
    def bytes_of(depth, gradient):
        def of_update(p):
            return loss(p, start, FixedDepth(depth), gradient)

        compiled = jax.jit(jax.grad(of_update)).lower(update).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    for gradient in (IMPLICIT, truncated(2)):
        assert bytes_of(64, gradient) == bytes_of(16, gradient)
    assert bytes_of(64, FULL) > 2 * bytes_of(16, FULL)


@pytest.mark.parametrize("mode", [Mode.BOUNDED, Mode.LINEAR, Mode.FREE])
def test_an_implicit_gradient_needs_a_contractive_core(mode, filled, assert_helpful):
    with pytest.raises(UsageError, match=f"mode '{mode}'") as raised:
        LoopedConfig(core=CoreConfig(mode=mode), gradient=IMPLICIT)
    assert_helpful(raised)
    config = ConvolutionConfig(channels=2, inputs=2, mode=mode)
    core = filled(lambda key: GridCore(1, 1, config, key=key))
    with pytest.raises(UsageError, match=f"mode '{mode}'") as raised:
        core(jnp.ones((3, 3, 1)), FixedDepth(2), IMPLICIT)
    assert_helpful(raised)
    LoopedConfig(core=CoreConfig(mode=mode), gradient=truncated(1))


@pytest.mark.parametrize(
    "wrong", [{"loops": 0}, {"terms": 0}, {"tolerance": -1.0}, {"tolerance": float("nan")}]
)
def test_numbers_outside_their_ranges_are_refused(wrong, assert_helpful):
    with pytest.raises(UsageError, match="gradient") as raised:
        LoopGradient(**wrong)
    assert_helpful(raised)


def test_a_model_ready_to_act_has_full_derivatives(filled):
    config = LoopedConfig(latent=4, hidden=4, core=CoreConfig(width=4, layers=1), gradient=IMPLICIT)
    model = filled(lambda key: config.build(Sizes(observation=3, action=2), key=key))
    assert model.gradient == IMPLICIT
    acting = with_full_gradient(model)
    assert acting.gradient == FULL
    assert_same(eqx.filter(acting, eqx.is_array), eqx.filter(model, eqx.is_array), 0, 0)


def test_implicit_passes_through_a_rollout_of_transitions(update, start):
    # Each state is the injected input of the next loop, as in training on sequences.
    def end(weight, z, gradient):
        def transition(z, _):
            inner = Tanh(weight, z)
            return iterate(inner, inner.start(), FixedDepth(40), gradient).value, None

        return jnp.sum(jax.lax.scan(transition, z, None, 3)[0] * jnp.arange(1.0, 1.0 + SIZE))

    slope = eqx.filter_jit(lambda gradient: jax.grad(end, (0, 1))(update.weight, start, gradient))
    full = slope(FULL)
    assert_same(slope(IMPLICIT), full, 1e-4, 1e-5)
    assert float(jnp.max(jnp.abs(full[1]))) > 1e-3
