"""Environments in worker processes: the same transitions, every fault a sentence, nobody left."""

import multiprocessing
import os
import signal
import sys
import threading

import gymnasium as gym
import numpy as np
import pytest
import toy_envs
import worker_envs

from loopwm.envs import Spaces, VectorKind, VectorStepper, make_vector, time_limit
from loopwm.errors import RunFailure, UsageError

ASYNC = VectorKind.ASYNC


def workers(source, count=2, **kwargs):
    return make_vector(source, count, kind=ASYNC, **kwargs)


def nobody_left():
    return not multiprocessing.active_children()


def transitions(source, kind, *, same_step):
    """What two environments give for fixed actions."""
    spaces = Spaces.of_source(source)
    stepper = VectorStepper(make_vector(source, 2, kind=kind, same_step=same_step), spaces)
    rng = np.random.default_rng(3)
    stepper.reset(seed=11)
    found = [stepper.observation.copy()]
    for _ in range(25):
        index = rng.uniform(-1.0, 1.0, (2, spaces.action.size)).astype(np.float32)
        step = stepper.step(spaces.action.decode(index))
        found += [np.array(value) for value in vars(step).values() if value is not None]
        found.append(stepper.observation.copy())
    stepper.close()
    return found


@pytest.mark.parametrize(
    ("source", "same_step"),
    [(toy_envs.Counting, True), ("space_envs:tuple-matrix-v0", False), ("CartPole-v1", True)],
    ids=["function", "parts", "CartPole"],
)
def test_workers_give_the_same_transitions_to_the_last_bit(source, same_step):
    here, there = (transitions(source, kind, same_step=same_step) for kind in VectorKind)
    assert len(here) == len(there)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)
    assert nobody_left()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("dies", r"died in a step \(exit status 7\)"),
        ("raises", "raised ValueError in step 1: the arm hit the table"),
        ("unpicklable", "raised Unpicklable in step 1"),
        ("hangs", "no answer to a step within 0.5 seconds.*collection.worker_timeout"),
        ("constructor", "no licence left"),
    ],
)
def test_faults_of_a_worker_are_a_sentence(fault, said, assert_helpful, monkeypatch):
    # Registered here, and nowhere that a worker looks.
    spec = gym.envs.registration.EnvSpec(
        "Passing-v0", worker_envs.Faulty, kwargs={"fault": fault, "at": 1}
    )
    monkeypatch.setitem(gym.registry, spec.id, spec)
    env = workers(spec.id)
    with pytest.raises(RunFailure, match=said) as raised:
        env.reset(seed=0)
        if fault == "hangs":
            env._timeout = 0.5
        env.step(np.zeros(2, int))
    assert_helpful(raised)
    assert nobody_left()
    env.close()


def test_a_worker_that_cannot_start_is_a_sentence(assert_helpful, monkeypatch):
    monkeypatch.setitem(sys.modules, "only_here", type(sys)("only_here"))

    class Missing(worker_envs.Faulty):
        pass

    Missing.__module__, Missing.__qualname__ = "only_here", "Missing"
    sys.modules["only_here"].Missing = Missing
    with pytest.raises(RunFailure, match="ended before it began") as raised:
        workers(Missing)
    assert_helpful(raised)
    assert nobody_left()


def test_what_cannot_be_pickled_is_refused(assert_helpful):
    lock = threading.Lock()

    def source():
        assert lock
        return toy_envs.Corridor()

    with pytest.raises(UsageError, match=r"cannot pickle.*collection\.vector=sync") as raised:
        workers(source)
    assert_helpful(raised)
    assert nobody_left()


def test_an_id_of_the_current_folder_and_signals_meant_for_the_run(tmp_path, monkeypatch):
    (tmp_path / "local_envs.py").write_text(
        "import gymnasium as gym, worker_envs\n"
        "gym.register('Here-v0', entry_point=worker_envs.Faulty)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as the command does
    env = workers("local_envs:Here-v0")
    try:
        env.reset(seed=0)
        for process in env.processes:
            os.kill(process.pid, signal.SIGINT)
            os.kill(process.pid, signal.SIGTERM)
        *_, reward, _, _, _ = env.step(np.zeros(2, int))
        np.testing.assert_array_equal(reward, 1.0)
    finally:
        env.close()
        gym.registry.pop("Here-v0", None)
    assert nobody_left()


SCRIPT = """
import gymnasium as gym
import numpy as np
import worker_envs
from loopwm.envs import VectorKind, make_vector

print("begins")
class Own(worker_envs.Faulty):
    pass
gym.register("Own-v0", entry_point=Own)
env = make_vector("Own-v0", 2, kind=VectorKind.ASYNC)
env.reset(seed=0)
print(env.step(np.zeros(2, int))[1])
"""


@pytest.mark.parametrize("entry", ["Own", "'__main__:Own'"])
def test_a_script_is_not_run_again_by_workers_and_may_forget_to_close(entry, tmp_path, run_python):
    (tmp_path / "script.py").write_text(SCRIPT.replace("point=Own", f"point={entry}"))
    done = run_python("script.py", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.split("\n")[:2] == ["begins", "[1. 1.]"], done


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (lambda: gym.make("CartPole-v1"), 500),
        (lambda: gym.make("CartPole-v1", max_episode_steps=7), 7),
        (lambda: gym.wrappers.TimeLimit(worker_envs.Faulty(), 9), 9),
        (lambda: gym.wrappers.TimeLimit(gym.make("CartPole-v1"), 9), 9),
        (worker_envs.Faulty, None),
    ],
)
def test_time_limits(make, limit):
    assert time_limit(make()) == limit
