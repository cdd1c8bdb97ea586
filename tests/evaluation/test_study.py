"""What a stability study measures, against NumPy."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import studies

from loopwm.actions import ActionLayout
from loopwm.core import CoreConfig, LoopedCore, Solution
from loopwm.core.solution import RESULTS, LoopStats
from loopwm.errors import UsageError
from loopwm.evaluation import StudyConfig
from loopwm.evaluation.rollouts import ADVERSARIAL, POLICY, RANDOM, Visits, spread, study_outer
from loopwm.evaluation.study_inner import InnerInput, study_inner
from loopwm.evaluation.study_model import inner_inputs
from loopwm.evaluation.study_norms import jacobian_norm, study_norm
from loopwm.models import AbstractWorldModel
from loopwm.models.policy import AbstractPolicy
from loopwm.nn import resolve
from loopwm.stability import (
    LayerBound,
    Norm,
    UpdateDeclaration,
    UpperBound,
    certify,
    norms,
    weighted,
)
from loopwm.stability.trajectories import vector_map

CONFIG = StudyConfig(
    loops=12,
    attacked=1,
    attack_starts=4,
    attack_steps=5,
    exponent_steps=40,
    horizon=6,
    rollouts=2,
    lookahead=4,
)
# A map that shrinks by 1/2 in the long run, although its first step may grow by 1.3.
MATRIX = np.array([[0.5, 1.2], [0.0, 0.25]])
SHIFT = np.array([1.0, -2.0])


class Affine(eqx.Module):
    """h⁺ = A h + b."""

    matrix: jax.Array
    shift: jax.Array

    def __call__(self, h):
        return self.matrix.astype(h.dtype) @ h + self.shift.astype(h.dtype)


AFFINE = Affine(jnp.asarray(MATRIX, jnp.float32), jnp.asarray(SHIFT, jnp.float32))


@pytest.fixture(scope="module")
def affine(compile_cache):
    inputs = [
        InnerInput("given", AFFINE, jnp.zeros(2), 12),
        InnerInput("far", AFFINE, jnp.asarray([100.0, -50.0]), 12),
    ]
    return study_inner(inputs, None, CONFIG, key=jax.random.key(0))


def test_an_affine_map_is_measured_as_numpy_says(affine):
    single = MATRIX.astype(np.float32).astype(np.float64)
    assert affine.norm is Norm.TWO and affine.limits is None
    expected = np.linalg.norm(single, 2)
    np.testing.assert_allclose(affine.jacobian_norms, expected, rtol=1e-9)
    np.testing.assert_allclose(affine.spectral_radii, 0.5, rtol=1e-9)
    np.testing.assert_allclose(np.sort(affine.eigenvalues.real), [[0.25, 0.5]] * 2, rtol=1e-9)
    np.testing.assert_allclose(affine.exponents, np.log(0.5), atol=0.06)
    # Every pair of an affine map has the ratio of one direction, so a search gets close.
    assert 0.9 * expected < affine.ratios[0] <= expected * (1 + 1e-12)
    assert affine.max_ratio == pytest.approx(expected, rel=1e-9)
    assert affine.pairs == CONFIG.attack_starts  # one search for an update shared by both starts


def test_residuals_are_the_states_moves(affine):
    h, moves = np.array([100.0, -50.0]), []
    for _ in range(12):
        after = MATRIX @ h + SHIFT
        moves.append(np.linalg.norm(after - h))
        h = after
    np.testing.assert_allclose(affine.residuals[1], moves, rtol=1e-4)
    assert affine.outcomes[1] == "still moving after 12 loops"
    assert affine.fixed_points == (("attracting",), ("attracting",))
    for rest in affine.rests:
        expected = np.linalg.solve(np.eye(2) - MATRIX, SHIFT)
        np.testing.assert_allclose(rest, expected, rtol=1e-6)


def one_start(update, state, certificate=None, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    inputs = [InnerInput("given", update, state, config.loops)]
    return study_inner(inputs, certificate, config, key=jax.random.key(1))


def test_cycles_and_divergence_are_told(compile_cache):
    turned = one_start(Affine(-jnp.eye(2), jnp.ones(2)), jnp.asarray([3.0, 0.0]))
    assert turned.outcomes == ("went round a cycle of 2 states",)
    lost = one_start(Affine(1e9 * jnp.eye(2), jnp.ones(2)), jnp.ones(2))
    assert lost.outcomes == ("left the finite numbers at loop 5",)
    assert not np.all(np.isfinite(lost.residuals)) and lost.exponent > 20


class Gated(eqx.Module):
    """A declared update with a rate that is true, or one that is not."""

    retention: jax.Array
    gain: float

    def __call__(self, h):
        return self.retention * h + (1 - self.retention) * self.gain * h[::-1]

    def declare(self):
        return UpdateDeclaration(
            layers=(LayerBound("swap", UpperBound(1.0)),),
            scale=0.9,
            retention_min=float(self.retention.min()),
            retention_max=float(self.retention.max()),
            norm=Norm.P,
        )


def gated(gain):
    # Powers of two and their sums are the same numbers in float32 and in float64.
    return Gated(jnp.asarray([0.75, 0.125]), gain)


@pytest.fixture(scope="module", params=[(0.9, True), (1.2, False)])
def declared(request, compile_cache):
    gain, holds = request.param
    update = gated(gain)
    certificate = certify(update)
    inner = one_start(update, jnp.asarray([1.0, 5.0]), certificate)
    return gain, holds, update, certificate, inner


def test_a_certificate_is_held_against_what_is_seen(declared):
    gain, holds, update, certificate, inner = declared
    seen = studies.study(certificate=certificate, inner=inner, transition=None, outer=None)
    assert inner.norm is Norm.P and seen.bounds_hold is holds
    p = np.asarray(weighted.weights(update.retention, certificate.gamma), np.float64)
    jacobian = np.diag([0.75, 0.125]) + np.array([[0.0, 0.25], [0.875, 0.0]]) * gain
    scaled = np.sqrt(p)[:, None] * jacobian / np.sqrt(p)
    assert inner.spectral_norm == pytest.approx(np.linalg.norm(scaled, 2), rel=1e-6)
    # In the plain 2-norm the same update grows: the norm is part of the claim.
    assert np.max(inner.spectral_norms) > 1.0


def test_limits_are_the_envelope_and_rounding(declared):
    *_, certificate, inner = declared
    envelope = inner.residuals[:, :1] * certificate.rate ** np.arange(12)
    assert np.all(inner.limits >= envelope * (1 - 1e-12))
    np.testing.assert_allclose(inner.limits, envelope, rtol=1e-3)
    assert np.all(inner.limits[:, 1:] > envelope[:, 1:])


def test_norms_of_jacobians(key, rng):
    jacobian = rng.normal(size=(6, 6))
    mapped, h = vector_map(lambda x: (jacobian @ x.reshape(6)).reshape(3, 2), np.zeros((3, 2)))
    update = mapped.update

    def norm_in(norm):
        certificate = dataclasses.replace(studies.CERTIFICATE, norm=norm)
        return study_norm(update, np.zeros((3, 2)), certificate)

    found = jacobian_norm(mapped, h, norm_in(Norm.INFINITY), key=key)
    assert found == pytest.approx(np.abs(jacobian).sum(axis=1).max(), rel=1e-12)
    found = jacobian_norm(mapped, h, norm_in(Norm.TWO), key=key)
    assert found == pytest.approx(np.linalg.norm(jacobian, 2), rel=1e-9)
    # Tokens: every direction gives a lower bound, blocks an upper one.
    found = jacobian_norm(mapped, h, norm_in(Norm.TOKENS), key=key)
    drawn = rng.normal(size=(2000, 3, 2))
    drawn /= np.linalg.norm(drawn, axis=2, keepdims=True)
    sampled = np.linalg.norm((drawn.reshape(-1, 6) @ jacobian.T).reshape(-1, 3, 2), axis=2).max()
    blocks = np.linalg.norm(jacobian.reshape(3, 2, 3, 2).swapaxes(1, 2), 2, axis=(2, 3))
    assert sampled * (1 - 1e-9) <= found <= blocks.sum(axis=1).max()


def test_the_weights_of_the_p_norm_come_from_the_update(assert_helpful):
    with pytest.raises(UsageError, match="norm") as raised:
        study_norm(AFFINE, np.zeros(2), studies.CERTIFICATE)
    assert_helpful(raised)

    class Own(Affine):
        def norm(self, x):
            return norms.two(jnp.asarray([1.0, 3.0], x.dtype) * x)

    norm = study_norm(Own(AFFINE.matrix, AFFINE.shift), np.zeros(2), studies.CERTIFICATE)
    np.testing.assert_allclose(norm.weights, [1.0, 9.0])
    assert float(norm.function(jnp.asarray([3.0, -4.0]))) == pytest.approx(np.hypot(3.0, 12.0))


class Plane(AbstractWorldModel):
    """z' = 0.8 A z + u with a bound that is known; the latent state is a plane."""

    core: None = None
    depth: int = 1
    latent: int = 2

    def encode(self, observation):
        return observation

    def transition(self, z, u, rule=None):
        after = jnp.asarray([[0.0, -0.8], [0.8, 0.0]], z.dtype) @ z + u
        stats = LoopStats(jnp.asarray(1), jnp.asarray(0.0), jnp.asarray(0.0))
        return Solution(value=after, result=RESULTS.successful, stats=stats)

    def decode(self, z):
        return z

    def outcome(self, z, u, z_next):
        raise NotImplementedError


