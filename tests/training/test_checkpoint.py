"""Checkpoints: whole or not there, and a clear sentence when somebody damaged one."""

import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loopwm.errors import RunFailure, UsageError
from loopwm.run import load, resolve_config
from loopwm.session import build_run_networks
from loopwm.training import RunFolder, checkpoint
from loopwm.training.checkpoint import arrays_of, with_arrays

ARRAYS = {"a": np.arange(3.0), "b.c": np.asarray([[1, 2]], np.int32), "d": np.asarray(2.5)}
META = {"counters": {"env_steps": 7, "solved_at": None}, "rng": {"state": 2**127}}
REPLAY = {"observation": np.ones((2, 3), np.float32), "last": np.asarray([True, False])}


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", resolve_config("CartPole-v1", config="debug"))


def save(folder, step, **kwargs):
    return checkpoint.save(folder, step, ARRAYS, META, REPLAY, **kwargs)


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_everything_comes_back(folder):
    assert checkpoint.latest(folder) is None and checkpoint.steps(folder) == []
    path = save(folder, 7)
    assert checkpoint.latest(folder) == path == folder.checkpoints / "7"
    arrays, meta = checkpoint.load(folder)
    assert_equal(arrays, ARRAYS)
    assert meta == META
    assert_equal(checkpoint.load_replay(folder), REPLAY)


def test_the_newest_are_kept_and_the_newest_is_loaded(folder):
    for step in (9, 10, 100):
        checkpoint.save(folder, step, {"a": np.asarray(float(step))}, META, REPLAY)
    assert checkpoint.steps(folder) == [10, 100]
    assert sorted(p.name for p in folder.replay.iterdir()) == ["10", "100"]
    assert checkpoint.load(folder)[0]["a"] == 100.0


def test_a_folder_without_a_checkpoint(folder, assert_helpful):
    for read in (checkpoint.load, checkpoint.load_replay):
        with pytest.raises(UsageError, match="no checkpoint") as raised:
            read(folder)
        assert str(folder.path) in str(raised.value)
    shutil.rmtree(folder.checkpoints)
    assert checkpoint.steps(folder) == []


@pytest.mark.parametrize("stage", ["replay written", "while writing the checkpoint"])
def test_a_kill_while_saving_leaves_the_previous_one(folder, stage, monkeypatch):
    """SystemExit stands for the kill: nothing after it runs."""
    save(folder, 10)
    real = checkpoint._checkpointer()

    class Dying:
        def save(self, path, tree, force):
            if path.parent == folder.checkpoints.resolve():
                if stage == "while writing the checkpoint":
                    half = path.with_name(f"{path.name}.orbax-checkpoint-tmp-0")
                    half.mkdir()
                    (half / "_METADATA").write_text("{")
                raise SystemExit
            real.save(path, tree, force=force)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_checkpointer", Dying)
        with pytest.raises(SystemExit):
            checkpoint.save(folder, 20, {"a": np.zeros(1)}, {}, REPLAY)
    assert (folder.replay / "20").exists()
    assert checkpoint.steps(folder) == [10]
    assert_equal(checkpoint.load(folder)[0], ARRAYS)
    assert_equal(checkpoint.load_replay(folder), REPLAY)
    # The run goes on from there and comes to the same step again.
    save(folder, 20)
    assert checkpoint.steps(folder) == [10, 20]
    assert_equal(checkpoint.load_replay(folder), REPLAY)


def test_a_real_orbax_save_goes_through_a_temporary_folder(folder, monkeypatch):
    """What the test above imitates is what Orbax does: the final name appears last."""
    import orbax.checkpoint as ocp

    seen = []
    real = ocp.PyTreeCheckpointHandler.save

    def spy(self, directory, *args, **kwargs):
        seen.append(directory.name)
        assert not (folder.checkpoints / "5").exists()
        return real(self, directory, *args, **kwargs)

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "save", spy)
    save(folder, 5)
    assert seen and not any(name.isdigit() for name in seen)
    assert checkpoint.steps(folder) == [5]


