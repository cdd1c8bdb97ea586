"""Spectra against dense numpy.linalg, on modules that are not ours, repeated values included."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.stability import Estimate, Level, Norm, weighted
from loopwm.stability.spectra import eigenvalues, singular_values, spectral_radius
from loopwm.stability.trajectories import at_states

KEY = jax.random.key(7)
SHAPE = (30, 10)  # 300 entries: beyond what `auto` forms the Jacobian for


def _moduli(matrix) -> np.ndarray:
    return np.sort(np.abs(np.linalg.eigvals(np.asarray(matrix, np.float64))))[::-1]


def _sigmas(matrix) -> np.ndarray:
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


def _net(shape, seed=0):
    """h → tanh(W h), a state, and its Jacobian there by hand."""
    rng, n = np.random.default_rng(seed), int(np.prod(shape))
    weight = (rng.normal(size=(n, n)) / np.sqrt(n)).astype(np.float32)
    state = rng.normal(size=shape).astype(np.float32)
    after = np.tanh(weight.astype(np.float64) @ state.astype(np.float64).ravel())
    jacobian = (1 - after**2)[:, None] * weight.astype(np.float64)
    matrix = jnp.asarray(weight)
    return lambda h: jnp.tanh(matrix @ h.reshape(-1)).reshape(shape), state, jacobian


@pytest.mark.parametrize("method", ["dense", "krylov"])
def test_small_modules_match_numpy(method):
    update, state, jacobian = _net((2, 3))
    sigmas = singular_values(update, state, k=6, key=KEY, method=method)
    values = eigenvalues(update, state, k=6, key=KEY, method=method)
    assert sigmas.values == pytest.approx(_sigmas(jacobian), rel=1e-10)
    assert np.abs(values.values) == pytest.approx(_moduli(jacobian), rel=1e-10)
    assert sigmas.method == values.method == method
    assert sigmas.dtype == values.dtype == "float64"
    assert sigmas.level is Level.EMPIRICAL and values.level is Level.EMPIRICAL
    # Complex values, and of a pair the upper one first.
    true = np.linalg.eigvals(jacobian)
    assert np.any(np.abs(true.imag) > 0.1)
    assert all(np.min(np.abs(true - value)) < 1e-10 for value in values.values)
    upper = values.values[np.abs(values.values.imag) > 1e-12][0]
    assert upper.imag > 0


def test_large_states_match_numpy_without_the_jacobian():
    update, state, jacobian = _net(SHAPE)
    sigmas = singular_values(update, state, k=5, key=KEY)
    values = eigenvalues(update, state, k=5, key=KEY)
    assert sigmas.method == values.method == "krylov"
    assert 0 < sigmas.steps < 300 and 0 < values.steps < 300
    assert sigmas.converged and values.converged
    assert sigmas.values == pytest.approx(_sigmas(jacobian)[:5], rel=1e-6)
    assert np.abs(values.values) == pytest.approx(_moduli(jacobian)[:5], rel=1e-6)
    assert np.all(sigmas.errors <= 1e-6 * sigmas.values[0])


def test_repeated_values_are_all_found():
    # Equal tokens: every value of the small matrix comes 40 times.
    small = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)

    def update(h):
        return h @ small.T

    state = jnp.zeros((40, 8))
    sigmas = singular_values(update, state, k=6, key=KEY)
    values = eigenvalues(update, state, k=6, key=KEY)
    assert sigmas.values == pytest.approx(np.full(6, _sigmas(small)[0]), rel=1e-9)
    assert np.abs(values.values) == pytest.approx(np.full(6, _moduli(small)[0]), rel=1e-9)


def test_values_that_are_repeated_but_not_the_largest():
    diagonal = np.concatenate([[3.0, 2.0, 2.0, 2.0, 1.5], np.linspace(0, 1, 295)])
    sigmas = singular_values(lambda h: diagonal * h, np.ones(300), k=5, key=KEY)
    assert sigmas.values == pytest.approx([3.0, 2.0, 2.0, 2.0, 1.5], rel=1e-9)


class _LowRank(eqx.Module):
    left: np.ndarray
    right: np.ndarray

    def __call__(self, h):
        return self.left @ (self.right @ h)


@pytest.mark.parametrize("rank", [0, 3])
def test_a_jacobian_of_low_rank(rank):
    left, right = np.random.default_rng(rank).normal(size=(2, 60, 3))
    left[:, rank:] = 0
    update, jacobian = _LowRank(left, right.T), left @ right.T
    options = {"k": 5, "key": KEY, "method": "krylov"}
    sigmas = singular_values(update, np.zeros(60), **options)
    values = eigenvalues(update, np.zeros(60), **options)
    assert sigmas.values == pytest.approx(_sigmas(jacobian)[:5], rel=1e-9, abs=1e-9)
    assert np.abs(values.values) == pytest.approx(_moduli(jacobian)[:5], rel=1e-9, abs=1e-9)
    assert np.all(np.isfinite(sigmas.errors)) and np.all(np.isfinite(values.errors))


@pytest.mark.parametrize("method", ["dense", "krylov"])
def test_the_weighted_norm_of_the_counterexample(method):
    # DESIGN 4.1: retention (0.9, 0), g = 0.95·swap is no contraction in the 2-norm.
    retention = jnp.asarray([0.9, 0.0])
    p = np.asarray(weighted.weights(retention, 0.95), np.float64)
    jacobian = np.asarray([[0.9, 0.1 * 0.95], [0.95, 0.0]])
    root = np.sqrt(p)

    def update(h):
        return retention * h + (1 - retention) * 0.95 * h[::-1]

    plain = singular_values(update, jnp.ones(2), k=2, key=KEY, method=method)
    inside = singular_values(update, jnp.ones(2), k=2, weights=p, key=KEY, method=method)
    assert float(plain.largest) == pytest.approx(1.31, abs=0.01)
    scaled = root[:, None] * jacobian / root
    assert inside.values == pytest.approx(_sigmas(scaled), rel=1e-6)
    assert float(inside.largest) <= 0.995
    assert isinstance(inside.largest, Estimate)
    assert (plain.largest.norm, inside.largest.norm) == (Norm.TWO, Norm.P)


def test_a_gru_cell_and_an_mlp(filled):
    cell = filled(lambda key: eqx.nn.GRUCell(2, 5, key=key))
    mlp = filled(lambda key: eqx.nn.MLP(5, 5, 16, 2, activation=jnp.tanh, key=key))
    x, state = jnp.asarray([1.0, -1.0]), jnp.linspace(-1, 1, 5)
    for update in (lambda h: cell(x, h), mlp):
        # Central differences, so that the derivative is checked too.
        ends = jnp.concatenate([state[None] + 1e-2 * jnp.eye(5), state[None] - 1e-2 * jnp.eye(5)])
        after = np.asarray(jax.jit(jax.vmap(update))(ends))
        rough = (after[:5] - after[5:]).T / 2e-2
        sigmas = singular_values(update, state, k=5, key=KEY)
        assert sigmas.values == pytest.approx(_sigmas(rough), rel=2e-2, abs=2e-3)
        radius = spectral_radius(update, state, key=KEY)
        assert float(radius) == pytest.approx(_moduli(rough)[0], rel=2e-2)
        assert float(radius) <= sigmas.values[0] * (1 + 1e-12)


def _insists_on_float32(h):
    def body(carry, _):
        return (jnp.tanh(1.5 * carry[::-1])).astype(jnp.float32), None

    return jax.lax.scan(body, h, None, 2)[0]


@pytest.mark.parametrize("method", ["dense", "krylov"])
def test_an_update_that_insists_on_float32(method):
    state = np.linspace(0.1, 1, 7).astype(np.float32)
    found = singular_values(_insists_on_float32, state, k=3, key=KEY, method=method)
    first = np.tanh(1.5 * state[::-1].astype(np.float64))
    second = np.tanh(1.5 * first[::-1])
    # Two swaps cancel: the Jacobian is diagonal.
    diagonal = 2.25 * (1 - second**2) * (1 - first[::-1] ** 2)
    assert found.dtype == "float32" and found.converged
    assert found.values == pytest.approx(np.sort(diagonal)[::-1][:3], rel=1e-4)


def test_too_few_steps_are_admitted_and_the_error_is_honest():
    update, state, jacobian = _net(SHAPE)
    options = {"k": 2, "key": KEY, "max_steps": 8}
    sigmas = singular_values(update, state, **options)
    assert not sigmas.converged and sigmas.steps == 8
    distance = np.abs(_sigmas(jacobian)[:, None] - sigmas.values).min(axis=0)
    assert np.all(distance <= sigmas.errors)
    assert sigmas.values[0] <= _sigmas(jacobian)[0]  # from below
    assert not eigenvalues(update, state, **options).converged


def test_several_states_at_once_and_a_function_that_changes():
    scales = np.asarray([0.5, 1.0, 2.0], np.float32)
    states = np.stack([np.full(3, s) for s in scales])
    found = at_states(spectral_radius, lambda h: h**2, states, key=KEY)
    assert [float(value) for value in found] == pytest.approx(2 * scales)
    factor = 3.0

    def update(h):
        return factor * h

    assert float(spectral_radius(update, states[0], key=KEY)) == pytest.approx(3.0)
    factor = 4.0
    assert float(spectral_radius(update, states[0], key=KEY)) == pytest.approx(4.0)


def test_a_loop_that_stops_by_itself_has_no_reverse_derivative(assert_helpful):
    def update(h):
        return jax.lax.while_loop(lambda x: jnp.sum(x) > 1, lambda x: 0.5 * x, h)

    state = np.full(300, 0.9)  # 270, halved 9 times
    assert float(spectral_radius(update, state, key=KEY)) == pytest.approx(0.5**9)
    dense = singular_values(update, state[:4], key=KEY)
    assert float(dense.largest) == pytest.approx(0.25)
    with pytest.raises(UsageError, match="differentiated") as raised:
        singular_values(update, state, key=KEY)
    assert_helpful(raised)


ONES = np.ones(3, np.float32)


@pytest.mark.parametrize(
    "call",
    [
        lambda: singular_values(lambda h: h, ONES, k=4, key=KEY),
        lambda: eigenvalues(lambda h: h, ONES, k=0, key=KEY),
        lambda: singular_values(lambda h: h, ONES, key=KEY, method="svd"),
        lambda: singular_values(lambda h: h, ONES, key=KEY, weights=np.ones(2)),
        lambda: singular_values(lambda h: h, ONES, key=KEY, weights=np.asarray([1.0, 0, 1])),
        lambda: eigenvalues(lambda h: h, ONES, key=KEY, tolerance=0.0),
        lambda: eigenvalues(lambda h: h, ONES, k=2, key=KEY, max_steps=1),
        lambda: eigenvalues(lambda h: h[:2], ONES, key=KEY),
        lambda: eigenvalues(lambda h: h, np.ones(3, np.int32), key=KEY),
        lambda: eigenvalues(lambda h: h, np.asarray([1.0, np.nan]), key=KEY),
        lambda: eigenvalues(lambda h: h, np.zeros((0, 2)), key=KEY),
        lambda: eigenvalues(lambda h: np.nan * h, ONES, key=KEY),
        lambda: eigenvalues(lambda h: np.nan * h, ONES, key=KEY, method="krylov"),
        lambda: singular_values(lambda h: np.nan * h, ONES, key=KEY, method="krylov"),
        lambda: at_states(spectral_radius, lambda h: h, np.zeros((0, 3)), key=KEY),
        lambda: eigenvalues(
            eqx.nn.Linear(3, 3, dtype=jnp.bfloat16, key=KEY), ONES.astype(np.float32), key=KEY
        ),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, assert_helpful):
    with pytest.raises(UsageError) as raised:
        call()
    assert_helpful(raised)
