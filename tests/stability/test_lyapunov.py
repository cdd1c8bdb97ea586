"""Lyapunov exponents against values known in closed form or from the literature."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.errors import UsageError
from loopwm.stability import Level
from loopwm.stability.lyapunov import lyapunov_exponents

KEY = jax.random.key(3)


def test_a_linear_map_has_the_logarithms_of_its_eigenvalues():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    shear = np.diag([1.3, 0.9, 0.5, 0.2]) + np.triu(rng.normal(size=(4, 4)), 1)
    matrix = turn @ shear @ turn.T
    found = lyapunov_exponents(
        lambda h: (matrix @ h.ravel()).reshape(2, 2),
        np.ones((2, 2)),
        steps=300,
        warmup=200,
        k=4,
        key=KEY,
    )
    assert found.exponents == pytest.approx(np.log([1.3, 0.9, 0.5, 0.2]), abs=1e-6)
    assert found.running.shape == (300, 4) and found.running[-1] == pytest.approx(found.exponents)
    assert found.final_state.shape == (2, 2)
    assert found.level is Level.EMPIRICAL and found.dtype == "float64"


def test_the_henon_map():
    def henon(h):
        return jnp.stack([1.0 - 1.4 * h[0] ** 2 + h[1], 0.3 * h[0]])

    found = lyapunov_exponents(
        henon, jnp.asarray([0.1, 0.1]), steps=20_000, warmup=100, k=2, key=KEY
    )
    assert found.exponents[0] == pytest.approx(0.419, abs=0.01)
    # |det J| = 0.3 at every state, so the sum is known exactly.
    assert np.sum(found.exponents) == pytest.approx(np.log(0.3), abs=1e-10)
    assert 0 < found.drift < 0.02


def test_the_logistic_map_at_four():
    found = lyapunov_exponents(
        lambda h: 4.0 * h * (1.0 - h), jnp.asarray([0.3]), steps=20_000, key=KEY
    )
    assert found.exponents == pytest.approx([np.log(2.0)], abs=5e-3)
    # The running average is one: its first entry is the first stretch, |4 − 8·0.3|.
    assert found.running[0, 0] == pytest.approx(np.log(1.6), abs=1e-6)


def test_a_rotation_neither_parts_nor_joins():
    turn = np.asarray([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    found = lyapunov_exponents(lambda h: turn @ h, np.ones(2), steps=200, k=2, key=KEY)
    assert found.exponents == pytest.approx([0.0, 0.0], abs=1e-12)
    assert found.drift == pytest.approx(0.0, abs=1e-12)


def test_inputs_drive_the_outer_map():
    # z' = u·z: the exponent is the mean logarithm of the inputs, and the trajectory their product.
    inputs = np.asarray([2.0, 0.5, 3.0, 1.0], np.float32)
    found = lyapunov_exponents(
        lambda z, u: u * z, jnp.ones(2), steps=3, warmup=1, inputs=inputs, k=2, key=KEY
    )
    assert found.exponents == pytest.approx(np.full(2, np.log(1.5) / 3), abs=1e-12)
    assert found.running[:, 0] == pytest.approx([np.log(0.5), np.log(1.5) / 2, np.log(1.5) / 3])
    assert found.final_state == pytest.approx([3.0, 3.0])
    assert (found.steps, found.warmup) == (3, 1)


def test_discrete_actions_stay_whole_numbers():
    factors = jnp.asarray([0.5, 2.0])
    found = lyapunov_exponents(
        lambda z, a: factors[a] * z, jnp.ones(1), steps=4, inputs=jnp.asarray([0, 1, 1, 1]), key=KEY
    )
    assert found.exponents == pytest.approx([np.log(2.0) / 2])


def test_a_module_that_is_not_ours_settles_at_the_rate_of_its_fixed_point():
    cell = eqx.nn.GRUCell(2, 4, key=jax.random.key(0))
    x = jnp.asarray([0.5, -0.5])
    found = lyapunov_exponents(
        lambda h: cell(x, h), jnp.zeros(4), steps=100, warmup=100, k=4, key=KEY
    )
    jacobian = jax.jacfwd(lambda h: cell(x, h))(jnp.asarray(found.final_state, jnp.float32))
    moduli = np.sort(np.abs(np.linalg.eigvals(np.asarray(jacobian, np.float64))))[::-1]
    assert found.exponents == pytest.approx(np.log(moduli), abs=0.02)
    assert np.all(found.exponents < 0)


def test_what_is_forgotten_is_minus_infinity_and_what_is_broken_is_nan():
    forgets = lyapunov_exponents(lambda h: jnp.ones_like(h), jnp.zeros(2), steps=2, k=2, key=KEY)
    assert np.all(forgets.exponents == -np.inf) and np.isnan(forgets.drift)
    broken = lyapunov_exponents(lambda h: jnp.sqrt(h - 1.0), jnp.full(1, 4.0), steps=5, key=KEY)
    assert np.isfinite(broken.running[0, 0]) and np.isnan(broken.exponents[0])


ONES = np.ones(2, np.float32)


@pytest.mark.parametrize(
    "call",
    [
        lambda: lyapunov_exponents(lambda h: h, ONES, steps=0, key=KEY),
        lambda: lyapunov_exponents(lambda h: h, ONES, steps=1, warmup=-1, key=KEY),
        lambda: lyapunov_exponents(lambda h: h, ONES, steps=1, k=3, key=KEY),
        lambda: lyapunov_exponents(lambda h: h, ONES, steps=1, k=0, key=KEY),
        lambda: lyapunov_exponents(lambda h, u: h, ONES, steps=3, inputs=np.ones((2, 1)), key=KEY),
        lambda: lyapunov_exponents(lambda h: h[:1], ONES, steps=1, key=KEY),
        lambda: lyapunov_exponents(lambda h, u: h, ONES, steps=1, key=KEY),
        lambda: lyapunov_exponents(lambda h: h, np.ones(2, np.int32), steps=1, key=KEY),
        lambda: lyapunov_exponents(lambda h: h, np.asarray([np.inf, 1.0]), steps=1, key=KEY),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, assert_helpful):
    with pytest.raises(UsageError) as raised:
        call()
    assert_helpful(raised)
