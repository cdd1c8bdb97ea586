"""Programs kept in a folder: what is kept, when it is used, and when it must not be."""

import contextlib
import pathlib
import pickle
import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from loopwm.actions import ActionLayout
from loopwm.agents import RandomAgent, random
from loopwm.core import CoreConfig
from loopwm.models import (
    LoopedConfig,
    Sizes,
    ValueConfig,
    build_networks,
    networks,
    resolve_networks,
)
from loopwm.nn import L1CappedMix
from loopwm.programs import RUNS_ONCE, StoredProgram, keep_in, stored
from loopwm.training import LearnerConfig, learner

SLOW, FAST = (
    {"weight": jnp.array([0.0, 2.0]), "name": None},
    {
        "weight": jnp.array([1.0, 4.0]),
        "name": None,
    },
)
RATE = 0.5
ARRAYS = stored._arrays((SLOW, FAST, RATE))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> pathlib.Path:
    """An empty folder in which programs are kept during the test."""
    monkeypatch.setattr(stored, "_folder", [])
    keep_in(tmp_path / "programs")
    return tmp_path / "programs"


@pytest.fixture
def never_compile(monkeypatch):
    """Fails the test where a program is traced."""

    def refuse(*_):
        raise AssertionError("traced")

    def apply():
        monkeypatch.setattr(StoredProgram, "_compile", refuse)

    return apply


class Discretes:
    """Observations are vectors already, and actions the categories' numbers."""

    def encode_observation(self, observation):
        return observation, True

    def decode_action(self, u):
        return np.argmax(u, axis=-1)


def moved(slow, fast, rate):
    """Calls the package's own function, as only those are kept."""
    return StoredProgram(learner._towards)(slow, fast, rate)


def test_without_a_folder_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(stored, "_folder", [])
    monkeypatch.setattr(StoredProgram, "_program", None)
    np.testing.assert_array_equal(moved(SLOW, FAST, RATE)["weight"], [0.5, 3.0])


def test_a_later_object_loads_what_the_first_one_kept(folder, never_compile):
    first = moved(SLOW, FAST, RATE)
    assert len(list(folder.glob("*.program"))) == 1
    never_compile()
    second = moved(SLOW, FAST, RATE)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    np.testing.assert_array_equal(second["weight"], [0.5, 3.0])


def test_a_program_answers_only_for_arguments_of_its_kind(folder):
    program = StoredProgram(learner._towards)
    program(SLOW, FAST, RATE)
    longer = {"weight": jnp.zeros(3), "name": None}
    assert program(longer, longer, RATE)["weight"].shape == (3,)
    whole = {"weight": jnp.array([1, 2]), "name": None}
    assert program(whole, whole, RATE)["weight"].dtype == jnp.int32
    assert len(list(folder.glob("*.program"))) == 3


def test_numpy_arrays_and_keys_are_arrays(folder):
    result = moved({"w": np.float32([0.0])}, {"w": np.float32([1.0])}, 0.25)
    np.testing.assert_array_equal(result["w"], [0.25])
    key = jax.random.key(3)
    kept = moved({"key": key}, {"key": key}, RATE)
    assert jax.dtypes.issubdtype(kept["key"].dtype, jax.dtypes.prng_key)


@pytest.fixture
def jax_cache(tmp_path):
    """JAX's own compile cache, switched on."""
    wanted = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str(tmp_path / "jax"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: jax.config.values[name] for name in wanted}

    def use(values):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    use(wanted)
    yield tmp_path / "jax"
    use(before)


