"""Coloured noise: its power at every frequency, and its variance at every step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.planning import coloured_noise


def drawn(beta, steps, samples=20_000):
    return np.asarray(coloured_noise(beta, (samples, steps, 2), key=jax.random.key(0)))


@pytest.mark.parametrize("beta, steps", [(0.0, 8), (1.0, 7), (2.0, 8), (3.0, 16)])
def test_the_power_falls_with_frequency_by_the_exponent(beta, steps):
    noise = drawn(beta, steps)
    assert noise.shape == (20_000, steps, 2)
    power = np.mean(np.abs(np.fft.fft(noise, axis=1)) ** 2, axis=(0, 2))
    frequency = np.arange(1, steps // 2 + 1)
    np.testing.assert_allclose(power[1 : steps // 2 + 1] / power[1], frequency**-beta, rtol=0.06)
    assert power[0] == pytest.approx(power[1], rel=0.06)
    # Gaussian, of variance 1 at every step, entries apart.
    np.testing.assert_allclose(noise.std(axis=0), np.ones((steps, 2)), atol=0.03)
    assert np.mean(noise**4) == pytest.approx(3.0, abs=0.15)
    assert abs(np.mean(noise[..., 0] * noise[..., 1])) < 0.02


def test_neighbours_agree_the_more_the_larger_the_exponent():
    def neighbours(beta):
        noise = drawn(beta, 6, 4000)
        return np.mean(noise[:, 1:] * noise[:, :-1])

    white, pink, red = neighbours(0.0), neighbours(1.0), neighbours(2.0)
    assert abs(white) < 0.03 and 0.2 < pink < red < 1.0


@pytest.mark.parametrize("steps", [1, 2])
def test_the_shortest_sequences(steps):
    noise = drawn(2.0, steps)
    np.testing.assert_allclose(noise.std(axis=0), np.ones((steps, 2)), atol=0.03)


def test_the_key_decides():
    one, two = (coloured_noise(1.0, (3, 5, 1), key=jax.random.key(k)) for k in (0, 1))
    again = coloured_noise(1.0, (3, 5, 1), key=jax.random.key(0))
    np.testing.assert_array_equal(one, again)
    assert not jnp.any(one == two)


def test_the_largest_exponents_leave_the_constant_and_the_lowest_frequency():
    noise = drawn(1e4, 8, 4000)
    power = np.mean(np.abs(np.fft.fft(noise, axis=1)) ** 2, axis=(0, 2))
    assert power[0] == pytest.approx(power[1], rel=0.1) and np.all(power[2:7] < 1e-6)
    np.testing.assert_allclose(noise.std(axis=0), np.ones((8, 2)), atol=0.06)
