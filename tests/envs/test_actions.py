"""Codecs of categorical actions, the spaces that are refused, and the wrappers that are named."""

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loopwm.actions import ActionLayout, held_steps
from loopwm.envs import action_codec, observation_codec
from loopwm.envs.actions import MOST_CATEGORIES
from loopwm.envs.observations import MOST_VALUES
from loopwm.errors import UsageError

SPACES, BOX = gym.spaces, gym.spaces.Box


@st.composite
def multi_discrete(draw):
    """MultiDiscrete spaces of rank 1 to 3 that begin at any number, and raw actions in them."""
    shape = draw(hnp.array_shapes(max_dims=3, max_side=3))
    counts = draw(hnp.arrays(np.int64, shape, elements=st.integers(1, 4)))
    start = draw(hnp.arrays(np.int64, shape, elements=st.integers(-5, 5)))
    share = draw(hnp.arrays(np.float64, (3, *shape), elements=st.floats(0.0, 0.99)))
    return SPACES.MultiDiscrete(counts, start=start), start + (share * counts).astype(np.int64)


@given(multi_discrete())
def test_multi_discrete_actions_come_back_as_they_were(case):
    space, raw = case
    codec = action_codec(space)
    u = codec.encode(raw)
    assert codec.layout == ActionLayout.categorical(*space.nvec.ravel().tolist())
    expected = [
        np.concatenate([np.eye(n)[i] for n, i in zip(space.nvec.ravel(), row, strict=True)])
        for row in (raw - space.start).reshape(len(raw), -1)
    ]
    np.testing.assert_array_equal(u, expected)
    # Any numbers decode to the largest of each group.
    back = codec.decode(0.3 * u - 0.1)
    np.testing.assert_array_equal(back, raw)
    assert back.dtype == space.dtype and all(space.contains(action) for action in back)


