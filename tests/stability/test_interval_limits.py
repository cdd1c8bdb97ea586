"""What interval enclosures make of kinks, jumps and undefined values, and what bounds follow."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.stability import Level, Norm, UpperBound, exact_norm, verify
from loopwm.stability.interval import Interval, enclose, jacobian_enclosure, lipschitz_on
from loopwm.stability.interval.region import upper_norm


@pytest.mark.parametrize(
    ("function", "center", "low", "high"),
    [
        (jax.nn.relu, 0.0, 0.0, 1.0),
        (lambda x: jnp.maximum(x, 0.5 * x), 0.0, 0.5, 1.0),
        (jnp.abs, 0.0, -1.0, 1.0),
        (jax.nn.relu6, 6.0, 0.0, 1.0),
        (lambda x: jnp.where(x < 1, 3 * x, x + 2), 1.0, 1.0, 3.0),
        (jax.nn.leaky_relu, 0.0, np.float32(0.01), 1.0),
    ],
    ids=["relu", "max", "abs", "relu6", "where", "leaky relu"],
)
def test_a_kink_has_the_whole_generalised_jacobian(function, center, low, high):
    # Even when the box is the kink alone, and when it only touches it.
    for box in (Interval.exact(center), Interval(center, center + 1.0), Interval.ball(center, 0.5)):
        slopes = jacobian_enclosure(function, box)
        np.testing.assert_allclose([slopes.low, slopes.high], [low, high], atol=1e-12)


@pytest.mark.parametrize(
    "function",
    [
        jnp.sign,
        jnp.floor,
        lambda x: jnp.where(x > 0, 1.0, 0.0) * 1e-3,
        lambda x: jnp.where(x > 0, x + 1e-9, x),
        lambda x: (x > 0).astype(jnp.float32),
        lambda x: (x > 0).astype(jnp.int32) * 1.0,
        lambda x: x + jax.lax.stop_gradient(jnp.ceil(x) - x),
        lambda x: jax.lax.cond(x > 0, lambda v: v, lambda v: v + 1, x),
        lambda x: jnp.where((x > 0) & (x > -1), x + 1, x),
        lambda x: jnp.where(jnp.sign(x) > 0.5, x, 2 * x),
    ],
    ids=[
        "sign", "floor", "step", "small step", "cast", "integer", "straight-through", "cond", "and",
        "sign first",
    ],
)  # fmt: skip
def test_a_jump_has_no_bound(function):
    # JAX reports a finite derivative for all of these, mostly 0.
    slopes = jacobian_enclosure(function, Interval.ball(0.0, 0.1))
    assert slopes.low == -np.inf and slopes.high == np.inf
    away = jacobian_enclosure(function, Interval.ball(0.5, 0.1))
    assert away.bounded.all()


def test_derivatives_that_jax_hides_are_counted():
    @jax.custom_jvp
    def liar(x):
        return 5.0 * x

    liar.defjvp(lambda x, t: (liar(*x), 0.0 * t[0]))
    box = Interval.ball(np.ones(2), 0.1)
    np.testing.assert_allclose(jacobian_enclosure(liar, box).low, 5 * np.eye(2))
    slopes = jacobian_enclosure(lambda x: x + jax.lax.stop_gradient(2 * x), box)
    np.testing.assert_allclose(slopes.high, 3 * np.eye(2))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.tanh(1.0 / x),
        lambda x: jnp.tanh(jnp.log(x)),
        lambda x: jnp.minimum(jnp.sqrt(x - 0.05), -1.0),
        lambda x: 0.0 * (1.0 / x),
        lambda x: jnp.sin(x + jnp.asarray(jnp.inf)),
        lambda x: jnp.max(jnp.stack([jnp.tanh(jnp.power(x, 0.5)), 2.0 + x])),
        lambda x: jnp.take(jnp.stack([x, x]), 7, fill_value=jnp.nan) * 0.0,
    ],
    ids=["quotient", "logarithm", "root", "zero times", "infinity", "hidden", "outside"],
)
def test_where_it_may_be_nan_nothing_is_claimed(function):
    box = Interval.ball(0.0, 0.1)
    for result in (enclose(function, box), jacobian_enclosure(function, box)):
        assert result.low == -np.inf and result.high == np.inf


def test_an_undefined_branch_that_is_never_taken_does_no_harm():
    def function(x):
        return jnp.where(jnp.asarray([True, False]), x, jnp.log(-jnp.abs(x))) * jnp.asarray([1, 0])

    slopes = jacobian_enclosure(lambda x: function(x)[0], Interval.ball(np.ones(2), 0.1))
    np.testing.assert_allclose(slopes.high, [1.0, 0.0])


def test_with_a_fixed_activation_pattern_the_bound_is_the_exact_norm(filled, rng):
    mlp = filled(lambda k: eqx.nn.MLP(6, 6, 12, 2, activation=jax.nn.relu, key=k))
    mlp = jax.tree.map(lambda x: np.asarray(x, float) if eqx.is_array(x) else x, mlp)
    center = rng.normal(size=6)
    box = Interval.ball(center, 1e-4)
    with jax.enable_x64(True):
        bound = lipschitz_on(mlp, box)
        exact = float(exact_norm(np.asarray(jax.jacfwd(mlp)(jnp.asarray(center)))))
    assert isinstance(bound, UpperBound) and bound.level is Level.BALL and bound.norm is Norm.TWO
    assert exact * (1 - 1e-12) <= float(bound) <= exact + 1e-9


def test_lipschitz_bounds_by_hand():
    matrix = np.asarray([[1.0, -2.0], [0.5, 0.25]])
    box, p = Interval.ball(np.zeros(2), 1.0), np.asarray([4.0, 1.0])
    linear = lambda h: jnp.asarray(matrix) @ h  # noqa: E731
    two, infinity = lipschitz_on(linear, box), lipschitz_on(linear, box, Norm.INFINITY)
    weighted = lipschitz_on(linear, box, Norm.P, p)
    assert float(two) == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-9)
    assert float(infinity) == pytest.approx(3.0, rel=1e-12) and infinity.norm is Norm.INFINITY
    scaled = np.asarray([[1.0, -4.0], [0.25, 0.25]])  # √p_i a_ij / √p_j
    assert float(weighted) == pytest.approx(np.linalg.norm(scaled, 2), rel=1e-9)
    # One token swaps with the other and doubles: the largest token doubles.
    tokens = lipschitz_on(lambda h: 2.0 * h[::-1], Interval.ball(np.zeros((2, 3)), 1), Norm.TOKENS)
    assert float(tokens) == pytest.approx(2.0, rel=1e-9)
    both = lambda h: jnp.broadcast_to(h.sum(axis=0), (2, 3))  # noqa: E731
    tokens = lipschitz_on(both, Interval.ball(np.zeros((2, 3)), 1), Norm.TOKENS)
    assert float(tokens) == pytest.approx(2.0, rel=1e-9)
    # The same for one entry: by its own constant, not by the whole matrix.
    one = lipschitz_on(lambda h: h.sum()[None], Interval.ball(np.zeros(4), 1.0))
    assert float(one) == pytest.approx(2.0, rel=1e-9)
    # A kink: the slope lies between the two sides.
    kinked = lipschitz_on(lambda h: jnp.maximum(3 * h, -h), Interval.ball(np.zeros(1), 1.0))
    assert float(kinked) == pytest.approx(3.0, rel=1e-9)
    assert float(lipschitz_on(jnp.sign, Interval.ball(np.zeros(2), 1.0))) == np.inf


@pytest.mark.parametrize(
    ("norm", "weights", "shape"),
    [
        (Norm.P, None, (2,)),
        (Norm.P, np.ones(3), (2,)),
        (Norm.P, np.asarray([1.0, 0.0]), (2,)),
        (Norm.TWO, np.ones(2), (2,)),
        (Norm.TOKENS, None, (2,)),
    ],
)
def test_norms_and_weights_that_do_not_fit(norm, weights, shape, assert_helpful):
    with pytest.raises(UsageError) as raised:
        lipschitz_on(lambda h: h, Interval.ball(np.zeros(shape), 1.0), norm, weights)
    assert_helpful(raised)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: jnp.linalg.inv(x[:, None] + jnp.eye(2)), "no interval rule"),
        (lambda x: jax.lax.while_loop(lambda v: v[0] < 9, lambda v: v + 1, x), "while"),
        (lambda x: jax.lax.fori_loop(0, 2000, lambda _, v: 0.5 * v, x), "2000 steps"),
        (lambda x: x[jnp.asarray(x[0] > 0, int)] + x, "integers"),
        (
            lambda x: jax.lax.dynamic_slice(
                x, (jnp.asarray(x[0] > 0, int),), (1,), allow_negative_indices=False
            ),
            "index",
        ),
        (lambda x: x.astype(jnp.bfloat16) * 2, "bfloat16"),
        (lambda x: x + jax.random.normal(jax.random.key(0), (2,)), "no interval rule|key"),
        (lambda x: x * jnp.asarray([jnp.nan, 1.0]), "NaN"),
        (lambda x: (x, x), "one floating point array"),
        (lambda x: x if x[0] > 0 else -x, "traced"),
    ],
    ids=[
        "inverse",
        "while",
        "long",
        "integers",
        "index",
        "bf16",
        "random",
        "NaN",
        "pair",
        "branch",
    ],
)
def test_programs_that_are_refused(function, said, assert_helpful):
    with pytest.raises(UsageError, match=said) as raised:
        enclose(function, Interval.ball(np.zeros(2), 0.1))
    assert_helpful(raised)


@pytest.mark.parametrize("norm", [Norm.TWO, Norm.P, Norm.TOKENS, Norm.INFINITY])
def test_slopes_whose_squares_vanish_are_not_lost(norm):
    box = Interval(-np.ones((2, 2)), np.ones((2, 2)))
    weights = np.ones((2, 2)) if norm is Norm.P else None
    with jax.enable_x64(True):

        def there_and_back(x):
            return (x * 1e-200) * 2e200

        assert float(lipschitz_on(there_and_back, box, norm, weights)) >= 2.0
        found = verify(there_and_back, np.zeros((2, 2)), radius=0.1, norm=norm, weights=weights)
    assert not found.verified


def test_the_largest_numbers_have_a_norm():
    assert upper_norm(Interval.exact(np.full(2, 1.7e308)), Norm.TWO) == np.inf