@pytest.mark.parametrize("part", ["checkpoints", "replay"])
def test_any_damaged_file_is_one_sentence(folder, part, assert_helpful):
    save(folder, 10)
    whole = folder.path.with_name("whole")
    shutil.copytree(folder.path, whole)
    files = [p.relative_to(whole) for p in whole.joinpath(part).rglob("*") if p.is_file()]
    read = checkpoint.load if part == "checkpoints" else checkpoint.load_replay
    expected = read(folder)
    refused = 0
    for name in files:
        for content in (b"", b"\x00damaged\xff", None):
            if content is None:
                (folder.path / name).unlink()
            else:
                (folder.path / name).write_bytes(content)
            try:
                found = read(folder)
            except UsageError as error:
                assert_helpful(error)
                assert str(folder.path / part / "10") in str(error)
                assert f"delete {folder.checkpoints / '10'}" in str(error)
                refused += 1
            else:  # the file does not matter for reading
                jax.tree.map(np.testing.assert_array_equal, found, expected)
            shutil.copy(whole / name, folder.path / name)
    assert refused >= 3


def test_a_checkpoint_that_cannot_be_written(folder, monkeypatch, assert_helpful):
    class Full:
        def save(self, path, tree, force):
            raise OSError(28, "No space left on device")

    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    monkeypatch.setattr(checkpoint, "_checkpointer", Full)
    with pytest.raises(RunFailure, match="No space left") as raised:
        save(folder, 10)
    assert_helpful(raised)
    assert checkpoint.steps(folder) == []
    # Orbax leaves tasks behind that complain later; anything else is still shown.
    for said in ("Event loop is closed", "something else"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(said)))
    assert [str(one.exc_value) for one in ignored] == ["something else"]


def test_trees_go_round_with_their_types():
    tree = {
        "key": jax.random.key(3),
        "weak": jnp.asarray(1.0),
        "host": np.asarray([1.0, 1e-12 + 1.0]),
        "static": "name",
        "none": None,
        "nested": [jnp.arange(3), (jnp.ones((2, 1)),)],
    }
    arrays = arrays_of(tree)
    assert all(isinstance(a, np.ndarray) for a in arrays.values()) and len(arrays) == 5
    back = with_arrays(tree, arrays)
    assert back["static"] == "name" and back["none"] is None
    np.testing.assert_array_equal(back["host"], tree["host"])
    assert back["host"].dtype == np.float64
    np.testing.assert_array_equal(
        jax.random.uniform(back["key"], (3,)), jax.random.uniform(tree["key"], (3,))
    )
    np.testing.assert_array_equal(back["nested"][0], np.arange(3))


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_arrays_that_do_not_fit_are_refused(change, assert_helpful):
    tree = {"a": jnp.zeros(3), "b": jnp.zeros(2)}
    arrays = {"a": np.zeros(3)} if change == "missing" else {"a": np.zeros(3), "b": np.zeros(4)}
    with pytest.raises(UsageError, match="b") as raised:
        with_arrays(tree, arrays)
    assert_helpful(raised)


def test_a_run_whose_configuration_was_changed_is_refused(cartpole_copy, assert_helpful):
    config = cartpole_copy / "config.yaml"
    text = config.read_text()
    assert "latent: 8" in text
    config.write_text(text.replace("latent: 8", "latent: 9"))
    with pytest.raises(UsageError, match="does not fit") as raised:
        load(cartpole_copy)
    assert_helpful(raised)


def test_every_array_of_the_networks_is_in_the_checkpoint(cartpole_run):
    from loopwm.envs import Spaces

    folder = RunFolder.open(cartpole_run.path)
    arrays, meta = checkpoint.load(folder)
    networks = build_run_networks(folder.read_config(), Spaces.of_source("CartPole-v1"))
    for name in arrays_of(networks):
        assert any(saved.endswith(f".{name}") for saved in arrays), name
    held = " ".join(arrays)
    for part in ("optimiser", "normalizer.mean", "keys.actor", "keys.random"):
        assert part in held
    assert set(meta) == {"counters", "rng", "last_return"}