@given(hnp.arrays(np.int8, (2, 2, 3), elements=st.integers(0, 1)))
def test_binary_actions_are_groups_of_two(raw):
    space = SPACES.MultiBinary([2, 3])
    codec = action_codec(space)
    assert codec.layout == ActionLayout.categorical(*[2] * 6)
    u = codec.encode(raw)
    np.testing.assert_array_equal(u[:, 1::2], raw.reshape(2, -1))
    np.testing.assert_array_equal(u[:, ::2], 1 - raw.reshape(2, -1))
    back = codec.decode(u)
    np.testing.assert_array_equal(back, raw)
    assert all(space.contains(action) for action in back)


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (SPACES.Discrete(3, start=2), 1),
        (SPACES.Discrete(3), 3),
        (SPACES.MultiDiscrete([2, 3]), [1, 3]),
        (SPACES.MultiBinary(2), [0, 2]),
    ],
    ids=str,
)
def test_actions_outside_their_space_are_refused(space, action, assert_helpful):
    with pytest.raises(UsageError, match="outside") as raised:
        action_codec(space).encode(np.asarray([action]))
    assert_helpful(raised)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (SPACES.Dict({"a": SPACES.Discrete(2)}), "MultiDiscrete"),
        (SPACES.Tuple([BOX(-1.0, 1.0, (2,)), SPACES.Discrete(2)]), "TransformAction"),
        (SPACES.Dict({"a": BOX(-1.0, 1.0, (2,))}), "flatten_space"),
        (SPACES.Dict({}), "TransformAction"),
        (BOX(-np.inf, 1.0, (2,)), "TransformAction"),
        (BOX(0.0, 1.0, (0,)), "no entries"),
        (SPACES.Discrete(MOST_CATEGORIES + 1), "TransformAction"),
        (SPACES.MultiDiscrete([MOST_CATEGORIES, 1]), str(MOST_CATEGORIES)),
        (SPACES.Discrete(2**62), "TransformAction"),
        (SPACES.Text(3), "Discrete and MultiBinary|MultiDiscrete and MultiBinary"),
        (SPACES.Sequence(SPACES.Discrete(2)), "wrapper"),
        (SPACES.Graph(SPACES.Discrete(2), None), "wrapper"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_action_spaces_that_are_refused(space, said, assert_helpful):
    with pytest.raises(UsageError, match=said) as raised:
        action_codec(space)
    assert_helpful(raised)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (SPACES.Dict({}), "empty"),
        (SPACES.Tuple([SPACES.Discrete(2), SPACES.Dict({})]), r"at \[1\] is empty"),
        (BOX(0.0, 1.0, (0, 2)), "empty"),
        (SPACES.Discrete(MOST_VALUES + 1), "TransformObservation"),
        (SPACES.MultiDiscrete(np.full((64, 64), 3)), f"12288 values, more than the {MOST_VALUES}"),
        (SPACES.Discrete(2**62), "TransformObservation"),
        (SPACES.Text(3), "not supported"),
        (SPACES.Sequence(SPACES.Discrete(2)), "not supported"),
        (SPACES.Graph(SPACES.Discrete(2), None), "not supported"),
        (SPACES.OneOf([SPACES.Discrete(2)]), "not supported"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_observation_spaces_that_are_refused(space, said, assert_helpful):
    with pytest.raises(UsageError, match=said) as raised:
        observation_codec(space)
    assert_helpful(raised)


def test_boxes_of_bools_take_the_nearer_value():
    codec = action_codec(BOX(0, 1, (5,), bool))
    decoded = codec.decode(np.asarray([[-1.0, -0.9, -0.1, 0.1, 1.0]], np.float32))
    assert decoded.dtype == bool and decoded.tolist() == [[False, False, False, True, True]]


class Acts(gym.Env):
    """Keeps the action that it was given."""

    observation_space = SPACES.Discrete(2)

    def __init__(self, action_space):
        self.action_space = action_space

    def step(self, action):
        self.taken = action
        return 0, 0.0, False, False, {}


@pytest.mark.parametrize(
    ("space", "u", "taken"),
    [
        (BOX(-np.inf, np.inf, (2,), np.float32), [-1.0, 0.5], [-10.0, 5.0]),
        (
            SPACES.Dict({"a": BOX(-1.0, 1.0, (1,)), "b": BOX(0.0, 4.0, (2,))}),
            [0.5, -1.0, 1.0],
            {"a": [0.5], "b": [0.0, 4.0]},
        ),
    ],
    ids=["unbounded", "nested"],
)
def test_the_wrapper_that_a_refusal_names_works_as_it_is_written(space, u, taken):
    with pytest.raises(UsageError) as raised:
        action_codec(space)
    call = str(raised.value).split("use ")[1].split(", with the")[0].split(", which joins")[0]
    names = {"gymnasium": gym, "env": Acts(space)}
    exec(f"env = {call}", names)  # as one would write it
    env = names["env"]
    action = action_codec(env.action_space).decode(np.asarray([u], np.float32))[0]
    env.step(action)
    found = env.unwrapped.taken
    found = found if isinstance(found, dict) else {"": found}
    taken = taken if isinstance(taken, dict) else {"": taken}
    assert {name: list(part) for name, part in found.items()} == taken


@pytest.mark.parametrize(("size", "groups"), [(0, None), (3, (2, 2)), (2, ()), (2, (2, 0))])
def test_layouts_that_make_no_sense_are_refused(size, groups, assert_helpful):
    with pytest.raises(UsageError) as raised:
        ActionLayout(size, groups)
    assert_helpful(raised)


def test_holds_of_any_length_are_counted_in_32_bits():
    v = np.asarray([0.0, 0.5, 0.999999], np.float32)
    for steps in (held_steps(v, (1, 10**12)), np.asarray(held_steps(jnp.asarray(v), (1, 10**12)))):
        assert steps.dtype == np.int32 and steps[0] == 1 < steps[1] < steps[2]
    np.testing.assert_array_equal(held_steps(v, (10**12, 10**13)), 2**30)


AS_IT_IS = (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("shape", "order", "expected"),
    [
        ((7, 5, 3), AS_IT_IS, (7, 5, 3)),
        ((84, 84, 1), AS_IT_IS, (84, 84, 1)),
        ((3, 96, 90), (0, 2, 3, 1), (96, 90, 3)),
        ((4, 16, 17), (0, 2, 3, 1), (16, 17, 4)),
        ((2, 16, 17, 3), (0, 2, 3, 1, 4), (16, 17, 6)),
        ((20, 20), (0, 1, 2), (20, 20, 1)),
        ((7, 7), (0, 1, 2), None),
        ((2, 3, 4, 5), (0, 1, 2, 3, 4), None),
    ],
    ids=str,
)
def test_images_are_height_width_and_channels_whatever_their_order(shape, order, expected, rng):
    codec = observation_codec(BOX(0, 255, shape, np.uint8))
    assert codec.image == (expected is not None) and codec.shape == (expected or shape)
    images = rng.integers(0, 256, (2, *shape)).astype(np.uint8)
    encoded = codec.encode(images)
    assert encoded.dtype == np.uint8 and codec.size == images[0].size
    np.testing.assert_array_equal(encoded, images.transpose(order).reshape(2, -1))
