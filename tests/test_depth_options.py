"""A run with the options of depth on: gate, learned depth, truncated gradient, average."""

import json
import shutil

import numpy as np
import pytest

import loopwm
from loopwm.cli.main import main
from loopwm.training import RunFolder, checkpoint

OPTIONS = {
    "model": {"core": {"gate": True}, "gradient": {"kind": "truncated", "loops": 1}},
    "learner": {"average_rate": 0.1, "depth": {"law": "learned"}},
}


@pytest.fixture(scope="module")
def run(compile_cache, tmp_path_factory):
    """A `debug` run of CartPole with the options on, and its agent."""
    path = tmp_path_factory.mktemp("options") / "run"
    agent = loopwm.train("CartPole-v1", config="debug", overrides=OPTIONS, out=path, quiet=True)
    return agent, path


def averaged(path):
    """Arrays of the newest checkpoint: averaged and trained policy, and the learned depth."""
    arrays, _ = checkpoint.load(RunFolder.open(path))

    def policy(kind):
        prefix = f"learner.{kind}.policy."
        return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}

    return policy("average"), policy("networks"), float(arrays["learner.depth.log_mean"])


def test_the_average_is_kept_and_acts(run):
    agent, path = run
    average, trained, log_mean = averaged(path)
    assert list(average) == list(trained)
    assert any(not np.array_equal(average[n], trained[n]) for n in average)
    assert log_mean != pytest.approx(np.log(2.0), abs=1e-6)
    for acting in (agent, loopwm.load(path)):
        policy = checkpoint.arrays_of(acting.networks.policy)
        for name, array in policy.items():
            np.testing.assert_array_equal(array, average[name], err_msg=name)


def test_resuming_goes_on_with_the_average(run, tmp_path):
    _, path = run
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    restored = checkpoint.arrays_of(loopwm.resume(copy, quiet=True).networks.policy)
    before = averaged(copy)
    for name, array in restored.items():
        np.testing.assert_array_equal(array, before[0][name], err_msg=name)
    agent = loopwm.resume(copy, steps=128, quiet=True)
    after = averaged(copy)
    assert any(not np.array_equal(before[0][n], after[0][n]) for n in before[0])
    assert before[2] != after[2]
    for name, array in checkpoint.arrays_of(agent.networks.policy).items():
        np.testing.assert_array_equal(array, after[0][name], err_msg=name)


def test_the_gate_halts_in_evaluation(run, capsys):
    _, path = run
    assert main(["evaluate", str(path), "--json", "--episodes", "1", "--depth", "gate:0.01"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["loops_mean"] == 1.0
    assert "promises nothing" in record["depth"]
