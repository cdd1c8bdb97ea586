"""Elementary automata against rows worked out by hand and a bit-by-bit twin."""

import numpy as np
import pytest

from loopwm.envs.automaton import advance, sample
from loopwm.errors import UsageError


def _row(text: str) -> np.ndarray:
    return np.array([int(c) for c in text], np.uint8)


def _twin(cells: np.ndarray, rule: int) -> np.ndarray:
    """The definition, one cell after the other, with the rule as eight digits from 111 to 000."""
    digits = f"{rule:08b}"
    n = len(cells)
    result = np.empty_like(cells)
    for i in range(n):
        pattern = f"{cells[i - 1]}{cells[i]}{cells[(i + 1) % n]}"
        result[i] = int(digits[7 - int(pattern, 2)])
    return result


def test_rule_110_by_hand():
    # 110 = 01101110: 111→0 110→1 101→1 100→0 011→1 010→1 001→1 000→0.
    assert advance(_row("000010000"), 110).tolist() == _row("000110000").tolist()
    assert advance(_row("000110000"), 110).tolist() == _row("001110000").tolist()
    assert advance(_row("001110000"), 110).tolist() == _row("011010000").tolist()
    assert advance(_row("000010000"), 110, 3).tolist() == _row("011010000").tolist()


def test_the_ring_is_closed():
    # Rule 2 moves a single cell to the left: over the edge it comes in on the other side.
    assert advance(_row("10000"), 2).tolist() == _row("00001").tolist()
    assert advance(_row("00001"), 16).tolist() == _row("10000").tolist()  # rule 16: to the right


@pytest.mark.parametrize("rule", [0, 30, 90, 110, 184, 255])
def test_any_rule_against_the_definition(rule, rng):
    cells = rng.integers(0, 2, size=(3, 2, 11), dtype=np.uint8)
    result = advance(cells, rule)
    assert result.dtype == np.uint8 and result.shape == cells.shape
    for place in np.ndindex(3, 2):
        np.testing.assert_array_equal(result[place], _twin(cells[place], rule))


def test_steps_add_up_and_none_changes_nothing(rng):
    cells = rng.integers(0, 2, size=(4, 24), dtype=np.uint8)
    kept = cells.copy()
    np.testing.assert_array_equal(advance(advance(cells, 110), 110, 3), advance(cells, 110, 4))
    still = advance(cells, 110, 0)
    np.testing.assert_array_equal(still, kept)
    still[:] = 1
    np.testing.assert_array_equal(cells, kept)  # the caller's rows are not touched


def test_sample_is_reproducible_and_fair():
    pairs = sample(np.random.default_rng(3), 500)
    again = sample(np.random.default_rng(3), 500)
    assert pairs.before.shape == pairs.after.shape == (500, 24)
    np.testing.assert_array_equal(pairs.before, again.before)
    np.testing.assert_array_equal(pairs.after, advance(pairs.before, 110, 4))
    assert abs(pairs.before.mean() - 0.5) < 0.02
    assert len(np.unique(pairs.before, axis=0)) == 500


@pytest.mark.parametrize(
    "call",
    [
        lambda: advance(_row("0101"), 256),
        lambda: advance(_row("0101"), -1),
        lambda: advance(_row("0101"), 110, -1),
        lambda: advance(_row("0121"), 110),
        lambda: sample(np.random.default_rng(0), 0),
        lambda: sample(np.random.default_rng(0), 1, length=2),
    ],
    ids=["rule", "negative rule", "steps", "cells", "count", "length"],
)
def test_bad_input_is_refused(call, assert_helpful):
    with pytest.raises(UsageError) as raised:
        call()
    assert_helpful(raised)
