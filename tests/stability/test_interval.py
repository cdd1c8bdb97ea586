"""Interval enclosures of JAX programs: nothing that a state of the box gives lies outside."""

import fractions
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwm.errors import UsageError
from loopwm.stability.interval import Interval, enclose, jacobian_enclosure
from loopwm.stability.interval import arithmetic as ia

# ---- arithmetic against exact rational numbers ----

_numbers = st.floats(-1e3, 1e3, allow_subnormal=False) | st.sampled_from(
    [0.0, 1e-200, -1e-200, 0.1]
)


def _exact(value) -> fractions.Fraction:
    return fractions.Fraction(float(value))


def _holds(interval: Interval, value: fractions.Fraction) -> bool:
    return _exact(interval.low) <= value <= _exact(interval.high)


@given(a=_numbers, b=_numbers, width=st.sampled_from([0.0, 1e-18, 0.1, 7.0]))
def test_arithmetic_encloses_exact_rational_results(a, b, width):
    x, y = Interval.ball(a, width), Interval.ball(b, 0.3 * width)
    for p in (x.low, x.high, a):
        for q in (y.low, y.high, b):
            p_, q_ = _exact(p), _exact(q)
            assert _holds(ia.add(x, y), p_ + q_)
            assert _holds(ia.multiply(x, y), p_ * q_)
            assert _holds(ia.square(x), p_ * p_)
            assert _holds(ia.power(x, 3), p_**3)
            assert _holds(ia.absolute(x), abs(p_))
            if not ia.has_zero(y) and np.isfinite(ia.divide(x, y).magnitude):
                assert _holds(ia.divide(x, y), p_ / q_)


@given(seed=st.integers(0, 2**16), width=st.sampled_from([0.0, 1e-9, 0.5]))
def test_sums_and_products_enclose_exact_rational_results(seed, width):
    rng = np.random.default_rng(seed)
    # Huge and tiny terms that cancel, so that every rounding shows.
    a = rng.normal(size=(2, 5)) * 10.0 ** rng.integers(-8, 8, size=(2, 5))
    b = rng.normal(size=(5, 2)) * 10.0 ** rng.integers(-8, 8, size=(5, 2))
    x, y = Interval.ball(a, width), Interval.ball(b, width)
    a, b = np.where(rng.random(a.shape) < 0.5, x.low, x.high), y.low
    product, total = ia.product(x, y), ia.sums(x, (1,))
    for i in range(2):
        row = [_exact(v) for v in a[i]]
        assert _exact(total.low[i]) <= sum(row) <= _exact(total.high[i])
        for j in range(2):
            value = sum(p * _exact(v) for p, v in zip(row, b[:, j], strict=True))
            assert _exact(product.low[i, j]) <= value <= _exact(product.high[i, j])


def test_what_cannot_be_bounded_is_everything_and_never_nan():
    zero, wild = Interval.exact(np.zeros(())), ia.everything(())
    assert ia.multiply(zero, wild).magnitude == 0.0
    for result in (
        ia.add(wild, wild),
        ia.multiply(wild, Interval(-1.0, 1.0)),
        ia.divide(Interval.exact(1.0), Interval(-1.0, 1.0)),
        ia.product(ia.everything((1, 1)), Interval.exact(np.zeros((1, 1)))),
    ):
        assert np.all(result.low == -np.inf) and np.all(result.high == np.inf)


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (np.nan, 1.0), (np.zeros(2), np.zeros(3))])
def test_bounds_that_bound_nothing_are_refused(bounds, assert_helpful):
    with pytest.raises(UsageError) as raised:
        Interval(*bounds)
    assert_helpful(raised)


# ---- programs against JAX in float64 ----

_KERNEL = np.asarray([[[0.3, -0.5, 0.2]], [[0.1, 0.4, -0.7]]])
_INDEX = np.asarray([2, 1, 0, 0])


@jax.custom_vjp
def _own_vjp(x):
    return jnp.sin(x)


_own_vjp.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (100.0 * g,))


def _steps(x):
    return jax.lax.scan(lambda c, v: (jnp.tanh(c + v), c * v), x[0], x, reverse=True)[1]


def _convolved(x):
    out = jax.lax.conv_general_dilated(
        x.reshape(1, 2, 2), _KERNEL, (1,), [(2, 2)], rhs_dilation=(2,), feature_group_count=2
    )
    return out.reshape(-1) * x[0]


def _pooled(x):
    most = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (3,), (1,), "SAME")
    least = jax.lax.reduce_window(x, jnp.inf, jax.lax.min, (2,), (2,), "VALID")
    return most + least.sum() + jax.lax.reduce_window(x, 0.0, jax.lax.add, (3,), (1,), "SAME")


def _masked(x):
    return jax.nn.softmax(jnp.where(jnp.arange(4) == 1, -jnp.inf, x)) * x


