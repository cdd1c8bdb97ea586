"""The learner on several devices and in several processes: the same updates as on one device."""

import dataclasses
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import parallel_learner
import pytest

import loopwm
from loopwm.errors import UsageError
from loopwm.training import (
    LearnerConfig,
    RunFolder,
    check_devices,
    checkpoint,
    devices,
    learner_mesh,
    on_one_device,
)

SCRIPT = pathlib.Path(parallel_learner.__file__)
TWO = "--xla_force_host_platform_device_count=2"


@pytest.fixture(scope="module")
def on_two_devices(subprocess_environment):
    return subprocess_environment | {"XLA_FLAGS": TWO}


@pytest.fixture(scope="module")
def one_device(subprocess_environment):
    """What the learner learns on one device, in this process."""
    return parallel_learner.learn(1)


@pytest.fixture(scope="module")
def several(on_two_devices, subprocess_environment, tmp_path_factory):
    """What each process learns: on two devices of one process, and in two processes."""
    folder = tmp_path_factory.mktemp("learned")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"

    def finish(file, *arguments, environment):
        return subprocess.Popen(
            [sys.executable, SCRIPT, folder / file, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    # Without the flags of this process: each process has one device.
    alone = {k: v for k, v in subprocess_environment.items() if k != "XLA_FLAGS"}
    started = [finish(f"of_{i}.npz", address, "2", str(i), environment=alone) for i in range(2)]
    started.append(finish("two.npz", environment=on_two_devices))
    try:
        told = [process.communicate(timeout=600)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0, 0], told
    return {name: dict(np.load(folder / f"{name}.npz")) for name in ("two", "of_0", "of_1")}


@pytest.mark.parametrize("name", ["two", "of_0", "of_1"])
def test_the_same_losses_and_parameters_as_on_one_device(several, one_device, name):
    found = several[name]
    assert found["devices"] == 2 and found["processes"] == (1 if name == "two" else 2)
    assert len(one_device["losses"]) >= 20
    np.testing.assert_allclose(found["losses"], one_device["losses"], rtol=1e-4)
    for key, array in one_device.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-4, atol=1e-5, err_msg=key)


def test_both_processes_have_the_same_bits(several):
    for key, array in several["of_0"].items():
        np.testing.assert_array_equal(array, several["of_1"][key], err_msg=key)


@pytest.mark.slow
def test_a_run_on_two_devices_is_saved_resumed_and_loaded(on_two_devices, tmp_path, assert_helpful):
    first = ["--config", "debug", "--steps", "40", "--out", "run", "--set", "learner.devices=2"]
    first += ["planning.planner=random_shooting", "evaluation.every=1000"]  # less to compile
    command = "import sys; from loopwm.cli.main import main; print(main(sys.argv[1:]))"
    command += "; print(main(['train', '--resume', 'run', '--steps', '48']))"
    done = subprocess.run(
        [sys.executable, "-c", command, "train", "CartPole-v1", *first],
        cwd=tmp_path,
        env=on_two_devices,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.split() == ["0", "0"], done.stderr
    folder = RunFolder.open(tmp_path / "run")
    assert checkpoint.steps(folder) == [40, 48]
    assert int(checkpoint.load(folder)[0]["learner.updates"]) == 12
    loopwm.load(folder.path)
    with pytest.raises(UsageError, match="learner.devices is 2, but JAX has 1 device") as raised:
        loopwm.resume(folder.path)
    assert_helpful(raised)


def test_one_device_needs_no_mesh():
    assert learner_mesh(LearnerConfig()) is None
    assert learner_mesh(LearnerConfig(devices=None, batch_size=7)) is None
    tree = {"a": jnp.ones(2), "b": np.ones(2), "c": "text"}
    assert devices.replicate(tree, None) is tree
    assert all(on_one_device(tree)[name] is tree[name] for name in tree)


@pytest.mark.parametrize(
    ("count", "said"), [(0, "at least 1"), (3, "6 or another multiple of 3"), (16, "to 16")]
)
def test_devices_that_cannot_share_a_batch(assert_helpful, count, said):
    with pytest.raises(UsageError, match=said) as raised:
        LearnerConfig(batch_size=8, devices=count)
    assert_helpful(raised)


def test_devices_that_are_not_there_or_belong_to_others(monkeypatch, assert_helpful):
    config = LearnerConfig(batch_size=24, devices=2)
    with pytest.raises(UsageError, match="JAX has 1 device here") as missing:
        check_devices(config)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "devices", lambda: [None] * 3)
    with pytest.raises(UsageError, match="3 processes have 3 devices") as left_out:
        check_devices(config)
    with pytest.raises(UsageError, match="multiple of 3") as uneven:
        check_devices(dataclasses.replace(config, devices=None, batch_size=25))
    monkeypatch.setattr(devices, "learner_mesh", lambda config: "a mesh")
    with pytest.raises(UsageError, match="learns in one process and JAX spans 3") as whole_run:
        check_devices(dataclasses.replace(config, devices=None))
    for raised in (missing, left_out, uneven, whole_run):
        assert_helpful(raised)
