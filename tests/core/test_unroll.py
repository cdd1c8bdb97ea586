"""Every depth in one program: the same solutions as iterating to each."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from scripted_update import Scripted

from loopwm.core import FixedDepth, ResidualHalting, iterate, unroll
from loopwm.errors import UsageError

DEPTH = 5


@eqx.filter_jit
def _unrolled(update, depth):
    return unroll(update, update.start(), depth, lambda solution: (solution.value, solution.stats))


@eqx.filter_jit
def _iterated(update, rule):
    return iterate(update, update.start(), rule)


def test_written_down_steps_by_hand():
    update = Scripted(jnp.asarray([3.0, -1.0, 0.5]))
    (states, stats) = _unrolled(update, 3)
    np.testing.assert_array_equal(states[:, 0], [0.0, 3.0, 2.0, 2.5])
    np.testing.assert_array_equal(stats.loops, [0, 1, 2, 3])
    np.testing.assert_array_equal(stats.residual, [np.inf, 3.0, 1.0, 0.5])
    np.testing.assert_array_equal(stats.error_bound, np.inf)  # nothing is certified of it


def test_each_depth_is_that_of_iterate(core, bind, inputs):
    update = bind(core, *inputs)
    states, stats = _unrolled(update, DEPTH)
    np.testing.assert_array_equal(states[0], update.start())
    # Before the first loop nothing was measured, so no distance may be claimed.
    assert np.isinf(stats.residual[0]) and np.isinf(stats.error_bound[0])
    for depth in (1, 2, DEPTH):
        expected = _iterated(update, FixedDepth(depth))
        np.testing.assert_allclose(states[depth], expected.value, rtol=1e-5, atol=1e-6)
        for name in ("loops", "residual", "error_bound"):
            found, wanted = getattr(stats, name)[depth], getattr(expected.stats, name)
            np.testing.assert_allclose(found, wanted, rtol=1e-4, err_msg=name)


def test_the_first_small_residual_is_where_halting_stops(core, bind, inputs):
    update = bind(core, *inputs)
    _, stats = _unrolled(update, 20)
    tolerance = float(stats.residual[7]) * 1.01
    solution = _iterated(update, ResidualHalting(tolerance))
    first = int(np.flatnonzero(np.asarray(stats.residual) <= tolerance)[0])
    assert int(solution.stats.loops) == first


def test_no_loops_are_refused(core, bind, inputs, assert_helpful):
    with pytest.raises(UsageError, match="depth is 0") as raised:
        _unrolled(bind(core, *inputs), 0)
    assert_helpful(raised)