# Every primitive with a rule is in one of these; states have shape (4,).
PROGRAMS = {
    "linear": lambda x: 2.0 * x - x[::-1] + x / 3.0 - (-x),
    "products": lambda x: x * jnp.roll(x, 1) / (2.0 + x * x) - jnp.square(x) + x**3,
    "negative power": lambda x: (2.0 + jnp.cos(x)) ** -2,
    "powers": lambda x: jnp.power(jnp.abs(x) + 1, 2.5) + 2.0**x + jnp.exp2(x),
    "extremes": lambda x: jnp.maximum(x, x[::-1]) - jnp.minimum(x, 0.1) + jnp.clip(x, -0.2, 0.3),
    "clamp": lambda x: jax.lax.clamp(-0.1, x, 0.2) + jnp.abs(x),
    "exponentials": lambda x: jnp.exp(x) + jnp.expm1(x) + jnp.log1p(x * x) + jnp.log(3.0 + x * x),
    "roots": lambda x: jnp.sqrt(1.0 + x * x) * jax.lax.rsqrt(2.0 + jnp.sin(x)),
    "bells": lambda x: jax.lax.erf(x) - jax.lax.erfc(x) + jnp.tanh(x) + jax.nn.sigmoid(3 * x),
    "waves": lambda x: jnp.sin(5 * x) + jnp.cos(x),
    "hyperbolic": lambda x: jnp.arctan(x) + 0.1 * jnp.sinh(x) * jnp.cosh(x),
    "contractions": lambda x: jnp.einsum("ij,kj,k->i", x.reshape(2, 2), x.reshape(2, 2), x[:2]),
    "batched": lambda x: jax.vmap(lambda a, b: jnp.outer(a, b) @ a)(
        x.reshape(2, 2), x[::-1].reshape(2, 2)
    ),
    "sums": lambda x: jnp.cumsum(x * x) + jax.lax.cumsum(x, reverse=True) + x.mean(),
    "reductions": lambda x: jnp.max(x * jnp.arange(4)) * jnp.min(x + jnp.arange(4) / 9) + x,
    "logic": lambda x: jnp.where(
        jnp.any(x > 9) | ~jnp.all(x < 9) ^ jnp.isnan(x).any(), 0.0, x * (x > -9) * jnp.isfinite(x)
    ),
    "continuous where": lambda x: jnp.where(x > 0, x * x, -0.5 * x),
    "compared": lambda x: (
        (lambda y: jnp.where(x >= y, x, y))(jnp.roll(x, 1)) + jnp.where(0.0 < x, x, 0.0)
    ),
    "cond": lambda x: jax.lax.cond(x[0] > 9, lambda v: -v, lambda v: 2 * v, x),
    "moves": lambda x: jnp.concatenate([x[1:3], jnp.expand_dims(x[0], 0)]).repeat(2)[None].T,
    "gather": lambda x: x[_INDEX] * jnp.take(x, jnp.asarray([3, 1, 1, 0])),
    "placed": lambda x: x.at[0].set(x[2]) * jax.lax.dynamic_slice(x, (jnp.argmax(_INDEX),), (4,)),
    "updated": lambda x: jax.lax.dynamic_update_slice(x, x[:2] * x[2:], (1,)),
    "padded": lambda x: jax.lax.pad(x, x[0], [(1, 2, 1)]) * 0.5,
    "split": lambda x: jnp.add(*jnp.split(x, 2)) * x[:2],
    "scan": _steps,
    "fori": lambda x: jax.lax.fori_loop(0, 3, lambda i, v: jnp.sin(v) * 0.5 + i * x, x),
    "convolution": _convolved,
    "windows": _pooled,
    "sort": lambda x: jnp.sort(jnp.stack([x, 0.3 - x]), axis=0),
    "softmax": jax.nn.softmax,
    "plain softmax": lambda x: jnp.exp(x) / jnp.exp(x).sum(),
    "masked softmax": _masked,
    "log softmax": jax.nn.log_softmax,
    "custom rule": lambda x: _own_vjp(x) + jax.checkpoint(jnp.sin)(x),
    "leaky relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "hard tanh": lambda x: jax.nn.hard_tanh(4 * x),
    "softplus": jax.nn.softplus,
    "mish": jax.nn.mish,
    "normed": lambda x: (
        (x - x.mean()) / jnp.sqrt(x.var() + 0.1) + x / (1.0 + jnp.linalg.norm(x + 9))
    ),
}


@functools.cache
def _compiled(name):
    function = PROGRAMS[name]
    return jax.jit(jax.vmap(function))


def _sampled(rng, box: Interval, count: int) -> np.ndarray:
    """Points of a box: inside, at corners, and at 0 in some entries where it lies inside."""
    points = rng.uniform(box.low, box.high, size=(count, *box.shape))
    corners = np.where(rng.random(points.shape) < 0.5, box.low, box.high)
    points[::3] = corners[::3]
    points[1::4] = np.where(
        rng.random(points.shape)[1::4] < 0.5, np.clip(0.0, box.low, box.high), points[1::4]
    )
    return points


