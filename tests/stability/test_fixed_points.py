"""Fixed points: maps whose fixed points are known, and searches that must come back empty."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.stability import Level
from loopwm.stability.fixed_points import Kind, find_fixed_points

KEY = jax.random.key(5)
ROOT = 0.9575040240772687  # tanh(2x) = x


def test_tanh_has_two_attracting_points_and_a_repelling_one():
    starts = np.linspace(-3, 3, 24, dtype=np.float32)[:, None]
    found = find_fixed_points(lambda h: jnp.tanh(2 * h), starts, key=KEY)
    points = sorted(found.points, key=lambda point: point.state[0])
    assert [point.state[0] for point in points] == pytest.approx([-ROOT, 0.0, ROOT], abs=1e-8)
    assert [point.kind for point in points] == [Kind.ATTRACTING, Kind.REPELLING, Kind.ATTRACTING]
    slope = 2 * (1 - ROOT**2)
    radii = [float(point.spectral_radius) for point in points]
    assert radii == pytest.approx([slope, 2.0, slope], abs=1e-7)
    assert found.failures == () and sum(point.reached for point in points) == 24
    assert sorted(i for point in points for i in point.starts) == list(range(24))
    assert all(point.residual <= found.tolerance == 1e-8 for point in points)
    assert found.level is Level.EMPIRICAL and points[0].level is Level.EMPIRICAL
    assert [point.reached for point in found.points] == sorted(
        (point.reached for point in points), reverse=True
    )


def test_a_linear_contraction_has_one():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(6, 6))
    matrix *= 0.8 / np.linalg.norm(matrix, 2)
    shift = rng.normal(size=6)
    found = find_fixed_points(
        lambda h: (matrix @ h.ravel() + shift).reshape(2, 3),
        10 * rng.normal(size=(7, 2, 3)),
        key=KEY,
    )
    (point,) = found.points
    exact = np.linalg.solve(np.eye(6) - matrix, shift)
    assert point.state.shape == (2, 3) and point.state.ravel() == pytest.approx(exact, abs=1e-8)
    assert point.reached == 7 and point.kind is Kind.ATTRACTING
    moduli = np.sort(np.abs(np.linalg.eigvals(matrix)))[::-1]
    assert np.abs(point.eigenvalues) == pytest.approx(moduli)


def test_a_map_without_any():
    found = find_fixed_points(lambda h: h + 1.0, np.zeros((3, 2)), key=KEY, max_steps=20)
    assert found.points == () and found.failures == (0, 1, 2)
    assert found.residuals == pytest.approx(np.full(3, np.sqrt(2.0)))


def test_a_start_beyond_the_finite_numbers_is_a_failure_and_not_a_point():
    found = find_fixed_points(lambda h: 0.5 * jnp.sqrt(h), np.asarray([[-4.0], [1.0]]), key=KEY)
    assert found.failures == (0,) and np.isnan(found.residuals[0])
    assert [point.state[0] for point in found.points] == pytest.approx([0.25])


def test_a_saddle_and_a_marginal_point():
    saddle = find_fixed_points(lambda h: jnp.asarray([2.0, 0.5]) * h, np.ones((1, 2)), key=KEY)
    assert [point.kind for point in saddle.points] == [Kind.SADDLE]
    # x + x² touches the diagonal at 0: Newton's method only halves the distance there.
    marginal = find_fixed_points(lambda h: h + h**2, np.asarray([[0.5], [-0.3]]), key=KEY)
    assert [point.kind for point in marginal.points] == [Kind.MARGINAL]
    assert marginal.points[0].reached == 2
    # Every point of the second axis is fixed, so Newton's equation is singular.
    line = find_fixed_points(
        lambda h: h * jnp.asarray([0.5, 1.0]), np.asarray([[1.0, 3.0]]), key=KEY
    )
    assert line.points[0].state == pytest.approx([0.0, 3.0], abs=1e-6)
    assert line.points[0].kind is Kind.MARGINAL


def test_where_newton_runs_away_the_loop_itself_leads_there():
    # |F(h) − h| has a minimum above 0 at every start, where Newton's step is endless and
    # Levenberg-Marquardt stays; the loop goes down by 0.25 to 0.75 at a time, to the point at 0.
    def update(h):
        return h - 0.5 * jnp.tanh(h) * (1.0 + 0.5 * jnp.sin(h))

    starts = np.pi * np.asarray([[7.5], [9.5]])
    found = find_fixed_points(update, starts, key=KEY)
    assert found.failures == () and len(found.points) == 1
    assert found.points[0].state == pytest.approx([0.0], abs=1e-7)
    assert float(found.points[0].spectral_radius) == pytest.approx(0.5, abs=1e-6)
    short = find_fixed_points(update, starts, key=KEY, max_steps=10)
    assert short.failures == (0, 1)


def test_modules_that_are_not_ours():
    cell = eqx.nn.GRUCell(2, 5, key=jax.random.key(0))
    mlp = eqx.nn.MLP(5, 5, 8, 1, activation=jnp.tanh, key=jax.random.key(2))
    x, starts = jnp.asarray([1.0, -1.0]), jax.random.normal(jax.random.key(1), (4, 5))
    for update in (lambda h: cell(x, h), mlp):
        (point,) = find_fixed_points(update, starts, key=KEY).points
        after = update(jnp.asarray(point.state, jnp.float32))
        assert np.asarray(after) == pytest.approx(point.state, abs=1e-5)
        assert point.kind is Kind.ATTRACTING and point.reached == 4


class _Large(eqx.Module):
    weight: jax.Array
    shift: jax.Array
    gain: jax.Array

    def __call__(self, h):
        return self.gain * h + jnp.tanh(0.1 * (self.weight @ h)) + self.shift


def test_a_state_too_large_for_its_jacobian():
    rng = np.random.default_rng(2)
    weight = jnp.asarray(rng.normal(size=(300, 300)) / np.sqrt(300), jnp.float32)
    shift = jnp.asarray(rng.normal(size=300), jnp.float32)
    for gain, kind in ((0.5, Kind.ATTRACTING), (3.0, Kind.EXPANDING)):
        update = _Large(weight, shift, jnp.asarray(gain))
        (point,) = find_fixed_points(update, np.zeros((1, 300)), key=KEY).points
        inner = np.tanh(0.1 * np.asarray(weight, np.float64) @ point.state)
        assert gain * point.state + inner + np.asarray(shift) == pytest.approx(point.state)
        assert point.kind is kind and point.eigenvalues.shape == (4,)


ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    "call",
    [
        lambda: find_fixed_points(lambda h: h, np.zeros((0, 3)), key=KEY),
        lambda: find_fixed_points(lambda h: h, ONES, tolerance=0.0, key=KEY),
        lambda: find_fixed_points(lambda h: h, ONES, distinct=-1.0, key=KEY),
        lambda: find_fixed_points(lambda h: h, ONES, max_steps=0, key=KEY),
        lambda: find_fixed_points(lambda h: h[:1], ONES, key=KEY),
        lambda: find_fixed_points(lambda h: h, ONES.astype(np.int32), key=KEY),
        lambda: find_fixed_points(lambda h: h, np.nan * ONES, key=KEY),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, assert_helpful):
    with pytest.raises(UsageError) as raised:
        call()
    assert_helpful(raised)