class Always(AbstractPolicy):
    """Takes the first action."""

    action_size: int = 2

    def sample(self, z, *, key):
        return jax.nn.one_hot(0, 2)

    def mode(self, z):
        return jax.nn.one_hot(0, 2)

    def target_entropy(self):
        return 0.0

    def weighted_actions(self, z, *, key):
        raise NotImplementedError


ONE = ActionLayout.categorical(2)
TURN = np.array([[0.0, -0.8], [0.8, 0.0]])
STARTS = np.array([[1.0, 0.0], [0.0, 2.0]])


def rolled_out(actions):
    visits = Visits(z=jnp.asarray(STARTS, jnp.float32), u=jnp.eye(2))
    return study_outer(
        Plane(), Always(), visits, None, CONFIG, actions=actions, key=jax.random.key(0)
    )


@pytest.fixture(scope="module")
def plane(compile_cache):
    return rolled_out(ONE)


def simulated(z, actions):
    sizes = [np.linalg.norm(z)]
    for u in actions:
        z = TURN @ z + u
        sizes.append(np.linalg.norm(z))
    return sizes


def largest_end(z, choices):
    """Norm after the best of all sequences."""
    plans = itertools.product(choices, repeat=CONFIG.lookahead)
    return max(simulated(z, plan)[-1] for plan in plans)