def _check(function, compiled, box, rng, count=48):
    """Values inside, and differences of values inside what the slopes allow."""
    values, slopes = enclose(function, box), jacobian_enclosure(function, box)
    points = _sampled(rng, box, count)
    found = np.asarray(compiled(jnp.asarray(points)))
    assert slopes.shape == (*values.shape, *box.shape)
    tolerance = 1e-12 * (1.0 + np.abs(found).max())  # of the compiled float64 program
    assert np.all(values.low - tolerance <= found) and np.all(found <= values.high + tolerance)
    # f(x) − f(y) = s (x − y) for two points at a time.
    size = int(np.prod(box.shape))
    moved = (points[1:] - points[:-1]).reshape(count - 1, 1, size)
    low, high = slopes.low.reshape(1, -1, size), slopes.high.reshape(1, -1, size)
    ends = np.minimum(low * moved, high * moved), np.maximum(low * moved, high * moved)
    change = (found[1:] - found[:-1]).reshape(count - 1, -1)
    assert np.all(ends[0].sum(axis=-1) - tolerance <= change)
    assert np.all(change <= ends[1].sum(axis=-1) + tolerance)
    return values, slopes


@pytest.mark.parametrize("name", PROGRAMS)
def test_values_and_differences_of_every_rule_lie_inside(name):
    rng = np.random.default_rng(len(name))
    with jax.enable_x64(True):
        for radius, center in ((1e-3, rng.normal(size=4)), (0.3, np.zeros(4)), (1.5, 0.5)):
            box = Interval.ball(np.broadcast_to(center, 4), radius)
            values, slopes = _check(PROGRAMS[name], _compiled(name), box, rng)
            assert values.bounded.all() and slopes.bounded.all()


_PIECES = [
    lambda x: jnp.sin(2 * x),
    lambda x: jnp.maximum(x, x[::-1]),
    lambda x: jnp.where(x > 0, x, 0.2 * x),
    lambda x: x * jnp.roll(x, 1),
    lambda x: jnp.cumsum(x),
    lambda x: jnp.tanh(x) / (1.5 + jnp.cos(x)),
    lambda x: jnp.sort(x),
    lambda x: jnp.exp(-x * x),
    lambda x: jax.nn.softmax(3 * x),
    lambda x: jnp.abs(x) - x.mean(),
    lambda x: jax.nn.softplus(x),
    lambda x: jnp.asarray([[0.5, -2.0, 0.0, 1.0]] * 4) @ x + x,
]


@settings(max_examples=12)
@given(
    pieces=st.lists(st.integers(0, len(_PIECES) - 1), min_size=2, max_size=5),
    radius=st.sampled_from([1e-6, 0.05, 0.5, 2.0]),
    seed=st.integers(0, 2**16),
)
def test_compositions_lie_inside(pieces, radius, seed):
    rng = np.random.default_rng(seed)

    def function(x):
        for piece in pieces:
            x = _PIECES[piece](x)
        return x

    with jax.enable_x64(True):
        center = rng.normal(size=4) * rng.integers(0, 2, size=4)
        _check(function, jax.vmap(function), Interval.ball(center, radius), rng)


# ---- modules and their Jacobians ----


def _double(module):
    """The module in float64."""
    return jax.tree.map(
        lambda x: np.asarray(x, np.float64) if eqx.is_inexact_array(x) else x, module
    )


def _gru(cell):
    return lambda h: cell(jnp.asarray([0.5, -1.0]), h)


MODULES = {
    **{
        name: (
            lambda k, act=act: eqx.nn.MLP(4, 4, 8, 2, activation=act, key=k),
            lambda m: m,
            (4,),
        )
        for name, act in {
            "tanh": jnp.tanh,
            "relu": jax.nn.relu,
            "gelu": jax.nn.gelu,
            "exact gelu": functools.partial(jax.nn.gelu, approximate=False),
            "silu": jax.nn.silu,
            "softplus": jax.nn.softplus,
        }.items()
    },
    "norm": (lambda k: eqx.nn.LayerNorm(4), lambda m: m, (4,)),
    "attention": (
        lambda k: eqx.nn.MultiheadAttention(2, 4, key=k),
        lambda m: lambda t: m(t, t, t),
        (3, 4),
    ),
    "gru": (lambda k: eqx.nn.GRUCell(2, 4, key=k), _gru, (4,)),
}


@pytest.mark.parametrize("name", MODULES)
def test_jacobians_of_modules_lie_inside_and_the_enclosure_closes_in(name, filled, rng):
    build, call, shape = MODULES[name]
    function = call(_double(filled(build)))
    with jax.enable_x64(True):
        jacobian = jax.jit(jax.vmap(jax.jacfwd(function)))
        compiled = jax.jit(jax.vmap(function))
        center, widths = rng.normal(size=shape), []
        for radius in (0.1, 0.01, 1e-4):
            box = Interval.ball(center, radius)
            _, slopes = _check(function, compiled, box, rng)
            found = np.asarray(jacobian(jnp.asarray(_sampled(rng, box, 32))))
            assert np.all(slopes.low - 1e-12 <= found) and np.all(found <= slopes.high + 1e-12)
            widths.append(np.max(slopes.high - slopes.low))
    # Second order: a hundredth of the radius has about a hundredth of the width, or no kink.
    assert widths[2] < max(0.02 * widths[1], 1e-10)
