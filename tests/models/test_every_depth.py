"""World models read at every depth: vectors and cells alike."""

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.core import ConvolutionConfig, FixedDepth
from loopwm.models import EveryDepth, GridModelConfig, Sizes
from loopwm.nn import resolve

CORE = ConvolutionConfig(channels=2, inputs=2, readout=2, hidden=2, layers=1, start_from_input=True)
GRID = GridModelConfig(channels=2, hidden=2, window=1, core=CORE)


@functools.partial(eqx.filter_jit, compiler_options={"xla_backend_optimization_level": 0})
def _both(model, observation, u):
    """z' by depth, its statistics, and what `transition` gives at depth 3."""
    model = resolve(model)
    z = model.encode(observation)
    by_depth = model.unroll(z, u, 3, lambda solution: (solution.value, solution.stats))
    return by_depth, model.transition(z, u, FixedDepth(3))


@pytest.mark.parametrize("name", ["vector", "grid"])
def test_each_depth_is_that_of_the_transition(name, small_model, filled, rng):
    if name == "vector":
        model, observation = small_model, rng.normal(size=4)
    else:
        model = filled(lambda key: GRID.build(Sizes(12, 2, (2, 3, 2)), key=key))
        observation = rng.normal(size=12)
    assert isinstance(model, EveryDepth)
    observation, u = jnp.asarray(observation, jnp.float32), jnp.asarray([1.0, 0.0])
    (states, stats), expected = _both(model, observation, u)
    assert states.shape == (4, model.latent)
    np.testing.assert_array_equal(stats.loops, [0, 1, 2, 3])
    np.testing.assert_allclose(states[3], expected.value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats.residual[3], expected.stats.residual, rtol=1e-3)
    np.testing.assert_allclose(stats.error_bound[3], expected.stats.error_bound, rtol=1e-3)
    assert not np.allclose(states[0], states[1])