def test_rollouts_are_those_of_numpy(plane):
    first = np.tile([1.0, 0.0], (CONFIG.horizon, 1))
    for row, z in enumerate(STARTS):
        np.testing.assert_allclose(plane.norms[POLICY][row], simulated(z, first), rtol=1e-5)
    assert plane.norms[RANDOM].shape == (2, CONFIG.horizon + 1)
    assert plane.largest_norm == pytest.approx(plane.norms[ADVERSARIAL][:, 1:].max(), rel=1e-6)


def test_the_adversary_finds_the_best_sequence(plane, compile_cache):
    box = rolled_out(ActionLayout.box(2)).norms
    corners = [np.array(signs) for signs in itertools.product((-1.0, 1.0), repeat=2)]
    for row, z in enumerate(STARTS):
        best = largest_end(z, np.eye(2))
        assert plane.norms[ADVERSARIAL][row, CONFIG.lookahead] == pytest.approx(best, rel=1e-5)
        best = largest_end(z, corners)
        assert box[ADVERSARIAL][row, CONFIG.lookahead] == pytest.approx(best, rel=1e-5)
    # A second plan goes on from where the first one led.
    assert np.all(box[ADVERSARIAL][:, -1] > box[RANDOM][:, -1])


def test_spectrum_and_exponents_of_a_spiral(plane):
    np.testing.assert_allclose(np.sort_complex(plane.eigenvalues), [[-0.8j, 0.8j]] * 2, rtol=1e-6)
    assert plane.spectral_radius == pytest.approx(0.8, rel=1e-6)
    assert list(plane.exponents) == [POLICY, RANDOM]
    np.testing.assert_allclose(list(plane.exponents.values()), np.log(0.8), rtol=1e-6)


def test_rows_are_spread_over_an_episode():
    assert spread(10, 3).tolist() == [0, 4, 9]
    assert spread(2, 6).tolist() == [0, 1] and spread(1, 6).tolist() == [0]


def test_inputs_of_the_inner_loop(key, filled):
    core = resolve(filled(lambda k: LoopedCore(2, 2, CoreConfig(width=4, layers=1), key=k)))
    visits = Visits(z=jnp.arange(6.0).reshape(3, 2), u=jnp.asarray([[1.0, 0.0]] * 3))
    config = dataclasses.replace(CONFIG, visited=2, drawn=2, far=50.0)
    inputs = inner_inputs(Plane(), core, visits, config, actions=ONE, key=key)
    assert [one.kind for one in inputs] == ["visited"] * 2 + ["random"] * 2 + ["far"] * 2
    h = jnp.arange(4.0)
    for one, row in zip(inputs, (0, 2), strict=False):
        plain = core.bind(core.prelude(visits.z[row], visits.u[row]))
        np.testing.assert_allclose(one.update(h), plain(h), rtol=1e-6)
        assert one.update.gamma == float(np.float32(0.95)) != plain.gamma
        assert not np.any(one.start)
    assert all(np.abs(one.start).max() > 10 for one in inputs[4:])