def test_a_program_that_jax_holds_in_its_own_cache_is_kept_whole(folder, jax_cache):
    # The same executable goes to JAX's cache first; what is kept here must not come out of it.
    moved(SLOW, FAST, RATE)
    (file,) = folder.glob("*.program")
    file.unlink()
    before = stored._past_the_compile_cache
    try:
        stored._past_the_compile_cache = contextlib.nullcontext()
        moved(SLOW, FAST, RATE)  # now it lies in JAX's cache
    finally:
        stored._past_the_compile_cache = before
    assert any(jax_cache.iterdir())
    file.unlink()
    jax.clear_caches()
    moved(SLOW, FAST, RATE)
    jax.clear_caches()
    np.testing.assert_array_equal(stored._load(file)(*ARRAYS)["weight"], [0.5, 3.0])


def test_the_cache_stays_off_until_the_last_thread_has_compiled(jax_cache):
    used = "jax_enable_compilation_cache"
    inside, leave = threading.Event(), threading.Event()

    def compiling():
        with stored._past_the_compile_cache:
            inside.set()
            assert leave.wait(30)

    other = threading.Thread(target=compiling)
    other.start()
    assert inside.wait(30)
    with stored._past_the_compile_cache:
        assert not jax.config.values[used]
    assert not jax.config.values[used]
    leave.set()
    other.join()
    assert jax.config.values[used]


def test_a_prepared_program_is_found_by_a_call_with_arrays(folder, never_compile):
    program = StoredProgram(learner._towards)
    arrays = {"key": jax.random.key(0), "weight": np.ones(2, np.float32)}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)
    assert not program.is_kept(shapes, shapes, RATE)
    program.prepare(shapes, shapes, RATE)
    assert program.is_kept(arrays, arrays, RATE)
    never_compile()
    np.testing.assert_array_equal(program(arrays, arrays, RATE)["weight"], [1.0, 1.0])
    with pytest.raises(AssertionError, match="traced"):
        program.prepare(shapes, shapes, 0.25)
    for file in folder.iterdir():
        file.unlink()
    assert program.is_kept(arrays, arrays, RATE)  # in memory
    assert not StoredProgram(learner._towards).is_kept(arrays, arrays, RATE)


def test_a_call_waits_for_a_program_that_another_thread_makes(folder, monkeypatch):
    program, began, go_on, made = StoredProgram(learner._towards), *events(2), []
    compile_it = StoredProgram._compile

    def slowly(*arguments):
        made.append(threading.current_thread())
        began.set()
        assert go_on.wait(30)
        return compile_it(*arguments)

    monkeypatch.setattr(StoredProgram, "_compile", slowly)
    other = threading.Thread(target=program.prepare, args=(SLOW, FAST, RATE))
    other.start()
    assert began.wait(30)
    threading.Timer(0.2, go_on.set).start()
    np.testing.assert_array_equal(program(SLOW, FAST, RATE)["weight"], [0.5, 3.0])
    other.join()
    assert made == [other]


def events(count):
    return [threading.Event() for _ in range(count)]


def test_without_a_folder_nothing_is_prepared(monkeypatch, never_compile):
    monkeypatch.setattr(stored, "_folder", [])
    never_compile()
    program = StoredProgram(learner._towards)
    program.prepare(SLOW, FAST, RATE)
    assert not program.is_kept(SLOW, FAST, RATE)


def test_a_broken_file_is_replaced(folder):
    moved(SLOW, FAST, RATE)
    (file,) = folder.glob("*.program")
    for content in (b"", b"not a program", pickle.dumps((("a", "b", "c"), None))):
        file.write_bytes(content)
        np.testing.assert_array_equal(moved(SLOW, FAST, RATE)["weight"], [0.5, 3.0])
        assert file.stat().st_size > 100


def test_a_folder_that_cannot_be_made_costs_nothing_but_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(stored, "_folder", [tmp_path / "file" / "programs"])
    np.testing.assert_array_equal(moved(SLOW, FAST, RATE)["weight"], [0.5, 3.0])


def test_the_folder_keeps_what_was_used_last(folder, monkeypatch):
    monkeypatch.setattr(stored, "KEPT", 2)
    for size in (1, 2, 3):
        moved({"w": jnp.zeros(size)}, {"w": jnp.zeros(size)}, RATE)
    assert len(list(folder.glob("*.program"))) == 2
    assert not [f for f in folder.iterdir() if f.suffix != ".program"]


