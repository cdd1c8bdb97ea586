"""What cores for grids share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.core.cells import CellReadout


@pytest.mark.parametrize("periodic", [False, True])
def test_a_readout_with_a_window_sees_the_neighbours(periodic, rng):
    readout = CellReadout(3, 5, 1, dimensions=1, window=3, periodic=periodic, key=jax.random.key(0))
    h, e = (jnp.asarray(rng.normal(size=(6, width)), jnp.float32) for width in (2, 1))
    joined = np.concatenate([h, e], axis=-1)
    kernel, bias = (np.asarray(x) for x in (readout.hidden.weight, readout.hidden.bias))
    expected = np.zeros((6, 1))
    for cell in range(6):
        total = bias[:, 0].copy()
        for step in (-1, 0, 1):
            if periodic or 0 <= cell + step < 6:
                total += kernel[:, :, step + 1] @ joined[(cell + step) % 6]
        expected[cell] = readout.output(np.maximum(total, 0.0))
    np.testing.assert_allclose(readout(h, e), expected, rtol=1e-5, atol=1e-6)
