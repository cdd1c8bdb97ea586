"""The Ray backend against a stand-in for Ray, and without it."""

import json
import subprocess
import sys
import types

import pytest
from comparisons import answer, small_debug

from loopwm.comparison import Job, ray_backend
from loopwm.comparison.choose import choose_backend
from loopwm.comparison.jobs import Choice
from loopwm.errors import UsageError
from loopwm.evaluation.compare import Cell


class RayError(Exception):
    pass


def fake_ray():
    """Ray's calls that the backend makes, done at once in this process."""
    ray = types.ModuleType("ray")
    started, done = {}, {}

    def remote(**options):
        started["options"] = options

        def decorate(function):
            def submit(job):
                done[job.cell.name] = lambda: function(job)
                return job.cell.name

            return types.SimpleNamespace(remote=submit)

        return decorate

    def get(name):
        if name.endswith("seed1"):
            raise RayError("The worker died.")
        return done[name]()

    ray.__dict__.update(
        is_initialized=lambda: "init" in started,
        init=lambda **options: started.update(init=options),
        remote=remote,
        wait=lambda pending, num_returns: (pending[-1:], pending[:-1]),
        get=get,
        exceptions=types.SimpleNamespace(RayError=RayError),
        started=started,
    )
    return ray


def test_jobs_are_done_and_lost_ones_recorded(monkeypatch, tmp_path):
    ray = fake_ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(ray_backend, "perform", answer)
    kept = []
    monkeypatch.setattr(ray_backend, "enable_compile_cache", lambda: kept.append(True))
    protocol = small_debug().protocol
    cells = [Cell("debug", "Pendulum-v1", "gru", 4_000, seed) for seed in range(3)]
    jobs = [Job(cell, protocol, str(tmp_path), Choice(0, 1e-3)) for cell in cells]
    found = dict(choose_backend("ray", 1).run(jobs))
    assert [found[job]["status"] for job in jobs] == ["done", "failed", "done"]
    assert "The worker died" in found[jobs[1]]["sentence"]
    assert len(kept) == 2, "each task that began keeps its compiled programs"
    # A process for each cell, so that its peak memory is its own.
    assert ray.started["options"] == {"num_cpus": 1, "max_calls": 1, "max_retries": 0}
    variables = ray.started["init"]["runtime_env"]["env_vars"]
    assert "intra_op_parallelism_threads=1" in variables["XLA_FLAGS"]


def test_without_ray_there_is_a_sentence(monkeypatch, assert_helpful):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"loopwm\[ray\]") as raised:
        choose_backend("ray", 1)
    assert_helpful(raised)


@pytest.mark.parametrize(("name", "jobs"), [("slurm", 1), ("local", 0)])
def test_backends_that_do_not_exist(name, jobs, assert_helpful):
    with pytest.raises(UsageError) as raised:
        choose_backend(name, jobs)
    assert_helpful(raised)


@pytest.mark.slow
def test_with_ray_itself(tmp_path):
    pytest.importorskip("ray")
    words = [sys.executable, "-c", "from loopwm.cli.main import main; main()", "compare", "debug"]
    words += ["--backend", "ray", "--models", "single_pass", "gru", "--seeds", "1", "--out", "out"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["cells"] == {"done": 2}
