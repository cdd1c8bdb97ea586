"""Halting rules on written-down steps: patience, second difference, what a view shows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_update import Scripted

from loopwm.core import (
    RESULTS,
    GateHalting,
    HaltingGate,
    LoopState,
    LoopView,
    ResidualHalting,
    SecondDifferenceHalting,
    iterate,
)
from loopwm.errors import UsageError

LONGEST = 12


@eqx.filter_jit
def _loops(steps, rule):
    """Loops used for each row of steps, final states, and how they ended."""

    def one(row):
        update = Scripted(row)
        return iterate(update, update.start(), rule)

    return jax.vmap(one)(steps)


def rows(*given_rows):
    return jnp.asarray([row + [9.0] * (LONGEST - len(row)) for row in given_rows], jnp.float32)


def test_a_view_shows_what_the_state_holds():
    def view(h, previous, before, loops):
        flags = {"streak": jnp.asarray(0), "done": jnp.asarray(False)}
        state = LoopState(
            *(jnp.asarray([x, 0.0]) for x in (h, previous, before)),
            loops=jnp.asarray(loops),
            **flags,
        )
        return LoopView(Scripted(jnp.ones(3)), state)

    shown = view(7.0, 4.0, 3.5, 2)
    assert float(shown.residual) == 3.0
    assert float(shown.second_difference) == 2.5  # 7 − 2·4 + 3.5
    assert np.isinf(float(shown.error_bound)) and int(shown.loops) == 2
    assert np.isinf(float(view(7.0, 4.0, 4.0, 1).second_difference))
    assert np.isnan(float(view(np.nan, 4.0, 3.5, 2).second_difference))


def test_patience_counts_consecutive_loops():
    steps = rows([1, 0.1, 1, 0.1, 0.1, 1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [1, 1, 0.1])
    for patience, expected in {1: [2, 1, 3], 2: [5, 2, LONGEST], 3: [9, 3, LONGEST]}.items():
        solution = _loops(steps, ResidualHalting(0.2, LONGEST, patience))
        np.testing.assert_array_equal(solution.stats.loops, expected)
        met = np.asarray(expected) < LONGEST
        np.testing.assert_array_equal(solution.result == RESULTS.successful, met)
        # A finished sample stays as it is, however long the others go on.
        values = [float(np.sum(steps[i, :n])) for i, n in enumerate(expected)]
        np.testing.assert_allclose(solution.value[:, 0], values, rtol=1e-5)
        np.testing.assert_array_equal(solution.value[:, 1], expected)


def test_second_difference_stops_equal_steps_and_never_at_once():
    steps = rows([1, 2, 2.05, 5], [3, 3, 3], [1, 2, 4, 8, 8, 1, 1, 1])
    rule = SecondDifferenceHalting(0.1, LONGEST)
    np.testing.assert_array_equal(_loops(steps, rule).stats.loops, [3, 2, 5])
    patient = SecondDifferenceHalting(0.1, LONGEST, patience=2)
    # The third row: equal steps at loops 5, 7 and 8.
    np.testing.assert_array_equal(_loops(steps, patient).stats.loops[1:], [3, 8])


def test_second_difference_says_nothing_about_the_distance_that_is_left():
    solution = _loops(rows([3] * LONGEST), SecondDifferenceHalting(1e-3, LONGEST))
    assert int(solution.stats.loops[0]) == 2
    assert float(solution.stats.residual[0]) == 3.0 and np.isinf(solution.stats.error_bound[0])


STEPS = st.lists(st.sampled_from([0.1, 1.0]), min_size=LONGEST, max_size=LONGEST)


@given(steps=STEPS, patience=st.sampled_from([1, 2, 3]))
def test_patience_agrees_with_a_search_for_the_first_run(steps, patience):
    small = [s < 0.5 for s in steps]
    ends = [n for n in range(patience, LONGEST + 1) if all(small[n - patience : n])]
    solution = _loops(rows(steps), ResidualHalting(0.5, LONGEST, patience))
    assert int(solution.stats.loops[0]) == (ends[0] if ends else LONGEST)


def test_a_gate_stops_at_the_first_loop_over_its_threshold():
    gate = eqx.tree_at(
        lambda g: (g.weight, g.bias), HaltingGate(2), (jnp.asarray([1.0, 0.0]), jnp.asarray(-2.0))
    )
    # σ(x − 2) reaches 0.5 at x = 2, and 0.9 at x = 4.2.
    steps = rows([1, 0.5, 1, 3], [2.5, 0, 0], [0.5] * LONGEST)
    half = _loops(steps, GateHalting(0.5, LONGEST, gate))
    np.testing.assert_array_equal(half.stats.loops, [3, 1, 4])
    np.testing.assert_allclose(half.value[:, 0], [2.5, 2.5, 2.0])
    sure = _loops(steps, GateHalting(0.9, LONGEST, gate))
    np.testing.assert_array_equal(sure.stats.loops, [4, 4, 9])
    never = _loops(rows([0.01] * LONGEST), GateHalting(0.5, LONGEST, gate))
    assert np.all(never.result == RESULTS.max_depth_reached)


def test_a_gate_rule_without_a_gate_is_refused(assert_helpful):
    with pytest.raises(UsageError, match="gate") as raised:
        _loops(rows([1]), GateHalting(0.5))
    assert_helpful(raised)


@pytest.mark.parametrize("rule", [ResidualHalting, SecondDifferenceHalting])
@pytest.mark.parametrize("patience", [0, -1])
def test_patience_below_one_is_refused(rule, patience, assert_helpful):
    with pytest.raises(UsageError, match="patience") as raised:
        rule(0.1, 4, patience)
    assert_helpful(raised)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(threshold, assert_helpful):
    with pytest.raises(UsageError, match="threshold") as raised:
        GateHalting(threshold)
    assert_helpful(raised)
