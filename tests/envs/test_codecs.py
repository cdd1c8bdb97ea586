"""Codecs: which spaces are taken, and that nothing is lost on the way."""

import gymnasium as gym
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given

from loopwm.envs import Spaces, action_codec, observation_codec
from loopwm.errors import UsageError

FLOATS = (np.float16, np.float32, np.float64)
INTEGERS = (np.int8, np.uint8, np.int32, np.int64, np.uint64)


@st.composite
def boxes(draw, dtypes):
    """Bounded boxes of rank 0 to 3 with any finite bounds, some of them equal."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
    if np.issubdtype(dtype, np.integer):
        elements = st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    else:
        elements = st.floats(allow_nan=False, allow_infinity=False, width=dtype.itemsize * 8)
    one, two = (draw(hnp.arrays(dtype, shape, elements=elements)) for _ in range(2))
    return gym.spaces.Box(np.minimum(one, two), np.maximum(one, two), shape, dtype)


@st.composite
def box_and_actions(draw, dtypes):
    space = draw(boxes(dtypes))
    count = draw(st.integers(1, 4))
    size = int(np.prod(space.shape))
    u = draw(hnp.arrays(np.float32, (count, size), elements=st.floats(-1.0, 1.0, width=32)))
    return space, u


@given(box_and_actions(FLOATS + INTEGERS))
def test_decoded_actions_lie_in_the_space(case):
    space, u = case
    codec = action_codec(space)
    raw = codec.decode(u)
    assert codec.size == u.shape[1] and not codec.layout.discrete
    assert raw.shape == (len(u), *space.shape) and raw.dtype == space.dtype
    for action in raw:
        assert space.contains(np.asarray(action))


@given(boxes(FLOATS + INTEGERS))
def test_the_ends_of_the_range_are_the_bounds(space):
    codec = action_codec(space)
    ends = codec.decode(np.stack([-np.ones(codec.size), np.ones(codec.size)]).astype(np.float32))
    np.testing.assert_array_equal(ends[0], space.low)
    np.testing.assert_array_equal(ends[1], space.high)


@given(box_and_actions((np.float64,)))
def test_encode_inverts_decode(case):
    space, u = case
    codec = action_codec(space)
    width = space.high.astype(np.longdouble) - space.low
    # Where the bounds are so close that few numbers lie between them, nothing can be inverted.
    with np.errstate(over="ignore"):
        coarse = np.maximum(np.spacing(np.abs(space.low)), np.spacing(np.abs(space.high)))
    resolved = (width > 1e6 * coarse).reshape(-1)
    back = codec.encode(codec.decode(u))
    assert back.dtype == np.float32 and np.all(np.abs(back) <= 1.0 + 1e-6)
    np.testing.assert_allclose(back[:, resolved], u[:, resolved], atol=1e-5)
    np.testing.assert_array_equal(back[:, (width == 0).reshape(-1)], 0.0)


@given(box_and_actions(INTEGERS))
def test_integer_actions_are_the_nearest_ones(case):
    space, u = case
    codec = action_codec(space)
    back = codec.encode(codec.decode(u))
    low, high = (bound.astype(np.float64).reshape(-1) for bound in (space.low, space.high))
    step = 2.0 / np.maximum(high - low, 1.0)
    assert np.all(np.abs(back - u)[:, high > low] <= (0.5 * step + 1e-5)[high > low])


def test_an_uneven_box_by_hand():
    space = gym.spaces.Box(
        np.asarray([-3.0, 2.0, 5.0]), np.asarray([1.0, 2.0, 6.0]), (3,), np.float64
    )
    codec = action_codec(space)
    u = np.asarray([[-1.0, 0.3, 0.0], [0.5, -1.0, 7.0]], np.float32)
    np.testing.assert_allclose(codec.decode(u), [[-3.0, 2.0, 5.5], [0.0, 2.0, 6.0]], atol=1e-6)
    np.testing.assert_allclose(codec.encode(np.asarray([[-1.0, 2.0, 6.0]])), [[0.0, 0.0, 1.0]])


@given(st.integers(1, 9), st.integers(-5, 5), st.data())
@example(1, 0, None)
def test_discrete_actions(n, start, data):
    codec = action_codec(gym.spaces.Discrete(n, start=start))
    assert codec.size == n and codec.layout.discrete
    index = 0 if data is None else data.draw(st.integers(0, n - 1))
    u = np.zeros((2, n), np.float32)
    u[:, index] = 0.7
    raw = codec.decode(u)
    np.testing.assert_array_equal(raw, [start + index] * 2)
    assert all(gym.spaces.Discrete(n, start=start).contains(action) for action in raw)
    np.testing.assert_array_equal(codec.encode(raw), np.eye(n)[[index] * 2])


@given(st.integers(1, 9), st.integers(-5, 5))
def test_discrete_observations(n, start):
    codec = observation_codec(gym.spaces.Discrete(n, start=start))
    values = np.arange(start, start + n)
    np.testing.assert_array_equal(codec.encode(values), np.eye(n))
    assert codec.size == n and codec.shape is None and not codec.scaling().running.any()
    for outside in (start - 1, start + n):
        with pytest.raises(UsageError, match="outside"):
            codec.encode(np.asarray([outside]))


@given(boxes(FLOATS + INTEGERS))
def test_box_observations_of_any_rank(space):
    spaces = Spaces.of(_Env(space, gym.spaces.Discrete(2)))
    one = space.low.astype(space.dtype)
    dtype = np.uint8 if space.dtype == np.uint8 and len(space.shape) > 1 else np.float32
    with np.errstate(over="ignore"):
        expected = one.reshape(-1).astype(dtype)
        vector, batched = spaces.encode_observation(one)
        vectors, really = spaces.encode_observation(np.stack([one, one, one]))
    assert not batched and really
    assert vector.dtype == dtype == spaces.observation.dtype
    np.testing.assert_array_equal(vector, expected[None])
    np.testing.assert_array_equal(vectors, np.stack([expected] * 3))
    assert spaces.observation.shape == space.shape


@pytest.mark.parametrize(
    "observation",
    [np.zeros(3), np.zeros((2, 3)), np.zeros((2, 2, 4)), 1.0, np.zeros((0,))],
    ids=lambda x: str(np.shape(x)),
)
def test_observations_of_another_shape_are_refused(observation, assert_helpful):
    spaces = Spaces.of(_Env(gym.spaces.Box(-1.0, 1.0, (4,)), gym.spaces.Discrete(2)))
    with pytest.raises(UsageError, match=r"shape .* \(4,\)") as raised:
        spaces.encode_observation(observation)
    assert_helpful(raised)


@pytest.mark.parametrize("observation", [np.zeros((0, 4)), np.zeros(4, "U3"), np.full(4, None)])
def test_what_is_no_observation_is_refused(observation, assert_helpful):
    spaces = Spaces.of(_Env(gym.spaces.Box(-1.0, 1.0, (4,)), gym.spaces.Discrete(2)))
    with pytest.raises(UsageError, match="shape|no numbers") as raised:
        spaces.encode_observation(observation)
    assert_helpful(raised)


@pytest.mark.parametrize("observation", [np.zeros((2, 2), int), 1.5, np.asarray([0.0, 0.5])])
def test_observations_that_are_no_integers_are_refused(observation, assert_helpful):
    spaces = Spaces.of(_Env(gym.spaces.Discrete(3), gym.spaces.Discrete(2)))
    with pytest.raises(UsageError, match="integer") as raised:
        spaces.encode_observation(observation)
    assert_helpful(raised)


UNSUPPORTED_ACTIONS = (
    gym.spaces.Dict({"a": gym.spaces.Discrete(2)}),
    gym.spaces.Tuple((gym.spaces.Discrete(2),)),
    gym.spaces.Text(3),
)
UNSUPPORTED_OBSERVATIONS = (
    gym.spaces.Text(3),
    gym.spaces.Sequence(gym.spaces.Discrete(2)),
)
UNSUPPORTED = [(action_codec, space) for space in UNSUPPORTED_ACTIONS] + [
    (observation_codec, space) for space in UNSUPPORTED_OBSERVATIONS
]


@pytest.mark.parametrize(
    ("codec", "space"), UNSUPPORTED, ids=lambda x: getattr(x, "__name__", type(x).__name__)
)
def test_other_spaces_are_refused_by_name(codec, space, assert_helpful):
    with pytest.raises(UsageError) as raised:
        codec(space)
    message = str(raised.value)
    assert str(space) in message and "Box" in message and "Discrete" in message
    assert_helpful(raised)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(-np.inf, 1.0, np.float32), (0.0, np.inf, np.float64), (-np.inf, np.inf, np.int64)],
)
def test_unbounded_actions_are_refused(low, high, dtype, assert_helpful):
    space = gym.spaces.Box(low, high, (2,), dtype)
    with pytest.raises(UsageError, match="Box") as raised:
        action_codec(space)
    assert "finite" in str(raised.value) or "bound" in str(raised.value)
    assert_helpful(raised)


def test_long_spaces_are_named_on_one_line():
    low = -np.arange(40, dtype=np.float32)
    parts = {str(i): gym.spaces.Box(low, low + 1.0) for i in range(9)}
    long = gym.spaces.Sequence(gym.spaces.Dict(parts))
    for refuse in (observation_codec, action_codec):
        with pytest.raises(UsageError, match="Sequence") as raised:
            refuse(long)
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


class _Env(gym.Env):
    def __init__(self, observation: gym.Space, action: gym.Space):
        self.observation_space, self.action_space = observation, action
