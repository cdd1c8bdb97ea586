"""Codecs of grids, images, arrays of values, and spaces with parts."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_envs
from hypothesis import given
from hypothesis import strategies as st

from loopwm.envs import Spaces, VectorStepper, make, make_vector, observation_codec
from loopwm.errors import RunFailure, UsageError
from loopwm.models import Normalizer
from loopwm.training import Replay

BOX, INF = gym.spaces.Box, np.inf


def _scaled(codec, encoded):
    """What a model sees of encoded observations before anything else was seen."""
    scaling = codec.scaling()
    normalizer = Normalizer.create(codec.size, scaling.offset, scaling.width)
    return np.asarray(jax.vmap(normalizer)(jnp.asarray(encoded)))


@pytest.mark.parametrize(
    ("space", "running"),
    [
        (BOX(-INF, INF, (3,)), True),
        (BOX(0.0, 1.0, (3,)), True),
        (BOX(0, 255, (5,), np.uint8), True),
        (BOX(0.0, 1.0, (3, 2)), False),
        (BOX(-1.0, 1.0, (3, 2, 2)), False),
        (BOX(-10.0, 10.0, (3, 2)), True),
        (BOX(0.0, INF, (3, 2)), True),
        (BOX(0, 9, (3, 2), np.int64), False),
        (BOX(0, 1000, (3, 2), np.int64), True),
        (BOX(0, 255, (3, 2, 3), np.uint8), False),
    ],
    ids=str,
)
def test_grids_of_known_range_are_scaled_by_it_and_others_by_what_is_seen(space, running):
    codec = observation_codec(space)
    np.testing.assert_array_equal(codec.scaling().running, np.full(codec.size, running))
    assert codec.shape == space.shape
    if not running:
        ends = codec.encode(np.stack([space.low, space.high]))
        np.testing.assert_allclose(_scaled(codec, ends), [[0.0] * codec.size, [1.0] * codec.size])


def test_images_stay_uint8_until_a_model_sees_them(rng):
    space = BOX(0, 255, (4, 3, 2), np.uint8)
    codec = observation_codec(space)
    images = rng.integers(0, 256, size=(5, 4, 3, 2)).astype(np.uint8)
    encoded = codec.encode(images)
    assert codec.image and encoded.dtype == np.uint8 and encoded.shape == (5, 24)
    expected = images.reshape(5, -1) / 255.0
    np.testing.assert_allclose(_scaled(codec, encoded), expected, atol=1e-6)
    replay = Replay(12, 1, codec.size, 1, codec.dtype)
    everyone = np.ones(1, bool)
    replay.begin(encoded[:1], everyone)
    for number in range(1, 4):
        ended = np.asarray([number == 3])
        nothing = np.zeros((1, 1), np.float32)
        replay.add(
            nothing, nothing[0], ended, np.zeros(1, bool), encoded[number : number + 1], everyone
        )
    batch = replay.sample(2, 3, 2, rng)
    assert batch.observation.dtype == np.uint8
    assert {tuple(row) for row in batch.observation.reshape(-1, 24)} <= {tuple(r) for r in encoded}
    assert replay.state()["observation"].nbytes == 12 * 24


def test_scaled_images_are_refused_where_pixels_are_expected(assert_helpful):
    codec = observation_codec(BOX(0, 255, (2, 2, 1), np.uint8))
    with pytest.raises(UsageError, match="0 to 255") as raised:
        codec.encode(np.full((1, 2, 2, 1), 0.5))
    assert_helpful(raised)
    np.testing.assert_array_equal(codec.encode(np.full((1, 2, 2, 1), 7)), [[7] * 4])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
def test_arrays_of_values_are_one_hot_one_behind_the_other(counts, data):
    space = gym.spaces.MultiDiscrete(counts)
    codec = observation_codec(space)
    values = [data.draw(st.integers(0, n - 1)) for n in counts]
    expected = np.concatenate([np.eye(n)[v] for n, v in zip(counts, values, strict=True)])
    np.testing.assert_array_equal(codec.encode(np.asarray([values])), expected[None])
    assert codec.size == sum(counts) and not codec.scaling().running.any()
    alike = len(set(counts)) == 1
    assert codec.shape == ((len(counts), counts[0]) if alike else None)
    with pytest.raises(UsageError, match="outside"):
        codec.encode(np.asarray([counts]))


def test_values_on_a_board_are_a_grid_with_a_channel_for_each():
    codec = observation_codec(gym.spaces.MultiDiscrete(np.full((2, 3), 4)))
    values = np.arange(6).reshape(2, 3) % 4
    assert codec.shape == (2, 3, 4) and not codec.is_batch(values) and codec.is_batch(values[None])
    np.testing.assert_array_equal(codec.encode(values[None]).reshape(2, 3, 4), np.eye(4)[values])


def test_binary_arrays():
    codec = observation_codec(gym.spaces.MultiBinary([2, 3]))
    values = np.asarray([[0, 1, 1], [1, 0, 0]], np.int8)
    np.testing.assert_array_equal(codec.encode(values[None]), [[0, 1, 1, 1, 0, 0]])
    assert codec.shape == (2, 3)
    with pytest.raises(UsageError, match="outside"):
        codec.encode(values[None] + 1)


def test_parts_are_encoded_one_behind_the_other():
    env = make("toy_envs:Marker-parts-v0")
    spaces = Spaces.of(env)
    codec = spaces.observation
    observation, _ = env.reset(seed=3)
    vector, batched = spaces.encode_observation(observation)
    board = observation["two"][1].ravel()
    values = np.eye(3)[observation["inner"]["values"]].ravel()
    expected = [
        observation["inner"]["picture"].ravel(),
        values,
        observation["moves"],
        np.eye(3)[observation["row"]],
        observation["two"][0],
        board,
    ]
    np.testing.assert_array_equal(vector[0], np.concatenate(expected).astype(np.float32))
    assert not batched and codec.shape is None and codec.dtype is np.float32
    running = codec.scaling().running
    assert running.sum() == 1 and running[162 + 36]  # the number of moves alone is unbounded
    assert codec.scaling().width[:162].tolist() == [255.0] * 162
    # A batch as vector environments give it.
    pair = codec.batch([observation, observation])
    vectors, batched = spaces.encode_observation(pair)
    np.testing.assert_array_equal(vectors, np.concatenate([vector, vector]))
    assert batched


def test_the_only_part_is_seen_as_what_it_is():
    codec = observation_codec(gym.spaces.Dict({"image": BOX(0, 255, (9, 9, 3), np.uint8)}))
    assert codec.image and codec.shape == (9, 9, 3) and codec.dtype is np.uint8


@pytest.mark.parametrize("same_step", [False, True])
@pytest.mark.parametrize("kind", ["picture", "parts"])
def test_vector_environments_of_all_kinds_are_stepped(kind, same_step):
    source = f"toy_envs:Marker-{kind}-v0"
    spaces = Spaces.of_source(source)
    stepper = VectorStepper(make_vector(source, 2, same_step=same_step), spaces)
    stepper.reset(seed=1)
    begun = 0
    for _ in range(20):
        step = stepper.step(np.asarray([0, 2]))
        begun += int(step.begun.sum())
        assert step.next_observation.shape == (2, spaces.observation.size)
        assert step.next_observation.dtype == spaces.observation.dtype
    stepper.close()
    assert begun >= 2


def test_an_unsupported_part_is_named_with_its_place(assert_helpful):
    inner = gym.spaces.Dict({"mission": gym.spaces.Text(5), "place": gym.spaces.Discrete(3)})
    space = gym.spaces.Dict({"inner": gym.spaces.Tuple((gym.spaces.Discrete(2), inner))})
    with pytest.raises(UsageError, match=r"Text.* at \['inner'\]\[1\]\['mission'\]") as raised:
        observation_codec(space)
    assert_helpful(raised)


@pytest.mark.parametrize(
    ("observation", "match"),
    [
        ({"a": 1}, "keys a, b"),
        ({"a": 1, "b": np.zeros(2), "c": 1}, "keys a, b"),
        (np.zeros(3), "keys a, b"),
        ({"a": np.asarray([1, 0]), "b": np.zeros(2)}, "others a batch"),
        ({"a": 1, "b": np.zeros(3)}, r"shape \(3,\)"),
    ],
    ids=str,
)
def test_observations_with_other_parts_are_refused(observation, match, assert_helpful):
    space = gym.spaces.Dict({"a": gym.spaces.Discrete(2), "b": BOX(-1.0, 1.0, (2,))})
    with pytest.raises(UsageError, match=match) as raised:
        observation_codec(space).is_batch(observation)
    assert_helpful(raised)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda o: o | {"moves": np.asarray([np.nan], np.float32)}, "NaN.* at 'moves'"),
        (lambda o: o | {"moves": np.zeros(2, np.float32)}, "shape .2,. in reset at 'moves'"),
        (lambda o: o | {"row": 7}, "outside Discrete"),
        (lambda o: {k: v for k, v in o.items() if k != "row"}, "exactly the parts"),
        (lambda o: o | {"two": o["two"][:1]}, "exactly the parts"),
        (lambda o: o["moves"], "exactly the parts"),
    ],
    ids=["nan", "shape", "outside", "missing", "short", "no dictionary"],
)
def test_faulty_parts_are_named(change, match, assert_helpful):
    class Faulty(toy_envs.Marker):
        def show(self, kind):
            shown = super().show(kind)
            return change(shown) if kind == "parts" else shown

    with pytest.raises(RunFailure, match=match) as raised:
        make(lambda: Faulty("parts")).reset(seed=0)
    assert_helpful(raised)


@pytest.mark.parametrize("dtype", [np.uint64, np.int8])
def test_arrays_of_values_of_any_type_that_begin_anywhere(dtype):
    codec = observation_codec(gym.spaces.MultiDiscrete([2, 3], dtype, start=[1, 5]))
    encoded = codec.encode(np.asarray([[2, 5], [1, 7]], dtype))
    np.testing.assert_array_equal(encoded, [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]])


@pytest.mark.parametrize("form", [tuple, list, np.asarray])
def test_the_parts_of_a_tuple_may_come_as_a_list_or_an_array(form):
    spaces = Spaces.of(Parted())
    encoded, batched = spaces.encode_observation(form([3.0, 4.0]))
    assert not batched and encoded.tolist() == [[3.0, 4.0]]
    for wrong in (np.asarray(3.0), form([3.0, 4.0, 5.0]), 3.0):
        with pytest.raises(UsageError, match="not a tuple with the places 0, 1"):
            spaces.encode_observation(wrong)


class Parted(gym.Env):
    """Two numbers in a Tuple."""

    observation_space = gym.spaces.Tuple((BOX(0.0, 9.0, ()), BOX(0.0, 9.0, ())))
    action_space = gym.spaces.Discrete(2)
