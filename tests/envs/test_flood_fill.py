"""Flood fill against mazes worked out by hand and an independent breadth-first search."""

import collections

import numpy as np
import pytest

from loopwm.envs.flood_fill import flood, sample
from loopwm.errors import UsageError


def _maze(*rows: str) -> tuple[np.ndarray, np.ndarray]:
    """Walls '#' and start 'S' of a drawing."""
    drawn = np.array([list(row) for row in rows])
    return drawn == "#", drawn == "S"


def _search(walls: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Distances from the start by breadth-first search with a queue; −1 where not reached."""
    distance = np.full(walls.shape, -1)
    queue = collections.deque(map(tuple, np.argwhere(start)))
    for place in queue:
        distance[place] = 0
    while queue:
        row, column = queue.popleft()
        for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            inside = 0 <= near[0] < walls.shape[0] and 0 <= near[1] < walls.shape[1]
            if inside and not walls[near] and distance[near] < 0:
                distance[near] = distance[row, column] + 1
                queue.append(near)
    return distance


@pytest.mark.parametrize(
    ("rows", "reached", "depth"),
    [
        (("S..", "##.", "..."), ["111", "001", "111"], 6),
        (("S#.", "#..", "..."), ["100", "000", "000"], 0),  # diagonals are no neighbours
        (("..S..",), ["11111"], 2),
        (("#.#", ".S.", "#.#"), ["010", "111", "010"], 1),
        (("S.#.", "..#."), ["1100", "1100"], 2),
        ((".##", "S##", "..."), ["100", "100", "111"], 3),
    ],
    ids=["spiral", "shut in", "line", "cross", "two halves", "branches"],
)
def test_mazes_by_hand(rows, reached, depth):
    found, steps = flood(*_maze(*rows))
    assert ["".join(str(int(c)) for c in row) for row in found] == reached
    assert int(steps) == depth


def test_sample_against_breadth_first_search():
    drawn = sample(np.random.default_rng(4), 60, 7, wall_probability=0.4)
    assert drawn.walls.shape == drawn.start.shape == drawn.reached.shape == (60, 7, 7)
    assert drawn.depth.shape == (60,) and drawn.depth.dtype == np.int32
    for walls, start, reached, depth in zip(
        drawn.walls, drawn.start, drawn.reached, drawn.depth, strict=True
    ):
        assert start.sum() == 1 and not (walls & start).any()
        distance = _search(walls, start)
        np.testing.assert_array_equal(reached, distance >= 0)
        assert depth == distance.max()
    assert drawn.depth.min() < 3 < 8 < drawn.depth.max()  # easy ones and hard ones


def test_floods_of_a_batch_do_not_mix(rng):
    drawn = sample(rng, 12, 5)
    walls, start = drawn.walls.reshape(3, 4, 5, 5), drawn.start.reshape(3, 4, 5, 5)
    reached, depth = flood(walls, start)
    np.testing.assert_array_equal(reached.reshape(12, 5, 5), drawn.reached)
    np.testing.assert_array_equal(depth.ravel(), drawn.depth)
    for i in range(12):
        alone, steps = flood(drawn.walls[i], drawn.start[i])
        np.testing.assert_array_equal(alone, drawn.reached[i])
        assert steps == drawn.depth[i]


def test_sample_is_reproducible_and_has_the_walls_asked_for():
    drawn, again = (sample(np.random.default_rng(9), 400, 8) for _ in range(2))
    np.testing.assert_array_equal(drawn.walls, again.walls)
    np.testing.assert_array_equal(drawn.start, again.start)
    assert abs(drawn.walls.mean() - 0.3 * 63 / 64) < 0.01
    assert drawn.start.any(axis=0).all()  # every cell is a start somewhere
    everywhere = sample(np.random.default_rng(9), 3, 4, wall_probability=0.0)
    assert everywhere.reached.all()


def test_inputs_are_walls_and_start():
    drawn = sample(np.random.default_rng(1), 2, 3)
    inputs = drawn.inputs()
    assert inputs.shape == (2, 3, 3, 2) and inputs.dtype == np.float32
    np.testing.assert_array_equal(inputs[..., 0], drawn.walls)
    np.testing.assert_array_equal(inputs[..., 1], drawn.start)


@pytest.mark.parametrize(
    "call",
    [
        lambda: flood(*(np.ones((2, 2), bool),) * 2),
        lambda: sample(np.random.default_rng(0), 0, 3),
        lambda: sample(np.random.default_rng(0), 3, 0),
        lambda: sample(np.random.default_rng(0), 3, 3, wall_probability=1.0),
        lambda: sample(np.random.default_rng(0), 3, 3, wall_probability=float("nan")),
    ],
    ids=["start in a wall", "count", "size", "probability", "nan"],
)
def test_bad_input_is_refused(call, assert_helpful):
    with pytest.raises(UsageError) as raised:
        call()
    assert_helpful(raised)
