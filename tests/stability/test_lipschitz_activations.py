"""Bounds of scalar activations: against dense scans of their slopes."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_layers import largest_jacobian

from loopwm.errors import UsageError
from loopwm.stability import lipschitz
from loopwm.stability.lipschitz import _SLOPES

RELU = jax.nn.relu


PARTIALS = (
    functools.partial(jax.nn.gelu, approximate=False),
    functools.partial(jax.nn.gelu, approximate=True),
    functools.partial(jax.nn.leaky_relu, negative_slope=-2.5),
    functools.partial(jax.nn.leaky_relu, negative_slope=0.5),
    functools.partial(jax.nn.elu, alpha=3.0),
    functools.partial(jax.nn.elu, alpha=0.2),
    functools.partial(jax.nn.celu, alpha=2.0),
    functools.partial(jax.nn.silu),
)


@pytest.fixture(scope="module")
def steepest():
    """Largest |f'| of each activation on a dense scan, far values included, in float64."""
    near = np.concatenate([np.linspace(-12, 12, 120_001), np.linspace(-1e-6, 1e-6, 101)])
    points = np.concatenate([near, [-1e4, -100.0, 100.0, 1e4]])
    functions = (*_SLOPES, *PARTIALS)
    with jax.enable_x64(True):
        scan = jax.jit(lambda x: [jax.vmap(jax.grad(f))(x) for f in functions])
        slopes = [np.abs(np.asarray(s)) for s in scan(jnp.asarray(points, jnp.float64))]
    assert np.all(np.isfinite(slopes))
    return {f: s.max() for f, s in zip(functions, slopes, strict=True)}


@pytest.mark.parametrize("function", _SLOPES, ids=lambda f: getattr(f, "__name__", "activation"))
def test_slopes_are_above_a_dense_scan_and_close(function, steepest):
    assert steepest[function] <= float(lipschitz(function)) <= steepest[function] * 1.0005


@pytest.mark.parametrize("function", PARTIALS)
def test_partial_activations(function, steepest):
    bound = float(lipschitz(function))
    assert steepest[function] * (1 - 1e-9) <= bound <= steepest[function] * 1.0005


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(jax.nn.celu, alpha=-1.0),
        functools.partial(jax.nn.elu, alpha=np.nan),
        functools.partial(jax.nn.leaky_relu, negative_slope=np.inf),
        functools.partial(jax.nn.softplus, x=1.0),
        functools.partial(jnp.multiply, 3.0),
        functools.partial(functools.partial(jnp.multiply, 3.0), 1.0),
    ],
)
def test_partials_without_a_bound_are_refused(function, assert_helpful):
    with pytest.raises(UsageError) as raised:
        lipschitz(function)
    assert_helpful(raised)


def test_functions_that_return_their_argument_are_found_by_tracing():
    assert float(lipschitz(lambda x: x)) == 1.0
    assert float(lipschitz(lambda x: jnp.asarray(x))) == 1.0
    assert float(lipschitz(jax.nn.identity)) == 1.0


def _fails(x):
    raise ValueError("not today")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: 2 * x,
        lambda x: -x,
        lambda x: jnp.zeros(3),
        lambda x: np.float32(1.0),
        lambda x: np.ones(3, np.float32),
        lambda x: (x, x),
        lambda x: x.T @ x,
        lambda x: x if x.ndim == 0 else 3 * x,
        lambda x: x if x.ndim < 2 else x.T @ x,
        lambda x: x if x.ndim < 3 else 10 * x,
        lambda x: x if x.ndim != 4 else 10 * x,
        _fails,
        jnp.exp,
        "relu",
        eqx.nn.Linear,
    ],
)
def test_other_functions_are_refused(function, assert_helpful):
    with pytest.raises(UsageError, match="No Lipschitz bound") as raised:
        lipschitz(function)
    assert_helpful(raised)


@pytest.mark.parametrize("function", [jnp.ravel, jnp.transpose, jax.nn.softmax])
def test_functions_of_an_array(function, rng):
    bound = float(lipschitz(eqx.nn.Lambda(function)))
    worst = largest_jacobian(function, (2, 3), rng)
    assert worst <= bound * (1 + 1e-5)
    if function is jax.nn.softmax:  # (1/2, 1/2, 0): eigenvalue 1/2 along (1, -1, 0)
        peak = jax.jacobian(function)(jnp.asarray([20.0, 20.0, 0.0]))
        assert np.linalg.norm(peak, 2) == pytest.approx(bound, rel=1e-5)


def test_prelu_takes_its_steepest_side():
    assert float(lipschitz(eqx.nn.PReLU(0.25))) == 1.0
    assert float(lipschitz(eqx.nn.PReLU(jnp.asarray([0.5, -3.0])))) == 3.0


def test_prelu_with_nan_is_refused(assert_helpful):
    with pytest.raises(UsageError) as raised:
        lipschitz(eqx.nn.PReLU(jnp.nan))
    assert_helpful(raised)