def test_inside_a_transformation_it_is_an_ordinary_function(folder):
    slow, fast = jnp.zeros((2, 3)), jnp.ones((2, 3))
    # JAX takes no compiler options for a part of a program.
    for options in (None, RUNS_ONCE):
        program = StoredProgram(learner._towards, compiler_options=options)
        for transform in (jax.vmap, jax.jit):
            result = transform(lambda s, f, program=program: program(s, f, RATE))(slow, fast)
            np.testing.assert_array_equal(result, np.full((2, 3), 0.5))
    assert not folder.exists()


def test_compiler_options_are_part_of_the_name_and_reach_the_compiler(folder):
    for options in (None, RUNS_ONCE, {"xla_backend_optimization_level": 1}):
        result = StoredProgram(learner._towards, compiler_options=options)(SLOW, FAST, RATE)
        np.testing.assert_array_equal(result["weight"], [0.5, 3.0])
    assert len(list(folder.iterdir())) == 3
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        StoredProgram(learner._towards, compiler_options={"no_such_option": 1})(SLOW, FAST, RATE)


def test_given_up_buffers_are_given_up(folder):
    program = StoredProgram(learner._towards, donate="second")
    slow, fast = jnp.zeros(4), jnp.ones(4)
    program(slow, fast, RATE)
    assert not slow.is_deleted() and fast.is_deleted()


def test_what_stays_is_taken_apart_once_and_what_changes_is_seen(folder, monkeypatch):
    program, kind, taken = StoredProgram(learner._towards), stored._kind, []
    monkeypatch.setattr(stored, "_kind", lambda leaf: taken.append(leaf) or kind(leaf))
    slow, fast = jnp.zeros(2), jnp.ones(2)
    for _ in range(3):
        np.testing.assert_array_equal(program((slow,), (fast,), RATE)[0], [0.5, 0.5])
    assert sum(leaf is slow for leaf in taken) == 1
    np.testing.assert_array_equal(program((slow + 2.0,), (fast,), RATE)[0], [1.5, 1.5])
    # A dictionary may have changed although it is the same object.
    mutable = {"w": slow}
    program(mutable, {"w": fast}, RATE)
    mutable["w"] = slow + 4.0
    np.testing.assert_array_equal(program(mutable, {"w": fast}, RATE)["w"], [2.5, 2.5])


def test_what_is_static_comes_back(folder, never_compile):
    mix = L1CappedMix(2, 2, 1, key=jax.random.key(0))
    first = moved(mix, mix, RATE)
    never_compile()
    second = moved(mix, mix, RATE)
    assert isinstance(second, L1CappedMix)
    assert eqx.tree_equal(first, second)


def test_a_second_start_traces_nothing_until_its_first_update(folder, monkeypatch, never_compile):
    programs = (networks._built, networks._resolved, learner._initial, learner._started)
    programs += (random._drawn,)

    def started():
        for program in programs:
            monkeypatch.setattr(program, "_programs", {})
        sizes, layout = Sizes(observation=3, action=2), ActionLayout.categorical(2)
        config = LoopedConfig(latent=6, hidden=6, depth=2, core=CoreConfig(width=6, layers=1))
        heads = ValueConfig(hidden=6, depth=1, bins=21)
        built = build_networks(config, heads, sizes, actions=layout, key=jax.random.key(0))
        state = learner.init_learner(built, LearnerConfig(), key=jax.random.key(1))
        state = learner.start_values(state, 0.25)
        agent = RandomAgent(actions=layout, spaces=Discretes())
        actions, _ = agent.act(np.zeros((2, 3), np.float32))
        return resolve_networks(state.networks), actions

    first = started()
    assert len(list(folder.iterdir())) == len(programs)
    never_compile()
    second = started()
    assert eqx.tree_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
