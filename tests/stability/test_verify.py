"""Banach on a ball around a found state: what is proven is true, and what is not true is not."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwm.errors import UsageError
from loopwm.stability import Level, Norm, UpperBound, weighted
from loopwm.stability.verify import Reason, verify

_MATRIX = np.asarray([[0.5, 0.2, 0.0], [-0.1, 0.3, 0.4], [0.0, -0.2, 0.6]], np.float32)
_OFFSET = np.asarray([1.0, -2.0, 0.5], np.float32)
_FIXED = np.linalg.solve(np.eye(3) - _MATRIX.astype(np.float64), _OFFSET.astype(np.float64))


def _linear(h):
    return jnp.asarray(_MATRIX) @ h + jnp.asarray(_OFFSET)


def _logistic(h):
    """Two fixed points: 0, where the slope is 2.5, and 0.6, where it is −0.5."""
    return 2.5 * h * (1.0 - h)


@given(seed=st.integers(0, 2**16), error=st.sampled_from([1e-6, 1e-2, 3.0]))
def test_the_fixed_point_of_a_linear_map_lies_within_the_error_bound(seed, error):
    rng = np.random.default_rng(seed)
    state = (_FIXED + error * rng.normal(size=3)).astype(np.float32)
    found = verify(_linear, state)
    distance = np.linalg.norm(state.astype(np.float64) - _FIXED)
    rate = np.linalg.norm(_MATRIX.astype(np.float64), 2)
    assert found.verified and found.reason is Reason.VERIFIED and found.level is Level.BALL
    assert isinstance(found.rate, UpperBound) and found.rate.level is Level.BALL
    assert float(found.rate) == pytest.approx(rate, rel=1e-6) and float(found.rate) >= rate
    assert distance <= found.error_bound <= found.radius * (1 + 1e-9)
    # Tight: the residual is at least (1 − L) times the distance, and no more than (1 + L).
    assert found.residual <= (1 + rate) * distance * (1 + 1e-9)
    assert found.error_bound == pytest.approx(found.residual / (1 - float(found.rate)), rel=1e-9)


def test_a_map_that_expands_elsewhere_is_verified_where_it_contracts():
    found = verify(_logistic, jnp.asarray([0.601]))
    assert found.verified and abs(0.601 - 0.6) <= found.error_bound < 0.01
    assert 0.5 <= float(found.rate) < 0.6
    # |2.5 (1 − 2 h)| < 1 up to 0.7, so the ball around 0.6 reaches 0.1 at most.
    for radius, verified in ((0.09, True), (0.0995, True), (0.1005, False), (1.0, False)):
        tried = verify(_logistic, jnp.asarray([0.6]), radius=radius)
        assert tried.verified is verified and tried.radius == radius
        assert float(tried.rate) == pytest.approx(0.5 + 5 * radius, rel=1e-4)
    assert tried.reason is Reason.NO_CONTRACTION and tried.error_bound == math.inf
    assert tried.statement() == Reason.NO_CONTRACTION.value


def test_each_of_two_fixed_points_is_judged_by_itself():
    stable, unstable = verify(_logistic, jnp.asarray([0.6])), verify(_logistic, jnp.zeros(1))
    assert stable.verified
    assert not unstable.verified and unstable.reason is Reason.NO_CONTRACTION
    assert float(unstable.rate) >= 2.5
    # No ball that holds both is ever verified, wherever its centre is.
    for center in np.linspace(0.0, 0.6, 7):
        assert not verify(_logistic, jnp.asarray([center]), radius=0.61).verified


def test_a_saddle_is_not_verified():
    matrix = jnp.asarray([[0.5, 0.0], [0.0, 1.5]])
    for radius in (None, 1e-6, 1.0):
        for norm in (Norm.TWO, Norm.INFINITY):
            found = verify(lambda h: matrix @ jnp.tanh(h), jnp.zeros(2), radius=radius, norm=norm)
            assert not found.verified and found.reason is Reason.NO_CONTRACTION
            assert float(found.rate) >= 1.4


def test_a_residual_just_inside_and_just_outside_of_the_ball():
    # F(h) = h/2 + c has the residual |c| at 0 and contracts at 1/2: |c| ≤ r/2 decides.
    for offset, verified in ((0.4999, True), (0.5001, False)):
        found = verify(lambda h, c=offset: 0.5 * h + c, jnp.zeros(1), radius=1.0)
        assert found.verified is verified
        assert found.residual == pytest.approx(offset, rel=1e-6)
    assert found.reason is Reason.RESIDUAL_TOO_LARGE and float(found.rate) < 1.0
    with_rounding = verify(lambda h: 0.5 * h + 0.4999, jnp.zeros(1), radius=1.0, rounding=1e-3)
    assert with_rounding.reason is Reason.RESIDUAL_TOO_LARGE
    room = verify(lambda h: 0.5 * h + 0.4, jnp.zeros(1), radius=1.0, rounding=0.05)
    assert room.verified and room.error_bound == pytest.approx(0.9, rel=1e-6)


def test_a_map_without_a_fixed_point_is_never_verified():
    # √(1 + h²) has a slope below 1 everywhere and no fixed point at all.
    for state in (0.0, 10.0, 1000.0):
        for radius in (None, 1.0, 100.0):
            found = verify(lambda h: jnp.sqrt(1.0 + h * h), jnp.asarray([state]), radius=radius)
            assert not found.verified


def test_the_norm_decides():
    # DESIGN 4.1: in the plain 2-norm this map expands by 1.31, in the P-norm it contracts.
    retention = jnp.asarray([0.9, 0.0])
    p = weighted.weights(retention, 0.95)

    def update(h):
        return retention * h + (1 - retention) * 0.95 * h[::-1]

    plain = verify(update, jnp.zeros(2))
    inside = verify(update, jnp.ones(2), norm=Norm.P, weights=p)
    assert not plain.verified and float(plain.rate) == pytest.approx(1.31, rel=0.01)
    root = np.sqrt(np.asarray(p, np.float64))
    matrix = np.asarray([[0.9, 0.095], [0.95, 0.0]]) * root[:, None] / root[None, :]
    assert inside.verified
    assert float(inside.rate) == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-6)
    assert inside.norm is Norm.P and inside.error_bound >= float(weighted.norm(jnp.ones(2), p))
    # A neighbour maximum contracts in the ∞-norm alone.
    grid = jnp.zeros((3, 3))
    spread = eqx.nn.MaxPool2d(3, 1, padding=1)
    maximum = lambda h: 0.9 * spread(h[None])[0]  # noqa: E731
    assert verify(maximum, grid, norm=Norm.INFINITY).verified
    assert not verify(maximum, grid).verified
    # The largest token; each is the other's half.
    assert verify(lambda h: 0.5 * h[::-1] + 1, jnp.ones((2, 3)), norm=Norm.TOKENS).verified


@pytest.mark.parametrize(("weight", "reach"), [(100.0, 10.0), (0.04, 0.2)])
def test_the_ball_of_the_p_norm_is_stretched_by_the_weights(weight, reach):
    # Steep beyond 1 in the first entry, where its weight makes the norm √p.
    def update(h):
        return jnp.stack([0.5 * h[0] + 4.0 * jax.nn.relu(jnp.abs(h[0]) - 1.0), 0.5 * h[1]])

    p = np.asarray([weight, 1.0])
    inside = verify(update, jnp.zeros(2), norm=Norm.P, weights=p, radius=0.99 * reach)
    outside = verify(update, jnp.zeros(2), norm=Norm.P, weights=p, radius=1.01 * reach)
    assert inside.verified and not outside.verified


def test_pairs_of_states_in_a_verified_ball_stay_and_come_closer(filled, rng):
    mlp = filled(lambda k: eqx.nn.MLP(12, 12, 24, 1, activation=jax.nn.relu, key=k))
    update = lambda h: 0.2 * mlp(h.reshape(-1)).reshape(3, 4) + 1.0  # noqa: E731
    step = jax.jit(update)
    state = jnp.zeros((3, 4))
    for _ in range(60):
        state = step(state)
    center, p = np.asarray(state, np.float64), rng.uniform(0.3, 3.0, size=(3, 4))
    norms = {
        Norm.TWO: lambda x: np.linalg.norm(x, axis=(1, 2)),
        Norm.P: lambda x: np.sqrt((p * x * x).sum(axis=(1, 2))),
        Norm.INFINITY: lambda x: np.abs(x).max(axis=(1, 2)),
        Norm.TOKENS: lambda x: np.linalg.norm(x, axis=2).max(axis=1),
    }
    points = rng.normal(size=(400, 3, 4)) * 10.0 ** rng.integers(-2, 3, size=(400, 3, 4))
    with jax.enable_x64(True):
        double = jax.jit(jax.vmap(update))
        for norm, size in norms.items():
            options = {"norm": norm, "weights": p if norm is Norm.P else None}
            reached = verify(update, state, **options)
            assert reached.verified and reached.error_bound < 1e-4
            tried = [verify(update, state, radius=r, **options) for r in (0.02, 0.1, 0.5, 2.5)]
            found = [result for result in tried if result.verified][-1]
            inside = found.radius * points / size(points)[:, None, None]
            moved = np.asarray(double(jnp.asarray(center + inside))) - center
            assert size(moved).max() <= found.radius * (1 + 1e-6)
            ratios = size(moved[1:] - moved[:-1]) / size(inside[1:] - inside[:-1])
            assert ratios.max() <= float(found.rate) * (1 + 1e-6)


def test_a_local_search_for_steep_pairs_stays_below_the_rate(filled):
    cell = filled(lambda k: eqx.nn.GRUCell(2, 6, key=k))
    update = lambda h: cell(jnp.ones(2), h)  # noqa: E731
    step, state = jax.jit(update), jnp.zeros(6)
    for _ in range(50):
        state = step(state)
    found = verify(update, state, radius=0.02)
    norm_of = jax.jit(lambda h: jnp.linalg.norm(jax.jacfwd(update)(h), 2))
    climb = jax.jit(jax.grad(norm_of))
    best, point = 0.0, state
    for _ in range(20):
        point = point + 0.005 * climb(point) / (jnp.linalg.norm(climb(point)) + 1e-9)
        away = point - state
        point = state + away * jnp.minimum(1.0, 0.02 / jnp.linalg.norm(away))
        best = max(best, float(norm_of(point)))
    assert best <= float(found.rate) * (1 + 1e-5) and float(found.rate) <= 1.2 * best


def test_what_is_not_lipschitz_is_not_verified():
    flat = [
        lambda h: jnp.sign(h) + 0.0 * h,
        lambda h: 0.5 * h + jax.lax.stop_gradient(h),
        lambda h: jnp.where(h > 0, 1.0, -1.0),
        lambda h: h + jax.lax.stop_gradient(jnp.floor(h) - h),
    ]
    for update in flat:
        assert not verify(update, jnp.zeros(2)).verified
    undefined = verify(lambda h: jnp.tanh(1.0 / h), jnp.zeros(2))
    assert undefined.reason is Reason.UNBOUNDED and undefined.residual == math.inf
    # A step away from the state does no harm until the ball reaches it.
    stepped = lambda h: 0.5 * jnp.where(h > 1.0, h + 1.0, h)  # noqa: E731
    assert verify(stepped, jnp.zeros(1), radius=0.99).verified
    assert verify(stepped, jnp.zeros(1), radius=1.01).reason is Reason.UNBOUNDED


def test_an_exact_fixed_point_and_a_constant_map():
    exact = verify(lambda h: 0.5 * h, jnp.zeros(3))
    assert exact.verified and exact.residual == 0.0 and exact.error_bound == 0.0 < exact.radius
    constant = verify(lambda h: 0.0 * h + 3.0, jnp.ones(3))
    assert constant.verified and float(constant.rate) == 0.0
    assert constant.error_bound == pytest.approx(2.0 * math.sqrt(3.0), rel=1e-6)
    scalar = verify(lambda h: jnp.cos(h), jnp.asarray(0.739))
    assert scalar.verified and abs(0.739 - 0.7390851332151607) <= scalar.error_bound < 5e-4
    assert "exactly one fixed point" in scalar.statement() and "level 'ball'" in scalar.statement()


@pytest.mark.parametrize(
    ("update", "state", "options", "said"),
    [
        (lambda h: h, np.zeros(3, np.int32), {}, "int32"),
        (lambda h: h[:2], np.zeros(3, np.float32), {}, "keeps both"),
        (lambda h: h, np.asarray([0.0, np.nan], np.float32), {}, "NaN"),
        (lambda h: h * jnp.asarray([jnp.nan, 1.0]), np.zeros(2, np.float32), {}, "NaN weights"),
        (lambda h: h, np.zeros(3, np.float32), {"radius": 0.0}, "radius"),
        (lambda h: h, np.zeros(3, np.float32), {"radius": math.nan}, "radius"),
        (lambda h: h, np.zeros(3, np.float32), {"rounding": -1.0}, "rounding"),
        (lambda h: h, np.zeros(3, np.float32), {"norm": Norm.P}, "weights"),
        (lambda h: h, np.zeros(3, np.float32), {"weights": np.ones(3)}, "Weights"),
        (
            lambda h: eqx.nn.Dropout(0.5)(h, key=jax.random.key(0)),
            np.zeros(3, np.float32),
            {},
            "random",
        ),
        (lambda h: jnp.linalg.inv(h), np.eye(2, dtype=np.float32), {}, "no interval rule"),
    ],
    ids="int shape nan weights zero radius-nan rounding p-alone p-elsewhere dropout rule".split(),
)
def test_bad_input(update, state, options, said, assert_helpful):
    with pytest.raises(UsageError, match=said) as raised:
        verify(update, state, **options)
    assert_helpful(raised)


def test_every_reason_is_one_sentence(assert_helpful):
    for reason in Reason:
        if reason is Reason.VERIFIED:
            assert reason.value.endswith(".")
        else:
            assert_helpful(reason.value)
