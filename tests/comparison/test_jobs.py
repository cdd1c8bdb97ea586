"""Jobs that train: the smallest of them, what goes wrong, and processes that die."""

import dataclasses
import math
import sys

import pytest
from comparisons import small_debug

from loopwm.comparison import InlineBackend, Job, LocalBackend, backends, compare, jobs
from loopwm.comparison.jobs import Choice, best, perform
from loopwm.errors import NotFinite, RunFailure
from loopwm.evaluation.compare import SUITES, Cell, dynamics
from loopwm.training import Trained

CELL = Cell("debug", "Pendulum-v1", "single_pass", 1_500, 0)
CHOICE = Choice(0, 1e-3)


def job_of(tmp_path, cell=CELL, choice=CHOICE, **protocol):
    return Job(cell, small_debug(**protocol).protocol, str(tmp_path / "data"), choice)


def test_a_comparison_from_end_to_end(tmp_path, monkeypatch, compile_cache):
    monkeypatch.setitem(SUITES, "debug", small_debug())
    summary = compare(
        "debug",
        families=["looped", "single_pass"],
        sizes=[1_500],
        seeds=1,
        out=tmp_path / "out",
        backend=InlineBackend(),
    )
    assert summary["cells"] == {"done": 2}
    for point in summary["points"]:
        assert math.isfinite(point["estimate"]) and point["seeds"] == 1
        assert abs(point["params"] - 1_500) < 200
        for name in ("params_core", "flops_transition", "us_transition", "flops_training"):
            assert point[name] > 0, name
        assert point["peak_memory_mb"] > 50
    looped, single = summary["points"]
    assert (looped["loops"], single["loops"]) == (4, 1)
    assert looped["flops_transition"] > single["flops_transition"]
    assert "nothing in it is evidence" in summary["verdict"]
    assert (tmp_path / "out" / "depth.png").exists()


def test_every_trial_is_scored(tmp_path, monkeypatch):
    scores = {(0, 1e-3): 0.5, (0, 1e-2): 0.2, (1, 1e-3): 0.3}

    def score(_, choice):
        if (choice.shape, choice.rate) not in scores:
            raise NotFinite("The loss is nan.")
        return scores[choice.shape, choice.rate]

    monkeypatch.setattr(jobs, "_score", score)
    trials = tuple(Choice(shape, rate) for shape in (0, 1) for rate in (1e-3, 1e-2))
    found = perform(dataclasses.replace(job_of(tmp_path, choice=None), trials=trials))
    assert best(found["trials"]) == {"shape": 0, "rate": 1e-2}
    assert [trial["score"] for trial in found["trials"]] == [0.5, 0.2, 0.3, None]
    assert found["trials"][3]["status"] == "diverged"
    assert best(found["trials"][3:]) is None


@pytest.mark.parametrize(
    ("error", "status"),
    [(NotFinite("The loss is nan."), "diverged"), (RunFailure("It broke; check it."), "failed")],
)
def test_what_goes_wrong_is_a_result(tmp_path, monkeypatch, error, status):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(jobs, "measure_dynamics", fail)
    found = perform(job_of(tmp_path))
    assert (found["status"], found["sentence"]) == (status, str(error))
    # Of a model that diverged the size is known, so that its place keeps its point.
    assert (abs(found["measures"].get("params", 0) - CELL.size) < 200) == (status == "diverged")


def test_a_size_that_cannot_be_built_is_a_result(tmp_path):
    found = perform(job_of(tmp_path, dataclasses.replace(CELL, size=10)))
    assert found["status"] == "failed" and "fewer than" in found["sentence"]


def test_a_process_that_dies_is_a_result(tmp_path, monkeypatch, assert_helpful):
    # A job whose family is unknown to the process raises there.
    unknown = job_of(tmp_path, dataclasses.replace(CELL, family="none"))
    search = dataclasses.replace(unknown, choice=None, trials=(CHOICE,))
    found = dict(LocalBackend(2).run([unknown, search]))
    assert found[unknown]["status"] == "failed" and "KeyError" in found[unknown]["sentence"]
    assert "status 1" in found[unknown]["sentence"] and found[unknown]["sentence"].endswith(".")
    (trial,) = found[search]["trials"]
    assert (trial["shape"], trial["rate"]) == (CHOICE.shape, CHOICE.rate)
    assert trial["score"] is None and trial["status"] == "failed"


def test_a_process_that_is_killed_says_what_may_be_the_cause(tmp_path):
    sentence = backends.lost(job_of(tmp_path), -9, "")["sentence"]
    assert "status -9" in sentence and "memory runs out" in sentence


def test_a_process_finds_the_modules_of_the_one_that_asks(tmp_path, monkeypatch):
    (tmp_path / "apart").mkdir()
    lines = "import gymnasium", "import toy_envs", "gymnasium.register('Own-v0', toy_envs.Counting)"
    (tmp_path / "apart" / "module_apart.py").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path / "apart")
    # A size that no model has: the environment is made, and nothing is trained.
    own = job_of(tmp_path, dataclasses.replace(CELL, task="module_apart:Own-v0", size=10))
    ((_, found),) = LocalBackend(1).run([own])
    assert "fewer than" in found["sentence"], found["sentence"]


def test_processes_end_with_the_one_that_asks(tmp_path, monkeypatch):
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 600\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    backend = LocalBackend(2)
    asked = [job_of(tmp_path, dataclasses.replace(CELL, seed=seed)) for seed in range(3)]
    running = backend.run(asked)
    # Nothing is ever done: the third job is cancelled and both processes are ended.
    with pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr(
            backends.concurrent.futures, "as_completed", _interrupted_once_started(backend)
        )
        next(running)
    assert backend._running == set()


def _interrupted_once_started(backend):
    def as_completed(_):
        while len(backend._running) < 2:
            pass
        raise KeyboardInterrupt
        yield

    return as_completed


def test_one_core_keeps_other_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    flags = backends.one_core()["XLA_FLAGS"]
    assert flags.startswith("--xla_dump_to=x ") and "intra_op_parallelism_threads=1" in flags
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert backends.one_core()["XLA_FLAGS"] == flags


def test_times_are_those_of_a_processor_unless_asked_otherwise(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert backends.one_core()["JAX_PLATFORMS"] == "cpu"
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert backends.one_core()["JAX_PLATFORMS"] == "cuda"


@pytest.mark.slow
def test_debug_suite_of_all_families_in_processes(tmp_path):
    summary = compare("debug", out=tmp_path / "out", backend=LocalBackend(2))
    assert summary["cells"] == {"done": 18}


def test_a_cell_of_an_environment_of_ones_own_is_logged_in_it(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(jobs, "measure_dynamics", lambda _, data, *__, **___: logged.extend(data))
    cell = Cell("debug", "MountainCarContinuous-v0", "single_pass", 1_500, 0)
    assert perform(job_of(tmp_path, cell))["status"] == "done"
    assert (logged[0].observation.shape[1], logged[0].action.shape[1]) == (2, 1)


def test_seconds_of_a_training_leave_out_its_compilation(tmp_path, monkeypatch, compile_cache):
    def train(model, data, config, loss, *, key):
        return Trained(model, 0.5, cpu_seconds=3.0, wall_seconds=4.0)

    monkeypatch.setattr(dynamics, "train_open_loop", train)
    found = perform(job_of(tmp_path))["measures"]
    assert (found["cpu_seconds_training"], found["seconds_training"]) == (3.0, 4.0)
